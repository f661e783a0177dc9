"""A job ends while the claim of its call is on its way to the books: its reply says what the books will say of it."""

from __future__ import annotations

import pytest

from tests.scenario.test_crash_points import ANSWER, World, again, entry, kill
from theo_daemon.job import Failed

DIES_AT_S = [number / 4 for number in range(1, 30)]
CLAIM_COMMITTED_S, CLAIM_GRANTED_S = 1.2, 2.1


@pytest.mark.parametrize("how", ["cancelled", "deadline_exceeded"])
@pytest.mark.parametrize("id_field", [{}, {"id": "mine"}], ids=["without an id", "with an id"])
@pytest.mark.parametrize("lease", ["kept", "in doubt"])
async def test_a_job_that_was_told_that_it_cost_nothing_is_charged_nothing_whenever_its_process_dies(
    how: str, id_field: dict[str, str], lease: str
) -> None:
    """The claim is committed, which the process does not know yet; or its lease ran out meanwhile, so that it has
    just made the claim void, and waits."""
    replied = 0
    ends_at_s = CLAIM_COMMITTED_S if lease == "kept" else CLAIM_GRANTED_S
    for dies_at_s in DIES_AT_S:
        world = World(on_unknown="retry", fate=ANSWER)
        deadline_ms = 1_700_000_000_000 + int(ends_at_s * 1000)
        fields = {"deadline_ms": str(deadline_ms)} if how == "deadline_exceeded" else {}
        delivery = entry(**id_field, **fields)
        async with world.process("victim", step_s=1.0) as victim:
            victim.replies.takes_s = 0.0  # type: ignore[attr-defined]
            victim.dispatcher.deliver([delivery])
            await victim.advance(0.5)
            if lease == "in doubt":
                victim.replies.kept_until = victim.clock.monotonic()
            await victim.advance(ends_at_s - 0.5)
            if how == "cancelled":
                victim.cancel(delivery.ref.entry_id)
            await victim.advance(dies_at_s)
            kill(victim)
        replied += delivery.ref in world.streams.finals
        async with world.process("heir") as heir:
            await heir.advance(2)  # the death is noticed
            heir.cancel(delivery.ref.entry_id)
            heir.dispatcher.deliver([again(delivery)])
            await heir.advance(5)
        outcome = world.outcome(delivery)
        assert isinstance(outcome, Failed)
        assert outcome.code in {"cancelled", how}
        charged = world.books.rows("SELECT coalesce(sum(cost_nano), 0) FROM attempts")
        assert charged == [(outcome.cost_nano,)], f"died {dies_at_s} s later"
        assert not world.calls
        world.check_books()
        world.books.close()
    assert 0 < replied < len(DIES_AT_S)  # it died before and after


async def test_the_slot_and_the_key_are_free_again_for_the_next_push() -> None:
    world = World(on_unknown="retry", fate=ANSWER)
    async with world.process("only", step_s=1.0) as stage:
        ref = stage.push("hi")
        await stage.advance(1.2)
        stage.cancel(ref.entry_id)
        following = stage.push("hi")
        await stage.advance(20)
        assert (stage.end(ref), stage.end(following)) == ("cancelled", "ok")
        assert stage.error(ref).cost_nano == 0
    world.check_books()
    world.books.close()
