"""The error tree. Each leaf is one error code of the contract.

RouterError                        anything this project raises on purpose
├─ ConfigError                     the configuration cannot be used
├─ LedgerError                     the ledger cannot be used (daemon)
├─ WorkerStopped                   the model's actor ended; the dispatcher chooses another
├─ MailboxFull                     the model's actor has as much waiting as it takes
├─ CircuitOpen                     the breaker makes no call now
├─ NotAdmitted                     the model may not be asked now; the dispatcher chooses another
└─ GenerationError                 how a job ended, or one attempt at it: `code` is in the reply
   ├─ JobRefused                   nothing ran
   │  ├─ InvalidJob  IdConflict  UnsupportedVersion  PayloadTooLarge  UnknownModel  ReplyToNotAllowed
   ├─ UpstreamError                a provider's failure; `failure` says what must follow
   │  ├─ InvalidRequest  ContextLengthExceeded  ContentFiltered
   │  ├─ AuthenticationFailed  ProviderQuotaExhausted
   │  └─ RateLimited  ProviderUnavailable  ProviderTimeout
   └─ NoModelAvailable  BudgetExceeded  DeadlineExceeded  Cancelled  OutcomeUnknown
      DeliveryLimitExceeded  InternalError
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from theo_workers.failures import FailureClass
from theo_workers.messages import Usage


class RouterError(RuntimeError):
    """Root of the tree."""


class ConfigError(RouterError):
    """The configuration cannot be used; the message names table and key."""


class LedgerError(RouterError):
    """The ledger cannot be used; the message says what was found and what to do."""


class WorkerStopped(RouterError):
    """The model's actor stopped before it answered. `sent`: the provider may have done work that it bills."""

    def __init__(self, model: str, *, sent: bool = False) -> None:
        super().__init__(f"the worker of {model} stopped")
        self.model = model
        self.sent = sent


class MailboxFull(RouterError):
    """As many calls wait for the model as its mailbox takes; nothing was sent."""

    def __init__(self, model: str, *, limit: int) -> None:
        super().__init__(f"the worker of {model} holds {limit} calls already")
        self.model = model
        self.limit = limit


class CircuitOpen(RouterError):
    """No call now. `retry_after_s` is the time left, or None while a probe runs: its end is not known."""

    def __init__(self, *, retry_after_s: float | None) -> None:
        left = "a probe is running" if retry_after_s is None else f"retry after {retry_after_s:.3f} s"
        super().__init__(f"the circuit is open: {left}")
        self.retry_after_s = retry_after_s


class NotAdmitted(RouterError):
    """The model may not be asked now; nothing was sent.

    `reason` is `circuit_open`, `paused` or `disabled`; `until` is monotonic seconds, or None when only an
    event can tell (a running probe, an operator).
    """

    def __init__(self, reason: str, until: float | None) -> None:
        super().__init__(f"not admitted: {reason}")
        self.reason = reason
        self.until = until


class GenerationError(RouterError):
    """Why a generation failed.

    `code` is stable and goes into replies, events and metric labels. `remembered` and `shared` are the
    contract's columns: is the error the answer for a repeated id, and for identical jobs waiting on it?
    """

    code: ClassVar[str] = "internal_error"
    default_retryable: ClassVar[bool] = False
    remembered: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        status_code: int | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.detail = message
        self.text: str | None = None
        self.provider = provider
        self.status_code = status_code
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s
        super().__init__(message)

    @classmethod
    def restored(
        cls,
        code: str,
        text: str,
        *,
        provider: str | None,
        status_code: int | None,
        retryable: bool,
        retry_after_s: float | None,
    ) -> GenerationError:
        """The error that a reply describes: of the leaf with this code, with the reply's text as it is."""
        error = cls.kind_of(code)(
            text,
            provider=provider,
            status_code=status_code,
            retryable=retryable,
            retry_after_s=retry_after_s,
        )
        error.text = text
        return error

    @classmethod
    def kind_of(cls, code: str) -> type[GenerationError]:
        """The leaf with this code."""
        return next((one for one in _leaves(GenerationError) if one.code == code), InternalError)

    def __str__(self) -> str:
        """`HTTP 429: Rate limit exceeded (retryable: True, provider: openai)`, less what is not known."""
        if self.text is not None:
            return self.text
        head = f"HTTP {self.status_code}: {self.detail}" if self.status_code is not None else self.detail
        if self.provider is None:
            return head
        return f"{head} (retryable: {self.retryable}, provider: {self.provider})"


