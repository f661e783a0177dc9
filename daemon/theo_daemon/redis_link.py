"""How to reach Redis: addresses, connections, and what to tell a person when it does not answer."""

from __future__ import annotations

import inspect
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from theo_daemon.addresses import redacted_redis_url
from theo_daemon.hash_slot import hash_tag, slot_of
from theo_daemon.redis_cluster import SlotPrimary
from theo_daemon.redis_node import Dialler
from theo_daemon.redis_sentinel import SentinelPrimary
from theo_daemon.redis_url import ClusterNodes, OneServer, Sentinels, read_redis_url
from theo_daemon.wire import Wire
from theo_workers.clock import Clock
from theo_workers.errors import ConfigError, RouterError
from theo_workers.secret import Secret

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 5.0
POOL_SIZE = 8


class RedisUnreachable(RouterError):
    """Redis does not answer, or refuses the login; the message says what was tried and what to do."""


class RedisLink:
    """One Redis by its URL. Makes connections; keeps none.

    Raises ConfigError for a URL that cannot be used. Nothing here retries a command by itself: a repeated
    XADD stores twice and a repeated XREADGROUP loses what the first one delivered.
    """

    def __init__(self, url: str, *, prefix: str = "theo", client_name: str = "theo-router") -> None:
        """`prefix` is that of all keys: on a cluster it says which of the servers has them."""
        self.shown = redacted(url)  # safe to log
        try:
            self._named = read_redis_url(url)
        except ValueError as error:
            raise ConfigError(f"[redis] url: {self.shown} {error}") from None
        self._connection_class, self._options = self._how_to_connect(self._named.url, client_name)
        self._finder = self._find(prefix, client_name)

    def wire(self, *, timeout_s: float = REPLY_TIMEOUT_S) -> Wire:
        """A connection of its own. For blocking reads `timeout_s` must exceed the longest BLOCK."""
        match self._finder:
            case SentinelPrimary() as finder:
                return Wire(finder.connect, timeout_s=timeout_s, moves=finder.moves)
            case SlotPrimary() as finder:
                return Wire(finder.connect, timeout_s=timeout_s)
            case None:
                return Wire(self._unconnected, timeout_s=timeout_s)

    async def watch(self, clock: Clock) -> None:
        """Run it beside wires that live long: until cancelled they follow a primary that is replaced alive.

        A server without sentinels is not replaced, and a cluster's nodes say so themselves: it returns at once.
        """
        if isinstance(self._finder, SentinelPrimary):
            await self._finder.watch(clock)

    def client(self, *, decode_responses: bool = False) -> Redis:
        """The ordinary client, for commands off the hot path. The caller closes it with `aclose()`."""
        options = {**self._options, "decode_responses": decode_responses}
        pool = BlockingConnectionPool(
            connection_class=self._connection_class,
            max_connections=POOL_SIZE,
            timeout=REPLY_TIMEOUT_S,
            **options,
        )
        return Redis.from_pool(pool)

    def unreachable(self, error: RedisError) -> RedisUnreachable:
        """What to tell a person who sees `error` on the first command."""
        if isinstance(error, AuthenticationError):
            return RedisUnreachable(
                f"Redis at {self.shown} refused the login: {error}\n"
                "Check user name and password in the URL, which stand in front of the host: USER:PASSWORD@HOST:PORT"
            )
        return RedisUnreachable(
            f"Redis does not answer at {self.shown}: {error}\n"
            f"Is it running? Try: {self._how_to_try()}\n"
            "For another address set THEO_REDIS_URL, --redis-url or [redis] url in the configuration.\n"
            "No Redis at hand? `theo-router serve --embedded` starts a private one."
        )

    def _find(self, prefix: str, client_name: str) -> SentinelPrimary | SlotPrimary | None:
        """What finds the server that takes writes and connects to it; None where there is but one."""
        dialling = Dialler(self._connection_class, self._options)
        match self._named:
            case Sentinels() as named:
                asking = Dialler(*self._how_to_connect(named.sentinel_url, client_name))
                return SentinelPrimary(named.sentinels, named.service, asking=asking, dialling=dialling)
            case ClusterNodes(nodes=nodes):
                if hash_tag(prefix) is None:
                    raise ConfigError(
                        f'[redis] prefix: on Redis Cluster write "{{{prefix.strip("{}")}}}" instead of "{prefix}": '
                        "the braces keep all keys on one server"
                    )
                return SlotPrimary(nodes, slot_of(prefix), dialling=dialling)
            case OneServer():
                return None

    async def _unconnected(self) -> AbstractConnection:
        """It connects by itself with the first command."""
        return self._connection_class(**{**self._options, "socket_timeout": None})

    def _how_to_connect(self, url: str, client_name: str) -> tuple[type[AbstractConnection], dict[str, Any]]:
        connection_class, options = _connection_options(url)
        options["client_name"] = client_name
        known = {name for cls in connection_class.__mro__ for name in inspect.signature(cls).parameters}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ConfigError(f"[redis] url: {self.shown} has an unknown option {unknown[0]!r}")
        return connection_class, options

    def _how_to_try(self) -> str:
        match self._named:
            case Sentinels(sentinels=((host, port), *_), service=service):
                return f"redis-cli -h {host} -p {port} SENTINEL GET-MASTER-ADDR-BY-NAME {service}"
            case ClusterNodes(nodes=((host, port), *_)):
                return f"redis-cli -h {host} -p {port} CLUSTER INFO"
            case _:
                return f"redis-cli -u {self.shown} ping"


def redacted(url: str) -> str:
    """The URL without user, password, query and fragment, fit for logs and error messages."""
    scheme, divider, _ = url.partition("://")
    if not divider:
        return "***"  # whatever was pasted here, it is not an address
    if "+" in scheme:
        _, at, hosts = redacted_redis_url(Secret(url)).rpartition("@")
        return f"{scheme}://***@{hosts}" if at else hosts
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return f"{scheme}://***"
    if "@" in url and "@" not in parts.netloc:
        return f"{scheme}://***"  # a raw / ? or # in the password: what looks like the host is part of it
    user = "***@" if "@" in parts.netloc else ""
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{user}{host}{port}{parts.path}"


def error_code(error: RedisError) -> str:
    """The first word of an error reply (`NOGROUP`, `OOM`, ...); of what is no reply, the exception's name."""
    if error.status_code:
        return error.status_code
    word = str(error).partition(" ")[0]
    return word if word.isupper() and word.isalpha() else type(error).__name__


def _connection_options(url: str) -> tuple[type[AbstractConnection], dict[str, Any]]:
    """For a URL of one server, which has been checked."""
    options: dict[str, Any] = dict(parse_url(url))
    connection_class: type[AbstractConnection] = options.pop("connection_class", Connection)
    options |= {
        "protocol": 2,  # replies as flat arrays: what comes in is what was sent, duplicates included
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": REPLY_TIMEOUT_S,
        "health_check_interval": 0,
    }
    if not url.startswith("unix://"):
        options["socket_keepalive"] = True
    return connection_class, options
