"""What a process holds of large answers is bounded, and nobody waits for ever for somebody who waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from ugly_server import ANSWER, Exchange, ugly_server

from theo_workers.clock import SystemClock
from theo_workers.errors import ProviderUnavailable
from theo_workers.messages import Message, Request
from theo_workers.model_spec import ModelSpec
from theo_workers.texts import plain
from theo_workers.upstreams.openai import OpenAIUpstream
from theo_workers.upstreams.room import SMALL_BYTES, STEP_BYTES, Room, Share

CLOCK = SystemClock()
REQUEST = Request(messages=(Message(role="user", content="hi"),), params={})
HERE = Path(__file__)


def body(size: int) -> bytes:
    """A good answer of about `size` bytes."""
    return json.dumps(ANSWER).replace('"hello"', f'"{"x" * size}"').encode()


def test_an_answer_takes_steps_and_the_next_waits_in_turn() -> None:
    room, log = Room(2 * STEP_BYTES), []
    first, second, third, fourth = (Share(room) for _ in range(4))
    assert first.grow(1, lambda: log.append("first"))
    assert first.grow(STEP_BYTES, lambda: log.append("first"))  # within its step
    assert second.grow(1, lambda: log.append("second"))
    assert third.grow(1, lambda: log.append("third"))  # goes on without room
    assert third.grow(9 * STEP_BYTES, lambda: log.append("third"))
    assert not fourth.grow(1, lambda: log.append("fourth"))
    assert not first.grow(2 * STEP_BYTES, lambda: log.append("first"))
    assert (fourth.waits, first.waits, log) == (True, True, [])
    second.let_go()
    assert log == ["fourth"]
    third.let_go()
    assert log == ["fourth", "first"]


def test_what_nobody_holds_any_more_is_free() -> None:
    room, log = Room(0), []
    rider, waiting = Share(room), Share(room)
    assert rider.grow(1, lambda: None)
    assert not waiting.grow(1, lambda: log.append("go"))
    del rider
    assert log == ["go"]


def test_who_gave_up_waiting_is_passed_over() -> None:
    room, log = Room(0), []
    rider, gone, waiting = Share(room), Share(room), Share(room)
    assert rider.grow(1, lambda: None)
    assert not gone.grow(1, lambda: log.append("gone"))
    assert not waiting.grow(1, lambda: log.append("waiting"))
    gone.let_go()
    gone.let_go()
    rider.let_go()
    assert log == ["waiting"]


class Shares(RuleBasedStateMachine):
    """Any order of growing and leaving: whoever waits is woken once, and somebody can always go on."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 3
        self.room = Room(self.size * STEP_BYTES)
        self.shares: list[Share] = []
        self.woken: dict[int, int] = {}

    @rule(steps=st.integers(1, 4))
    def comes(self, steps: int) -> None:
        share = Share(self.room)
        self.shares.append(share)
        self._grow(share, steps)

    @rule(which=st.integers(0, 99), steps=st.integers(1, 6))
    def grows(self, which: int, steps: int) -> None:
        able = [share for share in self.shares if not share.waits]
        if able:
            self._grow(able[which % len(able)], steps)

    @rule(which=st.integers(0, 99))
    def leaves(self, which: int) -> None:
        if self.shares:
            share = self.shares.pop(which % len(self.shares))
            self.woken.pop(id(share), None)
            share.let_go()

    def _grow(self, share: Share, steps: int) -> None:
        def resume() -> None:
            self.woken[id(share)] -= 1

        if not share.grow(steps * STEP_BYTES, resume):
            self.woken[id(share)] = 1

    @invariant()
    def everybody_is_woken_once(self) -> None:
        waiting = {id(share) for share in self.shares if share.waits}
        assert {key for key, left in self.woken.items() if left} == waiting
        assert all(left in {0, 1} for left in self.woken.values())

    @invariant()
    def somebody_goes_on(self) -> None:
        assert not self.shares or not all(share.waits for share in self.shares)

    @invariant()
    def no_more_is_taken_than_there_is(self) -> None:
        assert 0 <= sum(share.taken for share in self.shares) <= self.size * STEP_BYTES
        assert sum(share.rides for share in self.shares) <= 1


