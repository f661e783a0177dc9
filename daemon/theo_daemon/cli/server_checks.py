"""Checks of `doctor` on the Redis server: defects of its version, transport, replicas, what it says went wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from theo_daemon.addresses import is_loopback
from theo_daemon.cli.checks import Finding
from theo_daemon.redis_url import ClusterNodes, OneServer, Sentinels, read_redis_url

Version = tuple[int, ...]

# The first release of each series without the known ways round its ACLs or into its process: scripts that escape the
# Lua sandbox (CVE-2025-49844 and its like), and XREADGROUP on keys that the user may not read (Redis, #15478).
FLOORS: dict[str, dict[Version, Version]] = {
    "redis": {
        (7, 4): (7, 4, 11),
        (8, 2): (8, 2, 9),
        (8, 4): (8, 4, 6),
        (8, 6): (8, 6, 6),
        (8, 8): (8, 8, 2),
        (8, 10): (8, 10, 0),
    },
    "valkey": {(7, 2): (7, 2, 11), (8, 0): (8, 0, 6), (8, 1): (8, 1, 4), (9, 0): (9, 0, 0)},
}
_RISK = "whoever may push jobs may read more than that, or run code in Redis"


def check_version(info: Mapping[str, str]) -> Finding:
    """`info` is of `facts_of`, here and below."""
    name = "valkey" if "valkey_version" in info else "redis"
    text = info.get("valkey_version") or info.get("redis_version", "")
    found = f"{name} {text or 'of an unknown version'}"
    version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    if len(version) < 2:
        return Finding("warn", "version", found, "whether it has known defects cannot be told")
    floors = FLOORS[name]
    series = version[:2]
    if series > max(floors):
        return Finding("ok", "version", found)
    floor = floors.get(series)
    if floor is None:
        newest = ".".join(map(str, max(floors.values())))
        return Finding("warn", "version", f"{found}: a series without fixes; {newest} has them", _RISK)
    if version < floor:
        return Finding("warn", "version", f"{found}: upgrade to {'.'.join(map(str, floor))}", _RISK)
    return Finding("ok", "version", found)


def check_transport(url: str) -> Finding:
    """Who can read along. The URL is not quoted: it may hold a password."""
    named = read_redis_url(url)
    first = named.url
    if first.startswith("unix:"):
        return Finding("ok", "transport", "a socket of this host")
    if first.startswith("rediss:"):
        options = dict(parse_qsl(urlsplit(first).query))
        if (
            options.get("ssl_cert_reqs", "required") != "required"
            or options.get("ssl_check_hostname") == "False"
        ):
            return Finding(
                "warn", "transport", "TLS, and the server's certificate is not checked",
                "whoever is between can read and change jobs and replies",
            )  # fmt: skip
        return Finding("ok", "transport", "TLS")
    hosts = {urlsplit(first).hostname or ""}
    match named:
        case Sentinels(sentinels=nodes) | ClusterNodes(nodes=nodes):
            hosts = {node.host for node in nodes}
        case OneServer():
            pass
    if all(is_loopback(f"http://[{host}]" if ":" in host else f"http://{host}") for host in hosts):
        return Finding("ok", "transport", "without TLS, on this host")
    return Finding(
        "warn",
        "transport",
        "without TLS, over a network",
        "passwords, jobs and answers can be read on the way",
    )


def check_replicas(info: Mapping[str, str], url: str) -> list[Finding]:
    """What a failover loses. Nothing to say of a server that has no replica and no sentinel."""
    replicas = int(info.get("connected_slaves", "0"))
    several = not isinstance(read_redis_url(url), OneServer)
    if not replicas and not several:
        return []
    found = f"{replicas} replicas"
    if not replicas:
        return [Finding("warn", "replicas", found, "there is nobody to fail over to")]
    # Only told where min-replicas-to-write is set.
    good = info.get("min_slaves_good_slaves")
    if good is None:
        return [
            Finding(
                "warn", "replicas", f"{found}, min-replicas-to-write 0",
                "a primary cut off from them takes jobs that a failover loses; CONFIG SET min-replicas-to-write 1",
            )
        ]  # fmt: skip
    return [
        Finding(
            "ok", "replicas", f"{found}, {good} of them close enough",
            "replication is asynchronous: a failover loses what they had not got",
        )
    ]  # fmt: skip


def check_troubles(info: Mapping[str, str]) -> list[Finding]:
    """What the server says went wrong."""
    found: list[Finding] = []
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        found.append(
            Finding(
                "warn",
                "persistence",
                "the append-only file could not be rewritten",
                "it grows until the disk is full",
            )
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        found.append(
            Finding(
                "warn",
                "persistence",
                "the last snapshot failed",
                "writes may be refused: stop-writes-on-bgsave-error",
            )
        )
    if int(info.get("evicted_keys", "0")):
        found.append(
            Finding(
                "warn",
                "memory",
                f"{info['evicted_keys']} keys were evicted",
                "jobs or replies may have been among them",
            )
        )
    if info.get("maxmemory") == "0":
        found.append(
            Finding(
                "ok",
                "memory",
                "no maxmemory",
                "short of memory the kernel may end Redis, instead of Redis refusing jobs",
            )
        )
    return found
