"""Identical jobs in several processes: who waits for another's call has what that call brought, whatever it was."""

from __future__ import annotations

import pytest

from tests.scenario.company import fleet
from theo_workers.errors import RateLimited
from theo_workers.upstreams.script import Fate

SHARED = [
    ("invalid_request", 400), ("context_length_exceeded", 400), ("content_filtered", 400),
    ("authentication_failed", 401), ("provider_quota_exhausted", 402), ("rate_limited", 429),
    ("provider_unavailable", 500), ("provider_timeout", 504),
]  # fmt: skip
PRICED = {"input_cost_per_mtok": 1.0, "output_cost_per_mtok": 2.0, "max_output_tokens": 100}


@pytest.mark.parametrize(("code", "status"), SHARED)
async def test_a_failure_is_shared_with_who_waits_in_other_processes(code: str, status: int) -> None:
    async with fleet(max_attempts=1) as found:
        stages = [await found.start(name) for name in "abc"]
        found.provider.fate = Fate(error=code, status_code=status, message="no", latency_ms=600)  # type: ignore[arg-type]
        refs = [(stage, stage.push("same")) for stage in stages for _ in range(2)]
        await found.clock.advance(1.0)
        errors = [stage.error(ref) for stage, ref in refs]
        assert {(error.code, error.status_code, error.message) for error in errors} == {
            (code, status, errors[0].message)
        }
        assert [error.cost_nano for error in errors[2:]] == [0] * 4
        assert len(found.provider.calls) == 1


async def test_a_failure_is_for_those_who_waited_and_not_for_who_comes_later() -> None:
    async with fleet(max_attempts=1) as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(error="provider_unavailable", status_code=500, latency_ms=600)
        refs = [(stage, stage.push("same")) for stage in (one, two)]
        await found.clock.advance(1.5)
        assert [stage.end(ref) for stage, ref in refs] == ["provider_unavailable"] * 2
        found.provider.fate = Fate(text="hello", latency_ms=600)
        later = [(stage, stage.push("same")) for stage in (two, one)]
        await found.clock.advance(1.0)
        assert [stage.ok(ref).answer.output for stage, ref in later] == ["hello"] * 2
        assert len(found.provider.calls) == 2


async def test_refreshing_jobs_of_several_processes_share_one_call_and_no_others_have_it() -> None:
    async with fleet(**PRICED) as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(text="new", latency_ms=600)
        refreshing = [(stage, stage.push("same", cache="refresh")) for stage in (one, two, one, two)]
        using = [(stage, stage.push("same")) for stage in (one, two)]
        await found.clock.advance(1.0)
        answers = [stage.ok(ref) for stage, ref in refreshing]
        assert len(found.provider.calls) == 2
        assert [stage.ok(ref).coalesced for stage, ref in using] == [False, True]
        assert [answer.coalesced for answer in answers] == [False, True, True, True]
        assert [answer.cost_nano > 0 for answer in answers] == [True, False, False, False]


@pytest.mark.parametrize("routing", [{"cache_enabled": False}, {"cache_ttl_seconds": 0.0}])
async def test_an_answer_that_is_not_cached_is_shared_with_who_waits(routing: dict[str, object]) -> None:
    async with fleet(routing=routing) as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(text="hello", latency_ms=600)
        refs = [(stage, stage.push("same")) for stage in (one, two)]
        await found.clock.advance(1.0)
        assert [stage.ok(ref).coalesced for stage, ref in refs] == [False, True]
        assert len(found.provider.calls) == 1


@pytest.mark.parametrize("how", ["cancelled", "deadline_exceeded"])
async def test_an_end_that_is_the_first_one_s_alone_is_not_shared(how: str) -> None:
    async with fleet() as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(text="hello", latency_ms=600)
        first = one.push("same", **({"ttl_ms": "300"} if how == "deadline_exceeded" else {}))
        other = two.push("same")
        await found.clock.advance(0.2)
        if how == "cancelled":
            one.cancel(first.entry_id)
        await found.clock.advance(2.0)
        assert (one.end(first), two.end(other)) == (how, "ok")
        assert len(found.provider.calls) == 2


