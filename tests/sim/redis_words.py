"""The nouns of the simulated Redis: entries, groups, consumers, what is pending; and how ids are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

Id = tuple[int, int]
LAST_ID = (2**64 - 1, 2**64 - 1)


class Error(Exception):
    """An error reply."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text.encode()


class Status(bytes):
    """A status reply, which Lua is told apart from a text."""


class Pending:
    """An entry that was delivered and is not acknowledged. Times are Unix milliseconds."""

    __slots__ = ("at", "count", "owner")

    def __init__(self, owner: Consumer, at: int) -> None:
        self.owner, self.at, self.count = owner, at, 1


class Consumer:
    """One name in a group."""

    __slots__ = ("active", "name", "pending", "seen")

    def __init__(self, name: bytes, now: int) -> None:
        self.name, self.seen, self.active, self.pending = name, now, -1, 0


class Group:
    """`next` is the place, among all ids that the stream ever had, of the first that was not delivered."""

    __slots__ = ("consumers", "last", "next", "pending")

    def __init__(self, last: Id, following: int) -> None:
        self.last, self.next = last, following
        self.pending: dict[Id, Pending] = {}  # in the order of their ids
        self.consumers: dict[bytes, Consumer] = {}

    def add(self, entry: Id, pending: Pending) -> None:
        """Mostly the last one: only what is taken early, or was, comes out of turn."""
        in_turn = not self.pending or next(reversed(self.pending)) < entry
        self.pending[entry] = pending
        if not in_turn:
            self.pending = dict(sorted(self.pending.items()))

    def consumer(self, name: bytes, now: int) -> Consumer:
        found = self.consumers.get(name)
        if found is None:
            found = self.consumers[name] = Consumer(name, now)
        found.seen = now
        return found

    def drop(self, entry: Id) -> bool:
        """Nobody owns it any more."""
        pending = self.pending.pop(entry, None)
        if pending is None:
            return False
        pending.owner.pending -= 1
        return True


class Stream:
    """Entries by id, oldest first."""

    __slots__ = ("entries", "groups", "ids", "last")

    def __init__(self) -> None:
        self.entries: dict[Id, list[bytes]] = {}
        self.ids: list[Id] = []  # deleted ones, too
        self.last: Id = (0, 0)
        self.groups: dict[bytes, Group] = {}


def read_id(word: bytes) -> Id:
    """`ms-seq` or `ms`."""
    ms, _, seq = word.partition(b"-")
    if not ms.isdigit() or (seq and not seq.isdigit()):
        raise Error("ERR Invalid stream ID specified as stream command argument")
    return int(ms), int(seq or 0)


def read_bounds(first: bytes, last: bytes) -> tuple[Id, Id]:
    """Of a range, both included; `-`, `+` and `(` as in Redis."""
    if first == b"-":
        low = (0, 0)
    elif first.startswith(b"("):
        ms, seq = read_id(first[1:])
        low = (ms, seq + 1)
    else:
        low = read_id(first)
    return low, LAST_ID if last == b"+" else read_id(last)


def between(pending: dict[Id, Pending], first: bytes, last: bytes) -> Iterator[tuple[Id, Pending]]:
    if first == last:
        entry = read_id(first)
        one = pending.get(entry)
        return iter(() if one is None else ((entry, one),))
    if first == b"-" and last == b"+":
        return iter(pending.items())
    low, high = read_bounds(first, last)
    return iter([(entry, one) for entry, one in pending.items() if low <= entry <= high])


class Claim(NamedTuple):
    """What XCLAIM is asked. `count` None: one more than before."""

    least_idle: int
    ids: list[Id]
    at: int
    count: int | None
    just_id: bool
    force: bool


def read_claim(words: Sequence[bytes], now: int) -> Claim:
    """The words of XCLAIM after its consumer."""
    ids: list[Id] = []
    at, count, just_id, force = now, None, False, False
    rest = iter(words[1:])
    for word in rest:
        match word.upper():
            case b"IDLE":
                at = now - int(next(rest))
            case b"RETRYCOUNT":
                count = int(next(rest))
            case b"JUSTID":
                just_id = True
            case b"FORCE":
                force = True
            case _:
                ids.append(read_id(word))
    return Claim(int(words[0]), ids, at if 0 <= at <= now else now, count, just_id, force)
