import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from telemetry_samples import FAST, attempt_record, job_record, restored_logging

from theo_daemon.telemetry import names
from theo_daemon.telemetry.facade import Telemetry
from theo_daemon.telemetry.line_sink import LineSink
from theo_daemon.telemetry.logs import Logs
from theo_daemon.telemetry.metrics import Metrics
from theo_daemon.telemetry.prometheus import render_prometheus
from theo_daemon.telemetry.records import JobRecord
from theo_daemon.telemetry.redaction import Redactor
from theo_daemon.telemetry.start import RunningTelemetry
from theo_workers.clock import FakeClock


class KeptJobs:
    def __init__(self) -> None:
        self.records: list[JobRecord] = []

    def trace_job(self, record: JobRecord) -> None:
        self.records.append(record)


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.metrics = Metrics([FAST])
        self.jobs = KeptJobs()
        logs = Logs(level="info", clock=FakeClock(), redactor=Redactor(), sink=LineSink(self.fd))
        self.telemetry = Telemetry(metrics=self.metrics, logs=logs, tracer=self.jobs)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    @property
    def scrape(self) -> str:
        return render_prometheus(self.metrics.collect()).decode()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "log")
    yield bench
    os.close(bench.fd)


@pytest.fixture
def own_hooks() -> Iterator[None]:
    with restored_logging():
        yield


def test_a_finished_job_is_counted_logged_and_traced(bench: Bench) -> None:
    record = job_record(None, attempt_record())
    bench.telemetry.job_finished(record)
    assert bench.metrics.totals().ok == 1
    assert [line["event"] for line in bench.lines] == ["job_finished"]
    assert bench.jobs.records == [record]


def test_an_event_is_counted_and_logged_with_its_model_and_details(bench: Bench) -> None:
    bench.telemetry.event("circuit_opened", model="fast", failures=3)
    (line,) = bench.lines
    assert (line["event"], line["level"], line["model"], line["failures"]) == (
        "circuit_opened",
        "warning",
        "fast",
        3,
    )
    assert 'theo_events_total{event="circuit_opened"} 1\n' in bench.scrape


def test_an_event_may_have_a_detail_called_name(bench: Bench) -> None:
    bench.telemetry.event("process_joined", name="theo-2")
    assert bench.lines[0]["name"] == "theo-2"


def test_an_event_that_is_not_listed_is_logged_all_the_same(bench: Bench) -> None:
    bench.telemetry.event("brand_new")
    assert bench.lines[0]["event"] == "brand_new"
    assert 'theo_events_total{event="other"} 1\n' in bench.scrape


def test_an_event_without_a_model_has_no_such_field(bench: Bench) -> None:
    bench.telemetry.event("redis_lost")
    assert "model" not in bench.lines[0]


def test_a_gauge_is_asked_when_somebody_looks(bench: Bench) -> None:
    depth = 3
    bench.telemetry.gauge(names.LANE_DEPTH, {"lane": "high"}, lambda: depth)
    depth = 4
    assert 'theo_lane_depth{lane="high"} 4\n' in bench.scrape


@pytest.mark.parametrize("labels", [{}, {"model": "fast"}, {"lane": "high", "tenant": "acme"}])
def test_a_gauge_with_other_labels_than_its_metric_is_refused(bench: Bench, labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"theo\.lane\.depth has the labels"):
        bench.telemetry.gauge(names.LANE_DEPTH, labels, lambda: 0)


async def test_telemetry_started_from_settings_logs_masks_and_knows_the_process(
    tmp_path: Path, own_hooks: None
) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    running = RunningTelemetry(
        log_level="info",
        otlp_endpoint="",
        models=[FAST],
        secrets=["hunter2"],
        group="theo",
        version="1.2.3",
        instance="theo-1",
        clock=FakeClock(),
        log_fd=fd,
    )
    running.telemetry.event("redis_lost", reason="hunter2")
    logging.getLogger("redis").warning("hunter2")
    await asyncio.sleep(0)
    await running.close()
    os.close(fd)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [(line["event"], line.get("reason", line.get("message"))) for line in lines] == [
        ("redis_lost", "***"),
        ("library_log", "***"),
    ]
    scrape = render_prometheus(running.telemetry.metrics.collect()).decode()
    assert 'theo_build_info{version="1.2.3"' in scrape
    for name in ("process_cpu_time_seconds_total", "process_uptime_seconds", "theo_log_dropped_total"):
        assert f"\n{name} " in scrape
