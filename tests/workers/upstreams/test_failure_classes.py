"""What goes wrong at a provider, through every adapter and a real connection: each is its row of the table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import pytest
from formats import USER
from ugly_server import Behaviour, Exchange, ugly_server

from theo_workers.clock import SystemClock
from theo_workers.errors import UpstreamError
from theo_workers.failures import FailureClass
from theo_workers.messages import Request
from theo_workers.model_spec import ModelSpec, Timeouts
from theo_workers.secret import Secret
from theo_workers.upstreams.build import build_upstream

F = FailureClass
CLOCK = SystemClock()
PROVIDERS = ["openai", "openai_responses", "anthropic", "gemini"]


async def failing(provider: str, url: str, *, stream: bool = False, timeout_s: float = 5.0) -> UpstreamError:
    spec = ModelSpec(
        name="m", provider=provider, model="some-model", base_url=url, api_key=Secret("canary-5a4b3c2d1e0f"),
        timeouts=Timeouts(connect_s=timeout_s, first_byte_s=timeout_s, inter_chunk_s=timeout_s),
    )  # fmt: skip
    upstream = build_upstream(spec, CLOCK, random.Random(1))
    asked = Request(messages=(USER,), params={}, stream=stream)
    sink: Any = (lambda _: None) if stream else None
    try:
        with pytest.raises(UpstreamError) as caught:
            await upstream.generate(asked, deadline=CLOCK.monotonic() + 5, on_delta=sink)
    finally:
        await upstream.close()
    assert caught.value.provider == provider
    return caught.value


async def met(provider: str, behave: Behaviour, **options: Any) -> UpstreamError:
    async with ugly_server(behave) as server:
        error = await failing(provider, server.url, **options)
        assert len(server.requests) == 1, "an adapter asks once"
        return error


def says(status: int, message: str = "x", code: str = "", **headers: str) -> Behaviour:
    """An error in the envelope that all of them understand."""
    body = {"error": {"message": message, "type": code, "code": code, "status": code}}

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(body).encode(), status=status, **headers)

    return behave


STATUSES = [
    (400, "temperature must be below 2", F.CALLER, False),
    (401, "no", F.CREDENTIAL, False),
    (402, "insufficient balance", F.CREDENTIAL, False),
    (403, "no", F.CREDENTIAL, False),
    (404, "no such model", F.MODEL_UNKNOWN, False),
    (408, "late", F.SERVER, True),
    (409, "conflict", F.SERVER, True),
    (413, "too large", F.CALLER, False),
    (422, "field required", F.CALLER, False),
    (425, "too early", F.SERVER, True),
    (429, "slow down", F.RATE_LIMITED, True),
    (429, "you have insufficient credits", F.CREDENTIAL, False),
    (400, "this model's maximum context length is 9 tokens", F.CALLER, False),
    (400, "rejected by our content filter", F.CALLER, False),
    (500, "boom", F.SERVER, True),
    (502, "bad gateway", F.SERVER, True),
    (503, "overloaded", F.SERVER, True),
    (504, "late", F.SERVER, True),
    (529, "overloaded", F.SERVER, True),
    (307, "elsewhere", F.SERVER, True),
]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("status", "message", "failure", "retryable"), STATUSES)
async def test_each_status_is_its_class_at_every_provider(
    provider: str, status: int, message: str, failure: FailureClass, retryable: bool
) -> None:
    error = await met(provider, says(status, message))
    assert (error.failure, error.status_code, error.retryable) == (failure, status, retryable)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_streamed_request_is_refused_like_any_other(provider: str) -> None:
    error = await met(provider, says(429, "slow down", Retry_After="3"), stream=True)
    assert (error.failure, error.retry_after_s) == (F.RATE_LIMITED, 3.0)


HOSTILE = ["-1", "nan", "inf", "1e9", "0x10", "", "soon", "9" * 64, "٣"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ({"Retry_After": "7"}, 7.0, 7.0),
        ({"Retry_After": "1.5"}, 1.5, 1.5),
        ({"Retry_After_Ms": "250"}, 0.25, 0.25),
        ({"Retry_After": "1", "Retry_After_Ms": "0"}, 1.0, 1.0),
        ({"Retry_After": "DATE"}, 28.0, 30.0),
        ({"Retry_After": "99999999999"}, 3_600.0, 3_600.0),
    ],
)
async def test_a_wait_is_read_in_all_its_forms_and_bounded_at_every_provider(
    provider: str, headers: dict[str, str], least_s: float, most_s: float
) -> None:
    date = formatdate(CLOCK.wall() + 30, usegmt=True)
    sent = {name: date if value == "DATE" else value for name, value in headers.items()}
    error = await met(provider, says(429, "slow down", **sent))
    assert error.retry_after_s is not None
    assert least_s <= error.retry_after_s <= most_s


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("value", [value for value in HOSTILE if value.isascii()])
async def test_a_hostile_wait_is_none_at_every_provider(provider: str, value: str) -> None:
    error = await met(provider, says(429, "slow down", Retry_After=value, Retry_After_Ms=value))
    assert error.retry_after_s is None


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "word", "retryable"),
    [(500, "false", False), (429, "false", False), (500, "true", True), (400, "true", False)],
)
async def test_a_provider_may_say_that_another_try_is_useless(
    provider: str, status: int, word: str, retryable: bool
) -> None:
    error = await met(provider, says(status, "x", X_Should_Retry=word))
    assert error.retryable is retryable


# -- connections -----------------------------------------------------------------------------------------


async def resets(exchange: Exchange) -> None:
    exchange.reset()


async def closes(exchange: Exchange) -> None:
    exchange.close()


async def is_cut(exchange: Exchange) -> None:
    await exchange.send(
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"id"'
    )
    exchange.close()


async def is_no_http(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-OpenSSH_9.6\r\n")
    exchange.close()


async def hangs(exchange: Exchange) -> None:
    await exchange.hang()


def answers(body: bytes, kind: str = "application/json") -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(body, kind=kind)

    return behave


MAYBE_BILLED: dict[str, Callable[[Exchange], Awaitable[None]]] = {
    "reset": resets,
    "closed": closes,
    "cut": is_cut,
    "not HTTP": is_no_http,
    "a login page": answers(b"<html>log in</html>", "text/html"),
    "garbage": answers(b"\x00\xff\xfe"),
    "truncated JSON": answers(b'{"id": "x", "choi'),
    "an empty body": answers(b""),
    "empty JSON": answers(b"{}"),
    "a list": answers(b"[]"),
    "too deep": answers(b"[" * 50_000),
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("what", MAYBE_BILLED)
async def test_what_breaks_after_sending_may_be_billed(provider: str, what: str) -> None:
    error = await met(provider, MAYBE_BILLED[what])
    assert (error.code, error.failure, error.retryable) == ("provider_unavailable", F.MAYBE, True)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_silence_after_sending_may_be_billed(provider: str) -> None:
    error = await met(provider, hangs, timeout_s=0.1)
    assert (error.code, error.failure) == ("provider_timeout", F.MAYBE)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refused_connection_was_never_sent(provider: str) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        error = await failing(provider, f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert (error.code, error.failure) == ("provider_unavailable", F.NEVER_SENT)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_host_that_has_no_name_was_never_asked(provider: str) -> None:
    error = await failing(provider, "http://no-such-host.invalid/v1")
    assert (error.code, error.failure) == ("provider_unavailable", F.NEVER_SENT)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_handshake_with_something_that_speaks_no_tls_was_never_sent(provider: str) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await failing(provider, f"https://127.0.0.1:{port}/v1")
    assert (error.code, error.failure) == ("provider_unavailable", F.NEVER_SENT)
