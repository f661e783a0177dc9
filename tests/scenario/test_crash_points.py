"""A process dies at every step of a job's life, once or twice in a row, and another one goes on.

The victims' commits take a second to be made and another to be told, their calls and their finishes a second each: so
a moment in virtual time is a crash point. What each test expects follows from what was durable when the victim died, as
rows of the books and replies in Redis tell, and never from how the system labels it afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes import Final, MemoryBooks, MemoryLedger, MemoryReplies, VirtualClock
from tests.scenario.stage import Stage, model, open_stage
from theo_daemon.config import Config, IngressConfig, LedgerConfig, RoutingConfig
from theo_daemon.job import Answered, Delivery, EntryRef, Envelope, Failed, JobOutcome
from theo_daemon.ports import DeadLetter, Finish
from theo_workers.upstreams.script import Fate

DOLLAR = 1_000_000_000
BOUND, PRICE = DOLLAR, DOLLAR // 2  # of each call: at most a thousand tokens, in fact five hundred
POINTS = {
    "delivered": 0.0,
    "claim asked": 0.5,
    "claim committed": 1.5,
    "call out": 2.5,
    "landing asked": 3.5,
    "landing committed": 4.5,
    "finish asked": 5.5,
    "finished": 6.5,
}
CLAIMED_S = 1.6
IN_DOUBT = ("claim committed", "call out", "landing asked")
RECORDED = ("landing committed", "finish asked")


class Streams:
    """What Redis holds of replies: one per entry, however many processes try."""

    def __init__(self) -> None:
        self.finals: dict[EntryRef, list[Final]] = {}


class Replies(MemoryReplies):
    """One process's way to Redis; nothing goes it once the process is dead."""

    def __init__(self, streams: Streams, clock: VirtualClock, *, takes_s: float) -> None:
        super().__init__(clock)
        self.finals, self.takes_s, self.dead = streams.finals, takes_s, False

    def finish(
        self, envelope: Envelope, outcome: JobOutcome, *, queued_ms: int, dead: DeadLetter | None = None
    ) -> asyncio.Future[Finish]:
        done: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()
        rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def publish(_: object) -> None:
            if self.dead or done.done():
                return
            already = envelope.ref in self.finals
            if not already:
                self.finals[envelope.ref] = [Final(outcome, queued_ms, dead, self._clock.monotonic())]
            done.set_result(Finish.ALREADY if already else Finish.PUBLISHED)

        rung.add_done_callback(publish)
        self._clock.call_at(self._clock.monotonic() + self.takes_s, rung)
        return done


class World:
    """Processes one after another over the same books, clock and Redis."""

    def __init__(self, *, on_unknown: str, fate: Fate, concurrency: int = 64) -> None:
        self.clock, self.books, self.streams = VirtualClock(), MemoryBooks(), Streams()
        self._config = Config(
            routing=RoutingConfig(default="m", max_attempts=3),
            models=(
                model(
                    "m", fate, output_cost_per_mtok=1000.0, max_output_tokens=1000, concurrency=concurrency
                ),
            ),
            ingress=IngressConfig(max_deliveries=5),
            ledger=LedgerConfig(url=Path("unused.db"), on_unknown=on_unknown),  # type: ignore[arg-type]
        )
        self.calls: list[str] = []  # the process that made each
        self._boots = 0

    @contextlib.asynccontextmanager
    async def process(self, name: str, *, step_s: float = 0.0) -> AsyncIterator[Stage]:
        self._boots += 1
        ledger = MemoryLedger(self.books, clock=self.clock, name=f"{name}-{self._boots}", lag=lambda: step_s)
        stage = Stage(self._config, clock=self.clock, seed=len(name), ledger=ledger)
        stage.replies = Replies(self.streams, self.clock, takes_s=step_s)
        async with open_stage(stage):
            yield stage
        self.calls += [name] * len(stage.upstreams["m"].prompts)
        assert not stage.observer.bugs
        assert not stage.observer.defects

    async def dies(self, name: str, deliveries: Sequence[Delivery], *, at_s: float) -> None:
        """A process takes these on and dies that many seconds later."""
        async with self.process(name, step_s=1.0) as victim:
            victim.dispatcher.deliver(deliveries)
            await victim.advance(at_s)
            kill(victim)

    def open_attempts(self) -> int:
        return len(self.books.rows("SELECT 1 FROM attempts WHERE state = 'sent'"))

    def recorded(self, delivery: Delivery) -> bool:
        """Is this entry's outcome on disk, for its own entry or for its id?"""
        ref = delivery.ref
        found = self.books.rows(
            "SELECT 1 FROM outcomes WHERE stream = ? AND entry_id = ? UNION ALL"
            " SELECT 1 FROM ids WHERE stream = ? AND entry_id = ? AND outcome IS NOT NULL",
            *(*ref, *ref),
        )
        return bool(found)

    def outcome(self, delivery: Delivery) -> JobOutcome:
        (final,) = self.streams.finals[delivery.ref]
        return final.outcome

    def check_books(self) -> None:
        """Nothing is held, nobody is in flight, and what is spent is what the attempts cost."""
        assert self.books.rows("SELECT coalesce(sum(held_nano), 0) FROM spend") == [(0,)]
        ((spent,),) = self.books.rows("SELECT coalesce(sum(spent_nano), 0) FROM spend")
        assert [(spent,)] == self.books.rows("SELECT coalesce(sum(cost_nano), 0) FROM attempts")
        assert self.books.rows("SELECT count(*) FROM inflight") == [(0,)]
        assert self.books.rows("SELECT count(*) FROM attempts WHERE state = 'sent'") == [(0,)]


