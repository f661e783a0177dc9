"""From any provider's refusal to one leaf of the error tree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from theo_workers.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    ProviderQuotaExhausted,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    UpstreamError,
)
from theo_workers.failures import CONSEQUENCES, BreakerEffect, FailureClass, NextStep
from theo_workers.upstreams.complaint import Complaint, read_complaint
from theo_workers.upstreams.origin import Origin, request_id
from theo_workers.upstreams.retry_after import LONGEST_S, retry_after_s

Verdict = tuple[type[UpstreamError], FailureClass]

_QUOTA: Verdict = (ProviderQuotaExhausted, FailureClass.CREDENTIAL)
_KEY: Verdict = (AuthenticationFailed, FailureClass.CREDENTIAL)
_MODEL: Verdict = (InvalidRequest, FailureClass.MODEL_UNKNOWN)
_CONTEXT: Verdict = (ContextLengthExceeded, FailureClass.CALLER)
_FILTER: Verdict = (ContentFiltered, FailureClass.CALLER)
_REQUEST: Verdict = (InvalidRequest, FailureClass.CALLER)
_RATE: Verdict = (RateLimited, FailureClass.RATE_LIMITED)
_SERVER: Verdict = (ProviderUnavailable, FailureClass.SERVER)
_LATE: Verdict = (ProviderTimeout, FailureClass.SERVER)  # 408: it never had the whole request
_LOADING: Verdict = (ProviderUnavailable, FailureClass.RATE_LIMITED)  # up soon: wait, do not open the breaker


class _Sign:
    """How a kind of refusal is recognised: by the provider's codes, else by its words."""

    def __init__(self, verdict: Verdict, codes: str = "", words: str = r"(?!)", parts: str = "") -> None:
        self.verdict = verdict
        self._codes = frozenset(codes.split())
        self._parts = parts.split()  # of codes
        self._words = re.compile(words, re.IGNORECASE)

    def fits(self, complaint: Complaint) -> bool:
        return (
            not self._codes.isdisjoint(complaint.codes)
            or any(part in code for part in self._parts for code in complaint.codes)
            or bool(self._words.search(complaint.message))
        )


_NO_MONEY = _Sign(
    _QUOTA,
    """insufficient_quota insufficient_balance insufficient_credits credit_balance_exhausted payment_required
    organization_spend_limit_exceeded project_spend_limit_exceeded organization_usage_limit_exceeded
    enforced_spend_limit_reached billing_hard_limit_reached billing_not_active billing_error""",
    r"insufficient (?:account )?(?:balance|credit|quota|funds)|credit balance is|out of credits"
    r"|spend(?:ing)? limit|hard limit|specified api usage limit",
)
_NONE_TODAY = _Sign(_QUOTA, parts="perday")  # Gemini's quota of the day; those of the minute are waited for
_BAD_KEY = _Sign(
    _KEY,
    "invalid_api_key api_key_invalid authentication_error invalid_authentication unauthorized",
    r"location is not supported|(?:incorrect|invalid|wrong) api[- _]?key|api[- _]?key (?:is )?(?:not valid|invalid)",
)
_NO_MODEL = _Sign(
    _MODEL,
    """model_not_found model_not_available model_not_exist invalid_model unknown_model model_decommissioned
    deploymentnotfound""",
    r"\bmodel\b.{0,120}?(?:does not exist|not found|not exist|is not available|decommissioned)"
    r"|not a valid model|(?:unknown|invalid|no such) model\b",
)
_TOO_LONG = _Sign(
    _CONTEXT,
    """context_length_exceeded exceed_context_size_error too_many_prompt_tokens too_many_tokens
    string_above_max_length model_context_window_exceeded""",
    r"context[ _](?:length|window|size|limit)|(?:prompt|input) (?:is )?too long|input token count"
    r"|too many (?:prompt |input )?tokens|reduce the length of",
)
_WITHHELD = _Sign(
    _FILTER,
    """content_filter content_filtered content_policy_violation content_policy_violation_error
    image_content_policy_violation responsibleaipolicyviolation moderation_blocked data_inspection_failed""",
    r"content management policy|content[_ ]filter|content polic|usage (?:guidelines|polic)|safety system"
    r"|requires moderation|flagged (?:by|for|as)",
)
_UNUSABLE = _Sign(
    _REQUEST, "invalid_prompt", parts="image"
)  # Responses: image_too_large, invalid_image_url, ...

_TOO_FAST = _Sign(_RATE, "rate_limit_exceeded")  # Groq: a 413 for a request above the minute's tokens
_NO_TOOLS = _Sign(_REQUEST, words="--jinja")  # llama.cpp started without tool support
_STARTING = _Sign(_LOADING, words="loading model")  # llama.cpp

# In this order: a key or an account that is no good says nothing about the request.
_CALLER_SIGNS = (_BAD_KEY, _NO_MONEY, _NO_MODEL, _TOO_LONG, _WITHHELD, _UNUSABLE)

