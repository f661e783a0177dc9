"""The ledger's keys as Python needs them, and for how long what lies there. `lua/names.lua` explains each."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec
from msgspec import Struct

from theo_daemon.job import EntryRef
from theo_daemon.ledger.large_reads import LARGE_BYTES

# What is published is deleted soon after; the rest must outlive a Redis that is away.
OUTCOME_S: Final = 86_400.0
STALE_ANSWER_S: Final = 60.0  # an answer past its time still serves those who waited for it
LATE_S: Final = 86_400.0  # so long the truth about a call taken for lost may come
DOUBTFUL: Final = 10_000  # attempts that may have been billed for nothing: about so many are listed
FAILURES: Final = 1_000  # and of those that failed
ID_HEAD: Final = 4_096  # bytes: more than what is kept of an id whose job runs


class LedgerKeys:
    """Under the prefix of all keys."""

    __slots__ = (
        "base", "doubtful", "failures", "flights", "health", "latency", "models", "owners", "spend", "standings",
        "windows",
    )  # fmt: skip

    def __init__(self, prefix: str) -> None:
        base = self.base = f"{prefix}:ledger"
        self.owners, self.flights, self.models = f"{base}:owners", f"{base}:flights", f"{base}:models"
        self.spend, self.windows, self.latency = f"{base}:spend", f"{base}:windows", f"{base}:latency"
        self.standings, self.health = f"{base}:standings", f"{base}:health"
        self.doubtful, self.failures = f"{base}:doubtful", f"{base}:failures"

    def open(self, owner: str) -> str:
        """Of an owner's calls under way."""
        return f"{self.base}:open:{owner}"

    def id(self, tenant: str, client_id: str) -> str:
        """Of what is remembered for a client's id."""
        return f"{self.base}:id:{id_digest(tenant, client_id)}"

    def answer(self, cache_key: str) -> str:
        return f"{self.base}:answer:{cache_key}"


class Keeping(Struct, frozen=True, kw_only=True):
    """How long what is kept, in ms, and how much of it: `settings` of the commit script. Of texts above `large` bytes
    it tells the place."""

    id_ms: int
    keep_ms: int
    outcome_ms: int = int(OUTCOME_S * 1000)
    stale_ms: int = int(STALE_ANSWER_S * 1000)
    late_ms: int = int(LATE_S * 1000)
    doubtful: int = DOUBTFUL
    failures: int = FAILURES
    large: int = LARGE_BYTES

    def packed(self) -> bytes:
        return msgspec.msgpack.encode(self)


def id_digest(tenant: str, client_id: str) -> str:
    """What a job brings never becomes a key's name: the digest of it does."""
    return blake2b(f"{tenant}\0{client_id}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def running_under(id_text: bytes) -> EntryRef | None:
    """Whose job runs, or waits, under an id; None: nobody's. `lua/memory.lua` explains the text."""
    if id_text[:1] != b"r":
        return None
    _, _, entry = id_text.decode().split(" ", 2)
    return entry_of(entry)


def entry_name(ref: EntryRef) -> str:
    return f"{ref[0]}:{ref[1]}"


def entry_of(name: str) -> EntryRef:
    stream, _, entry_id = name.rpartition(":")
    return EntryRef(stream, entry_id)


def spend_row(scope: str, window_start_ms: int) -> str:
    """The field of one budget in `spend`."""
    return f"{window_start_ms} {scope}"


def scope_of(row: str) -> tuple[str, int]:
    """Scope and window start (Unix ms) of a field of `spend`."""
    start, _, scope = row.partition(" ")
    return scope, int(start)
