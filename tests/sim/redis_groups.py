"""Consumer groups of the simulated Redis: who was given what, who has taken it over, who has ended it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.sim.redis_store import Store
from tests.sim.redis_words import (
    Consumer,
    Error,
    Group,
    Id,
    Pending,
    Status,
    Stream,
    between,
    read_claim,
    read_id,
)

SCANS = 10  # XAUTOCLAIM looks at so many entries for each that it may return


class GroupStore(Store):
    """The store with its groups."""

    def xgroup_create(self, words: Sequence[bytes]) -> Status:
        _, _, key, name, start, *options = words
        stream = self.stream(key)
        if stream is None:
            if not options:
                raise Error(
                    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use "
                    "the MKSTREAM option to create an empty stream automatically."
                )
            stream = self.keys[key] = Stream()
        if name in stream.groups:
            raise Error("BUSYGROUP Consumer Group name already exists")
        after = stream.last if start == b"$" else read_id(start)
        stream.groups[name] = Group(after, sum(entry <= after for entry in stream.ids))
        return Status(b"OK")

    def xgroup_destroy(self, words: Sequence[bytes]) -> int:
        return int(self._existing(words[2]).groups.pop(words[3], None) is not None)

    def xgroup_delconsumer(self, words: Sequence[bytes]) -> int:
        group = self._group_of(words[2], words[3])
        consumer = group.consumers.pop(words[4], None)
        if consumer is None:
            return 0
        for entry in [entry for entry, pending in group.pending.items() if pending.owner is consumer]:
            del group.pending[entry]
        return consumer.pending

    def xinfo_groups(self, words: Sequence[bytes]) -> list[Any]:
        """Without `entries-read` and `lag`, which nobody here asks for."""
        stream = self.stream(words[2])
        if stream is None:
            raise Error("ERR no such key")
        return [
            [
                *(b"name", name, b"consumers", len(group.consumers), b"pending", len(group.pending)),
                *(b"last-delivered-id", b"%d-%d" % group.last),
            ]
            for name, group in sorted(stream.groups.items())
        ]

    def xinfo_consumers(self, words: Sequence[bytes]) -> list[Any]:
        stream = self.stream(words[2])
        if stream is None:
            raise Error("ERR no such key")
        group = self._group_of(words[2], words[3])
        return [
            [
                *(b"name", one.name, b"pending", one.pending, b"idle", self.now - one.seen),
                *(b"inactive", -1 if one.active < 0 else self.now - one.active),
            ]
            for _, one in sorted(group.consumers.items())
        ]

    def xack(self, words: Sequence[bytes]) -> int:
        stream = self.stream(words[1])
        group = None if stream is None else stream.groups.get(words[2])
        if group is None:
            return 0
        return sum([group.drop(read_id(word)) for word in words[3:]])

    def xpending(self, words: Sequence[bytes]) -> list[Any]:
        _, group = self.group(words[1], words[2])
        if len(words) == 3:
            return _summary(group)
        least, at = 0, 3
        if words[at].upper() == b"IDLE":
            least, at = int(words[at + 1]), at + 2
        first, last, count = words[at], words[at + 1], int(words[at + 2])
        owner = words[at + 3] if len(words) > at + 3 else None
        found: list[Any] = []
        for entry, pending in between(group.pending, first, last):
            if len(found) >= count:
                break
            idle = max(0, self.now - pending.at)
            if idle >= least and (owner is None or pending.owner.name == owner):
                found.append([b"%d-%d" % entry, pending.owner.name, idle, pending.count])
        return found

    def xclaim(self, words: Sequence[bytes]) -> list[Any]:
        key = words[1]
        stream, group = self.group(key, words[2])
        claim = read_claim(words[4:], self.now)
        consumer = group.consumer(words[3], self.now)
        found: list[Any] = []
        for entry in claim.ids:
            fields = stream.entries.get(entry)
            if fields is None:
                group.drop(entry)
                continue
            pending = group.pending.get(entry)
            if pending is None and claim.force:
                pending = Pending(consumer, self.now)
                group.add(entry, pending)
                consumer.pending += 1
            elif pending is None or (claim.least_idle and self.now - pending.at < claim.least_idle):
                continue
            self._hand_over(key, entry, pending, consumer, at=claim.at)
            if claim.count is not None:
                pending.count = claim.count
            elif not claim.just_id:
                pending.count += 1
            found.append(b"%d-%d" % entry if claim.just_id else [b"%d-%d" % entry, fields])
        return found

    def xautoclaim(self, words: Sequence[bytes]) -> list[Any]:
        _, key, name, consumer_name, least, start, *options = words
        just_id = b"JUSTID" in options
        count = int(options[1]) if options and options[0] == b"COUNT" else 100
        stream, group = self.group(key, name)
        consumer = group.consumer(consumer_name, self.now)
        low, scans = read_id(start), count * SCANS
        found: list[Any] = []
        deleted: list[bytes] = []
        cursor = b"0-0"
        for entry in [entry for entry in group.pending if entry >= low]:
            if not scans or not count:
                cursor = b"%d-%d" % entry
                break
            scans -= 1
            fields = stream.entries.get(entry)
            if fields is None:
                group.drop(entry)
                deleted.append(b"%d-%d" % entry)
                count -= 1
                continue
            pending = group.pending[entry]
            if self.now - pending.at < int(least):
                continue
            self._hand_over(key, entry, pending, consumer, at=self.now)
            pending.count += not just_id
            found.append(b"%d-%d" % entry if just_id else [b"%d-%d" % entry, fields])
            count -= 1
        return [cursor, found, deleted]

    def _hand_over(self, key: bytes, entry: Id, pending: Pending, consumer: Consumer, *, at: int) -> None:
        self.on_owner(key, entry, pending, consumer)
        pending.owner.pending -= 1
        consumer.pending += 1
        consumer.active = self.now
        pending.owner, pending.at = consumer, at

    def _existing(self, key: bytes) -> Stream:
        stream = self.stream(key)
        if stream is None:
            raise Error(
                "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the "
                "MKSTREAM option to create an empty stream automatically."
            )
        return stream

    def _group_of(self, key: bytes, name: bytes) -> Group:
        group = self._existing(key).groups.get(name)
        if group is None:
            raise Error(f"NOGROUP No such consumer group '{name.decode()}' for key name '{key.decode()}'")
        return group


def _summary(group: Group) -> list[Any]:
    if not group.pending:
        return [0, None, None, None]
    ids = list(group.pending)
    owners = [[name, b"%d" % one.pending] for name, one in sorted(group.consumers.items()) if one.pending]
    return [len(ids), b"%d-%d" % ids[0], b"%d-%d" % ids[-1], owners]
