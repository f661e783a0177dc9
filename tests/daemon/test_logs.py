import asyncio
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from telemetry_samples import answered, attempt_record, failed, job_record, restored_logging

from theo_daemon.telemetry import names
from theo_daemon.telemetry.line_sink import LineSink
from theo_daemon.telemetry.logs import Logs, capture_everything
from theo_daemon.telemetry.redaction import MASK, Redactor
from theo_workers.clock import FakeClock
from theo_workers.messages import Outcome

CANARY = "CANARY-7f3a9c"


class KeptLines(LineSink):
    """A sink that keeps its lines."""

    def __init__(self) -> None:
        super().__init__(os.open(os.devnull, os.O_WRONLY))
        self.lines: list[bytes] = []

    def put(self, line: bytes) -> None:
        self.lines.append(line)

    @property
    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def last(self) -> dict[str, Any]:
        return self.parsed[-1]


class Bench:
    def __init__(self, level: str = "info") -> None:
        self.sink = KeptLines()
        redactor = Redactor()
        redactor.register_secret(CANARY)
        self.logs = Logs(
            level=level, clock=FakeClock(wall=1_700_000_000.25), redactor=redactor, sink=self.sink
        )


@pytest.fixture
def captured() -> Iterator[Bench]:
    bench = Bench()
    with restored_logging():
        capture_everything(bench.logs)
        yield bench


def test_a_finished_job_is_one_line_with_all_its_figures() -> None:
    bench = Bench()
    bench.logs.job_finished(
        job_record(answered(), attempt_record("claude", Outcome.FAILED), attempt_record())
    )
    assert bench.sink.parsed == [
        {
            "timestamp": "2023-11-14T22:13:20.250Z",
            "level": "info",
            "event": "job_finished",
            "id": "job-1",
            "entry_id": "1700000000000-0",
            "stream": "theo:jobs",
            "lane": "default",
            "tenant": "acme",
            "model": "fast",
            "provider": "openai",
            "status": "ok",
            "prompt_tokens": 12,
            "completion_tokens": 34,
            "cost": 0.000042,
            "cache_hit": False,
            "coalesced": False,
            "attempts": 2,
            "queued_ms": 3.0,
            "latency_ms": 250.0,
            "total_ms": 1000.0,
        }
    ]


def test_a_failed_job_names_its_code_and_its_last_model_but_no_message() -> None:
    bench = Bench()
    bench.logs.job_finished(job_record(failed(), attempt_record(outcome=Outcome.FAILED)))
    line = bench.sink.last
    assert (line["status"], line["error_code"], line["status_code"]) == ("error", "provider_unavailable", 500)
    assert (line["model"], line["provider"]) == ("fast", "openai")
    assert "boom" not in str(line)


def test_no_output_of_a_model_is_in_the_line() -> None:
    bench = Bench()
    bench.logs.job_finished(job_record())
    assert b"the output" not in bench.sink.lines[0]


@pytest.mark.parametrize(("level", "count"), [("debug", 1), ("info", 1), ("warning", 0), ("error", 0)])
def test_the_level_decides_whether_jobs_have_lines(level: str, count: int) -> None:
    bench = Bench(level)
    bench.logs.job_finished(job_record())
    assert len(bench.sink.lines) == count


def test_events_have_the_level_of_their_name() -> None:
    bench = Bench("warning")
    bench.logs.event("circuit_opened", {"model": "fast"})
    bench.logs.event("circuit_closed", {"model": "fast"})
    assert [(line["event"], line["level"]) for line in bench.sink.parsed] == [("circuit_opened", "warning")]


FORGERIES = [
    'x"}\n{"event":"job_finished","status":"ok"}',
    "line\r\nforged",
    "sep\u2028forged\u2029forged",
    "next\x85line",
    "\x1b[2Jcleared",
    "\x9b31mred\x7f",
    "left\u202eright\u2066",
    "nul\x00",
    "lone \ud800 surrogate",
]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_text_forges_a_line_or_reaches_a_terminal(forgery: str) -> None:
    bench = Bench()
    bench.logs.write("warning", names.LIBRARY_LOG, {"message": forgery, forgery: 1})
    if "\ud800" not in forgery:
        bench.logs.job_finished(job_record(job_id=forgery, tenant=forgery))
    for line in bench.sink.lines:
        assert len(line.decode().splitlines()) == 1
        assert line.decode()[:-1].isprintable()
        assert json.loads(line)["event"] in ("library_log", "job_finished")
    assert bench.sink.parsed[0]["message"] == forgery.replace("\ud800", "?")


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_makes_one_printable_line_that_reads_back(key: str, text: str) -> None:
    bench = Bench()
    bench.logs.write("warning", "library_log", {key: text})
    (line,) = bench.sink.lines
    assert line.endswith(b"\n")
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["event"] == "library_log"


