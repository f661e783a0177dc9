"""What a flight leaves in the ledger for identical jobs that wait for it in other processes.

A whole answer lies in the cache, where they find it. A failure that the contract shares, or an answer to jobs that
refresh it, which read no cache, lies beside that: only for who waited already when it ended.
"""

from __future__ import annotations

from msgspec import structs

from theo_daemon.flight import Flight
from theo_daemon.job import Answered, Failed
from theo_daemon.ledger.records import Ask, CacheWrite, Hit
from theo_daemon.outcomes import Result
from theo_daemon.reply import decode_outcome, encode_outcome
from theo_workers.errors import GenerationError

AT_MOST = 1_024  # of all flights together
ON_THE_WAY_MS = 250  # the call may have ended while the verdict that somebody is at it was on its way here


def left_word(flight: Flight, result: Result) -> CacheWrite | None:
    """For the landing of a flight that holds its key. None: they find an answer, or go on by themselves."""
    cache = flight.lead.job.cache
    if not result.shared or cache == "off" or (cache == "use" and isinstance(result.outcome, Answered)):
        return None
    return CacheWrite(
        key=_place(flight.key), answer=encode_outcome(result.outcome), ttl_ms=0, max_entries=AT_MOST
    )


def question(flight: Flight) -> Ask:
    """Whether the flight that this one waited for has left word. The answer is a Hit then."""
    return Ask(
        ref=flight.lead.ref,
        key=flight.key,
        cache_key=_place(flight.key),
        digest=flight.lead.key,
        redelivered=flight.lead.redelivered,
        waited_since_ms=flight.waited_since_ms,
    )


def taken(flight: Flight, word: Hit) -> Result:
    """What was left, as this flight's own end: free of charge, but for calls that dead processes made for its lead."""
    flight.held = word.held and word.held.take()
    flight.list_prior(word.prior)
    own = tuple(flight.attempts)
    match decode_outcome(word.answer):
        case Answered(answer=answer):
            return Result(Answered(answer=answer, coalesced=True, attempts=own), shared=True, remember=True)
        case Failed() as error:
            outcome = structs.replace(error, cost_nano=flight.cost_nano, attempts=own + error.attempts)
            return Result(outcome, shared=True, remember=GenerationError.kind_of(error.code).remembered)


def _place(key: str) -> str:
    return f"{key}!"
