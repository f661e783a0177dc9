"""A dead process's job ends at once where another takes it over: what is on record of it is told all the same."""

from __future__ import annotations

import math

import pytest

from tests.scenario.stage import Stage, model, staged
from tests.scenario.test_crash_points import ANSWER, BOUND, POINTS, PRICE, World, again, entry, told
from theo_daemon.job import Answered, Delivery, Failed

ENDS = (
    "the deadline has passed",
    "cancelled before it is read",
    "cancelled at once",
    "cancelled while it waits for another",
    "its reply stream is another key by now",
)
CODES = {
    "the deadline has passed": "deadline_exceeded",
    "its reply stream is another key by now": "reply_to_not_allowed",
}
REPLY_TO = "theo:reply:mine"
MOST_ATTEMPTS = 100  # that the victim can have streamed in its seconds
DEADLINE_MS = 1_700_000_020_000  # twenty seconds after the push


async def end_early(world: World, heir: Stage, delivery: Delivery, how: str) -> None:
    """Give the entry to another process, and let it end there before it runs."""
    if how == "the deadline has passed":
        await heir.advance(30)
    if how == "cancelled before it is read":
        heir.cancel(delivery.ref.entry_id)
    if how == "its reply stream is another key by now":
        heir.replies.not_streams = {REPLY_TO}
    other = entry(2, prompt="hi")
    if how == "cancelled while it waits for another":
        heir.dispatcher.deliver([other])
    heir.dispatcher.deliver([again(delivery)])
    if how.startswith("cancelled") and "before" not in how:
        heir.cancel(delivery.ref.entry_id)
    await heir.advance(5)


@pytest.mark.parametrize("how", ENDS)
async def test_the_call_that_was_lost_is_listed_and_paid_for(how: str) -> None:
    world = World(on_unknown="retry", fate=ANSWER)
    delivery = entry(prompt="hi", deadline_ms=str(DEADLINE_MS), id="mine", reply_to=REPLY_TO)
    await world.dies("victim", [delivery], at_s=2.5)
    async with world.process("heir") as heir:
        await heir.advance(2)  # the victim's call is booked as unknown
        await end_early(world, heir, delivery, how)
        outcome = world.outcome(delivery)
        assert isinstance(outcome, Failed)
        assert outcome.code == CODES.get(how, "cancelled")
        assert (told(outcome), outcome.cost_nano) == (["unknown"], BOUND)
        ref = heir.push("hi", id="mine")
        await heir.advance(5)
        assert heir.end(ref) == "ok"  # the id is free for the next push
    world.check_books()


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("id_field", [{}, {"id": "mine"}], ids=["without an id", "with an id"])
async def test_an_outcome_that_was_paid_for_is_published(how: str, id_field: dict[str, str]) -> None:
    world = World(on_unknown="retry", fate=ANSWER)
    delivery = entry(prompt="hi", deadline_ms=str(DEADLINE_MS), cache="off", reply_to=REPLY_TO, **id_field)
    await world.dies("victim", [delivery], at_s=4.5)
    async with world.process("heir") as heir:
        await heir.advance(2)
        await end_early(world, heir, delivery, how)
        outcome = world.outcome(delivery)
        assert isinstance(outcome, Answered)
        assert (outcome.cost_nano, told(outcome)) == (PRICE, ["ok"])
    world.check_books()


async def test_an_answer_from_the_cache_lists_the_call_that_was_lost() -> None:
    world = World(on_unknown="retry", fate=ANSWER)
    delivery = entry(prompt="hi", stream="1")
    await world.dies("victim", [delivery], at_s=2.5)
    async with world.process("heir") as heir:
        await heir.advance(2)
        assert isinstance(await heir.answer("hi", within_s=5), Answered)
        heir.dispatcher.deliver([again(delivery)])
        await heir.advance(1)
        outcome = world.outcome(delivery)
        assert isinstance(outcome, Answered)
        assert (outcome.cache_hit, outcome.cost_nano, told(outcome)) == (True, 0, ["unknown"])
        assert_new_text(heir, delivery)


@pytest.mark.parametrize(
    ("point", "joins"),
    [("call out", False), ("landing committed", False), ("call out", True)],
    ids=["sent again", "published later", "beside another push"],
)
async def test_deltas_of_an_heir_do_not_go_on_with_what_was_streamed_before(point: str, joins: bool) -> None:
    world = World(on_unknown="retry", fate=ANSWER)
    delivery = entry(prompt="hi", stream="1")
    await world.dies("victim", [delivery], at_s=POINTS[point])
    async with world.process("heir") as heir:
        await heir.advance(2)
        if joins:
            heir.push("hi")
        heir.dispatcher.deliver([again(delivery)])
        await heir.advance(5)
        assert isinstance(world.outcome(delivery), Answered)
        assert_new_text(heir, delivery)


