"""Streamed chat answers, over a real connection."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from ugly_server import ANSWER, Behaviour, Exchange, ugly_server

from theo_workers.clock import SystemClock
from theo_workers.errors import ProviderTimeout, ProviderUnavailable, RateLimited, UpstreamError
from theo_workers.failures import FailureClass
from theo_workers.messages import Completion, Message, Request
from theo_workers.model_spec import ModelSpec, Timeouts
from theo_workers.upstreams import http
from theo_workers.upstreams.openai import OpenAIUpstream

CLOCK = SystemClock()
HURRIED = Timeouts(first_byte_s=0.2, inter_chunk_s=0.15)
REQUEST = Request(messages=(Message(role="user", content="hi"),), params={}, stream=True)
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
DONE = b"data: [DONE]\n\n"


def event(content: str | None = None, *, finish: str | None = None, **more: Any) -> bytes:
    choice = {
        "index": 0,
        "delta": {"content": content} if content is not None else {},
        "finish_reason": finish,
    }
    return b"data: " + json.dumps({"id": "c1", "choices": [choice], **more}).encode() + b"\n\n"


def streams(*pieces: bytes, then: str = "end") -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for piece in pieces:
            await exchange.chunk(piece)
        if then == "end":
            await exchange.end_stream()
        elif then == "reset":
            await asyncio.sleep(0.02)  # an RST at once would overtake what was sent
            exchange.reset()
        else:
            await exchange.hang()

    return behave


async def run(behave: Behaviour, *, hurried: bool = False) -> tuple[list[str], Any, Any]:
    """The deltas, the completion or error, and the server."""
    timeouts = HURRIED if hurried else Timeouts()
    async with ugly_server(behave) as server:
        upstream = OpenAIUpstream(
            ModelSpec(name="m", provider="openai", model="m", base_url=server.url, timeouts=timeouts), CLOCK
        )
        deltas: list[str] = []
        outcome: Completion | UpstreamError
        try:
            outcome = await upstream.generate(REQUEST, deadline=CLOCK.monotonic() + 4, on_delta=deltas.append)
        except UpstreamError as error:
            outcome = error
        await upstream.close()
    return deltas, outcome, server


async def test_text_comes_piece_by_piece_and_the_usage_chunk_counts() -> None:
    whole = (event("Hel"), event("lo"), event(finish="stop"), event(usage=USAGE)[:-2] + b"\n\n", DONE)
    deltas, completion, server = await run(streams(*whole))
    assert deltas == ["Hel", "lo"]
    assert (completion.output, completion.finish_reason) == ("Hello", "stop")
    assert completion.usage.completion_tokens == 2
    assert completion.provider_request_id == "c1"
    assert server.requests[0].json["stream"] is True
    assert server.requests[0].json["stream_options"] == {"include_usage": True}


async def test_deltas_are_given_on_before_the_stream_ends() -> None:
    heard = asyncio.Event()

    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(event("first"))
        await heard.wait()
        await exchange.chunk(event(finish="stop") + DONE)
        await exchange.end_stream()

    async with ugly_server(behave) as server:
        spec = ModelSpec(name="m", provider="openai", model="m", base_url=server.url)
        upstream = OpenAIUpstream(spec, CLOCK)
        completion = await upstream.generate(
            REQUEST, deadline=CLOCK.monotonic() + 3, on_delta=lambda _: heard.set()
        )
        await upstream.close()
    assert completion.output == "first"


ENDINGS: list[Any] = [
    pytest.param((event("a"), event(finish="stop"), DONE), "end", id="finish and DONE"),
    pytest.param((event("a"), event(finish="stop")), "end", id="finish and end of the body"),
    pytest.param((event("a", finish="stop"),), "end", id="finish with the last text"),
    pytest.param((event("a"), event(finish="stop")[:-2]), "end", id="no blank line at the end"),
    pytest.param((event("a"), event(finish="stop")), "reset", id="finish and reset"),
    pytest.param((event("a"), event(finish="stop")), "hang", id="finish and silence"),
    pytest.param((event("a"), event(finish="stop"), DONE), "hang", id="DONE and silence"),
    pytest.param((event("a"), DONE), "end", id="DONE without finish"),
]


@pytest.mark.parametrize(("pieces", "then"), ENDINGS)
async def test_an_answer_that_says_it_is_whole_is_whole(pieces: tuple[bytes, ...], then: str) -> None:
    deltas, completion, _ = await run(streams(*pieces, then=then), hurried=then == "hang")
    assert isinstance(completion, Completion), completion
    assert deltas == ["a"]
    assert completion.output == "a"


async def test_a_whole_answer_does_not_wait_long_for_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LAST_WORDS_S", 0.05)
    began = time.monotonic()
    _, completion, _ = await run(streams(event("a"), event(finish="stop"), then="hang"))
    assert completion.output == "a"
    assert time.monotonic() - began < 2  # the deadline is at 4, other clocks beyond it


BROKEN: list[Any] = [
    pytest.param((event("a"),), "end", ProviderUnavailable, id="ends without a terminal event"),
    pytest.param((event("a"),), "reset", ProviderUnavailable, id="reset"),
    pytest.param((event("a"),), "hang", ProviderTimeout, id="falls silent"),
    pytest.param((event("a"), b"data: {trunc\n\n"), "end", ProviderUnavailable, id="garbage"),
    pytest.param((event("a"), b"data: {\xff\n\n"), "end", ProviderUnavailable, id="invalid UTF-8"),
    pytest.param((), "end", ProviderUnavailable, id="empty"),
    pytest.param((DONE,), "end", ProviderUnavailable, id="only DONE"),
    pytest.param((b": ping\n\n",), "hang", ProviderTimeout, id="only a comment"),
    pytest.param((b"data: " + b"x" * 5_000_000,), "hang", ProviderUnavailable, id="endless line"),
    pytest.param(
        (event("a"), b'data: {"error":{"message":"boom","code":502}}\n\n', DONE),
        "end",
        ProviderUnavailable,
        id="error object",
    ),
    pytest.param(
        (event("a"), b'event: error\ndata: {"message":"Overloaded","type":"overloaded_error"}\n\n'),
        "end",
        ProviderUnavailable,
        id="error event",
    ),
    pytest.param(
        (event("a"), b'data: {"choices":[{"delta":{},"error":{"message":"x","code":429}}]}\n\n'),
        "end",
        RateLimited,
        id="error in the choice",
    ),
    pytest.param((event("a", finish="error"),), "end", ProviderUnavailable, id="finish reason error"),
]


@pytest.mark.parametrize(("pieces", "then", "leaf"), BROKEN)
async def test_a_broken_stream_may_have_been_billed(
    pieces: tuple[bytes, ...], then: str, leaf: type[UpstreamError]
) -> None:
    deltas, error, server = await run(streams(*pieces, then=then), hurried=leaf is ProviderTimeout)
    assert type(error) is leaf
    assert error.failure is FailureClass.MAYBE
    assert "".join(deltas) in {"", "a"}
    assert len(server.requests) == 1


async def test_an_error_before_any_text_is_as_free_as_its_status() -> None:
    told = b'data: {"error":{"message":"upstream is down","code":502}}\n\n'
    _, error, _ = await run(streams(told))
    assert str(error) == "HTTP 502: upstream is down (retryable: True, provider: openai)"
    assert error.failure is FailureClass.SERVER


async def test_usage_of_a_broken_stream_is_on_the_error() -> None:
    _, error, _ = await run(streams(event("a", usage=USAGE)))
    assert error.usage.completion_tokens == 2


async def test_a_server_that_does_not_stream_is_understood() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(ANSWER).encode())

    deltas, completion, _ = await run(behave)
    assert deltas == ["hello"]
    assert completion.output == "hello"


async def test_an_error_status_is_read_as_for_plain_calls() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(b'{"error":{"message":"slow down"}}', status=429, Retry_After="2")

    deltas, error, _ = await run(behave)
    assert (type(error), error.retry_after_s, deltas) == (RateLimited, 2.0, [])


async def test_a_stream_larger_than_the_limit_is_ended() -> None:
    async with ugly_server(streams(*[event("x" * 50) for _ in range(100)])) as server:
        spec = ModelSpec(
            name="m", provider="openai", model="m", base_url=server.url, max_response_bytes=2_000
        )
        upstream = OpenAIUpstream(spec, CLOCK)
        with pytest.raises(ProviderUnavailable, match="larger than 2000 bytes"):
            await upstream.generate(REQUEST, deadline=CLOCK.monotonic() + 1, on_delta=None)
        await upstream.close()


SLOW = Timeouts(floor_bytes=20, floor_s=0.2)


async def drips(*pieces: bytes) -> Any:
    """What becomes of a stream whose pieces come one every 30 ms."""

    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for piece in pieces:
            await exchange.chunk(piece)
            await asyncio.sleep(0.03)
        await exchange.end_stream()

    async with ugly_server(behave) as server:
        spec = ModelSpec(name="m", provider="openai", model="m", base_url=server.url, timeouts=SLOW)
        upstream = OpenAIUpstream(spec, CLOCK)
        try:
            return await upstream.generate(REQUEST, deadline=CLOCK.monotonic() + 10, on_delta=[].append)
        except UpstreamError as error:
            return error
        finally:
            await upstream.close()


async def test_an_event_that_drips_is_given_up_but_pauses_between_events_are_not() -> None:
    whole = event("a", finish="stop")
    dripped = await drips(*(whole[i : i + 1] for i in range(len(whole))))
    assert isinstance(dripped, ProviderTimeout)
    assert dripped.detail == "the answer came too slowly"
    thinking = await drips(*[b":\n\n"] * 20, event("a"), *[b":\n\n"] * 20, event(finish="stop"), DONE)
    assert thinking.output == "a"


async def test_the_time_to_the_first_text_is_told_and_pings_are_not_text() -> None:
    completion = await drips(
        b":\n\n", b":\n\n", b":\n\n", event("a"), *[b":\n\n"] * 5, event(finish="stop"), DONE
    )
    assert 80 <= completion.first_token_ms < 240
    _, without_text, _ = await run(streams(event(finish="stop"), DONE))
    assert without_text.first_token_ms is None