async def test_a_repeated_id_that_waits_elsewhere_is_remembered_with_what_the_first_one_got() -> None:
    async with fleet(max_attempts=1) as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(error="invalid_request", status_code=400, message="no", latency_ms=600)
        refs = [
            (one, one.push("same", id="k")),
            (two, two.push("same", id="l")),
            (two, two.push("same", id="k")),
        ]
        await found.clock.advance(1.5)
        assert [stage.end(ref) for stage, ref in refs] == ["invalid_request"] * 3
        found.provider.fate = Fate(text="hello")
        again = [(one, one.push("same", id="l")), (one, one.push("same", id="k"))]
        await found.clock.advance(0.5)
        assert [stage.end(ref) for stage, ref in again] == ["invalid_request"] * 2
        assert len(found.provider.calls) == 1


@pytest.mark.parametrize("cache", ["use", "refresh", "off"])
async def test_a_call_that_goes_on_for_a_repeated_push_is_waited_for_by_whoever_takes_that_push_over(
    cache: str,
) -> None:
    """The first push of the id has left; its process stands still, and a peer takes the second one's entry over."""
    async with fleet() as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(text="hello", latency_ms=3_000)
        first, second = one.entry("same", id="mine", cache=cache), one.entry("same", id="mine", cache=cache)
        one.dispatcher.deliver([first, second])
        await found.clock.advance(0.5)
        one.cancel(first.ref.entry_id)
        await found.clock.advance(0.5)
        two.dispatcher.deliver([second._replace(redelivered=True)])
        await found.clock.advance(5)
        assert (one.end(first.ref), one.end(second.ref), two.end(second.ref)) == ("cancelled", "ok", "ok")
        assert len(found.provider.calls) == 1


async def test_a_push_that_goes_on_after_the_first_has_ended_is_called_for_once() -> None:
    """The first one's own end, of a call that a dead process made for it, is not the second one's."""
    async with fleet() as found:
        dead = await found.start("dead")
        found.provider.fate = Fate(text="hello", latency_ms=3_000)
        common = {"id": "mine", "cache": "off", "on_unknown": "fail"}
        first, second = dead.entry("same", **common), dead.entry("same", **common)
        dead.dispatcher.deliver([first, second])
        await found.clock.advance(0.5)
        dead.ledger.kill()  # type: ignore[attr-defined]
        heirs = [await found.start("heir"), await found.start("another")]
        await found.clock.advance(2)
        heirs[0].dispatcher.deliver([one._replace(redelivered=True) for one in (first, second)])
        await found.clock.advance(1)
        assert heirs[0].end(first.ref) == "outcome_unknown"
        heirs[1].dispatcher.deliver([second._replace(redelivered=True)])
        await found.clock.advance(5)
        assert [heir.end(second.ref) for heir in heirs] == ["ok", "ok"]
        assert len(found.provider.calls) == 2


async def test_who_asks_the_same_later_is_answered_though_a_push_that_caches_otherwise_took_the_lead() -> (
    None
):
    async with fleet() as found:
        dead = await found.start("dead")
        found.provider.fate = Fate(text="hello", latency_ms=1_000)
        first = dead.entry("same", id="mine", cache="refresh")
        dead.dispatcher.deliver([first])
        await found.clock.advance(0.5)
        dead.ledger.kill()  # type: ignore[attr-defined]
        heir = await found.start("heir")
        second = heir.push("same", id="mine")
        await found.clock.advance(2)
        assert heir.end(second) == "waiting"  # for the first one, which nobody has yet
        heir.dispatcher.deliver([first._replace(redelivered=True)])
        await found.clock.advance(2)
        assert (heir.end(first.ref), heir.end(second)) == ("ok", "ok")
        later = heir.push("same")
        await found.clock.advance(2)
        assert heir.end(later) == "ok"


async def test_who_has_the_key_and_who_has_the_id_do_not_wait_for_each_other() -> None:
    """A third process had the first push, too, and let its id go when it left."""
    async with fleet() as found:
        first_has, leaver, newcomer = [await found.start(name) for name in ("has it", "leaver", "newcomer")]
        found.provider.fate = RateLimited("slow down", status_code=429, retry_after_s=2.0)
        first = first_has.entry("same", id="mine")
        first_has.dispatcher.deliver([first])
        await found.clock.advance(0.5)
        leaver.dispatcher.deliver([first._replace(redelivered=True)])
        await found.clock.advance(0.2)
        assert await leaver.dispatcher.drain() == [first.ref]
        await found.clock.advance(0.2)
        second = newcomer.push("same", id="mine")
        await found.clock.advance(0.2)
        found.provider.fate = Fate(text="hello")
        await found.clock.advance(10)
        assert (first_has.end(first.ref), newcomer.end(second)) == ("ok", "ok")
        assert len(found.provider.calls) == 2
