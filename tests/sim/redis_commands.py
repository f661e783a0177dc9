"""Commands of the simulated Redis, as they come off the wire: who may run when, and which part of the store does it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from tests.sim.redis_groups import GroupStore
from tests.sim.redis_lua import Scripts
from tests.sim.redis_words import Error, Status, Stream, read_id

# As COMMAND INFO has them: refused by a full server, and by a replica.
DENY_OOM = frozenset((b"XADD", b"SET", b"XGROUP CREATE", b"HSET"))
WRITES = DENY_OOM | {
    *(b"XREADGROUP", b"XGROUP DESTROY", b"XGROUP DELCONSUMER", b"XACK", b"XDEL", b"XCLAIM", b"XAUTOCLAIM"),
    *(b"DEL", b"PEXPIRE", b"FLUSHALL", b"HDEL"),
}
# What a script that uses nothing else replies depends on its words and on the streams among its keys.
LOOKS = frozenset((b"XINFO GROUPS", b"XRANGE", b"XLEN"))
_CONTAINERS = frozenset((b"XGROUP", b"XINFO", b"SCRIPT"))
_SCRIPTS: list[Scripts] = []  # one interpreter for all worlds of a process


class Block:
    """Not a reply: this read has to wait. `again` is what to do when one of its keys is written to."""

    __slots__ = ("again", "keys", "ms")

    def __init__(self, keys: Sequence[bytes], ms: int, again: Callable[[], Any]) -> None:
        self.keys, self.ms, self.again = keys, ms, again


class Commands(GroupStore):
    """One server's data and moods. `full`: out of memory; `replica`: read-only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.full = self.replica = False
        self.on_script: Callable[[bytes, Any], None] = _nobody_counts
        if not _SCRIPTS:
            _SCRIPTS.append(Scripts())
        self._lua = _SCRIPTS[0]
        self._known: dict[bytes, bytes] = {}  # scripts by digest
        self._scripted = self._wrote = self._only_looked = False
        self._lookers: dict[bytes, bool] = {}  # scripts by digest: do they only look?
        self._seen: dict[
            tuple[bytes, ...], tuple[Any, Any]
        ] = {}  # of such: the streams as they were, and the reply
        self._commands: dict[bytes, Callable[[Sequence[bytes]], Any]] = {
            b"GET": self.get, b"SET": self.set, b"DEL": self.delete, b"EXISTS": self.exists, b"TYPE": self.type,
            b"HSET": self.hset, b"HGET": self.hget, b"HDEL": self.hdel,
            b"HMGET": self.hmget, b"HGETALL": self.hgetall,
            b"HEXISTS": self.hexists, b"HLEN": self.hlen, b"XINFO GROUPS": self.xinfo_groups,
            b"PEXPIRE": self.pexpire, b"PTTL": self.pttl, b"TIME": self.time, b"ROLE": self._role,
            b"XADD": self.xadd, b"XLEN": self.xlen, b"XRANGE": self.xrange, b"XDEL": self.xdel,
            b"XREAD": self._xread, b"XREADGROUP": self._xreadgroup, b"XACK": self.xack,
            b"XPENDING": self.xpending, b"XCLAIM": self.xclaim, b"XAUTOCLAIM": self.xautoclaim,
            b"XGROUP CREATE": self.xgroup_create, b"XGROUP DESTROY": self.xgroup_destroy,
            b"XGROUP DELCONSUMER": self.xgroup_delconsumer, b"XINFO CONSUMERS": self.xinfo_consumers,
            b"EVAL": self._eval, b"EVALSHA": self._evalsha, b"SCRIPT FLUSH": self._script_flush,
            b"FLUSHALL": self._flushall,
        }  # fmt: skip

    def do(self, words: Sequence[bytes]) -> Any:
        """The reply, an Error, or a Block."""
        if not self._scripted:
            self.tick()
        name = words[0].upper()
        if name in _CONTAINERS:
            name = b"%b %b" % (name, words[1].upper())
        command = self._commands.get(name)
        if command is None:
            return Error(f"ERR unknown command '{words[0].decode()}'")
        try:
            if self._only_looked and name not in LOOKS:
                self._only_looked = False
            if name in WRITES:
                self._may_write(name)
            return command(words)
        except Error as error:
            return error

    def _may_write(self, name: bytes) -> None:
        if self.replica:
            raise Error("READONLY You can't write against a read only replica.")
        # A script that has begun to write may go on.
        if self.full and name in DENY_OOM and not (self._scripted and self._wrote):
            raise Error("OOM command not allowed when used memory > 'maxmemory'.")
        self._wrote = True

    # -- reading, and waiting for something to read ----------------------------------------------------

    def _xreadgroup(self, words: Sequence[bytes]) -> Any:
        count, block, keys, after = _read_options(words, 4)
        if any(one != b">" for one in after):
            raise Error("ERR the simulation reads only what is new")
        return self._or_block(lambda: self.xreadgroup(words[2], words[3], count, keys), keys, block)

    def _xread(self, words: Sequence[bytes]) -> Any:
        count, block, keys, after = _read_options(words, 1)
        last = [read_id(one) for one in after]
        return self._or_block(lambda: self.xread(count, keys, last), keys, block)

    def _or_block(self, read: Callable[[], Any], keys: Sequence[bytes], block: int | None) -> Any:
        found = read()
        return Block(keys, block, read) if found is None and block is not None else found

    # -- scripts ---------------------------------------------------------------------------------------

    def _eval(self, words: Sequence[bytes]) -> Any:
        text = words[1]
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        self._known[sha] = text
        return self._run(sha, text, words)

    def _evalsha(self, words: Sequence[bytes]) -> Any:
        text = self._known.get(words[1].lower())
        if text is None:
            raise Error("NOSCRIPT No matching script.")
        return self._run(words[1].lower(), text, words)

    def _run(self, sha: bytes, text: bytes, words: Sequence[bytes]) -> Any:
        first = 3 + int(words[2])
        keys = words[3:first]
        if not self._lookers.get(sha, True):
            reply = self._interpret(text, keys, words[first:])
        else:
            reply = self._look(sha, text, keys, words[first:])
        self.on_script(sha, reply)
        return reply

    def _look(self, sha: bytes, text: bytes, keys: Sequence[bytes], args: Sequence[bytes]) -> Any:
        """Whoever asks the same again while nothing has changed gets the same: most of what idle processes do."""
        asked, sight = (sha, *keys, *args), [self._sight(key) for key in keys]
        if (seen := self._seen.get(asked)) is not None and seen[0] == sight:
            return seen[1]
        self._only_looked = True
        reply = self._interpret(text, keys, args)
        self._lookers[sha] = self._only_looked
        if self._only_looked and None not in sight:
            self._seen[asked] = sight, reply
        self._only_looked = False
        return reply

    def _sight(self, key: bytes) -> Any:
        """What changes with a stream; None of anything else."""
        stream = self.find(key)
        if type(stream) is not Stream:
            return None
        groups = [(name, g.last, len(g.pending), len(g.consumers)) for name, g in stream.groups.items()]
        return stream, stream.last, len(stream.entries), groups

    def _interpret(self, text: bytes, keys: Sequence[bytes], args: Sequence[bytes]) -> Any:
        self._scripted, self._wrote = True, False
        try:
            return self._lua.run(text, keys, args, self._from_script)
        finally:
            self._scripted = False

    def _from_script(self, words: list[bytes]) -> Any:
        reply = self.do(words)
        if isinstance(reply, Error):
            raise reply
        return reply

    def _script_flush(self, _words: Sequence[bytes]) -> Status:
        self._known.clear()
        return Status(b"OK")

    # -- the server ------------------------------------------------------------------------------------

    def _role(self, _words: Sequence[bytes]) -> list[Any]:
        return [b"slave" if self.replica else b"master", 0, []]

    def _flushall(self, _words: Sequence[bytes]) -> Status:
        self.keys.clear()
        self.expires.clear()
        return Status(b"OK")

    def restart(self) -> None:
        """What a process of Redis keeps in its memory alone is gone."""
        self._known.clear()


def _read_options(
    words: Sequence[bytes], at: int
) -> tuple[int, int | None, Sequence[bytes], Sequence[bytes]]:
    """COUNT (0: no limit), BLOCK (None: do not wait), keys, ids."""
    count, block = 0, None
    while (word := words[at].upper()) != b"STREAMS":
        if word == b"COUNT":
            count = max(0, int(words[at + 1]))
        elif word == b"BLOCK":
            block = int(words[at + 1])
        at += 2
    rest = words[at + 1 :]
    half = len(rest) // 2
    return count, block, rest[:half], rest[half:]


def _nobody_counts(_sha: bytes, _reply: Any) -> None:
    """Stands in until the world counts."""
