"""Jobs that processes died over: the last run they may have is one with nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.fakes import MemoryBooks, MemoryLedger
from tests.scenario.stage import Stage, model, staged
from theo_daemon.job import Delivery, EntryRef
from theo_workers.upstreams.script import Fate

SECOND = Fate(text="done", latency_ms=1_000)
HANGS = Fate(hang=True)
TWO = {"max_deliveries": 2}  # one death on record, and the next run is the last


@pytest.fixture
def books() -> MemoryBooks:
    return MemoryBooks()


async def die_over(books: MemoryBooks, *prompts: str, boot: str = "victim") -> list[Delivery]:
    """A process that dies with these jobs at the provider; the entries as a peer takes them over."""
    async with staged(model("m", HANGS), books=books, name=boot) as stage:
        deliveries = [stage.entry(prompt) for prompt in prompts]
        stage.dispatcher.deliver(deliveries)
        await stage.advance(1)
        assert stage.calls == len(prompts)
        kill(stage)
    return [one._replace(redelivered=True) for one in deliveries]


def kill(stage: Stage) -> None:
    assert isinstance(stage.ledger, MemoryLedger)
    stage.ledger.kill()


def running(stage: Stage) -> list[str]:
    return sorted(prompt for one in stage.upstreams.values() for prompt in one.running)


async def test_it_waits_until_nothing_else_runs_and_nothing_starts_before_it_has_ended(
    books: MemoryBooks,
) -> None:
    (suspect,) = await die_over(books, "suspect")
    async with staged(model("m", SECOND), books=books, ingress=TWO, name="heir") as stage:
        await stage.advance(2)  # the death is noticed
        before = stage.push("before")
        await stage.advance(0.5)
        stage.dispatcher.deliver([suspect])
        await stage.advance(0.1)
        after = stage.push_all(["after one", "after two"])
        await stage.advance(0.1)
        assert running(stage) == ["before"]
        await stage.advance(0.5)
        assert running(stage) == ["suspect"]
        await stage.advance(1)
        assert running(stage) == ["after one", "after two"]
        await stage.advance(1)
        assert stage.ends([before, suspect.ref, *after]) == ["ok"] * 4


async def test_several_of_them_run_one_after_another(books: MemoryBooks) -> None:
    suspects = await die_over(books, "a", "b", "c")
    async with staged(model("m", SECOND), books=books, ingress=TWO, name="heir") as stage:
        await stage.advance(2)
        stage.dispatcher.deliver(suspects)
        seen = []
        for _ in range(6):
            await stage.advance(0.5)
            seen.append(running(stage))
        assert [len(some) for some in seen[:5]] == [1] * 5
        assert stage.ends([one.ref for one in suspects]) == ["ok"] * 3


async def test_one_with_fewer_deaths_runs_like_any_other(books: MemoryBooks) -> None:
    suspects = await die_over(books, "a", "b")
    async with staged(model("m", SECOND), books=books, name="heir") as stage:
        await stage.advance(2)
        stage.dispatcher.deliver(suspects)
        await stage.advance(0.5)
        assert running(stage) == ["a", "b"]


@pytest.mark.parametrize("way", ["cancelled", "expired"])
async def test_one_that_is_given_up_while_it_waits_for_the_others_holds_up_nobody(
    books: MemoryBooks, way: str
) -> None:
    (suspect,) = await die_over(books, "suspect")
    if way == "expired":
        suspect = suspect._replace(fields=[*suspect.fields, b"deadline_ms", b"%d" % 0])
    async with staged(
        model("m", Fate(text="done", latency_ms=3_000)), books=books, ingress=TWO, name="heir"
    ) as stage:
        await stage.advance(2)
        if way == "expired":
            suspect.fields[-1] = b"%d" % (stage.now_ms + 1_000)
        before = stage.push("before")
        await stage.advance(0.1)
        stage.dispatcher.deliver([suspect])
        await stage.advance(0.1)
        after = stage.push("after")
        await stage.advance(0.1)
        assert running(stage) == ["before"]
        if way == "cancelled":
            stage.cancel(suspect.ref.entry_id)
        await stage.advance(1)
        assert running(stage) == ["after", "before"]
        assert stage.end(suspect.ref) == ("cancelled" if way == "cancelled" else "deadline_exceeded")
        await stage.advance(3)
        assert stage.ends([before, after]) == ["ok", "ok"]


async def test_one_that_is_given_up_while_it_runs_lets_the_others_go_on(books: MemoryBooks) -> None:
    (suspect,) = await die_over(books, "suspect")
    async with staged(model("m", HANGS, SECOND), books=books, ingress=TWO, name="heir") as stage:
        await stage.advance(2)
        stage.dispatcher.deliver([suspect])
        await stage.advance(0.1)
        after = stage.push("after")
        await stage.advance(0.1)
        assert running(stage) == ["suspect"]
        stage.cancel(suspect.ref.entry_id)
        await stage.advance(2)
        assert stage.ends([suspect.ref, after]) == ["cancelled", "ok"]


async def test_one_whose_model_takes_no_calls_lets_the_others_go_first(books: MemoryBooks) -> None:
    (suspect,) = await die_over(books, "suspect")
    suspect = suspect._replace(fields=[*suspect.fields, b"model", b"away"])
    async with staged(
        model("m", SECOND), model("away", SECOND), books=books, ingress=TWO, name="heir"
    ) as stage:
        await stage.advance(2)
        before = stage.push("before", model="m")
        stage.dispatcher.deliver([suspect])
        await stage.advance(0.5)
        after = stage.push("after", model="m")
        stage.core.fleet["away"].worker.disable("test")  # while it waits for `before` to end
        await stage.advance(3)
        assert stage.ends([before, after]) == ["ok", "ok"]
        assert stage.end(suspect.ref) == "no_model_available"


async def test_identical_jobs_wait_for_it_and_share_its_answer(books: MemoryBooks) -> None:
    (suspect,) = await die_over(books, "same")
    async with staged(model("m", SECOND), books=books, ingress=TWO, name="heir") as stage:
        await stage.advance(2)
        stage.dispatcher.deliver([suspect])
        same = stage.push("same")
        await stage.advance(2)
        assert stage.ok(same).coalesced
        assert stage.end(suspect.ref) == "ok"
        assert stage.calls == 1


async def life(
    books: MemoryBooks, left: Sequence[Delivery], boot: int
) -> tuple[list[Delivery], dict[EntryRef, str]]:
    """One process that dies as soon as the poison has been at its provider for a while; what is left, and the ends."""
    async with staged(model("m", SECOND), books=books, name=f"boot-{boot}") as stage:
        await stage.advance(2)
        stage.dispatcher.deliver(left)
        for _ in range(200):
            await stage.advance(0.1)
            if "poison" in running(stage):
                await stage.advance(0.5)
                kill(stage)
                break
            if all(stage.final(one.ref) for one in left):
                break
        ends = {one.ref: stage.end(one.ref) for one in left if stage.final(one.ref)}
    return [one._replace(redelivered=True) for one in left if one.ref not in ends], ends


async def test_a_poison_job_is_given_up_and_none_that_always_ran_beside_it_is(books: MemoryBooks) -> None:
    async with staged(model("m", SECOND)) as stage:
        jobs = [stage.entry(prompt) for prompt in ("a", "b", "poison", "c", "d")]
    poison = jobs[2].ref
    left, ends, lives = list(jobs), {}, 0
    while left and lives < 20:
        left, ended = await life(books, left, lives)
        ends |= ended
        lives += 1
    assert ends.pop(poison) == "outcome_unknown"  # after max_attempts lost calls
    assert set(ends.values()) == {"ok"}
    assert len(ends) == 4
    assert lives == 5  # four deaths, and one more process that finishes the rest
