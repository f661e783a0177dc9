"""What the login may do in Redis: tried out, by commands that change nothing whatever is there."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from msgspec import Struct
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from theo_daemon.cli.checks import Finding
from theo_daemon.keys import Keys
from theo_daemon.wire import Wire, Word

NOBODY = "doctor"  # a group and a consumer that do not exist
NO_ENTRY = "0-0"  # no entry can have this id
PLACEHOLDER = "deploy/users.acl has users that may do what they need and nothing else"

# Commands by which somebody could end or rob everything, as ACL DRYRUN takes them.
DANGEROUS: tuple[tuple[str, ...], ...] = (
    ("FLUSHALL",),
    ("SHUTDOWN",),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("ACL", "SETUSER", NOBODY),
    ("KEYS", "*"),
    ("REPLICAOF", "NO", "ONE"),
)


class Probe(Struct, frozen=True):
    """`name` is what is told when it is refused."""

    name: str
    words: tuple[Word, ...]


def probes(keys: Keys, lanes: Sequence[str], nonce: str) -> Iterator[Probe]:
    """All that `serve` does; without an effect, since what would be changed does not exist."""
    key = f"{keys.prefix}:done:{nonce}"
    yield from _hash_probes(f"{keys.early}:{nonce}")
    yield from _hash_probes(f"{keys.ledger_pin}:{nonce}")
    for words in (
        *(("XADD", key, "NOMKSTREAM", "*", "a", "b"), ("XREAD", "COUNT", 1, "STREAMS", key, "0")),
        *(
            ("XREADGROUP", "GROUP", NOBODY, NOBODY, "STREAMS", key, ">"),
            ("XRANGE", key, "-", "+", "COUNT", 1),
        ),
        *(("XAUTOCLAIM", key, NOBODY, NOBODY, 0, NO_ENTRY), ("XCLAIM", key, NOBODY, NOBODY, 0, "0-1")),
        *(("XPENDING", key, NOBODY), ("XACK", key, NOBODY, NO_ENTRY), ("XDEL", key, NO_ENTRY), ("XLEN", key)),
        *(("SET", key, "1", "XX", "PX", 1), ("GET", key), ("PEXPIRE", key, 1), ("TYPE", key), ("TIME",)),
        ("EXISTS", key),
        *(("EVAL", "return 1", 1, key), ("EVALSHA", "0" * 40, 1, key)),
    ):
        yield Probe(str(words[0]), words)
    yield Probe("XGROUP CREATE", ("XGROUP", "CREATE", key, NOBODY, "0"))
    yield Probe("XGROUP DELCONSUMER", ("XGROUP", "DELCONSUMER", key, NOBODY, NOBODY))
    yield Probe("XINFO CONSUMERS", ("XINFO", "CONSUMERS", key, NOBODY))
    yield Probe("XINFO GROUPS", ("XINFO", "GROUPS", key))
    written = [keys.replies, keys.reply_prefix + NOBODY, keys.dead, keys.events, *map(keys.jobs, lanes)]
    for name in written:
        yield Probe(f"write {name}", ("XDEL", name, NO_ENTRY))
    for name in (*map(keys.jobs, lanes), keys.control):
        yield Probe(f"read {name}", ("XLEN", name))


def ledger_probes(keys: Keys, nonce: str) -> Iterator[Probe]:
    """What a ledger in Redis needs beside that."""
    key = f"{keys.prefix}:ledger:{nonce}"
    for words in (
        *(
            ("HEXISTS", key, "a"),
            ("HKEYS", key),
            ("HINCRBY", key, "a", "none"),
            ("DEL", key),
            ("EXISTS", key),
        ),
        *(
            ("MGET", key),
            ("GETRANGE", key, 0, 0),
            ("SET", key, "1", "XX", "PX", 1),
            ("XTRIM", key, "MAXLEN", 1),
        ),
        *(("ZADD", key, "XX", 1, "a"), ("ZREM", key, "a"), ("ZSCORE", key, "a"), ("ZCARD", key)),
        *(
            ("ZRANGE", key, 0, 0),
            ("ZRANGEBYSCORE", key, 0, 0),
            ("ZPOPMIN", key, 1),
            ("XREVRANGE", key, "+", "-"),
        ),
    ):
        yield Probe(f"{words[0]} {keys.prefix}:ledger:...", words)
    yield from _hash_probes(key)


def _hash_probes(key: str) -> Iterator[Probe]:
    place = key.rpartition(":")[0]
    for words in (
        *(("HGET", key, "a"), ("HMGET", key, "a"), ("HGETALL", key), ("HLEN", key), ("HDEL", key, "a")),
        ("HEXISTS", key, "a"),
        ("HSET", key, "a", "b", "c"),  # a value is missing: it is refused, too, but by another error
    ):
        yield Probe(f"{words[0]} {place}", words)


async def check_permissions(
    wire: Wire, keys: Keys, lanes: Sequence[str], *, ledger: bool = False
) -> list[Finding]:
    """`ledger`: it is kept there, too. Raises redis.exceptions.RedisError only when Redis does not answer."""
    nonce = f"doctor-{secrets.token_hex(8)}"
    tried = [*probes(keys, lanes, nonce), *(ledger_probes(keys, nonce) if ledger else ())]
    who, elsewhere, *replies = await wire.ask_all(
        [("ACL", "WHOAMI"), ("GET", nonce), *(probe.words for probe in tried)]
    )
    refused = [
        probe.name
        for probe, reply in zip(tried, replies, strict=True)
        if isinstance(reply, NoPermissionError)
    ]
    name = (
        "a login that may not ask for its name"
        if isinstance(who, ResponseError)
        else who.decode("utf-8", "replace")
    )
    if refused:
        told = "serve would stop or stall where it needs them"
        return [Finding("fail", "permissions", f"{name} may not: {', '.join(refused)}", told)]
    more = await _too_much(wire, None if isinstance(who, ResponseError) else name)
    if not isinstance(elsewhere, RedisError):
        more.append("reach keys of others")
    if not more:
        return [Finding("ok", "permissions", f"{name} may do what serve does, and little more")]
    risk = f"whoever gets this login can end or read everything; {PLACEHOLDER}"
    return [Finding("warn", "permissions", f"{name} may also: {', '.join(more)}", risk)]


async def _too_much(wire: Wire, name: str | None) -> list[str]:
    """Which dangerous commands the login may use; none if it may not even ask, which is a danger less."""
    if name is None:
        return []
    replies = await wire.ask_all([("ACL", "DRYRUN", name, *words) for words in DANGEROUS])
    return [
        " ".join(words[:2] if words[0] in ("CONFIG", "ACL") else words[:1])
        for words, reply in zip(DANGEROUS, replies, strict=True)
        if reply == b"OK"
    ]
