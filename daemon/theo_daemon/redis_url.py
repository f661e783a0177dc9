"""What an address of Redis names: one server, the sentinels of a service, or nodes of a cluster."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from msgspec import Struct

from theo_daemon.addresses import check_redis_url

SENTINEL_PORT = 26_379
NODE_PORT = 6_379


class Node(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class OneServer(Struct, frozen=True):
    """`url` as the client library reads it, here and below."""

    url: str


class Sentinels(Struct, frozen=True, kw_only=True):
    """A primary that sentinels know. Both URLs name the first sentinel: only their options count."""

    sentinels: tuple[Node, ...]
    service: str
    url: str  # of data nodes
    sentinel_url: str


class ClusterNodes(Struct, frozen=True, kw_only=True):
    """A cluster, by some of its nodes. The URL names the first: only its options count."""

    nodes: tuple[Node, ...]
    url: str


def read_redis_url(url: str) -> OneServer | Sentinels | ClusterNodes:
    """Raises ValueError, which does not quote the URL.

    Addresses with several hosts know three options of their own: `tls=1` for all connections, and
    `sentinel_username` and `sentinel_password`; the login in front of the hosts is that of data nodes.
    """
    check_redis_url(url)
    scheme, _, rest = url.partition("://")
    if "+" not in scheme:
        return OneServer(url)
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    login, at, hosts = authority.rpartition("@")
    options = dict(parse_qsl(query, keep_blank_values=True))
    secure = _flag(options.pop("tls", "0"))
    sentinel_login = _login(options.pop("sentinel_username", ""), options.pop("sentinel_password", ""))
    ssl_options = {name: value for name, value in options.items() if name.startswith("ssl_")}
    port = SENTINEL_PORT if scheme == "redis+sentinel" else NODE_PORT
    nodes = tuple(_node(host, port) for host in hosts.split(","))

    def one(login: str, database: str, options: dict[str, str]) -> str:
        known = f"{'rediss' if secure else 'redis'}://{login}{nodes[0]}/{database}"
        return f"{known}?{urlencode(options)}" if options else known

    if scheme == "redis+cluster":
        if sentinel_login:
            raise ValueError("has a sentinel's login, but names a cluster")
        return ClusterNodes(nodes=nodes, url=one(login + at, "0", options))
    service, _, database = path.strip("/").partition("/")
    return Sentinels(
        sentinels=nodes,
        service=unquote(service),
        url=one(login + at, database or "0", options),
        sentinel_url=one(sentinel_login, "0", ssl_options),
    )


def secrets_in(url: str) -> list[str]:
    """Everything in the URL that must not be shown, as it stands there and decoded."""
    rest = url.partition("://")[2]
    place, _, query = rest.partition("?")
    login = place.rpartition("@")[0]
    found = [login.partition(":")[2]] if ":" in login else [login]
    found += [value for name, value in parse_qsl(query) if name.endswith("password")]
    return [secret for text in found if text for secret in dict.fromkeys((text, unquote(text)))]


def _flag(text: str) -> bool:
    if text not in {"0", "1"}:
        raise ValueError("has an option tls that is neither 1 nor 0")
    return text == "1"


def _login(user: str, password: str) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""


def _node(text: str, port: int) -> Node:
    """A host that `check_redis_url` has seen."""
    host, divider, number = text.rpartition(":")
    if not divider or text.endswith("]"):
        return Node(text.strip("[]"), port)
    return Node(host.strip("[]"), int(number))