def test_details_cannot_replace_the_fields_of_the_line() -> None:
    bench = Bench()
    bench.logs.write("warning", "library_log", {"event": "x", "level": "y", "timestamp": "z"})
    line = bench.sink.last
    assert (line["event"], line["level"]) == ("library_log", "warning")
    assert (line["event_"], line["level_"], line["timestamp_"]) == ("x", "y", "z")


def test_a_secret_in_any_slot_is_masked(captured: Bench) -> None:
    bench = captured
    bench.logs.job_finished(job_record(job_id=CANARY, tenant=f"t-{CANARY}"))
    bench.logs.event("model_disabled", {"model": CANARY, "nested": {"list": [CANARY]}, CANARY: 1})
    structlog.get_logger().warning(CANARY, where=CANARY)
    logging.getLogger(CANARY).error("to %s", CANARY, exc_info=ValueError(CANARY))
    warnings.warn(CANARY, stacklevel=1)
    try:
        int(CANARY)
    except ValueError:
        structlog.get_logger().exception("worker_restarted")
    everything = b"".join(bench.sink.lines).decode()
    assert len(bench.sink.lines) == 6
    assert CANARY not in everything
    assert everything.count(MASK) >= 10


def test_library_warnings_become_lines_and_library_info_does_not(captured: Bench) -> None:
    logging.getLogger("asyncio").warning("slow callback %s", 1)
    logging.getLogger("aiohttp.server").info("chatter")
    logging.getLogger("redis").error("%d", "not a number")
    assert [(line["level"], line["logger"], line["message"]) for line in captured.sink.parsed] == [
        ("warning", "asyncio", "slow callback 1"),
        ("error", "redis", "%d"),
    ]


def test_an_exception_comes_with_its_traceback_but_without_the_values_of_variables(captured: Bench) -> None:
    def breaks(local: str) -> None:
        raise LookupError("no such thing")

    try:
        breaks("value-of-a-variable")
    except LookupError:
        logging.getLogger("somewhere").exception("it broke")
    line = captured.sink.last
    assert line["exception"].rstrip().endswith("LookupError: no such thing")
    assert "value-of" not in line["exception"].replace('breaks("value-of-a-variable")', "")


def test_an_uncaught_exception_is_a_line_too(captured: Bench) -> None:
    def breaks() -> None:
        raise OSError(f"redis://:{CANARY}@host")

    thread = threading.Thread(target=breaks, name="ledger")
    thread.start()
    thread.join()
    line = captured.sink.last
    assert (line["event"], line["thread"]) == ("process_crashed", "ledger")
    assert CANARY not in str(line)


def test_an_interrupt_is_not_a_crash(captured: Bench) -> None:
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert captured.sink.lines == []


def test_long_text_is_cut_to_two_kibibytes_and_keeps_its_end() -> None:
    bench = Bench()
    bench.logs.write("error", "process_crashed", {"exception": "a" * 100_000 + " the end"})
    text = bench.sink.last["exception"]
    assert len(text.encode()) <= 2048
    assert text.endswith("the end")


async def test_the_line_of_a_finished_job_costs_less_than_twice_its_bare_encoding(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink = LineSink(fd)
    sink.attach(asyncio.get_running_loop())
    redactor = Redactor()
    for number in range(6):
        redactor.register_secret(f"secret-number-{number}")
    logs = Logs(level="info", clock=FakeClock(), redactor=redactor, sink=sink)
    record = job_record(None, attempt_record(), job_id="550e8400-e29b-41d4-a716-446655440000")

    async def one_round() -> float:
        started = time.process_time()
        for _ in range(20):
            for _ in range(64):
                logs.job_finished(record)
            await asyncio.sleep(0)
        return (time.process_time() - started) / (20 * 64) * 1e6

    costs, bare = [await one_round() for _ in range(10)], []
    line = json.loads((tmp_path / "log").read_text().splitlines()[0])
    for _ in range(10):
        started = time.process_time()
        for _ in range(20 * 64):
            json.dumps(line)
        bare.append((time.process_time() - started) / (20 * 64) * 1e6)
    assert min(costs) < 2 * min(bare)
    os.close(fd)