def kill(victim: Stage) -> None:
    """Nothing that it does from here on has any effect."""
    assert isinstance(victim.replies, Replies)
    assert isinstance(victim.ledger, MemoryLedger)
    victim.replies.dead = True
    victim.ledger.kill()


class Kind(NamedTuple):
    """A sort of job, and how its one call goes."""

    fields: dict[str, str]
    fate: Fate
    remembered: bool = False  # its outcome is on record with its id, whether a call was made or not


ANSWER = Fate(text="hello there", latency_ms=1000, completion_tokens=500)
REFUSAL = Fate(error="content_filtered", status_code=400, latency_ms=1000)
KINDS = {
    "plain": Kind({}, ANSWER),
    "streamed": Kind({"stream": "1"}, ANSWER),
    "with an id": Kind({"id": "client-1"}, ANSWER, remembered=True),
    "not cached": Kind({"cache": "off"}, ANSWER),
    "refreshing": Kind({"cache": "refresh"}, ANSWER),
    "of a tenant": Kind({"tenant": "acme", "workflow": "sums", "metadata": '{"a":1}'}, ANSWER),
    "with a ceiling of its own": Kind({"max_cost": "5"}, ANSWER),
    "refused by the provider": Kind({}, REFUSAL),
    "refused, with an id": Kind({"id": "client-1"}, REFUSAL, remembered=True),
}


def entry(number: int = 1, **fields: str) -> Delivery:
    flat = [part.encode() for pair in {"prompt": "hi", **fields}.items() for part in pair]
    return Delivery(EntryRef("theo:jobs", f"1700000000000-{number}"), "default", flat, False)


def again(delivery: Delivery) -> Delivery:
    return delivery._replace(redelivered=True)


def told(outcome: JobOutcome) -> list[str]:
    return [str(attempt.outcome) for attempt in outcome.attempts]


@pytest.mark.parametrize("policy", ["retry", "fail"])
@pytest.mark.parametrize("deaths", [1, 2])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_job_gets_its_one_reply_and_only_a_call_in_doubt_is_made_again(
    kind: str, point: str, deaths: int, policy: str
) -> None:
    fields, fate, _ = KINDS[kind]
    world, job = World(on_unknown=policy, fate=fate), entry(**fields)
    doubts = 0
    for number in range(deaths):
        known = world.recorded(job) or job.ref in world.streams.finals
        # Who takes an entry over looks at the books first, which takes a commit more.
        look_s = 2.0 if number else 0.0
        await world.dies("victim", [again(job) if number else job], at_s=look_s + POINTS[point])
        open_now = world.open_attempts()
        assert open_now == (not known and point in IN_DOUBT and not (doubts and policy == "fail"))
        doubts += open_now
        if not number:
            assert (job.ref in world.streams.finals) == (point == "finished")
            assert world.recorded(job) == (point in RECORDED) or point == "finished"
        async with world.process("undertaker") as peer:
            await peer.advance(1.5)  # the death is noticed
    made_before = len(world.calls)
    settled_before = world.recorded(job) or job.ref in world.streams.finals
    async with world.process("heir") as heir:
        heir.dispatcher.deliver([again(job)])
        await heir.advance(5)
    outcome = world.outcome(job)
    refused = fate is REFUSAL
    if doubts and policy == "fail":
        assert isinstance(outcome, Failed)
        assert outcome.code == "outcome_unknown"
        assert (told(outcome), outcome.cost_nano) == (["unknown"], BOUND)
        assert len(world.calls) == made_before
    else:
        assert isinstance(outcome, Failed if refused else Answered)
        assert told(outcome) == ["unknown"] * doubts + ["failed" if refused else "ok"]
        assert outcome.cost_nano == doubts * BOUND + (0 if refused else PRICE)
        assert len(world.calls) == made_before + (not settled_before)
    world.check_books()
    world.books.close()