TestShares = Shares.TestCase
TestShares.settings = settings(max_examples=40, deadline=None)


async def test_large_answers_come_one_after_another_and_all_of_them_come() -> None:
    large = body(6 * SMALL_BYTES)

    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream("application/json")
        for start in range(0, len(large), 65_536):
            await exchange.chunk(large[start : start + 65_536])
        await exchange.end_stream()

    async with ugly_server(behave) as server:
        spec = ModelSpec(name="m", provider="openai", model="m", base_url=server.url)
        upstream = OpenAIUpstream(spec, CLOCK, Room(STEP_BYTES))

        async def ask() -> int:
            completion = await upstream.generate(REQUEST, deadline=CLOCK.monotonic() + 20, on_delta=None)
            assert completion.held is not None
            return len(plain(completion.output))

        assert await asyncio.gather(*[ask() for _ in range(12)]) == [6 * SMALL_BYTES] * 12
        await upstream.close()


async def test_who_waits_for_room_until_its_time_is_over_is_told_why() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(body(6 * SMALL_BYTES))

    async with ugly_server(behave) as server:
        spec = ModelSpec(name="m", provider="openai", model="m", base_url=server.url)
        upstream = OpenAIUpstream(spec, CLOCK, Room(0))
        kept = await upstream.generate(REQUEST, deadline=CLOCK.monotonic() + 5, on_delta=None)
        with pytest.raises(ProviderUnavailable, match="too many large answers at once: this one had to wait"):
            await upstream.generate(REQUEST, deadline=CLOCK.monotonic() + 0.5, on_delta=None)
        del kept
        assert (await upstream.generate(REQUEST, deadline=CLOCK.monotonic() + 5, on_delta=None)).output
        await upstream.close()


# Run as a program: asks for many large answers at once, and prints by how many MB the process has grown.
ASKS, MEGABYTES = 16, 10


async def test_many_large_answers_at_once_do_not_fill_the_memory() -> None:
    kinds = [body(MEGABYTES * 1_000_000), b" " * 25_000_000, body(1_000)]

    async def behave(exchange: Exchange) -> None:
        answer = kinds[int(exchange.json["messages"][0]["content"])]
        with contextlib.suppress(ConnectionError):
            await exchange.begin_stream("application/json")
            for start in range(0, len(answer), 262_144):
                await exchange.chunk(answer[start : start + 262_144])
            await exchange.end_stream()

    async with ugly_server(behave) as server:
        program = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE), server.url, stdout=asyncio.subprocess.PIPE, cwd=HERE.parent
        )
        told, _ = await program.communicate()
    grown_mb, endings = json.loads(told)
    assert endings == {"10000000": ASKS, "the answer is larger than 20000000 bytes": ASKS}
    assert grown_mb < 150  # without bounds: 480


async def _ask_for_all_at_once(url: str) -> None:
    spec = ModelSpec(name="m", provider="openai", model="m", base_url=url)
    upstream = OpenAIUpstream(spec, CLOCK)
    endings: dict[str, int] = {}

    async def ask(kind: int) -> str:
        asked = Request(messages=(Message(role="user", content=str(kind)),), params={})
        try:
            completion = await upstream.generate(asked, deadline=CLOCK.monotonic() + 60, on_delta=None)
            return str(len(plain(completion.output)))
        except ProviderUnavailable as error:
            return error.detail

    await ask(2)
    before = _peak_mb()
    for ending in await asyncio.gather(*[ask(number % 2) for number in range(2 * ASKS)]):
        endings[ending] = endings.get(ending, 0) + 1
    await upstream.close()
    print(json.dumps([_peak_mb() - before, endings]))


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1_000


if __name__ == "__main__":
    asyncio.run(_ask_for_all_at_once(sys.argv[1]))
