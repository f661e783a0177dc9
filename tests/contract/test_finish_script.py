"""Every branch of the finish script on a real server, and random walks against a model of its promises."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.deep import deep
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.finish_script import DELTA_MARK, FINISH
from theo_daemon.job import EntryRef
from theo_daemon.keys import Keys
from theo_daemon.redis_link import RedisLink
from theo_daemon.scout_scripts import TAKE_EARLY
from theo_daemon.wire import Wire

GROUP, ME, PEER = "g", "me", "peer"
HEAD = (GROUP, 1_000, 60_000, 30_000, 100)


class Stage:
    """A job stream with its group, and the script to end what was read from it."""

    def __init__(self, wire: Wire, keys: Keys) -> None:
        self.wire, self.keys, self.stream = wire, keys, keys.jobs()

    async def group(self) -> None:
        await self.wire.ask("XGROUP", "CREATE", self.stream, GROUP, "0", "MKSTREAM")

    async def push(self, entry_id: str = "*") -> EntryRef:
        added = await self.wire.ask("XADD", self.stream, entry_id, "prompt", "hi")
        return EntryRef(self.stream, added.decode())

    async def read(self, consumer: str = ME) -> None:
        await self.wire.ask("XREADGROUP", "GROUP", GROUP, consumer, "STREAMS", self.stream, ">")

    async def job(self) -> EntryRef:
        ref = await self.push()
        await self.read()
        return ref

    def step(
        self,
        ref: EntryRef,
        *,
        token: str = "t1",
        reply_to: str | None = None,
        words: Sequence[str] = ("final", "1"),
        dead: Sequence[str] | None = (),
    ) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        n_dead = DELTA_MARK if dead is None else len(dead)
        keys = (ref.stream, self.keys.done(ref), reply_to or self.keys.replies)
        return keys, (ref.entry_id, token, len(words), n_dead, *words, *(dead or ()))

    async def end(self, *steps: tuple[tuple[str, ...], tuple[Any, ...]]) -> list[Any]:
        keys = [
            self.keys.replies,
            self.keys.dead,
            self.keys.early,
            *[key for names, _ in steps for key in names],
        ]
        args = [*HEAD, *[arg for _, words in steps for arg in words]]
        found: list[Any] = await self.wire.run(FINISH, keys, args)
        return found

    async def end_one(self, ref: EntryRef, **step: Any) -> Any:
        (found,) = await self.end(self.step(ref, **step))
        return found

    async def count(self, key: str) -> int:
        length: int = await self.wire.ask("XLEN", key)
        return length

    async def pending(self) -> int:
        summary = await self.wire.ask("XPENDING", self.stream, GROUP)
        count: int = summary[0]
        return count


@pytest.fixture
async def stage(wire: Wire, keys: Keys) -> Stage:
    stage = Stage(wire, keys)
    await stage.group()
    return stage


async def test_a_pending_entry_is_answered_acknowledged_and_deleted(stage: Stage, redis: Any) -> None:
    ref = await stage.job()
    assert await stage.end_one(ref, words=("status", "ok", "final", "1")) == 1
    assert [fields for _, fields in await redis.xrange(stage.keys.replies)] == [
        {"status": "ok", "final": "1"}
    ]
    assert (await stage.count(stage.stream), await stage.pending()) == (0, 0)
    assert 0 < await redis.pttl(stage.keys.done(ref)) <= 30_000
    assert 0 < await redis.pttl(stage.keys.replies) <= 60_000


async def test_whoever_owns_the_entry_the_first_to_finish_answers(stage: Stage) -> None:
    ref = await stage.push()
    await stage.read(PEER)
    assert await stage.end_one(ref, token="mine") == 1
    assert await stage.end_one(ref, token="the peer's") == 0
    assert await stage.count(stage.keys.replies) == 1


async def test_what_a_peer_has_answered_is_acknowledged_and_not_answered_again(stage: Stage) -> None:
    ref = await stage.job()
    await stage.wire.ask("SET", stage.keys.done(ref), "1peer")
    assert await stage.end_one(ref) == 0
    assert (
        await stage.count(stage.keys.replies),
        await stage.count(stage.stream),
        await stage.pending(),
    ) == (0, 0, 0)


async def test_a_repeated_call_finds_its_own_work(stage: Stage) -> None:
    ref, gone = await stage.job(), EntryRef(stage.stream, "5-5")
    steps = (stage.step(ref, token="a"), stage.step(gone, token="b"))
    assert await stage.end(*steps) == [1, 2]
    assert await stage.end(*steps) == [1, 2]
    assert await stage.count(stage.keys.replies) == 2


async def test_an_entry_that_waits_for_delivery_is_left_alone(stage: Stage) -> None:
    ref = await stage.push()
    assert await stage.end_one(ref) == -1
    assert (await stage.count(stage.keys.replies), await stage.count(stage.stream)) == (0, 1)
    assert await stage.wire.ask("EXISTS", stage.keys.done(ref)) == 0


async def test_an_entry_that_somebody_else_has_acknowledged_is_answered_once(stage: Stage) -> None:
    ref = await stage.job()
    await stage.wire.ask("XACK", stage.stream, GROUP, ref.entry_id)
    assert await stage.end_one(ref, token="a") == 1
    assert await stage.end_one(ref, token="b") == 0
    assert (await stage.count(stage.keys.replies), await stage.count(stage.stream)) == (1, 0)


async def test_so_is_one_that_was_taken_before_its_turn(stage: Stage) -> None:
    ref = await stage.push()
    take = (GROUP, ME, 60_000, ref.entry_id)
    assert len(await stage.wire.run(TAKE_EARLY, (stage.stream, stage.keys.early), take)) == 1
    await stage.wire.ask("XACK", stage.stream, GROUP, ref.entry_id)
    assert await stage.end_one(ref) == 1
    await stage.read(PEER)
    assert (await stage.count(stage.keys.replies), await stage.pending()) == (1, 0)


async def test_an_entry_of_a_lost_group_is_left_for_redelivery(stage: Stage) -> None:
    ref = await stage.job()
    await stage.wire.ask("XGROUP", "DESTROY", stage.stream, GROUP)
    assert await stage.end_one(ref) == -1


@pytest.mark.parametrize("loss", ["the stream is gone", "the stream came back", "the key has another type"])
async def test_a_lost_entry_is_answered_once(stage: Stage, loss: str) -> None:
    ref = await stage.job()
    await stage.wire.ask("DEL", stage.stream)
    if loss == "the stream came back":
        await stage.group()
    if loss == "the key has another type":
        await stage.wire.ask("SET", stage.stream, "x")
    assert await stage.end_one(ref, token="a") == 2
    assert await stage.end_one(ref, token="b") == 0
    assert await stage.count(stage.keys.replies) == 1


async def test_a_pending_entry_that_somebody_deleted_is_answered(stage: Stage) -> None:
    ref = await stage.job()
    await stage.wire.ask("XDEL", stage.stream, ref.entry_id)
    assert await stage.end_one(ref) == 1
    assert await stage.pending() == 0


@pytest.mark.parametrize("trouble", ["another type", "exhausted ids"])
async def test_a_reply_key_that_cannot_be_written_is_replaced_by_the_default(
    stage: Stage, redis: Any, trouble: str
) -> None:
    ref, reply_to = await stage.job(), f"{stage.keys.reply_prefix}x"
    if trouble == "another type":
        await stage.wire.ask("SET", reply_to, "x")
    else:
        await stage.wire.ask("XADD", reply_to, f"{2**64 - 1}-{2**64 - 1}", "a", "b")
    assert await stage.end_one(ref, reply_to=reply_to) == 1
    ((_, fields),) = await redis.xrange(stage.keys.replies)
    assert fields == {"final": "1", "reply_error": "reply_to_not_allowed"}
    assert (await stage.count(stage.stream), await stage.pending()) == (0, 0)
    assert await redis.pttl(reply_to) == -1  # not ours to expire


async def test_where_nothing_can_be_written_the_entry_stays_and_others_are_served(stage: Stage) -> None:
    stuck, fine = await stage.job(), await stage.job()
    reply_to = f"{stage.keys.reply_prefix}x"
    await stage.wire.ask("SET", stage.keys.replies, "not a stream")
    found = await stage.end(stage.step(stuck), stage.step(fine, reply_to=reply_to))
    assert found[0].startswith(b"WRONGTYPE")
    assert found[1] == 1
    assert await stage.pending() == 1
    assert await stage.wire.ask("EXISTS", stage.keys.done(stuck)) == 0
    await stage.wire.ask("DEL", stage.keys.replies)
    assert await stage.end_one(stuck) == 1


async def test_a_server_out_of_memory_refuses_without_a_trace(own_valkey: EmbeddedValkey, keys: Keys) -> None:
    wire = RedisLink(own_valkey.url).wire()
    stage = Stage(wire, keys)
    await stage.group()
    ref = await stage.job()
    await wire.ask("CONFIG", "SET", "maxmemory", "1")
    assert (await stage.end_one(ref)).startswith(b"OOM")
    await wire.ask("CONFIG", "SET", "maxmemory", "0")
    assert (await stage.pending(), await stage.count(keys.replies)) == (1, 0)
    assert await stage.end_one(ref) == 1
    await wire.close()


async def test_a_dead_letter_goes_with_its_reply_or_not_at_all(stage: Stage, redis: Any) -> None:
    ref = await stage.job()
    assert await stage.end_one(ref, dead=("job", "{", "dead_code", "invalid_job")) == 1
    assert await stage.end_one(ref, token="again", dead=("job", "{", "dead_code", "invalid_job")) == 0
    ((_, fields),) = await redis.xrange(stage.keys.dead)
    assert fields == {"job": "{", "dead_code": "invalid_job"}


async def test_a_dead_letter_stream_of_another_type_does_not_hold_up_the_reply(stage: Stage) -> None:
    ref = await stage.job()
    await stage.wire.ask("SET", stage.keys.dead, "x")
    assert await stage.end_one(ref, dead=("job", "{")) == 1
    assert await stage.count(stage.keys.replies) == 1


async def test_deltas_come_before_the_final_reply_and_never_after(stage: Stage, redis: Any) -> None:
    ref = await stage.job()
    late = stage.step(ref, words=("delta", "late"), dead=None)
    found = await stage.end(
        stage.step(ref, words=("delta", "Hel"), dead=None),
        stage.step(ref, words=("delta", "lo"), dead=None),
        stage.step(ref),
        late,
    )
    assert found == [3, 3, 1, 3]
    assert await stage.end(late) == [3]
    replies = [fields for _, fields in await redis.xrange(stage.keys.replies)]
    assert replies == [{"delta": "Hel"}, {"delta": "lo"}, {"final": "1"}]


async def test_a_delta_that_redis_refuses_is_told_as_such_and_ends_nothing(stage: Stage) -> None:
    ref, reply_to = await stage.job(), f"{stage.keys.reply_prefix}x"
    await stage.wire.ask("SET", reply_to, "x")
    refusal = await stage.end_one(ref, reply_to=reply_to, words=("delta", "x"), dead=None)
    assert refusal.startswith(b"WRONGTYPE")
    assert (await stage.count(stage.keys.replies), await stage.pending()) == (0, 1)


async def test_binary_words_arrive_as_they_are(stage: Stage) -> None:
    ref = await stage.job()
    blob = bytes(range(256))
    assert await stage.end_one(ref, words=(blob, b"\xff\r\n")) == 1
    ((_, fields),) = await stage.wire.ask("XRANGE", stage.keys.replies, "-", "+")
    assert fields == [blob, b"\xff\r\n"]


async def test_one_batch_over_several_lanes_and_reply_streams(stage: Stage) -> None:
    other = Stage(stage.wire, stage.keys)
    other.stream = stage.keys.jobs("high")
    await other.group()
    refs = [await stage.job() for _ in range(20)] + [await other.job() for _ in range(20)]
    reply_tos = [f"{stage.keys.reply_prefix}{number % 3}" for number in range(40)]
    steps = [stage.step(ref, reply_to=reply_to) for ref, reply_to in zip(refs, reply_tos, strict=True)]
    assert await stage.end(*steps, steps[0]) == [1] * 41
    assert [await stage.count(f"{stage.keys.reply_prefix}{number}") for number in range(3)] == [14, 13, 13]
    assert (await stage.pending(), await other.pending()) == (0, 0)


class FinishMachine(RuleBasedStateMachine):
    """Deliveries, crashes, repeated calls, losses: never two replies for one entry, none lost."""

    server: EmbeddedValkey

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.wire = RedisLink(self.server.url).wire()
        self.run(self.wire.ask("FLUSHALL"))
        self.stage = Stage(self.wire, Keys("m"))
        self.waiting: list[EntryRef] = []
        self.pending: list[EntryRef] = []
        self.lost: list[EntryRef] = []
        self.answered: dict[EntryRef, str] = {}  # and the token that answered
        self.dropped: set[EntryRef] = set()  # pending no more, for somebody else's doing
        self.tokens = self.pushed = 0

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.wire.close())
        self.loop.close()

    @initialize()
    def start(self) -> None:
        self.run(self.stage.group())

    @rule(count=st.integers(1, 3))
    def push(self, count: int) -> None:
        for _ in range(count):
            self.pushed += 1  # ids of our own: a stream that was lost would give the same millisecond twice
            self.waiting.append(self.run(self.stage.push(f"{self.pushed}-0")))

    @rule(consumer=st.sampled_from([ME, PEER]))
    def read(self, consumer: str) -> None:
        self.run(self.stage.read(consumer))
        self.pending += self.waiting
        self.waiting = []

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        known = [*self.waiting, *self.pending, *self.lost, *self.answered]
        if not known:
            return
        refs = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=5))
        expected: list[int | None] = []
        steps = []
        for ref in refs:
            self.tokens += 1
            token = f"t{self.tokens}"
            if ref in self.answered and data.draw(st.booleans()):
                token = self.answered[ref]
                expected.append(None)  # 1 or 2, as the first time
            elif ref in self.answered:
                expected.append(0)
            elif ref in self.waiting:
                expected.append(-1)
            else:
                expected.append(1 if ref in self.pending else 2)
                self.answered[ref] = token
                for heap in (self.pending, self.lost):
                    if ref in heap:
                        heap.remove(ref)
            steps.append(self.stage.step(ref, token=token, words=("entry_id", ref.entry_id, "final", "1")))
        found = self.run(self.stage.end(*steps))
        assert list(map(_either, found, expected)) == expected

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        """Somebody else does, without an answer."""
        if self.pending:
            ref = data.draw(st.sampled_from(self.pending))
            self.run(self.wire.ask("XACK", self.stage.stream, GROUP, ref.entry_id))
            self.dropped.add(ref)

    @rule()
    def lose_the_stream(self) -> None:
        self.run(self.wire.ask("DEL", self.stage.stream))
        self.run(self.stage.group())
        self.lost += [*self.waiting, *self.pending]
        self.waiting, self.pending = [], []

    @invariant()
    def one_reply_per_answered_entry_and_no_other(self) -> None:
        replies = self.run(self.wire.ask("XRANGE", self.stage.keys.replies, "-", "+"))
        ids = sorted(fields[1].decode() for _, fields in replies)
        assert ids == sorted(ref.entry_id for ref in self.answered)

    @invariant()
    def answered_entries_are_gone_and_the_others_are_there(self) -> None:
        left = self.run(self.wire.ask("XRANGE", self.stage.stream, "-", "+"))
        assert [entry_id.decode() for entry_id, _ in left] == [
            ref.entry_id for ref in (*self.pending, *self.waiting)
        ]
        assert self.run(self.stage.pending()) == len(set(self.pending) - self.dropped)


def _either(found: int, expected: int | None) -> int | None:
    return None if expected is None and found in {1, 2} else found


def test_random_walks_agree_with_the_model(own_valkey: EmbeddedValkey) -> None:
    FinishMachine.server = own_valkey
    run_state_machine_as_test(
        FinishMachine,
        settings=settings(
            max_examples=deep(40),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
