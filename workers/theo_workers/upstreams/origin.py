"""Whom an answer came from: builds errors in that provider's name and decodes its JSON behind a guard."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from theo_workers.errors import ProviderUnavailable, UpstreamError
from theo_workers.failures import FailureClass
from theo_workers.messages import Usage
from theo_workers.upstreams.scrub import scrub

T = TypeVar("T")
E = TypeVar("E", bound=UpstreamError)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """One provider as seen from outside, and the strings that must never leave in an error's text."""

    provider: str
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Origin(provider={self.provider!r})"

    def error(
        self,
        leaf: type[E],
        detail: str,
        *,
        status_code: int | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        failure: FailureClass | None = None,
        provider_code: str | None = None,
        provider_request_id: str | None = None,
        usage: Usage | None = None,
    ) -> E:
        """An error of this provider; texts that came from outside are scrubbed here."""
        return leaf(
            self.show(detail),
            provider=self.provider,
            status_code=status_code,
            retryable=retryable,
            retry_after_s=retry_after_s,
            failure=failure,
            provider_code=self.show(provider_code, limit=64) if provider_code else None,
            provider_request_id=provider_request_id,
            usage=usage,
        )

    def garbage(
        self, detail: str, *, provider_request_id: str | None = None, usage: Usage | None = None
    ) -> ProviderUnavailable:
        """A 2xx that is no answer: it may well be billed."""
        return self.error(
            ProviderUnavailable,
            detail,
            failure=FailureClass.MAYBE,
            provider_request_id=provider_request_id,
            usage=usage,
        )

    def show(self, text: str, *, limit: int = 300) -> str:
        """`text` without keys and control characters."""
        return scrub(text, self.secrets, limit=limit)

    def decode(self, decoder: msgspec.json.Decoder[T], body: bytes | bytearray) -> T:
        """Decode a 2xx's JSON; what cannot be decoded is `garbage`.

        The decoder itself refuses NaN, invalid UTF-8, lone surrogates, bottomless nesting and integers of
        thousands of digits wherever a value is kept.
        """
        reason = "no JSON at all"
        try:
            return decoder.decode(body)
        except RecursionError:
            reason = "JSON nested too deep"
        except UnicodeDecodeError:
            reason = "invalid UTF-8"
        except msgspec.ValidationError:
            reason = "JSON of another shape"
        except msgspec.DecodeError:
            reason = "invalid or truncated JSON" if body else "an empty body"
        raise self.garbage(f"the answer is {reason}")  # outside the handlers: their text quotes the body


def request_id(value: str | None) -> str | None:
    """A provider's id for the call, if it is one that can be put into a log line."""
    if value and len(value) <= 128 and value.isascii() and value.isprintable():
        return value
    return None
