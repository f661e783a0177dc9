"""Is this Redis one we can keep promises on? Looked at once, at start."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

from theo_daemon.redis_link import RedisLink, error_code
from theo_workers.errors import ConfigError

# Commands that Redis has from 7.0 on; asked for by name, since Valkey and others count versions differently.
FLOOR_COMMANDS = ("EVAL_RO", "EXPIRETIME", "XAUTOCLAIM")


class ServerUnsuitable(ConfigError):
    """This server would lose work; the message says why and what to change."""


class ServerFacts(Struct, frozen=True, kw_only=True):
    """What a usable server says of itself."""

    version: str
    warnings: tuple[str, ...] = ()  # what could not be checked, for the log


async def check_server(link: RedisLink) -> ServerFacts:
    """Raises RedisUnreachable or ServerUnsuitable."""
    wire = link.wire()
    try:
        info, commands = await wire.ask_all([("INFO",), ("COMMAND", "INFO", *FLOOR_COMMANDS)])
        facts = _info(info)
        evicts = facts.get("maxmemory_policy")
        if (
            evicts is None
        ):  # asked for only then: it takes a right that a login of ours does not need otherwise
            (policy,) = await wire.ask_all([("CONFIG", "GET", "maxmemory-policy")])
            evicts = _policy(policy)
    except RedisError as error:
        raise link.unreachable(error) from error
    finally:
        await wire.close()
    version = facts.get("valkey_version") or facts.get("redis_version") or "unknown"
    warnings = []

    if isinstance(commands, ResponseError):
        warnings.append(f"COMMAND INFO is refused ({error_code(commands)}): the version could not be checked")
    else:
        missing = [name for name, found in zip(FLOOR_COMMANDS, commands, strict=True) if not found]
        if missing:
            raise ServerUnsuitable(
                f"Redis at {link.shown} (version {version}) does not know {missing[0]}: "
                "Redis 7.0 or Valkey 8 is the oldest that works"
            )

    if evicts is None:
        warnings.append("maxmemory-policy is hidden: make sure that it is noeviction, or jobs can be evicted")
    elif evicts != "noeviction":
        raise ServerUnsuitable(
            f"Redis at {link.shown} has maxmemory-policy {evicts}: short of memory it deletes jobs and "
            "replies. Set it to noeviction: redis-cli CONFIG SET maxmemory-policy noeviction"
        )
    return ServerFacts(version=version, warnings=tuple(warnings))


def _info(reply: Any) -> dict[str, str]:
    if not isinstance(reply, bytes):
        return {}
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _policy(reply: Any) -> str | None:
    return reply[1].decode() if isinstance(reply, list) and len(reply) == 2 else None