class JobRefused(GenerationError):
    """The job itself was refused; nothing ran."""


class InvalidJob(JobRefused):
    code = "invalid_job"


class IdConflict(JobRefused):
    code = "id_conflict"


class UnsupportedVersion(JobRefused):
    code = "unsupported_version"


class PayloadTooLarge(JobRefused):
    code = "payload_too_large"


class UnknownModel(JobRefused):
    code = "unknown_model"


class ReplyToNotAllowed(JobRefused):
    code = "reply_to_not_allowed"


class UpstreamError(GenerationError):
    """A provider's failure. `failure` is the row of `theo_workers.failures.CONSEQUENCES` that applies.

    `usage` is what the provider says it will bill all the same (a filtered answer, a broken stream);
    `parameter` one that the endpoint does not know, where that is why it refused.
    """

    default_failure: ClassVar[FailureClass] = FailureClass.SERVER

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        status_code: int | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        failure: FailureClass | None = None,
        provider_code: str | None = None,
        provider_request_id: str | None = None,
        usage: Usage | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(
            message,
            provider=provider,
            status_code=status_code,
            retryable=retryable,
            retry_after_s=retry_after_s,
        )
        self.failure = self.default_failure if failure is None else failure
        self.provider_code = provider_code
        self.provider_request_id = provider_request_id
        self.usage = usage
        self.parameter = parameter


class InvalidRequest(UpstreamError):
    """The provider refused the request itself, or (failure MODEL_UNKNOWN) does not know the model."""

    code, remembered, shared = "invalid_request", True, True
    default_failure = FailureClass.CALLER


class ContextLengthExceeded(UpstreamError):
    code, remembered, shared = "context_length_exceeded", True, True
    default_failure = FailureClass.CALLER


class ContentFiltered(UpstreamError):
    code, remembered, shared = "content_filtered", True, True
    default_failure = FailureClass.CALLER


class AuthenticationFailed(UpstreamError):
    code, shared = "authentication_failed", True
    default_failure = FailureClass.CREDENTIAL


class ProviderQuotaExhausted(UpstreamError):
    code, shared = "provider_quota_exhausted", True
    default_failure = FailureClass.CREDENTIAL


class RateLimited(UpstreamError):
    code, default_retryable, shared = "rate_limited", True, True
    default_failure = FailureClass.RATE_LIMITED


class ProviderUnavailable(UpstreamError):
    """Refused, reset, 5xx, garbage, too large."""

    code, default_retryable, shared = "provider_unavailable", True, True
    default_failure = FailureClass.SERVER


class ProviderTimeout(UpstreamError):
    code, default_retryable, shared = "provider_timeout", True, True
    default_failure = FailureClass.MAYBE


class NoModelAvailable(GenerationError):
    code, default_retryable, shared = "no_model_available", True, True


class BudgetExceeded(GenerationError):
    """Shared only with jobs of the same scope, which identical jobs are."""

    code, shared = "budget_exceeded", True


class DeadlineExceeded(GenerationError):
    code = "deadline_exceeded"


class Cancelled(GenerationError):
    code = "cancelled"


class OutcomeUnknown(GenerationError):
    code = "outcome_unknown"


class DeliveryLimitExceeded(GenerationError):
    code = "delivery_limit_exceeded"


class InternalError(GenerationError):
    code, default_retryable = "internal_error", True


def _leaves(root: type[GenerationError]) -> Iterator[type[GenerationError]]:
    for child in root.__subclasses__():
        yield from _leaves(child)
        if not child.__subclasses__():
            yield child
