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

from theo_daemon.wire import Wire
from theo_workers.errors import ConfigError, RouterError

SCHEMES = ("redis://", "rediss://", "unix://")

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

    def __init__(self, url: str, *, client_name: str = "theo-router") -> None:
        self.shown = redacted(url)  # safe to log
        self._connection_class, self._options = _connection_options(url)
        self._options["client_name"] = client_name

    def wire(self, *, timeout_s: float = REPLY_TIMEOUT_S) -> Wire:
        """A connection of its own. For blocking reads `timeout_s` must exceed the longest BLOCK."""

        def connect() -> AbstractConnection:
            return self._connection_class(**{**self._options, "socket_timeout": None})

        return Wire(connect, timeout_s=timeout_s)

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
                "Check user name and password in the URL: redis://USER:PASSWORD@HOST:PORT/0"
            )
        return RedisUnreachable(
            f"Redis does not answer at {self.shown}: {error}\n"
            f"Is it running? Try: redis-cli -u {self.shown} ping\n"
            "For another address set THEO_REDIS_URL, --redis-url or [redis] url in the configuration.\n"
            "No Redis at hand? `theo-router serve --embedded` starts a private one."
        )


def redacted(url: str) -> str:
    """The URL without user, password, query and fragment, fit for logs and error messages."""
    scheme, divider, _ = url.partition("://")
    if not divider:
        return "***"  # whatever was pasted here, it is not an address
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
    shown = redacted(url)
    if not url.startswith(SCHEMES):
        raise ConfigError(f"[redis] url: {shown} must start with one of {', '.join(SCHEMES)}")
    try:
        options: dict[str, Any] = dict(parse_url(url))
        database = urlsplit(url).path.strip("/")
    except ValueError:  # its text may quote a piece of the password
        options, database = {}, ""
    if not options or shown.endswith("://***"):
        raise ConfigError(
            f"[redis] url: {shown} cannot be read. Form: redis://USER:PASSWORD@HOST:PORT/0, with reserved "
            "characters of the password percent-encoded (# as %23, / as %2F)"
        )
    if not url.startswith("unix://") and database and not database.isdigit():
        raise ConfigError(
            f"[redis] url: the part after the port of {shown} must be a database number, as in /0"
        )
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
    known = {name for cls in connection_class.__mro__ for name in inspect.signature(cls).parameters}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError(f"[redis] url: {shown} has an unknown option {unknown[0]!r}")
    return connection_class, options
