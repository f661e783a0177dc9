"""Redis lost a job whose id is on record, and the client pushes it again, as it should: that must not wait for ever."""

from __future__ import annotations

import pytest

from tests.scenario.test_crash_points import ANSWER, POINTS, Replies, World, entry
from theo_workers.upstreams.script import Fate

LOOKED_AT_S = 7.0  # every five seconds, and once more after that


@pytest.mark.parametrize("point", ["claim committed", "call out", "landing asked"])
@pytest.mark.parametrize("cache", ["use", "off"])
async def test_a_push_is_run_though_the_first_of_its_id_was_lost_with_its_process(
    point: str, cache: str
) -> None:
    world = World(on_unknown="retry", fate=ANSWER)
    first = entry(prompt="hi", id="mine", cache=cache)
    await world.dies("victim", [first], at_s=POINTS[point])
    async with world.process("heir") as heir:
        again = heir.push("hi", id="mine", cache=cache)
        await heir.advance(LOOKED_AT_S)
        assert heir.end(again) == "waiting"  # as long as Redis has the first, somebody will end it
        heir.replies.lost_by_redis.add(first.ref)
        await heir.advance(LOOKED_AT_S)
        assert heir.end(again) == "ok"
        repeated = heir.push("hi", id="mine", cache=cache)
        await heir.advance(1)
        assert heir.ok(repeated).answer == heir.ok(again).answer
    assert world.calls == ["victim", "heir"] if point != "claim committed" else ["heir"]
    world.check_books()


async def test_while_a_call_for_the_lost_one_is_out_the_next_push_waits_for_it() -> None:
    world = World(on_unknown="retry", fate=Fate(text="hello", latency_ms=30_000, completion_tokens=500))
    first = entry(prompt="hi", id="mine", cache="off")
    async with world.process("busy") as busy, world.process("other") as other:
        busy.dispatcher.deliver([first])
        await busy.advance(1)
        assert isinstance(other.replies, Replies)
        other.replies.lost_by_redis.add(first.ref)
        again = other.push("hi", id="mine", cache="off")
        await other.advance(20)
        assert other.end(again) == "waiting"
        await other.advance(20)
        assert (other.end(again), other.ok(again).cost_nano) == ("ok", 0)
    assert world.calls == ["busy"]
