"""Addresses as they stand in the configuration: checked here, and shown without their passwords."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from theo_workers.secret import Secret

REDIS_FORMS = (
    "redis://HOST:PORT/0",
    "rediss://HOST:PORT/0",
    "unix:///PATH",
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0",
    "redis+cluster://HOST:PORT,HOST:PORT",
)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_NUMBERED = (re.compile(r"/?|/[0-9]{1,5}"), "what follows the port must be a database number, as in /0")
_PATHS = {  # scheme -> what may follow the hosts, and what to say otherwise
    "redis": _NUMBERED,
    "rediss": _NUMBERED,
    "redis+sentinel": (
        re.compile(r"/[^/\s]+(?:/[0-9]{1,5})?/?"),
        "Sentinel needs its service name: redis+sentinel://HOST:PORT/SERVICE/0",
    ),
    "redis+cluster": (
        re.compile(r"(?:/0?)?"),
        "Redis Cluster has database 0 only: leave out what follows the last port",
    ),
}
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_ENCODE = "a password's reserved characters must be percent-encoded: / as %2F, # as %23, ? as %3F, @ as %40"


def check_redis_url(url: str) -> None:
    """Raises ValueError that says what is wrong and never quotes the URL: it may hold a password."""
    scheme, divider, rest = url.partition("://")
    if not divider or scheme not in {"unix", *_PATHS}:
        raise ValueError(f"not an address of Redis; allowed are {', '.join(REDIS_FORMS)}")
    authority, path, query = _parts(rest)
    if authority is None:
        raise ValueError(f"cannot be read; {_ENCODE}")
    if "#" in path + query:
        raise ValueError(f"ends in a #fragment; {_ENCODE}")
    _check_place(scheme, authority.rpartition("@")[2], path)


def is_cluster(url: str) -> bool:
    """Does the address name a Redis Cluster, where all keys need the same hash tag?"""
    return url.startswith("redis+cluster://")


def redacted_redis_url(url: Secret | None) -> str:
    """For people: `redis://:***@host:6379/0`. Whatever cannot be told apart from a password is left out."""
    if url is None:
        return "(no Redis address)"
    scheme, divider, rest = url.reveal().partition("://")
    if not divider or not scheme.replace("+", "").isalnum():
        return "***"
    authority, path, _ = _parts(rest)
    if authority is None:
        return f"{scheme}://***"
    login, at, hosts = authority.rpartition("@")
    user, colon, _ = login.partition(":")
    shown = (f"{user}:***@" if colon else "***@") if at else ""
    return f"{scheme}://{shown}{hosts}{path.partition('#')[0]}"


def check_http_url(url: str) -> str:
    """The URL without slashes at its end. Raises ValueError, which does not quote it; credentials are refused."""
    if _split(url).username is not None:
        raise ValueError("must hold no user and no password")
    return url.rstrip("/")


def check_proxy_url(url: str) -> str:
    """As `check_http_url`, but a proxy's credentials are part of its URL."""
    _split(url)
    return url


def check_host_port(text: str) -> str:
    """`host:port`, port 0 for any free one, `[::1]:9464` for IPv6. Raises ValueError."""
    form = _HOST.fullmatch(text)
    if form is None or form[1] is None or int(form[1]) > 65_535:
        raise ValueError('allowed is HOST:PORT, as in "127.0.0.1:9464", or "" for off')
    return text


def split_host_port(text: str) -> tuple[str, int]:
    """Host (IPv6 without its brackets) and port of a checked `host:port`."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(url: str) -> bool:
    """Does a checked URL stay on this machine?"""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_place(scheme: str, hosts: str, path: str) -> None:
    if scheme == "unix":
        if hosts or len(path) < 2:
            raise ValueError("a socket is written unix:///PATH")
        return
    several = hosts.split(",") if "+" in scheme else [hosts]
    for host in several:
        form = _HOST.fullmatch(host)
        if form is None or int(form[1] or 1) not in range(1, 65_536):
            raise ValueError(f"names no usable HOST:PORT; {_ENCODE}")
    allowed, why = _PATHS[scheme]
    if not allowed.fullmatch(path):
        raise ValueError(why)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("is no URL: brackets or port make no sense") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_ok:
        raise ValueError("must be an http:// or https:// URL with a host")
    if parts.fragment or not _VISIBLE.fullmatch(url):
        raise ValueError("must hold no #fragment, no blanks and nothing but ASCII")
    return parts


def _parts(rest: str) -> tuple[str | None, str, str]:
    """Authority, path and query of what follows `://`; None when a raw / ? or # seems to be in the password."""
    found = re.search(r"[/?#]", rest)
    if found is None:
        return rest, "", ""
    authority, tail = rest[: found.start()], rest[found.start() :]
    if "@" in tail:
        return None, "", ""
    path, _, query = tail.partition("?")
    return authority, path, query
