"""Deadlines, cancelling, refusals, drains, bugs: every job ends once, and alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.doubles import until
from tests.fakes import QuickCounter
from tests.scenario.stage import model, staged
from theo_daemon.job import Delivery, EntryRef
from theo_workers.upstreams.script import Fate

SLOW = Fate(text="slow", latency_ms=2000)
PRICED = {"output_cost_per_mtok": 1000.0, "input_cost_per_mtok": 0.0, "max_output_tokens": 1000}


# -- deadlines and cancelling ----------------------------------------------------------------------------


async def test_a_job_that_is_late_when_it_is_read_never_runs() -> None:
    async with staged(model("m", SLOW)) as stage:
        ref = stage.push("late", ttl_ms="1000", age_s=5)
        absolute = stage.push("late", deadline_ms=str(stage.now_ms - 1))
        await stage.advance(0.01)
        assert stage.ends([ref, absolute]) == ["deadline_exceeded"] * 2
        assert stage.calls == 0


async def test_the_earlier_of_two_deadlines_counts() -> None:
    async with staged(model("m", SLOW)) as stage:
        ref = stage.push("x", ttl_ms="100000", deadline_ms=str(stage.now_ms + 500))
        await stage.advance(0.6)
        assert stage.end(ref) == "deadline_exceeded"


async def test_time_spent_in_the_stream_counts_against_the_deadline() -> None:
    async with staged(model("m", SLOW)) as stage:
        ref = stage.push("x", ttl_ms="5000", age_s=4)
        await stage.advance(1.1)
        assert stage.end(ref) == "deadline_exceeded"


async def test_a_deadline_passes_while_the_job_waits_for_a_slot() -> None:
    async with staged(model("m", SLOW, concurrency=1)) as stage:
        stage.push("in the way")
        ref = stage.push("behind", ttl_ms="1000")
        await stage.advance(1.1)
        assert stage.end(ref) == "deadline_exceeded"
        await stage.advance(2)
        assert stage.upstreams["m"].prompts == ["in the way"]


async def test_a_job_that_ends_in_time_is_not_ended_again_by_its_deadline() -> None:
    async with staged(model("m", SLOW)) as stage:
        ref = stage.push("x", ttl_ms="3000")
        await stage.advance(10)
        assert stage.end(ref) == "ok"


async def test_one_impatient_client_does_not_open_the_circuit_for_everybody() -> None:
    async with staged(model("m", SLOW)) as stage:
        for number in range(10):
            stage.push(f"impatient {number}", ttl_ms="50")
            await stage.advance(0.1)
        ref = stage.push("patient")
        await stage.advance(2.1)
        assert stage.end(ref) == "ok"


async def test_a_cancel_reaches_jobs_that_were_pushed_before_it_and_no_others() -> None:
    async with staged(model("m", SLOW)) as stage:
        early = stage.entry("x", id="mine")
        await stage.advance(1)
        stage.cancel("mine")
        stage.dispatcher.deliver([early])  # pushed before the command, read after it
        await stage.advance(1)
        later = stage.push("x", id="mine")
        await stage.advance(3)
        assert stage.ends([early.ref, later]) == ["cancelled", "ok"]


@pytest.mark.parametrize("publishing_s", [0.0, 5.0])
async def test_an_id_is_free_for_another_payload_as_soon_as_its_job_is_cancelled(publishing_s: float) -> None:
    async with staged(model("m", SLOW)) as stage:
        stage.replies.takes_s = publishing_s
        unread, running = stage.entry("x", id="unread"), stage.push("x", id="running")
        await stage.advance(1)
        stage.cancel("unread")
        stage.cancel("running")
        stage.dispatcher.deliver([unread, one := stage.entry("y", id="unread", age_s=-1)])
        await stage.advance(0.1)
        other = stage.push("z", id="running")
        await stage.advance(10)
        assert stage.ends([unread.ref, running, one.ref, other]) == ["cancelled", "cancelled", "ok", "ok"]


async def test_a_cancel_by_entry_id_ends_that_job_alone() -> None:
    async with staged(model("m", SLOW)) as stage:
        one, other = stage.push("x", id="mine"), stage.push("x", id="other")
        stage.cancel(one.entry_id)
        await stage.advance(3)
        assert stage.ends([one, other]) == ["cancelled", "ok"]


async def test_a_cancel_for_one_tenant_leaves_another_s_job_alone() -> None:
    async with staged(model("m", SLOW)) as stage:
        mine, theirs = stage.push("x", id="1", tenant="me"), stage.push("x", id="1", tenant="they")
        stage.cancel("1", tenant="me")
        await stage.advance(3)
        assert stage.ends([mine, theirs]) == ["cancelled", "ok"]


@pytest.mark.parametrize("twins", [0, 2])
async def test_a_job_cancelled_in_the_moment_of_its_delivery_ends_and_its_twins_run(twins: int) -> None:
    async with staged(model("m", SLOW)) as stage:
        ref, *others = stage.push("x", id="mine"), *stage.push_all(["x"] * twins)
        before_any_step = stage.push("x")
        stage.cancel(before_any_step.entry_id)
        for other in others:
            stage.cancel(other.entry_id)
        stage.cancel("mine")
        twin = stage.push("x")
        await stage.advance(3)
        assert stage.ends([ref, before_any_step, *others]) == ["cancelled"] * (2 + twins)
        assert stage.end(twin) == "ok"
        assert (stage.calls, stage.dispatcher.held) == (1, 0)


async def test_a_job_delivered_twice_is_one_job() -> None:
    async with staged(model("m", SLOW)) as stage:
        entry = stage.entry("x")
        stage.dispatcher.deliver([entry])
        stage.dispatcher.deliver([entry, entry])
        await stage.advance(3)
        assert (stage.end(entry.ref), stage.calls) == ("ok", 1)


# -- refusals --------------------------------------------------------------------------------------------


async def test_an_answer_that_a_peer_gave_before_is_told_as_suppressed() -> None:
    async with staged(model("m", Fate(text="fine", latency_ms=100))) as stage:
        mine, a_peer_s = stage.push_all(["mine", "a peer's"])
        stage.replies.answered_by_peers.add(a_peer_s)
        await stage.advance(1)
        assert stage.ends([mine, a_peer_s]) == ["ok", "waiting"]
        assert stage.observer.duplicates == [a_peer_s]
        assert sorted(stage.replies.released) == sorted([mine, a_peer_s])


async def test_a_job_that_cannot_be_read_is_refused_with_a_dead_letter_as_it_came() -> None:
    async with staged(model("m")) as stage:
        fields = [b"prompt", b"\xff\xfe", b"id", b"mine"]
        ref = EntryRef("theo:jobs", f"{stage.now_ms}-77")
        stage.dispatcher.deliver([Delivery(ref, "default", fields), stage.entry("fine")])
        await stage.advance(0.1)
        final = stage.final(ref)
        assert stage.end(ref) == "invalid_job"
        assert final is not None
        assert final.dead is not None
        assert (final.dead.fields, final.dead.code) == (fields, "invalid_job")
        assert stage.calls == 1
        assert ref in stage.replies.released


@pytest.mark.parametrize(
    ("fields", "code", "dead"),
    [
        ({"prompt": None}, "invalid_job", True),
        ({"v": "2"}, "unsupported_version", False),
        ({"model": "nobody"}, "unknown_model", False),
        ({"reply_to": "theo:jobs"}, "reply_to_not_allowed", False),
        ({"prompt": "x" * 5000}, "payload_too_large", True),
        ({"params": '{"n": 2}'}, "invalid_job", True),
    ],
)
async def test_a_refused_job_is_answered_and_released(fields: dict[str, Any], code: str, dead: bool) -> None:
    async with staged(model("m"), ingress={"max_job_bytes": 4000}) as stage:
        ref = stage.push(**fields)
        await stage.advance(0.1)
        final = stage.final(ref)
        assert final is not None
        assert stage.end(ref) == code
        assert (final.dead is not None) == dead
        assert stage.replies.released == [ref]
        assert (stage.calls, stage.dispatcher.held) == (0, 0)


async def test_a_reply_stream_of_another_type_is_refused_and_its_neighbours_are_not() -> None:
    async with staged(model("m")) as stage:
        stage.replies.not_streams = frozenset({"theo:reply:list"})
        bad = stage.entry("a", reply_to="theo:reply:list")
        good = stage.entry("b", reply_to="theo:reply:stream")
        plain = stage.entry("c")
        stage.dispatcher.deliver([bad, good, plain])
        await stage.advance(0.1)
        assert stage.ends([bad.ref, good.ref, plain.ref]) == ["reply_to_not_allowed", "ok", "ok"]
        assert stage.replies.envelopes[bad.ref].reply_to is None
        assert stage.replies.envelopes[good.ref].reply_to == "theo:reply:stream"


# -- bugs ------------------------------------------------------------------------------------------------


async def test_a_bug_in_an_adapter_costs_its_own_job_an_error_and_nobody_else_anything() -> None:
    async with staged(model("m", **PRICED)) as stage:
        stage.upstreams["m"].fate_for = lambda prompt: (
            ZeroDivisionError("planted") if prompt == "bad" else Fate(text="fine")
        )
        refs = stage.push_all(["good 1", "bad", "good 2"])
        await stage.advance(1)
        assert stage.ends(refs) == ["ok", "internal_error", "ok"]
        error = stage.error(refs[1])
        assert (error.retryable, "ZeroDivisionError" in error.message) == (True, True)
        assert "planted" not in error.message
        assert error.cost_nano == 1_000_000_000  # it may have been sent: charged at the bound
        assert stage.rows("SELECT sum(held_nano) FROM spend") == [(0,)]
        assert [type(one.__cause__) for one in stage.observer.defects] == [ZeroDivisionError]


async def test_a_bug_that_one_of_identical_jobs_meets_is_not_shared() -> None:
    async with staged(model("m")) as stage:
        fates: list[Fate | BaseException] = [ZeroDivisionError("planted"), Fate(text="fine")]
        stage.upstreams["m"].fate_for = lambda _: fates.pop(0)
        refs = stage.push_all(["same"] * 3)
        await stage.advance(1)
        assert stage.ends(refs) == ["internal_error", "ok", "ok"]


async def test_a_poisonous_entry_costs_itself_an_error_and_its_batch_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with staged(model("m")) as stage:
        receive = stage.dispatcher._reception.receive

        def poisoned(delivery: Delivery) -> Any:
            if b"poison" in delivery.fields:
                raise ZeroDivisionError("planted")
            return receive(delivery)

        monkeypatch.setattr(stage.dispatcher._reception, "receive", poisoned)
        refs = stage.push_all(["good 1", "poison", "good 2"])
        await stage.advance(1)
        assert stage.ends(refs) == ["ok", "internal_error", "ok"]
        assert sorted(stage.replies.released) == sorted(refs)
        stage.expected_bugs = stage.observer.bugs
        assert [type(one) for one in stage.observer.bugs] == [ZeroDivisionError]


async def test_a_bug_in_a_decision_costs_its_own_job_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(model("m", Fate(text="x", latency_ms=100), **PRICED)) as stage:
        bookings = stage.dispatcher._generation._attempts._bookings
        answered = bookings.answered

        def broken(flight: Any, *args: Any) -> Any:
            if flight.lead.job.client_id == "bad":
                raise ZeroDivisionError("planted")
            return answered(flight, *args)

        monkeypatch.setattr(bookings, "answered", broken)
        bad, good = stage.push("1", id="bad"), stage.push("2", id="good")
        await stage.advance(1)
        assert stage.ends([bad, good]) == ["internal_error", "ok"]
        (bug,) = stage.expected_bugs = stage.observer.bugs
        assert isinstance(bug, ZeroDivisionError)
        again = stage.push("1", id="bad")
        await stage.advance(1)
        assert stage.end(again) == "internal_error"  # and not a wait for a key that is never let go of
        assert stage.dispatcher.held == 0
        assert stage.rows("SELECT sum(held_nano) FROM spend") == [(0,)]
        assert stage.rows("SELECT count(*) FROM inflight") == [(0,)]


async def test_a_crashed_worker_is_started_again_and_its_jobs_are_answered() -> None:
    async with staged(model("m", SLOW), routing={"max_attempts": 3}) as stage:
        before = stage.push("before")
        await stage.advance(1)
        worker = stage.core.fleet["m"].worker
        worker._mail.post(object())  # type: ignore[arg-type]  # handled as nothing
        handle = worker._handle

        def crash(*_: object) -> None:
            worker._handle = handle  # type: ignore[method-assign]
            raise LookupError("planted")

        worker._handle = crash  # type: ignore[method-assign]
        worker._mail.post(object())  # type: ignore[arg-type]
        await stage.advance(0.1)
        after = stage.push("after")
        await stage.advance(5)
        assert [type(one) for one in stage.observer.defects] == [LookupError]
        assert stage.end(after) == "ok"
        assert stage.end(before) == "internal_error"  # it was sent: nobody knows


# -- drains ----------------------------------------------------------------------------------------------


async def test_a_drain_hands_back_what_was_not_sent_and_finishes_what_was() -> None:
    async with staged(model("m", SLOW, concurrency=2, **PRICED)) as stage:
        sent = stage.push_all(["s1", "s2"])
        waiter = stage.push("s1")
        await stage.advance(0.5)
        unsent = stage.push_all([f"u{n}" for n in range(5)])
        await stage.advance(0.1)
        back = await stage.dispatcher.drain()
        assert sorted(back) == sorted(unsent)
        await stage.advance()
        assert sorted(stage.replies.released) == sorted(unsent)
        assert stage.dispatcher.held == 3
        idle = asyncio.ensure_future(stage.dispatcher.idle())
        await stage.advance(1)
        assert not idle.done()
        await stage.advance(1)
        assert idle.done()
        assert stage.ends([*sent, waiter]) == ["ok"] * 3
        assert stage.ends(unsent) == ["waiting"] * 5
        assert sorted(stage.upstreams["m"].prompts) == ["s1", "s2"]


async def test_a_job_handed_back_leaves_its_id_to_whoever_runs_it_next() -> None:
    async with staged(model("m", SLOW, concurrency=1)) as stage:
        stage.push("in the way")
        behind = stage.push("behind", id="mine")
        await stage.advance(1)
        assert await stage.dispatcher.drain() == [behind]
        await stage.advance(2)
        assert stage.rows("SELECT count(*) FROM ids") == [(0,)]
        assert stage.rows("SELECT count(*) FROM inflight") == [(0,)]


async def test_parked_jobs_are_handed_back_too() -> None:
    down = Fate(error="provider_unavailable", status_code=500)
    async with staged(model("m", down), routing={"max_attempts": 1}) as stage:
        for number in range(3):
            stage.push(f"opener {number}")
            await stage.advance(0.001)
        parked = stage.push_all(["p1", "p2"])
        await stage.advance(1)
        assert sorted(await stage.dispatcher.drain()) == sorted(parked)
        await stage.advance(60)
        assert stage.calls == 3


# -- large jobs ------------------------------------------------------------------------------------------


async def test_counting_a_large_prompt_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = threading.Event()
    threads: list[str] = []
    measure = QuickCounter.measure_request

    def held_up(self: QuickCounter, *args: Any, **more: Any) -> Any:
        threads.append(threading.current_thread().name)
        assert counted.wait(10)
        return measure(self, *args, **more)

    monkeypatch.setattr(QuickCounter, "measure_request", held_up)
    async with staged(model("m", Fate(text="x"), routing={"spend_ceiling": 100.0}, **PRICED)) as stage:
        large = stage.push("word " * 40_000)
        small = stage.push_all([f"small {n}" for n in range(20)])
        await stage.advance(0.1)
        assert stage.ends(small) == ["ok"] * 20
        assert stage.end(large) == "waiting"
        counted.set()
        await until(lambda: stage.upstreams["m"].prompts[20:])
        await stage.advance(0.1)
        assert stage.end(large) == "ok"
        assert threading.main_thread().name not in threads


async def test_parked_jobs_give_way_the_latest_first_and_run_when_they_come_back() -> None:
    down = Fate(error="provider_unavailable", status_code=503)
    routing = {"circuit_breaker_threshold": 1, "circuit_breaker_timeout_s": 20.0, "max_attempts": 1}
    async with staged(model("flaky", down, Fate(text="hello")), routing=routing) as stage:
        first = stage.push("opens the circuit")
        await stage.advance(0.5)
        assert stage.end(first) == "provider_unavailable"
        deliveries = [stage.entry(f"p{n}", **({"id": f"i{n}"} if n % 2 else {})) for n in range(6)]
        stage.dispatcher.deliver(deliveries)
        twin = stage.push("p5", id="i5")  # waits with it, and goes with it
        await stage.advance(1)
        assert (stage.dispatcher.held, stage.dispatcher.at_rest) == (7, 6)
        assert stage.dispatcher.waiting_kinds() == {("default", "", "all"): 6}
        back = stage.dispatcher.give_way(3)
        await stage.advance()
        assert back == [deliveries[5].ref, twin, deliveries[4].ref]
        assert stage.replies.released[-3:] == back
        assert stage.dispatcher.held == 4
        stage.dispatcher.deliver([one._replace(redelivered=True) for one in deliveries[4:]])
        await stage.advance(25)
        assert stage.ends([one.ref for one in deliveries]) == ["ok"] * 6
        assert stage.rows("SELECT count(*) FROM inflight") == [(0,)]


async def test_a_parked_job_that_was_called_for_does_not_give_way_as_it_would_begin_anew() -> None:
    unknown = Fate(error="invalid_request", status_code=404, failure="model_unknown")
    down = Fate(error="provider_unavailable", status_code=503)
    routing = {"circuit_breaker_threshold": 1, "circuit_breaker_timeout_s": 5.0, "max_attempts": 1}
    async with staged(
        model("known", down, Fate(text="hello")), model("typo", unknown), routing=routing
    ) as stage:
        opens = stage.push("opens the circuit", model="known")
        await stage.advance(0.5)
        assert stage.end(opens) == "provider_unavailable"
        tried = stage.push("tried")
        await stage.advance(0.5)
        assert stage.upstreams["typo"].prompts == ["tried"]
        assert stage.dispatcher.give_way(3) == []
        await stage.advance(6)
        assert stage.end(tried) == "ok"
        assert stage.upstreams["typo"].prompts == ["tried"]
