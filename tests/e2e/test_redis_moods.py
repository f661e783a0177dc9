"""A Redis that is there and does not serve: full, a replica, loading, silent, or cutting connections.

Each time: not ready, with words for whoever is on call; alive; no busy loop; no job lost, called or answered twice.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.e2e.processes import Fleet, Serve, until
from tests.e2e.provider import Fate, Provider
from theo_daemon.embedded_valkey import EmbeddedValkey

pytestmark = pytest.mark.e2e

JOBS = 20


def under_way(fleet: Fleet) -> tuple[Serve, list[str]]:
    """A process with all its jobs at the provider, for half a second more."""
    serve = fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=0.5), prompt="x")
    entries = fleet.push_all({"prompt": f"x{n}"} for n in range(JOBS))
    until(lambda: len(fleet.provider.calls) == JOBS, 5)
    return serve, entries


def says(serve: Serve, words: str, within_s: float = 10) -> None:
    """It is not ready for this reason, and alive."""

    def red() -> bool:
        status, body = serve.get("/readyz")
        return status == 503 and words in body

    until(red, within_s, lambda: serve.get("/readyz"))
    assert serve.get("/healthz")[0] == 200


def all_is_well(fleet: Fleet, serve: Serve, entries: list[str]) -> None:
    until(lambda: serve.get("/readyz")[0] == 200, 15, lambda: serve.get("/readyz"))
    entries = [*entries, fleet.push(prompt="after")]
    assert {reply["status"] for reply in fleet.answers(entries, 20)} == {"ok"}
    assert len(fleet.provider.calls) == len(entries), "a call was made twice"
    fleet.settled()


def cpu_s(serve: Serve) -> float:
    """Processor seconds that the process has used."""
    fields = Path(f"/proc/{serve.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def calm(fleet: Fleet, serve: Serve) -> Iterator[None]:
    """For two seconds the process neither spins nor storms the server with connections."""
    with redis.Redis.from_url(fleet.url) as outside:

        def connections() -> int:
            return int(outside.info("stats")["total_connections_received"])  # type: ignore[index]

        until(connections, 5)
        before, used, began = connections(), cpu_s(serve), time.monotonic()
        yield
        until(lambda: time.monotonic() - began > 2, 10)
        took = time.monotonic() - began
        assert (cpu_s(serve) - used) / took < 0.5
        assert (
            connections() - before
        ) / took < 30  # some ten wires, each first after 50 ms, then ever more rarely


def test_while_redis_is_full_nothing_is_read_and_it_is_said(own_fleet: Fleet) -> None:
    fleet = own_fleet
    serve, entries = under_way(fleet)
    fleet.redis.config_set("maxmemory", "1mb")
    says(serve, "Redis is full")
    until(lambda: fleet.pending() == JOBS, 5)
    with fleet.redis.pipeline(transaction=False) as room_for_a_moment:
        room_for_a_moment.config_set("maxmemory", "0")
        for n in range(10):
            room_for_a_moment.xadd(fleet.jobs_key(), {"prompt": f"late{n}"})
        room_for_a_moment.config_set("maxmemory", "1mb")
        late = [str(entry) for entry in room_for_a_moment.execute()[1:-1]]
    with calm(fleet, serve):
        pass
    if len(serve.events("publish_back")) == 0:  # else the moment was long enough for what had waited
        # One at most: a read that was waiting for it when Redis became full.
        assert fleet.pending() <= JOBS + 1, "read, though no reply can be published"
        assert len(fleet.provider.called("late")) <= 1
    assert len(serve.events("publish_refused")) <= 2, "told again and again"
    fleet.redis.config_set("maxmemory", "0")
    all_is_well(fleet, serve, [*entries, *late])
    assert serve.events("publish_back")


def test_a_redis_that_became_a_replica_is_told_as_such(own_fleet: Fleet) -> None:
    fleet = own_fleet
    serve, entries = under_way(fleet)
    fleet.redis.replicaof("127.0.0.1", "1")
    says(serve, "Redis is a replica")
    with calm(fleet, serve):
        pass
    assert fleet.finals() == {}
    fleet.redis.replicaof("NO", "ONE")
    all_is_well(fleet, serve, entries)
    assert "READONLY" in {event["reason"] for event in serve.events("redis_lost")}


REFUSES = {
    "NOREPLICAS": {"min-replicas-to-write": "1"},
    "MASTERDOWN": {"replica-serve-stale-data": "no", "replica-read-only": "no"},
    "MISCONF": {"save": "1 1"},
}
WELL = {
    "min-replicas-to-write": "0",
    "replica-serve-stale-data": "yes",
    "replica-read-only": "yes",
    "save": "",
}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("NOREPLICAS", "fewer replicas than its min-replicas-to-write"),
        ("MASTERDOWN", "a replica that does not hear from its primary"),
        ("MISCONF", "cannot save to its disk"),
    ],
)
def test_a_redis_that_refuses_all_writes_is_waited_for_and_the_reason_is_said(
    own_fleet: Fleet, own_valkey: EmbeddedValkey, code: str, words: str
) -> None:
    fleet = own_fleet
    serve, entries = under_way(fleet)
    for name, value in REFUSES[code].items():
        fleet.redis.config_set(name, value)
    if code == "MASTERDOWN":
        fleet.redis.replicaof("127.0.0.1", "1")
    if code == "MISCONF":
        (own_valkey.data_dir / "dump.rdb").mkdir()  # a snapshot cannot take its place
        fleet.redis.bgsave()
    says(serve, words)
    with calm(fleet, serve):
        pass
    for name, value in WELL.items():
        fleet.redis.config_set(name, value)
    if code == "MASTERDOWN":
        fleet.redis.replicaof("NO", "ONE")
    all_is_well(fleet, serve, entries)
    told = [*serve.events("redis_lost"), *serve.events("publish_refused"), *serve.events("publish_stalled")]
    assert code in {event["reason"].partition(" ")[0] for event in told}


def test_a_redis_that_loads_for_long_is_waited_for(tmp_path: Path, provider: Provider) -> None:
    slow = ("--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024")
    with EmbeddedValkey(tmp_path / "own-valkey", options=slow) as server:
        fleet = Fleet(tmp_path, server.url, "theo", provider)
        try:
            serve, entries = under_way(fleet)
            fleet.redis.config_set("appendfsync", "always")
            with fleet.redis.pipeline(transaction=False) as pipe:
                for n in range(20_000):
                    pipe.set(f"ballast:{n}", "x" * 100)
                pipe.execute()
            server.kill()
            seen: list[str] = []
            watching = threading.Thread(target=watch, args=(serve, seen))
            watching.start()
            server.start()  # here: it ends with the thread that starts it
            watching.join(20)
            assert "503 Redis is still loading its data\n" in seen
            assert seen[-1] == "200 ok\n"
            all_is_well(fleet, serve, entries)
        finally:
            fleet.close()


def watch(serve: Serve, seen: list[str]) -> None:
    """What /readyz says until it is well again."""
    until(lambda: serve.get("/readyz")[0] == 503, 10)
    while not seen or seen[-1] != "200 ok\n":
        status, body = serve.get("/readyz")
        seen.append(f"{status} {body}")
        time.sleep(0.05)


def test_a_redis_that_is_silent_for_longer_than_its_time_out_costs_no_second_call(own_fleet: Fleet) -> None:
    fleet = own_fleet
    serve, entries = under_way(fleet)
    fleet.redis.client_pause(6_500, all=True)
    says(serve, "Redis does not answer (TimeoutError)")
    all_is_well(fleet, serve, entries)


def test_connections_that_are_cut_again_and_again_cost_no_job(own_fleet: Fleet) -> None:
    fleet = own_fleet
    serve = fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=0.1), prompt="x")
    entries: list[str] = []
    cutter = redis.Redis.from_url(fleet.url)
    with calm(fleet, serve):
        for n in range(40):
            entries.append(fleet.push(prompt=f"x{n}"))
            own = cutter.client_id()
            others = [one["id"] for one in cutter.client_list() if one["name"] == serve_name(serve)]  # type: ignore[union-attr]
            assert str(own) not in others
            for one in others:
                cutter.client_kill_filter(_id=one)
            until(lambda n=n: len(fleet.finals()) > n - 30, 10)
    cutter.close()
    all_is_well(fleet, serve, entries)
    told = [line["event"] for line in serve.events("redis_lost") + serve.events("redis_back")]
    assert told.count("redis_back") == told.count("redis_lost") > 0


def serve_name(serve: Serve) -> str:
    return str(serve.wait_event("process_started")["consumer"])