_BY_STATUS: dict[int, tuple[tuple[_Sign, ...], Verdict]] = {
    401: ((), _KEY),
    402: ((), _QUOTA),
    403: ((_NO_MONEY, _WITHHELD), _KEY),
    404: ((_BAD_KEY,), _MODEL),  # as 405 and 410: a wrong model or base_url, never the request's fault
    405: ((), _MODEL),
    408: ((), _LATE),
    409: ((), _SERVER),
    410: ((), _MODEL),
    425: ((), _SERVER),
    429: ((_NO_MONEY, _NONE_TODAY), _RATE),
    498: ((), _SERVER),  # Groq: no capacity
    499: ((), _SERVER),
    500: ((_NO_TOOLS,), _SERVER),
    501: ((), _REQUEST),  # llama.cpp: a feature it does not have
    503: ((_STARTING,), _SERVER),
}
_ANY_4XX: tuple[tuple[_Sign, ...], Verdict] = ((_TOO_FAST, *_CALLER_SIGNS), _REQUEST)
_ANY_5XX: tuple[tuple[_Sign, ...], Verdict] = ((), _SERVER)

_STATUS_OF_TYPE = {  # the error types that stand in for a status inside a 200
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "rate_limited": 429,
    "tokens": 429,
    "requests": 429,
    "insufficient_quota": 429,
    "authentication_error": 401,
    "permission_error": 403,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "billing_error": 402,
    "request_too_large": 413,
    "overloaded_error": 529,
    "service_unavailable_error": 503,
}


def refusal(
    origin: Origin, status: int, headers: Mapping[str, str], body: bytes | bytearray, *, now: float
) -> UpstreamError:
    """The error for an answer that is not 2xx; `now` is Unix seconds, for the date form of Retry-After."""
    if status < 400:
        # A redirect is not followed: it would carry the key and the prompt to another place.
        return origin.error(
            ProviderUnavailable, f"unexpected {_phrase(status)}, not followed", status_code=status
        )
    complaint = read_complaint(body)
    leaf, failure = _judge(status, complaint)
    wait_s = _longer(retry_after_s(headers, complaint.message, now=now), complaint.retry_after_s)
    if (leaf, failure) == _LOADING and wait_s is None:
        wait_s = 1.0
    error = origin.error(
        leaf,
        complaint.message or _phrase(status),
        status_code=status,
        retryable=_overruled(headers.get("x-should-retry"), failure),
        retry_after_s=wait_s,
        failure=failure,
        provider_code=complaint.code,
        provider_request_id=call_id(headers),
    )
    if leaf is InvalidRequest and status in {400, 422}:
        error.parameter = complaint.parameter
    return error


def refusal_in_answer(
    origin: Origin, complaint: Complaint, *, begun: bool, provider_request_id: str | None = None
) -> UpstreamError:
    """The error for an error object inside a 2xx; `begun` tells that a part of the answer came before it.

    That part is billed by most, so a failure that would be free is MAYBE then.
    """
    status = complaint.status
    if status is None:
        status = next((_STATUS_OF_TYPE[name] for name in complaint.codes if name in _STATUS_OF_TYPE), None)
    leaf, failure = (ProviderUnavailable, FailureClass.MAYBE) if status is None else _judge(status, complaint)
    if status is None:
        for sign in _CALLER_SIGNS:
            if sign.fits(complaint):
                leaf, failure = sign.verdict
                break
    if begun and CONSEQUENCES[failure].next_step is NextStep.RETRY:
        failure = FailureClass.MAYBE
    return origin.error(
        leaf,
        complaint.message or complaint.code or "the provider reported an error in its answer",
        status_code=complaint.status,
        failure=failure,
        retry_after_s=_longer(retry_after_s({}, complaint.message, now=0.0), complaint.retry_after_s),
        provider_code=complaint.code,
        provider_request_id=provider_request_id,
    )


def call_id(headers: Mapping[str, str]) -> str | None:
    """The provider's own id of a call, from whichever header it uses."""
    for name in ("x-request-id", "apim-request-id", "x-generation-id", "request-id"):
        if value := headers.get(name):
            return request_id(value)
    return None


def _judge(status: int, complaint: Complaint) -> Verdict:
    signs, otherwise = _BY_STATUS.get(status) or (_ANY_4XX if status < 500 else _ANY_5XX)
    return next((sign.verdict for sign in signs if sign.fits(complaint)), otherwise)


def _overruled(should_retry: str | None, failure: FailureClass) -> bool | None:
    """`x-should-retry: false` on an error that is usually worth another try; None leaves the usual."""
    if should_retry == "false" and CONSEQUENCES[failure].breaker in {
        BreakerEffect.FAILURE,
        BreakerEffect.PAUSE,
    }:
        return False
    return None


def _longer(one: float | None, other: float | None) -> float | None:
    waits = [wait for wait in (one, other) if wait is not None]
    return min(max(waits), LONGEST_S) if waits else None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Overloaded" if status == 529 else "Error"
