"""From a model's specification to its endpoint's URL, headers and TLS. Keys go into headers, nowhere else."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping

from yarl import URL

from theo_workers.clock import Clock
from theo_workers.errors import ConfigError
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.http import HttpEndpoint
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.pool import Pool
from theo_workers.upstreams.room import Room

_DEFAULTS = {
    "User-Agent": "theo-router",
    "Accept": "application/json, text/event-stream",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}
_RESERVED = frozenset(
    {"accept-encoding", "content-encoding", "content-length", "content-type", "host"}
) | frozenset({"connection", "expect", "te", "trailer", "transfer-encoding", "upgrade"})
_KEY = re.compile(r"[\x21-\x7e]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")


def origin_of(spec: ModelSpec) -> Origin:
    """The origin that scrubs everything secret in `spec` from what is said about it."""
    secrets = [value for value in (*spec.headers.values(), *spec.query.values()) if len(value) >= 8]
    if spec.api_key is not None:
        secrets.append(spec.api_key.reveal())
    if spec.proxy is not None and (password := _url(spec, "proxy", spec.proxy).password):
        secrets.append(password)
    longest_first = sorted(filter(None, secrets), key=len, reverse=True)
    return Origin(provider=spec.provider, secrets=tuple(longest_first))


def key_of(spec: ModelSpec) -> str | None:
    """The key, if it can be sent in a header. Raises ConfigError, without the key."""
    if spec.api_key is None:
        return None
    key = spec.api_key.reveal()
    if not _KEY.fullmatch(key):
        raise ConfigError(f"models.{spec.name}.api_key: only visible ASCII characters can be sent")
    return key


def bearer_of(spec: ModelSpec, base: URL) -> dict[str, str]:
    """The header that carries the key at servers in OpenAI's style. Raises ConfigError."""
    key = key_of(spec)
    if key is None:
        return {}
    return {"api-key": key} if is_azure(base) else {"Authorization": f"Bearer {key}"}


def is_azure(base: URL) -> bool:
    """Is this one of Azure's hosts?"""
    return (base.host or "").lower().endswith(".azure.com")


def base_url_of(spec: ModelSpec, default: str) -> URL:
    """The base URL, with the version path. Raises ConfigError."""
    url = _url(spec, "base_url", spec.base_url or default)
    if url.raw_user or url.raw_password:
        raise ConfigError(f"models.{spec.name}.base_url: credentials belong into api_key or headers")
    return url


def open_endpoint(
    spec: ModelSpec,
    base: URL,
    path: str,
    auth: Mapping[str, str],
    *,
    origin: Origin,
    clock: Clock,
    room: Room | None = None,
) -> HttpEndpoint:
    """The endpoint for `path` below `base`; nothing is connected yet. Raises ConfigError.

    `room` is the process's for large answers; without it, the endpoint has one of its own.
    """
    headers = dict(_DEFAULTS)
    for name, value in {**auth, **spec.headers}.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _RESERVED:
            raise ConfigError(f"models.{spec.name}.headers: {name!r} cannot be set")
        if not _HEADER_VALUE.fullmatch(value):
            raise ConfigError(f"models.{spec.name}.headers.{name}: only visible ASCII characters can be sent")
        headers = {known: kept for known, kept in headers.items() if known.lower() != name.lower()}
        headers[name] = value
    url = base.joinpath(*path.split("/")).with_query([*base.query.items(), *spec.query.items()])
    pool = Pool(
        url,
        headers,
        clock=clock,
        concurrency=spec.concurrency,
        proxy=_url(spec, "proxy", spec.proxy) if spec.proxy else None,
        ssl_context=_trusting(spec, spec.ca_file) if spec.ca_file else None,
    )
    return HttpEndpoint(
        pool,
        origin=origin,
        clock=clock,
        timeouts=spec.timeouts,
        max_response_bytes=spec.max_response_bytes,
        room=Room() if room is None else room,
    )


def _url(spec: ModelSpec, field: str, text: str) -> URL:
    url: URL | None
    try:
        url = URL(text)
    except ValueError:
        url = None
    if url is None or url.scheme not in {"http", "https"} or not url.raw_host or url.raw_fragment:
        raise ConfigError(f"models.{spec.name}.{field}: not an http or https URL")
    return url


def _trusting(spec: ModelSpec, ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"models.{spec.name}.ca_file: {ca_file}: {error}") from error
    return context
