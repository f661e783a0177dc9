from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from theo_workers.clock import FakeClock
from theo_workers.errors import GenerationError, ProviderTimeout, RateLimited, UpstreamError
from theo_workers.failures import FailureClass
from theo_workers.messages import Completion, Message, Request
from theo_workers.upstreams.script import Fate, ScriptEnd
from theo_workers.upstreams.scripted import ScriptedUpstream

MESSAGES = (Message(role="system", content="be kind"), Message(role="user", content="hello there"))
REQUEST = Request(messages=MESSAGES, params={})
STREAMED = Request(messages=MESSAGES, params={}, stream=True)


async def outcome(
    upstream: ScriptedUpstream, clock: FakeClock, *, after_s: float = 0, within_s: float = 60
) -> Completion | UpstreamError | str:
    """What a call has come to `after_s` seconds later."""
    call = asyncio.ensure_future(
        upstream.generate(REQUEST, deadline=clock.monotonic() + within_s, on_delta=None)
    )
    await clock.advance(after_s)
    if not call.done():
        call.cancel()
        return "still running"
    try:
        return call.result()
    except UpstreamError as error:
        return error


async def test_echoes_the_last_user_message_without_a_script() -> None:
    clock = FakeClock()
    completion = await outcome(ScriptedUpstream(clock), clock)
    assert isinstance(completion, Completion)
    assert completion.output == "hello there"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 2)


async def test_echoes_the_text_of_content_parts() -> None:
    parts = Message(role="user", content=[{"type": "text", "text": "a"}, {"type": "image_url"}])
    completion = await ScriptedUpstream(FakeClock()).generate(
        Request(messages=(parts,), params={}), deadline=2_000, on_delta=None
    )
    assert completion.output == "a"


async def test_answers_after_its_latency_with_its_own_figures() -> None:
    clock = FakeClock()
    fate = Fate(text="hi", latency_ms=20, prompt_tokens=5, completion_tokens=7, finish_reason="length")
    upstream = ScriptedUpstream(clock, [fate])
    assert await outcome(upstream, clock, after_s=0.019) == "still running"
    completion = await outcome(upstream, clock, after_s=0.02)
    assert isinstance(completion, Completion)
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 7)
    assert completion.finish_reason == "length"


async def test_fails_as_the_script_says() -> None:
    clock = FakeClock()
    fate = Fate(error="rate_limited", status_code=429, message="slow down", retry_after_s=2.0)
    error = await outcome(ScriptedUpstream(clock, [fate]), clock)
    assert isinstance(error, RateLimited)
    assert str(error) == "HTTP 429: slow down (retryable: True, provider: scripted)"
    assert (error.retry_after_s, error.failure) == (2.0, FailureClass.RATE_LIMITED)


async def test_a_fate_may_name_its_failure_class() -> None:
    clock = FakeClock()
    error = await outcome(
        ScriptedUpstream(clock, [Fate(error="provider_unavailable", failure=FailureClass.MAYBE)]), clock
    )
    assert isinstance(error, UpstreamError)
    assert error.failure is FailureClass.MAYBE


@pytest.mark.parametrize("fate", [Fate(hang=True), Fate(text="late", latency_ms=90_000)])
async def test_what_outlasts_the_deadline_is_a_timeout_at_the_deadline(fate: Fate) -> None:
    clock = FakeClock()
    upstream = ScriptedUpstream(clock, [fate])
    assert await outcome(upstream, clock, after_s=29, within_s=30) == "still running"
    error = await outcome(upstream, clock, after_s=30, within_s=30)
    assert isinstance(error, ProviderTimeout)
    assert error.failure is FailureClass.MAYBE


@pytest.mark.parametrize(
    ("end", "outputs"), [("repeat_last", ["a", "b", "b", "b"]), ("cycle", ["a", "b", "a", "b"])]
)
async def test_the_script_goes_on_after_its_last_fate(end: ScriptEnd, outputs: list[str]) -> None:
    upstream = ScriptedUpstream(FakeClock(), [Fate(text="a"), Fate(text="b")], end=end)
    answers = [await upstream.generate(REQUEST, deadline=2_000, on_delta=None) for _ in outputs]
    assert [answer.output for answer in answers] == outputs


async def test_streams_word_by_word() -> None:
    pieces: list[str] = []
    upstream = ScriptedUpstream(FakeClock(), [Fate(text="one  two\nthree")])
    completion = await upstream.generate(STREAMED, deadline=2_000, on_delta=pieces.append)
    assert pieces == ["one  ", "two\n", "three"]
    assert "".join(pieces) == completion.output


async def test_streams_its_own_chunks_at_its_own_pace() -> None:
    clock, pieces = FakeClock(), list[str]()
    upstream = ScriptedUpstream(clock, [Fate(chunks=("a", "b", "c"), chunk_interval_ms=100)])
    call = asyncio.ensure_future(upstream.generate(STREAMED, deadline=2_000, on_delta=pieces.append))
    await clock.advance(0.15)
    assert pieces == ["a", "b"]
    await clock.advance(0.1)
    assert (await call).output == "abc"


async def test_a_stream_can_break_in_the_middle() -> None:
    pieces: list[str] = []
    upstream = ScriptedUpstream(FakeClock(), [Fate(text="some text", error="provider_unavailable")])
    with pytest.raises(GenerationError):
        await upstream.generate(STREAMED, deadline=2_000, on_delta=pieces.append)
    assert pieces == ["some ", "text"]


async def test_the_same_seed_gives_the_same_jitter() -> None:
    async def spent(seed: int) -> float:
        clock = FakeClock()
        upstream = ScriptedUpstream(clock, [Fate(text="x", jitter_ms=1_000)], rng=random.Random(seed))
        call = asyncio.ensure_future(upstream.generate(REQUEST, deadline=2_000, on_delta=None))
        for step in range(1_000):
            await clock.advance(0.001)
            if call.done():
                return step
        return -1

    assert await spent(1) == await spent(1) != await spent(2)


def test_fates_are_read_from_plain_data_and_typos_are_refused() -> None:
    script = msgspec.convert(
        [
            {"text": "hello", "latency_ms": 20},
            {"error": "rate_limited", "retry_after_s": 1.0},
            {"hang": True},
        ],
        tuple[Fate, ...],
    )
    assert [fate.hang for fate in script] == [False, False, True]
    for wrong in ({"latency": 20}, {"error": "no_such_code"}, {"finish_reason": "bored"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Fate)
