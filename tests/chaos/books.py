"""The ledger after the rehearsal, read as any SQLite file, against what was seen from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw
from msgspec import Struct

from tests.chaos.records import FOREVER, Call, Entry, Pushed, Reply, by_prompt

NANO = 1_000_000_000


class Books(Struct, kw_only=True):
    """What the ledger says."""

    integrity: str
    attempts: list[
        tuple[Entry, str, str, str, int, int]
    ]  # entry, owner's name, model, state, cost, bound (nano)
    spend: dict[str, tuple[int, int]]  # scope without a window: spent, held (nano)
    inflight: int
    owners: dict[int, float | None]  # pid -> when it was taken for dead, Unix seconds


def read_books(path: Path) -> Books:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        (integrity,) = db.execute("PRAGMA integrity_check").fetchone() or ("",)
        (inflight,) = db.execute("SELECT count(*) FROM inflight").fetchone() or (0,)
        attempts = [
            ((stream, entry), owner, model, state, cost or 0, bound or 0)
            for stream, entry, owner, model, state, cost, bound in db.execute(
                "SELECT stream, entry_id, name, model, state, cost_nano, bound_nano"
                " FROM attempts JOIN owners ON owners.id = attempts.owner WHERE model <> ''"  # calls, no rehearsals
            )
        ]
        spend = {
            scope: (spent, held)
            for scope, spent, held in db.execute(
                "SELECT scope, spent_nano, held_nano FROM spend WHERE window_start = 0"
            )
        }
        held = db.execute("SELECT scope, held_nano FROM spend WHERE held_nano <> 0").fetchall()
        for scope, nano in held:
            spend[scope] = (spend.get(scope, (0, 0))[0], nano)
        owners = {
            pid: None if buried is None else buried / 1000
            for pid, buried in db.execute("SELECT pid, buried_at FROM owners")
        }
    finally:
        db.close()
    return Books(
        integrity=integrity, attempts=attempts, spend=spend, inflight=inflight, owners=owners,
    )  # fmt: skip


def unbalanced(books: Books) -> list[str]:
    """The books against themselves."""
    found = [] if books.integrity == "ok" else [f"integrity_check: {books.integrity}"]
    if books.inflight:
        found.append(f"{books.inflight} keys in flight at the end")
    costs: dict[str, int] = {}
    for entry, _, model, state, cost, bound in books.attempts:
        costs[f"model:{model}"] = costs.get(f"model:{model}", 0) + cost
        if state == "sent":
            found.append(f"an attempt still open: {entry}")
        if cost < 0 or cost > bound:
            found.append(f"an attempt of {entry} cost {cost} of at most {bound}")
    for scope in costs.keys() | books.spend.keys():
        spent, held = books.spend.get(scope, (0, 0))
        if held:
            found.append(f"{scope} holds {held} at the end")
        if spent != costs.get(scope, 0):
            found.append(f"{scope} spent {spent}, its attempts cost {costs.get(scope, 0)}")
    return found


def misjudged(books: Books, died: Mapping[int, float], left: Mapping[int, float]) -> list[str]:
    """Owners buried alive, and dead ones that were never buried. Both: pid -> Unix seconds, at the earliest.

    `left` are those that were asked to leave at the end: a peer may bury them or not.
    """
    found: list[str] = []
    for pid, buried_at in books.owners.items():
        ended_at = died.get(pid, left.get(pid, FOREVER))
        if buried_at is not None and buried_at < ended_at - 0.001:  # the ledger keeps whole milliseconds
            found.append(f"buried alive: pid {pid} at {buried_at:.3f}, which ended at {ended_at:.3f}")
        if buried_at is None and pid in died:
            found.append(f"never buried: pid {pid}, which ended at {ended_at:.3f}")
    return found


def unaccounted(
    books: Books, pushed: Sequence[Pushed], calls: Sequence[Call], replies: Mapping[Entry, Sequence[Reply]]
) -> list[str]:
    """Calls without an attempt on record, attempts without a call, and replies whose cost is not their attempts'."""
    found: list[str] = []
    group_of = {job.entry: job.group for job in pushed}
    tried: dict[str, list[str]] = {}
    cost_of: dict[Entry, int] = {}
    for entry, _, _, state, cost, _ in books.attempts:
        if entry not in group_of:
            found.append(f"an attempt for nobody: {entry}")
            continue
        tried.setdefault(group_of[entry], []).append(state)
        cost_of[entry] = cost_of.get(entry, 0) + cost
    made = by_prompt(calls)
    for group in made.keys() | tried.keys():
        states = [state for state in tried.get(group, ()) if state != "void"]
        starts = len(made.get(group, ()))
        # A process may die between the record and the first byte: then there is an attempt more than calls.
        if not starts <= len(states) <= starts + states.count("unknown"):
            found.append(f"{group!r}: {starts} calls, attempts {states}")
    return found + _mistold(pushed, replies, cost_of, books)


def _mistold(
    pushed: Sequence[Pushed],
    replies: Mapping[Entry, Sequence[Reply]],
    cost_of: Mapping[Entry, int],
    books: Books,
) -> list[str]:
    """Replies whose cost is not that of their entry's attempts.

    Nor that of a call that began for another push of the same question, which a peer took over before the claim was
    granted: whoever waited with it goes on with the call, and the other one shares the answer.
    """
    groups: dict[str, list[Entry]] = {}
    for job in pushed:
        groups.setdefault(job.group, []).append(job.entry)
    answered: dict[Entry, list[int]] = {}
    for entry, _, _, state, cost, _ in books.attempts:
        if state == "ok":
            answered.setdefault(entry, []).append(cost)
    found: list[str] = []
    for group, entries in groups.items():
        replied = [entry for entry in entries if entry in replies]
        shared = [entry for entry in replied if _shared(replies[entry][0])]  # told 0, by the contract
        handed_over = [cost for entry in shared for cost in answered.get(entry, ())]
        for entry in set(replied) - set(shared):
            told, own = _told(replies[entry][0]), cost_of.get(entry, 0)
            if told == own:
                continue
            if told - own in handed_over:
                handed_over.remove(told - own)  # of each call one is told
                continue
            attempts = {entry: cost_of.get(entry, 0) for entry in entries}
            found.append(
                f"{entry} was told {told}, the attempts of {group!r} cost {attempts}: {replies[entry][0].fields}"
            )
    return found


def _shared(reply: Reply) -> bool:
    return "1" in (reply.fields.get("cache_hit"), reply.fields.get("coalesced"))


def _told(reply: Reply) -> int:
    return round(float(reply.fields["cost"]) * NANO)


def unknowns(books: Books) -> int:
    return sum(state == "unknown" for _, _, _, state, _, _ in books.attempts)
