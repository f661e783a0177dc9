"""Is a region out of order, rather than one of its models? Evicted and readmitted as a whole. Pure.

A region is not banned: its models are asked when nobody outside can be, and a circuit that may be probed gets its
probe. So the evidence is the circuits' own, which all processes share, and the fleet's one probe decides for all.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from msgspec import Struct

RECENT_S = 30.0  # a model that answered within this is well, whatever the others of its region do
# For so long an evicted region waits for a probe of circuits that nobody asks; then it is let in.
UNTESTED_S = 60.0

State = Literal["closed", "half_open", "open"]


class Circuit(Struct, frozen=True):
    """One model of a region. `answered_s`: since its last answer, if it has not failed since; None: none."""

    model: str
    state: State
    answered_s: float | None = None


class Admitted(Struct, frozen=True):
    """Its models are chosen like any others. `known` are circuits whose opening was no reason to evict it."""

    known: frozenset[str] = frozenset()


class Evicted(Struct, frozen=True):
    """Its models are chosen last. `circuits` are open or half-open; times are monotonic seconds."""

    circuits: frozenset[str]
    since: float
    untested_since: float | None = None  # since when no circuit is open, and none was probed


Region = Admitted | Evicted

ADMITTED = Admitted()


def look(region: Region, circuits: Collection[Circuit], *, ratio: float, now: float) -> Region:
    """The region as `circuits`, those of all its models, show it now."""
    broken = frozenset(one.model for one in circuits if one.state != "closed")
    match region:
        case Admitted(known=known):
            if broken - known and _is_out_of_order(circuits, ratio):
                return Evicted(broken, now)
            return Admitted(broken)
        case Evicted(circuits=before) if before - broken or not broken:  # a good probe, or an operator's word
            return Admitted(broken)
        case Evicted(since=since, untested_since=untested):
            if any(one.state == "open" for one in circuits):
                return Evicted(broken, since)
            untested = now if untested is None else untested
            return Admitted(broken) if now - untested >= UNTESTED_S else Evicted(broken, since, untested)


def _is_out_of_order(circuits: Collection[Circuit], ratio: float) -> bool:
    """Asked when a circuit has opened: are there several, and a large enough share, or is no model well?"""
    broken = sum(one.state != "closed" for one in circuits)
    if broken >= 2 and broken >= ratio * len(circuits):
        return True
    return not any(_is_well(one) for one in circuits)


def _is_well(circuit: Circuit) -> bool:
    return circuit.state == "closed" and circuit.answered_s is not None and circuit.answered_s <= RECENT_S
