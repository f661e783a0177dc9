import asyncio
import base64
import hashlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import aiohttp
import pytest
from telemetry_samples import FAST, job_record

from theo_daemon.telemetry.metrics import Metrics
from theo_daemon.telemetry.status import LaneStatus, ModelStatus, Status
from theo_daemon.telemetry.status_http import StatusServer

PAGE = files("theo_daemon.telemetry").joinpath("dashboard.html").read_text()
STATUS = Status(
    at=1_700_000_000.0,
    version="0.1.0",
    consumer="theo-1",
    prefix="theo",
    uptime_s=5.0,
    lanes=(LaneStatus(lane="default", depth=3, oldest_age_s=1.5),),
    models=(ModelStatus(name="fast", provider="openai", model="gpt-4o-mini", state="open", retry_in_s=3.0),),
)


class Served:
    """A running status port."""

    def __init__(self) -> None:
        self.metrics = Metrics([FAST])
        self.reason: str | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.server = StatusServer(
            metrics=self.metrics, not_ready=lambda: self.reason, status=self.status, report=self.report
        )
        self.url: str | None = None

    async def status(self) -> Status:
        return STATUS

    def report(self, name: str, /, **details: Any) -> None:
        self.events.append((name, details))

    async def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}{path}", headers=headers) as answer,
        ):
            return answer.status, await answer.text(), dict(answer.headers)


@asynccontextmanager
async def serving(address: str = "127.0.0.1:0") -> AsyncIterator[Served]:
    served = Served()
    served.url = await served.server.start(address)
    try:
        yield served
    finally:
        await served.server.close()


async def test_is_healthy_while_it_answers() -> None:
    async with serving() as served:
        status, body, _ = await served.get("/healthz")
        assert (status, body) == (200, "ok\n")


async def test_is_ready_while_jobs_are_read_and_says_why_when_not() -> None:
    async with serving() as served:
        assert (await served.get("/readyz"))[:2] == (200, "ok\n")
        served.reason = "Redis does not answer"
        assert (await served.get("/readyz"))[:2] == (503, "Redis does not answer\n")


async def test_metrics_are_those_of_now_in_the_text_format() -> None:
    async with serving() as served:
        served.metrics.job_finished(job_record())
        status, body, headers = await served.get("/metrics")
        assert status == 200
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'theo_jobs_finished_total{status="ok",code="none"} 1\n' in body


async def test_status_is_json() -> None:
    async with serving() as served:
        status, body, headers = await served.get("/status")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        shown = json.loads(body)
        assert shown["lanes"] == [{"lane": "default", "depth": 3, "oldest_age_s": 1.5}]
        assert shown["models"][0]["state"] == "open"
        assert shown["jobs"] == {"ok": 0, "failed": 0, "cache_hits": 0, "coalesced": 0}


async def test_the_page_runs_its_own_script_and_style_and_nothing_else() -> None:
    async with serving() as served:
        status, body, headers = await served.get("/")
        assert (status, body) == (200, PAGE)
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["connect-src"] == "'self'"
        for tag in ("style", "script"):
            (own,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", body, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
            assert policy[f"{tag}-src"] == f"'sha256-{digest}'"


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/status", "/nothing-here"])
async def test_every_answer_forbids_sniffing_framing_and_caching(path: str) -> None:
    async with serving() as served:
        _, _, headers = await served.get(path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "theo-router"


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/status", "/nothing-here"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:9464", ""])
async def test_another_host_name_gets_nothing(path: str, host: str) -> None:
    async with serving() as served:
        status, body, _ = await served.get(path, Host=host)
        assert (status, body) == (403, "This host name is not served here.\n")


async def test_a_request_without_a_host_gets_nothing() -> None:
    async with serving() as served:
        assert served.url is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
        writer.write(b"GET /status HTTP/1.0\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.0 403 ")
        writer.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_only_reading_is_allowed(method: str) -> None:
    async with (
        serving() as served,
        aiohttp.ClientSession() as session,
        session.request(method, f"{served.url}/status") as answer,
    ):
        assert answer.status == 405


async def test_a_taken_port_moves_it_to_the_next_free_one_and_is_reported() -> None:
    async with serving() as first, serving((first.url or "").removeprefix("http://")) as second:
        port = int((first.url or "").rpartition(":")[2])
        moved = int((second.url or "").rpartition(":")[2])
        assert moved > port
        assert second.events == [
            ("status_port_taken", {"port": port, "instead": moved}),
            ("status_port_opened", {"url": second.url}),
        ]
        assert (await second.get("/healthz"))[0] == 200


@pytest.mark.parametrize("address", ["nonsense", "203.0.113.7:9464", "127.0.0.1:99999"])
async def test_an_address_that_cannot_be_used_is_reported_and_not_fatal(address: str) -> None:
    async with serving(address) as served:
        assert served.url is None
        assert [name for name, _ in served.events] == ["status_port_failed"]


async def test_an_empty_address_is_off() -> None:
    async with serving("") as served:
        assert (served.url, served.events) == (None, [])


async def test_ipv6_is_served_under_a_url_that_works() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    async with serving("[::1]:0") as served:
        if served.url is None:
            pytest.skip("no IPv6 loopback here")
        assert (await served.get("/healthz"))[0] == 200


async def test_opens_within_fifty_milliseconds() -> None:
    async def one_round() -> float:
        started = time.process_time()
        async with serving():
            return time.process_time() - started

    assert min([await one_round() for _ in range(5)]) < 0.05


def test_the_page_brings_everything_along_and_never_turns_text_into_markup() -> None:
    assert not re.search(r"https?://|src=|href=|@import|url\(", PAGE)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|\bon[a-z]+=", PAGE
    )
    assert "style=" not in PAGE
    assert "prefers-color-scheme: dark" in PAGE


def test_every_field_the_page_asks_for_exists() -> None:
    fields = {"status": Status, "model": ModelStatus, "lane": LaneStatus}
    for name, kind in fields.items():
        asked = set(re.findall(rf"\b{name}\.(\w+)", PAGE))
        assert asked
        assert asked <= set(kind.__struct_fields__)
    states = re.search(r"const STATES = \{(.*?)\};", PAGE, re.DOTALL)
    assert states
    assert set(re.findall(r"(\w+): \[", states[1])) == {
        "closed",
        "half_open",
        "open",
        "paused",
        "disabled",
        "stopped",
    }
