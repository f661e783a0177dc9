"""The status port: /healthz, /readyz, /metrics, /status and a page that shows it."""

from __future__ import annotations

import base64
import errno
import hashlib
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from importlib.resources import files
from typing import Any, Protocol

import msgspec
from aiohttp import web

from theo_daemon.telemetry import names, prometheus
from theo_daemon.telemetry.hosts import HostCheck, parse_address
from theo_daemon.telemetry.metrics import Metrics
from theo_daemon.telemetry.status import Status

_PORTS_TRIED = 64
_HEADERS = {
    "Server": "theo-router",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_encode = msgspec.json.Encoder().encode
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Report(Protocol):
    """Telemetry.event."""

    def __call__(self, name: str, /, **details: Any) -> None: ...


class StatusServer:
    """Serves what the callables give. Nothing it meets ends the daemon."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        not_ready: Callable[[], str | None],
        status: Callable[[], Awaitable[Status]],
        report: Report,
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        """`not_ready` says why no jobs are read, None while they are. `status` must not wait for long."""
        self._metrics = metrics
        self._not_ready = not_ready
        self._status = status
        self._report = report
        self._allowed_hosts = tuple(allowed_hosts)
        self._runner: web.AppRunner | None = None

    async def start(self, address: str) -> str | None:
        """Listen on `address`, or on the next free port above it; "" is off. Returns the URL, if any."""
        if not address:
            return None
        try:
            host, port = parse_address(address)
            listener = _listen(host, port)
        except (OSError, ValueError) as error:
            self._report(names.STATUS_PORT_FAILED, address=address, reason=str(error))
            return None
        bound = listener.getsockname()[1]
        if port not in (0, bound):
            self._report(names.STATUS_PORT_TAKEN, port=port, instead=bound)
        self._runner = web.AppRunner(self._app(HostCheck(host, self._allowed_hosts)), access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()
        url = f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"
        self._report(names.STATUS_PORT_OPENED, url=url)
        return url

    async def close(self) -> None:
        """Stop listening and drop what is open."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _app(self, allowed: HostCheck) -> web.Application:
        page = files(__package__).joinpath("dashboard.html").read_bytes()
        policy = _policy(page.decode())

        @web.middleware
        async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not allowed(request.headers.get("Host")):
                return web.Response(status=403, text="This host name is not served here.\n")
            return await handler(request)

        async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
            response.headers.update(_HEADERS)
            response.headers["Content-Security-Policy"] = policy

        async def dashboard(_request: web.Request) -> web.Response:
            return web.Response(body=page, content_type="text/html", charset="utf-8")

        app = web.Application(middlewares=[check_host])
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/", dashboard)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._scrape)
        app.router.add_get("/status", self._show)
        return app

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reason = self._not_ready()
        if reason is None:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"{reason}\n")

    async def _scrape(self, _request: web.Request) -> web.Response:
        body = prometheus.render_prometheus(self._metrics.collect())
        return web.Response(body=body, headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def _show(self, _request: web.Request) -> web.Response:
        return web.Response(body=_encode(await self._status()), content_type="application/json")


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError when neither `port` nor one of the next ones is free."""
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    last = min(port + _PORTS_TRIED, 65536) - 1
    for candidate in range(port, last + 1):
        try:
            return socket.create_server((host, candidate), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or candidate == last:
                raise
    raise AssertionError("the last candidate either returned or raised")


def _policy(page: str) -> str:
    """A content security policy that lets exactly this page's own style and script run, and ask us."""
    style, script = (_hashes(page, tag) for tag in ("style", "script"))
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(page: str, tag: str) -> str:
    bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
