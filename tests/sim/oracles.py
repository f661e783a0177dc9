"""What must be true of a world once it is over, judged by what its witness wrote down. Complaints come out.

No oracle believes the system's own labels: that the ledger calls an attempt `unknown` excuses no second call. Only a
fault of the provider does, the job's own wishes, or the death of the very process whose call was not on record by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tests.sim import oracles_of_books, oracles_of_calls, oracles_of_models, oracles_of_replies
from tests.sim.books import Disk
from tests.sim.plan import Plan
from tests.sim.story import Story, read
from tests.sim.witness import Witness

ORACLES: Mapping[str, Callable[[Story], Iterable[str]]] = {
    "jobs lost": oracles_of_replies.lost,
    "jobs answered twice": oracles_of_replies.doubled,
    "wrong replies": oracles_of_replies.strangers,
    "unlike answers to one question": oracles_of_replies.unlike,
    "broken streams": oracles_of_replies.broken_streams,
    "unexplained calls": oracles_of_calls.unexplained,
    "sent again against orders": oracles_of_calls.resent,
    "calls after the end": oracles_of_calls.after_the_end,
    "calls beyond max_attempts": oracles_of_calls.too_often,
    "calls through open circuits": oracles_of_models.open_circuits,
    "circuits that did not open": oracles_of_models.never_opened,
    "books out of balance": oracles_of_books.unbalanced,
    "calls and costs off the books": oracles_of_books.unaccounted,
}


def judge(plan: Plan, witness: Witness, disk: Disk) -> dict[str, list[str]]:
    """Complaints by oracle."""
    story = read(plan, witness, disk)
    return {name: list(oracle(story)) for name, oracle in ORACLES.items()}
