"""Providers' refusals, in their published shapes, and what each must become."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_chat_completions import JSON

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
from theo_workers.failures import FailureClass
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.refusals import refusal

ORIGIN = Origin(provider="openai", secrets=("the-configured-key",))
F = FailureClass


def told(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> UpstreamError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refusal(ORIGIN, status, headers or {}, raw, now=1_700_000_000.0)


def says(message: str, *, type: str | None = None, code: Any = None, **more: Any) -> dict[str, Any]:  # noqa: A002
    return {"error": {"message": message, "type": type, "param": None, "code": code, **more}}


def flat(message: str, *, type: str, code: Any) -> dict[str, Any]:  # noqa: A002
    return {"object": "error", "message": message, "type": type, "code": code}


Case = tuple[str, int, Any]

BAD_KEY: list[Case] = [
    ("OpenAI", 401, says("Incorrect API key provided", code="invalid_api_key")),
    ("Mistral", 401, {"detail": "Unauthorized"}),
    ("xAI", 400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: x"}),
    ("Gemini", 400, [{"error": {"code": 400, "message": "x", "details": [{"reason": "API_KEY_INVALID"}]}}]),
    ("country", 403, says("Country, region, or territory not supported")),
    ("no body", 403, b""),
]
NO_MONEY: list[Case] = [
    ("OpenAI", 429, says("You exceeded your current quota", code="insufficient_quota")),
    ("OpenAI's type", 429, says("You exceeded your current quota", type="insufficient_quota")),
    ("spend limit", 429, says("x", code="project_spend_limit_exceeded")),
    ("billing limit", 400, says("Billing hard limit has been reached", code="billing_hard_limit_reached")),
    ("DeepSeek", 402, says("Insufficient Balance")),
    ("out of credits", 403, says("Your credit balance is too low")),
]
TOO_FAST: list[Case] = [
    ("OpenAI", 429, says("Rate limit reached", type="tokens", code="rate_limit_exceeded")),
    ("no body", 429, b""),
    ("Mistral", 429, flat("Rate limit exceeded", type="rate_limited", code="1300")),
    ("Groq, above the minute's tokens", 413, says("Request too large", code="rate_limit_exceeded")),
    (
        "Gemini's quota that refills",
        429,
        says("You exceeded your current quota. Please retry in 9s.", code=429),
    ),
]
NO_MODEL: list[Case] = [
    ("OpenAI", 404, says("The model `x` does not exist", code="model_not_found")),
    ("OpenAI, 400", 400, says("bad", code="model_not_found")),
    ("Mistral", 400, flat("Invalid model: x", type="invalid_model", code="1500")),
    ("Groq", 400, says("The model `x` has been decommissioned", code="model_decommissioned")),
    ("Azure", 404, says("The API deployment does not exist.", code="DeploymentNotFound")),
    ("OpenRouter", 400, says("foo/bar is not a valid model ID", code=400)),
    ("DeepSeek", 400, says("Model Not Exist")),
    ("wrong path", 404, b"<html>nginx</html>"),
    ("wrong method", 405, {"detail": "Method Not Allowed"}),
    ("gone", 410, b""),
]
TOO_LONG: list[Case] = [
    ("OpenAI", 400, says("This model's maximum context length is 8192", code="context_length_exceeded")),
    ("llama.cpp", 400, says("request exceeds the context", type="exceed_context_size_error", n_ctx=512)),
    ("vLLM", 400, flat("This model's maximum context length is 4096", type="BadRequestError", code=400)),
    ("Ollama", 400, says("prompt too long; exceeded max context length")),
    ("Perplexity", 400, says("x", type="too_many_prompt_tokens")),
    ("Gemini", 400, says("The input token count (9) exceeds the maximum", code=400)),
    ("413", 413, says("Please reduce the length of the messages")),
]
WITHHELD: list[Case] = [
    ("Azure", 400, says("x", code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"})),
    ("Azure's words", 400, says("triggering Azure OpenAI's content management policy.")),
    ("OpenAI", 400, says("Rejected by our safety system.", code="content_policy_violation")),
    ("OpenRouter", 403, says("Your chosen model requires moderation and your input was flagged", code=403)),
]
CALLERS: list[Case] = [
    ("parameter", 400, says("'max_tokens' is not supported with this model.", code="unsupported_parameter")),
    ("cap", 400, says("max_tokens is too large: 99. This model supports at most 9 completion tokens")),
    ("FastAPI", 422, {"detail": [{"loc": ["body"], "msg": "field required"}]}),
    ("too large", 413, b""),
    ("teapot", 418, b""),
    ("llama.cpp without tools", 500, says("tools param requires --jinja flag", code=500)),
    ("llama.cpp's missing feature", 501, says("not supported", type="not_supported_error")),
]
SERVERS: list[Case] = [
    ("conflict", 409, b""),
    ("Groq's capacity", 498, says("capacity exceeded", code="capacity_exceeded")),
    ("OpenAI", 500, says("The server had an error", type="server_error")),
    ("bad gateway", 502, b"<html>502</html>"),
    ("OpenAI overloaded", 503, says("overloaded", code="server_is_overloaded")),
    ("gateway timeout", 504, b""),
    ("Cloudflare", 522, b"error code: 522"),
    ("529", 529, says("Overloaded", type="overloaded_error")),
]
LOADING: list[Case] = [("llama.cpp", 503, says("Loading model", type="unavailable_error", code=503))]

TABLE: list[Any] = [
    pytest.param(status, body, leaf, failure, id=f"{leaf.code} {failure}: {name}")
    for leaf, failure, cases in [
        (AuthenticationFailed, F.CREDENTIAL, BAD_KEY),
        (ProviderQuotaExhausted, F.CREDENTIAL, NO_MONEY),
        (RateLimited, F.RATE_LIMITED, TOO_FAST),
        (InvalidRequest, F.MODEL_UNKNOWN, NO_MODEL),
        (ContextLengthExceeded, F.CALLER, TOO_LONG),
        (ContentFiltered, F.CALLER, WITHHELD),
        (InvalidRequest, F.CALLER, CALLERS),
        (ProviderTimeout, F.SERVER, [("request timeout", 408, b"")]),
        (ProviderUnavailable, F.SERVER, SERVERS),
        (ProviderUnavailable, F.RATE_LIMITED, LOADING),
    ]
    for name, status, body in cases
]


@pytest.mark.parametrize(("status", "body", "leaf", "failure"), TABLE)
def test_each_refusal_becomes_its_leaf(
    status: int, body: Any, leaf: type[UpstreamError], failure: FailureClass
) -> None:
    error = told(status, body)
    assert (type(error), error.failure, error.status_code) == (leaf, failure, status)
    assert error.provider == "openai"
    assert error.retryable is leaf.default_retryable


def test_the_message_has_the_seeds_form() -> None:
    error = told(429, says("Rate limit exceeded"))
    assert str(error) == "HTTP 429: Rate limit exceeded (retryable: True, provider: openai)"


@pytest.mark.parametrize(
    ("status", "shown"),
    [(429, "Too Many Requests"), (502, "Bad Gateway"), (529, "Overloaded"), (599, "Error")],
)
def test_an_unreadable_body_is_not_shown(status: int, shown: str) -> None:
    assert told(status, b"<html>secret page").detail == shown


def test_the_providers_words_are_scrubbed_and_cut() -> None:
    error = told(400, says("the-configured-key and sk-other123 \x1b[31m" + "y" * 999, code="sk-abcdef123"))
    assert len(error.detail) == 300
    assert error.detail.startswith("[key] and [key]")
    assert error.provider_code == "[key]"


def test_codes_and_ids_are_kept() -> None:
    error = told(429, says("x", type="tokens", code="rate_limit_exceeded"), {"x-request-id": "r1"})
    assert (error.provider_code, error.provider_request_id) == ("rate_limit_exceeded", "r1")


def test_the_wait_comes_from_headers_or_words() -> None:
    assert told(429, b"", {"retry-after": "2"}).retry_after_s == 2.0
    assert told(429, says("Please try again in 1.5s.")).retry_after_s == 1.5
    assert told(503, b"", {"retry-after": "9"}).retry_after_s == 9.0
    assert told(429, b"").retry_after_s is None
    assert told(503, says("Loading model")).retry_after_s == 1.0


@pytest.mark.parametrize(
    ("status", "header", "retryable"),
    [
        (500, "false", False),
        (429, "false", False),
        (500, "true", True),
        (400, "true", False),
        (500, "x", True),
    ],
)
def test_the_provider_can_say_that_another_try_is_useless(status: int, header: str, retryable: bool) -> None:
    assert told(status, b"", {"x-should-retry": header}).retryable is retryable


@pytest.mark.parametrize("status", [301, 304, 307, 399])
def test_a_redirect_is_not_followed(status: int) -> None:
    error = told(status, b"", {"location": "https://elsewhere"})
    assert (type(error), error.failure) == (ProviderUnavailable, F.SERVER)
    assert "elsewhere" not in str(error)


@given(status=st.integers(300, 999), body=JSON)
def test_any_body_is_an_upstream_error_that_can_be_written_down(status: int, body: Any) -> None:
    error = told(status, body)
    str(error).encode()
    (error.provider_code or "").encode()


@given(status=st.integers(400, 599), body=st.binary(max_size=100))
def test_any_bytes_are_an_upstream_error(status: int, body: bytes) -> None:
    assert told(status, body).status_code == status


@pytest.mark.parametrize(
    "body", [b"[" * 60_000, b"9" * 5_000, b'{"error":' + b"9" * 5_000 + b"}", b"x" * 99_999]
)
def test_a_hostile_error_body_says_nothing(body: bytes) -> None:
    assert told(500, body).detail == "Internal Server Error"
