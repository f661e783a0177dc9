"""What the router needs of Redis, in memory: streams and a few plain keys; no sockets, no threads.

It replies what a server does, word for word where the router reads the words. `test_redis_model.py` keeps it equal to
a real one. Two things are left out since nothing depends on them: `MAXLEN ~` cuts nothing, and memory is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.sim.redis_words import (
    LAST_ID,
    Consumer,
    Error,
    Group,
    Id,
    Pending,
    Status,
    Stream,
    read_bounds,
    read_id,
)

Hash = dict[bytes, bytes]
TYPES = {type(None): b"none", Stream: b"stream", bytes: b"string", dict: b"hash"}


class Store:
    """All keys. `clock` gives Unix seconds. Time stands still during a command, and during a script."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.now = 0
        self.keys: dict[bytes, Stream | bytes | Hash] = {}
        self.expires: dict[bytes, int] = {}
        self.on_add: Callable[[bytes, Id, list[bytes]], None] = _nobody_listens
        self.on_owner: Callable[[bytes, Id, Pending, Consumer], None] = _nobody_listens

    def tick(self) -> None:
        self.now = int(self._clock() * 1000)

    # -- keys ------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> Stream | bytes | Hash | None:
        due = self.expires.get(key)
        if due is not None and due <= self.now:
            del self.keys[key], self.expires[key]
        return self.keys.get(key)

    def stream(self, key: bytes) -> Stream | None:
        found = self.find(key)
        if found is not None and type(found) is not Stream:
            raise wrong_type()
        return found

    def group(self, key: bytes, name: bytes) -> tuple[Stream, Group]:
        stream = self.stream(key)
        group = None if stream is None else stream.groups.get(name)
        if stream is None or group is None:
            raise Error(f"NOGROUP No such key '{key.decode()}' or consumer group '{name.decode()}'")
        return stream, group

    def get(self, words: Sequence[bytes]) -> Any:
        found = self.find(words[1])
        if found is not None and type(found) is not bytes:
            raise wrong_type()
        return found

    def set(self, words: Sequence[bytes]) -> Any:
        _, key, value, *options = words
        self.keys[key] = value
        self.expires.pop(key, None)
        if options:
            self.expires[key] = self.now + int(options[1])
        return Status(b"OK")

    def delete(self, words: Sequence[bytes]) -> int:
        gone = [key for key in dict.fromkeys(words[1:]) if self.find(key) is not None]
        for key in gone:
            del self.keys[key]
            self.expires.pop(key, None)
        return len(gone)

    def exists(self, words: Sequence[bytes]) -> int:
        return sum(self.find(key) is not None for key in words[1:])

    def type(self, words: Sequence[bytes]) -> Status:
        found = self.find(words[1])
        return Status(TYPES[type(found)])

    def pexpire(self, words: Sequence[bytes]) -> int:
        if self.find(words[1]) is None:
            return 0
        self.expires[words[1]] = self.now + int(words[2])
        return 1

    def pttl(self, words: Sequence[bytes]) -> int:
        if self.find(words[1]) is None:
            return -2
        due = self.expires.get(words[1])
        return -1 if due is None else due - self.now

    def time(self, _words: Sequence[bytes]) -> list[bytes]:
        seconds = self._clock()
        return [b"%d" % int(seconds), b"%d" % int(seconds % 1 * 1e6)]

    # -- hashes ----------------------------------------------------------------------------------------

    def hash(self, key: bytes) -> Hash | None:
        found = self.find(key)
        if found is not None and type(found) is not dict:
            raise wrong_type()
        return found

    def hset(self, words: Sequence[bytes]) -> int:
        found = self.hash(words[1])
        if found is None:
            found = self.keys[words[1]] = {}
        before = len(found)
        found.update(zip(words[2::2], words[3::2], strict=True))
        return len(found) - before

    def hget(self, words: Sequence[bytes]) -> bytes | None:
        found = self.hash(words[1])
        return None if found is None else found.get(words[2])

    def hmget(self, words: Sequence[bytes]) -> list[bytes | None]:
        found = self.hash(words[1]) or {}
        return [found.get(name) for name in words[2:]]

    def hgetall(self, words: Sequence[bytes]) -> list[bytes]:
        return [word for pair in (self.hash(words[1]) or {}).items() for word in pair]

    def hexists(self, words: Sequence[bytes]) -> int:
        return int(self.hget(words) is not None)

    def hlen(self, words: Sequence[bytes]) -> int:
        return len(self.hash(words[1]) or ())

    def hdel(self, words: Sequence[bytes]) -> int:
        found = self.hash(words[1])
        gone = 0 if found is None else sum(found.pop(name, None) is not None for name in words[2:])
        if gone and not found:
            self.delete(words[:2])
        return gone

    # -- adding and reading ----------------------------------------------------------------------------

    def xadd(self, words: Sequence[bytes]) -> bytes:
        key, at = words[1], 2
        if words[at].upper() == b"MAXLEN":
            at += 3 if words[at + 1] in (b"~", b"=") else 2
        fields = list(words[at + 1 :])
        if words[at] != b"*" and read_id(words[at]) == (0, 0):
            raise Error("ERR The ID specified in XADD must be greater than 0-0")
        stream = self.stream(key)
        entry = self._next_id(words[at], stream)
        if stream is None:
            stream = self.keys[key] = Stream()
        stream.entries[entry] = fields
        stream.ids.append(entry)
        stream.last = entry
        self.on_add(key, entry, fields)
        return b"%d-%d" % entry

    def _next_id(self, word: bytes, stream: Stream | None) -> Id:
        ms, seq = stream.last if stream is not None else (0, 0)
        if (ms, seq) == LAST_ID:
            raise Error("ERR The stream has exhausted the last possible ID, unable to add more items")
        if word == b"*":
            return (self.now, 0) if self.now > ms else (ms, seq + 1)
        entry = read_id(word)
        if entry <= (ms, seq):
            raise Error("ERR The ID specified in XADD is equal or smaller than the target stream top item")
        return entry

    def xlen(self, words: Sequence[bytes]) -> int:
        stream = self.stream(words[1])
        return 0 if stream is None else len(stream.entries)

    def xrange(self, words: Sequence[bytes]) -> list[Any]:
        _, key, first, last, *count = words
        stream = self.stream(key)
        if stream is None:
            return []
        if first == last:
            entry = read_id(first)
            fields = stream.entries.get(entry)
            return [] if fields is None else [[b"%d-%d" % entry, fields]]
        low, high = read_bounds(first, last)
        found = [
            [b"%d-%d" % entry, fields] for entry, fields in stream.entries.items() if low <= entry <= high
        ]
        return found[: int(count[1])] if count else found

    def xdel(self, words: Sequence[bytes]) -> int:
        stream = self.stream(words[1])
        if stream is None:
            return 0
        return sum(stream.entries.pop(read_id(word), None) is not None for word in words[2:])

    def xread(self, count: int, keys: Sequence[bytes], after: Sequence[Id]) -> Any:
        found = []
        for key, last in zip(keys, after, strict=True):
            stream = self.stream(key)
            if stream is None or stream.last <= last:
                continue
            newer = [[b"%d-%d" % entry, f] for entry, f in stream.entries.items() if entry > last]
            if newer:
                found.append([key, newer[:count] if count else newer])
        return found or None

    def xreadgroup(self, name: bytes, consumer: bytes, count: int, keys: Sequence[bytes]) -> Any:
        """Of what nobody was given yet."""
        groups = []
        for key in keys:
            try:
                groups.append((key, *self.group(key, name)))
            except Error as error:
                if error.text.startswith(b"NOGROUP"):
                    raise Error(f"{error} in XREADGROUP with GROUP option") from None
                raise
        found = []
        for key, stream, group in groups:
            reader = group.consumer(consumer, self.now)
            fresh = self._deliver(key, stream, group, reader, count)
            if fresh:
                found.append([key, fresh])
        return found or None

    def _deliver(self, key: bytes, stream: Stream, group: Group, reader: Consumer, count: int) -> list[Any]:
        fresh: list[Any] = []
        ids, entries, place = stream.ids, stream.entries, group.next
        while place < len(ids) and (not count or len(fresh) < count):
            entry = ids[place]
            place += 1
            fields = entries.get(entry)
            if fields is None or entry <= group.last:
                continue
            pending = group.pending.get(entry)
            if pending is None:
                pending = Pending(reader, self.now)
                group.add(entry, pending)
            else:  # taken early, by a claim: whoever comes by it in its turn is given it all the same
                pending.owner.pending -= 1
            self.on_owner(key, entry, pending, reader)
            pending.owner, pending.at, pending.count = reader, self.now, 1
            reader.pending += 1
            reader.active = self.now
            group.last = entry
            fresh.append([b"%d-%d" % entry, fields])
        if fresh:
            group.next = place
        return fresh


def wrong_type() -> Error:
    return Error("WRONGTYPE Operation against a key holding the wrong kind of value")


def _nobody_listens(*_: object) -> None:
    """Stands in until the world listens."""
