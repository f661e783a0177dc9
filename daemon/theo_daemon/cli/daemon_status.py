"""Asks a daemon on this host how it is, over its status port."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException

import msgspec

from theo_daemon.addresses import split_host_port
from theo_daemon.cli.target import Target
from theo_daemon.telemetry.status import Status

TIMEOUT_S = 2.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - where a daemon listens, not we
_decode = msgspec.json.Decoder(Status).decode


def status_url(target: Target) -> str | None:
    """Where the first process of this host answers; None when that is off, or not known beforehand."""
    if not target.config.telemetry.http:
        return None
    host, port = split_host_port(target.config.telemetry.http)
    host = _ANY.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}" if port else None


def ask_daemon(target: Target) -> tuple[Status | None, str]:
    """Its status, or None and why there is none. A router with another prefix is not the one asked about."""
    url = status_url(target)
    if url is None:
        return None, "[telemetry] http is off"
    try:
        # Not through a proxy that the environment names: it is this host.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/status", timeout=TIMEOUT_S) as answer:
            status = _decode(answer.read())
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return None, f"no daemon answers at {url}: {reason}"
    except msgspec.MsgspecError:
        return None, f"what answers at {url} is no theo-router"
    if status.prefix != target.config.redis.prefix:
        return None, f"the daemon at {url} has another prefix, {status.prefix}"
    return status, url