@pytest.mark.parametrize("policy", ["retry", "fail"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("place", ["with the victim", "in another process"])
async def test_an_identical_job_that_waits_is_answered_too_and_one_call_serves_both(
    place: str, point: str, policy: str
) -> None:
    world, first, second = World(on_unknown=policy, fate=ANSWER), entry(1), entry(2)
    here = [first, second] if place == "with the victim" else [first]
    async with world.process("peer") as peer:
        async with world.process("victim", step_s=1.0) as victim:
            victim.dispatcher.deliver(here)
            joins_s = min(POINTS[point], CLAIMED_S)
            await victim.advance(joins_s)
            if second not in here:
                peer.dispatcher.deliver([second])
            await victim.advance(POINTS[point] - joins_s)
            in_doubt = world.open_attempts()
            kill(victim)
        await peer.advance(1.5)
        peer.dispatcher.deliver([again(job) for job in here])
        await peer.advance(6)
    ends = [world.outcome(first), world.outcome(second)]
    answered = [one for one in ends if isinstance(one, Answered)]
    lost = [one.code for one in ends if isinstance(one, Failed)]
    assert lost in ([], ["outcome_unknown"])
    assert not lost or (policy == "fail" and in_doubt)
    assert {one.answer.output for one in answered} == {"hello there"}
    made = len(world.calls)
    called_by_victim = world.calls.count("victim")
    assert made - called_by_victim <= 1
    assert made <= 1 + in_doubt
    world.check_books()
    world.books.close()


@pytest.mark.parametrize("point", POINTS)
async def test_a_repeated_id_after_a_crash_gets_the_reply_of_the_first_push(point: str) -> None:
    world = World(on_unknown="retry", fate=ANSWER)
    first, repeat = entry(1, id="same"), entry(2, id="same")
    await world.dies("victim", [first], at_s=POINTS[point])
    async with world.process("heir") as heir:
        await heir.advance(1.5)
        heir.dispatcher.deliver([repeat])
        await heir.advance(0.1)
        heir.dispatcher.deliver([again(first)])
        await heir.advance(6)
    outcome, repeated = world.outcome(first), world.outcome(repeat)
    assert isinstance(outcome, Answered)
    assert isinstance(repeated, Answered)
    assert repeated.answer.output == outcome.answer.output
    assert min(outcome.cost_nano, repeated.cost_nano) == 0 or repeated.cost_nano == 0
    assert len(world.calls) <= 1 + (point in IN_DOUBT)
    world.check_books()
    world.books.close()


async def test_a_first_push_that_comes_last_leads_also_where_another_payload_of_its_id_waits() -> None:
    """The other payload stands for the id in this process, as it came first; the repeat waits for the first push."""
    world = World(on_unknown="retry", fate=ANSWER, concurrency=1)
    first, repeat, other = entry(1, id="same"), entry(2, id="same"), entry(3, id="same", prompt="another")
    await world.dies("victim", [first], at_s=CLAIMED_S)
    async with world.process("heir") as heir:
        heir.dispatcher.deliver([entry(4, prompt="has the only slot"), other])
        await heir.advance(0.1)
        for late in (repeat, first):
            heir.dispatcher.deliver([again(late)])
            await heir.advance(0.1)
        await heir.advance(6)
    ends = [world.outcome(one) for one in (first, repeat)]
    assert [one.answer.output for one in ends if isinstance(one, Answered)] == ["hello there"] * 2
    conflict = world.outcome(other)
    assert isinstance(conflict, Failed)
    assert conflict.code == "id_conflict"
    world.check_books()
    world.books.close()


@pytest.mark.parametrize("point", POINTS)
async def test_a_cached_answer_needs_no_call_wherever_the_process_dies(point: str) -> None:
    world, primer, job = World(on_unknown="retry", fate=ANSWER), entry(1), entry(2)
    async with world.process("primer") as stage:
        stage.dispatcher.deliver([primer])
        await stage.advance(2)
    await world.dies("victim", [job], at_s=POINTS[point])
    async with world.process("heir") as heir:
        await heir.advance(1.5)
        heir.dispatcher.deliver([again(job)])
        await heir.advance(3)
    outcome = world.outcome(job)
    assert isinstance(outcome, Answered)
    assert (outcome.cache_hit, outcome.cost_nano, world.calls) == (True, 0, ["primer"])
    world.check_books()
    world.books.close()
