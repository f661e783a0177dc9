"""What a rehearsal did, what came of it, and what is wrong; for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct

from tests.chaos import books, oracles
from tests.chaos.books import Books
from tests.chaos.fleet import Fleet
from tests.chaos.records import Call, Entry, Faults, Pushed, Reply, by_prompt
from tests.chaos.trouble import Rates

SHOWN = 5  # complaints of one kind
MANY = 30  # of so many faults that were to be expected, half must have happened


class Report(Struct, kw_only=True):
    """Counts by what they count, complaints by their kind."""

    seed: int
    counts: dict[str, int]
    times: dict[str, float]  # seconds
    answers: dict[str, int]  # final replies by status or error code
    provider_faults: dict[str, int]
    complaints: dict[str, list[str]]

    @property
    def good(self) -> bool:
        return not any(self.complaints.values())


class Records(Struct, kw_only=True):
    """All that was written down."""

    seed: int
    pushed: list[Pushed]
    replies: Mapping[Entry, Sequence[Reply]]
    calls: list[Call]
    faults: Faults
    books: Books
    fleet: Fleet
    stored: int  # final replies that Redis has at the end
    unrest: list[str]
    unclean: list[str]
    times: dict[str, float]
    slowness: float = 1.0


def judge(records: Records) -> Report:
    pushed, replies, calls, faults = records.pushed, records.replies, records.calls, records.faults
    kept, fleet, wipes = records.books, records.fleet, records.faults.wipes
    read = sum(reply.age == len(wipes) for its in replies.values() for reply in its)
    complaints = {
        "lost": oracles.lost(pushed, replies, wipes),
        "doubled": oracles.doubled(replies, faults),
        "wrong replies": oracles.strangers(pushed, replies) + oracles.unlike(pushed, replies),
        "unexplained calls": oracles.unexplained(pushed, calls, replies, faults, records.slowness),
        "sent again against orders": oracles.resent(pushed, calls, faults),
        "not at rest": records.unrest,
        "crashed or left badly": faults.crashes + records.unclean,
        "books": books.unbalanced(kept) + books.misjudged(kept, fleet.died, fleet.left),
        "money": books.unaccounted(kept, pushed, calls, replies),
        "reader": [] if records.stored == read else [f"Redis has {records.stored} replies, {read} were read"],
    }
    times = dict(records.times)
    if wipes:
        complaints["slow after a wipe"] = oracles.slow_to_return(pushed, replies, wipes)
        times["from a wipe to the next reply, at most"] = max(oracles.returns(pushed, replies, wipes))
    return Report(
        seed=records.seed,
        counts=_counts(records),
        times=times,
        answers=dict(Counter(its[0].fields.get("error_code", "ok") for its in replies.values())),
        provider_faults=dict(Counter(call.how for call in calls if call.how != "ok")),
        complaints=complaints,
    )


def _counts(records: Records) -> dict[str, int]:
    faults, fleet, wipes = records.faults, records.fleet, records.faults.wipes
    counts = {
        "jobs": len(records.pushed),
        "provider calls": len(records.calls),
        "calls beyond the first": len(records.calls) - len(by_prompt(records.calls)),
        "SIGKILLs": fleet.killed,
        "of them while booting": faults.kills_of_booting,
        "SIGSTOPs": len(faults.stops),
        "Redis SIGKILLs": len(faults.redis_kills),
        "connections cut": len(faults.cut_connections),
        "entries acknowledged by a stranger": faults.acknowledged,
        "entries dropped with a deleted consumer": faults.dropped,
        "boots": len(fleet.boots),
        "boots that found no Redis": faults.gave_up,
        "unknown attempts": books.unknowns(records.books),
    }
    if wipes:
        held = sum(len(wipe.held) for wipe in wipes)
        unanswered = sum(entry not in records.replies for wipe in wipes for entry in wipe.held)
        counts |= {
            "wipes by FLUSHALL": sum(wipe.how == "flushed" for wipe in wipes),
            "wipes by a restart without data": sum(wipe.how == "lost" for wipe in wipes),
            "jobs that Redis held when it was wiped": held,
            "of them never answered": unanswered,
            "jobs of which nobody knows whether they were stored": sum(not job.certain for job in records.pushed),
        }  # fmt: skip
    return counts


def unreached(rates: Rates, seconds: float, counts: Mapping[str, int]) -> list[str]:
    """What hardly happened, though the run was long enough: that nothing went wrong says nothing of it."""
    expected = {
        "SIGKILLs": seconds / rates.kill_s,
        "SIGSTOPs": seconds / rates.stop_s,
        "Redis SIGKILLs": seconds / rates.redis_kill_s,
        "connections cut": seconds / rates.cut_s,
        "entries acknowledged by a stranger": seconds / rates.strangers_s,
        "entries dropped with a deleted consumer": seconds / rates.strangers_s,
    }
    return [
        f"{counts[what]} {what}, where {many:.0f} were to be expected"
        for what, many in expected.items()
        if many >= MANY and counts[what] < many / 2
    ]


def show(report: Report) -> str:
    lines = [f"seed {report.seed}"]
    lines += [f"  {count:>7} {what}" for what, count in report.counts.items()]
    lines += [f"  {seconds:>7.1f} s {what}" for what, seconds in report.times.items()]
    for title, counts in (("replies", report.answers), ("provider faults", report.provider_faults)):
        lines.append(f"  {title}: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    lines += [f"  {len(found):>7} {what}" for what, found in report.complaints.items()]
    for what, found in report.complaints.items():
        lines += [f"{what}: {one}" for one in found[:SHOWN]]
    return "\n".join(lines)