def assert_new_text(heir: Stage, delivery: Delivery) -> None:
    deltas = heir.deltas(delivery.ref)
    assert "".join(delta.text for delta in deltas) == "hello there"
    assert [delta.seq for delta in deltas] == list(range(len(deltas)))
    assert min(delta.attempt for delta in deltas) > MOST_ATTEMPTS


async def test_a_push_that_comes_first_to_the_heir_does_not_take_the_id_of_the_one_that_has_been_called_for() -> (
    None
):
    world = World(on_unknown="retry", fate=ANSWER)
    first, newcomer = entry(1, prompt="hi", id="x"), entry(2, prompt="another", id="x")
    await world.dies("victim", [first], at_s=2.5)
    async with world.process("heir") as heir:
        await heir.advance(2)
        heir.dispatcher.deliver([newcomer])
        heir.dispatcher.deliver([again(first)])
        await heir.advance(5)
    conflict, answered = world.outcome(newcomer), world.outcome(first)
    assert isinstance(conflict, Failed)
    assert conflict.code == "id_conflict"
    assert isinstance(answered, Answered)
    assert told(answered) == ["unknown", "ok"]
    world.check_books()


@pytest.mark.parametrize("how", ["cancelled", "taken over by a peer"])
async def test_the_lost_call_of_a_job_that_leaves_is_not_told_by_the_one_that_goes_on_with_its_question(
    how: str,
) -> None:
    world = World(on_unknown="retry", fate=ANSWER)
    leaver, stayer = entry(1), entry(2)
    await world.dies("victim", [leaver], at_s=2.5)
    async with world.process("heir") as heir:
        await heir.advance(2)
        heir.replies.kept_until = world.clock.monotonic()  # nothing is called for yet
        heir.dispatcher.deliver([again(leaver), stayer])
        await heir.advance(0.5)
        if how == "cancelled":
            heir.cancel(leaver.ref.entry_id)
        else:
            heir.dispatcher.lose([leaver.ref])
        heir.replies.kept_until = math.inf
        await heir.advance(5)
    outcome = world.outcome(stayer)
    assert isinstance(outcome, Answered)
    assert (told(outcome), outcome.cost_nano) == (["ok"], PRICE)
    if how == "cancelled":
        left = world.outcome(leaver)
        assert isinstance(left, Failed)
        assert (told(left), left.cost_nano) == (["unknown"], BOUND)
    world.check_books()


@pytest.mark.parametrize("leaves", ["lost", "cancelled"])
async def test_what_the_ledger_answers_about_a_job_that_has_left_is_not_taken_for_the_next_one_s(
    leaves: str,
) -> None:
    world = World(on_unknown="retry", fate=ANSWER)
    delivery, other = entry(prompt="hi"), entry(2, prompt="hi")
    await world.dies("victim", [delivery], at_s=2.5)
    async with world.process("heir", step_s=1.0) as heir:
        await heir.advance(2)  # the victim's call is booked as unknown
        heir.dispatcher.deliver([again(delivery)])
        heir.dispatcher.deliver([other])
        await heir.advance(0.5)  # the question is on its way
        if leaves == "lost":
            heir.dispatcher.lose([delivery.ref])
        else:
            heir.cancel(delivery.ref.entry_id)
        await heir.advance(10)
        outcome = world.outcome(other)
        assert isinstance(outcome, Answered)
        assert (told(outcome), outcome.cost_nano) == (["ok"], PRICE)
        if leaves == "cancelled":
            assert told(world.outcome(delivery)) == ["unknown"]


async def test_a_claim_of_the_first_push_of_an_id_that_has_left_meanwhile_is_not_used_for_the_second() -> (
    None
):
    world = World(on_unknown="retry", fate=ANSWER)
    first, second = (entry(number, prompt="hi", id="mine", cache="off") for number in (1, 2))
    async with world.process("old", step_s=1.0) as old, world.process("new") as new:
        old.dispatcher.deliver([first, second])
        await old.advance(0.5)  # the claim is on its way
        old.dispatcher.lose([first.ref])
        await old.advance(5)
        new.dispatcher.deliver([again(first)])
        await new.advance(20)
        outcomes = [world.outcome(one) for one in (first, second)]
        assert [isinstance(one, Answered) for one in outcomes] == [True, True]
        assert (old.calls, new.calls) == (0, 1)
        assert sum(one.cost_nano for one in outcomes) == PRICE


async def test_an_answer_that_finds_its_entry_waiting_for_another_delivery_is_kept_for_that() -> None:
    async with staged(model("m")) as stage:
        job = stage.entry("x", cache="off")
        stage.replies.delivered_again.add(job.ref)
        stage.dispatcher.deliver([job])
        await stage.advance(1)
        assert (stage.end(job.ref), stage.dispatcher.held) == ("waiting", 0)
        stage.replies.delivered_again.clear()
        stage.dispatcher.deliver([job._replace(redelivered=True)])
        await stage.advance(1)
        assert (stage.end(job.ref), stage.calls) == ("ok", 1)
