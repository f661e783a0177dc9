"""Processes with host names and working folders of their own and one ledger in Redis: as on several hosts."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest

from tests.contract.topologies import Server
from tests.e2e.commands import Background, Shell
from tests.e2e.hostname import on_host
from tests.e2e.processes import Fleet, Serve, until
from tests.e2e.provider import Fate, Provider, failing

pytestmark = pytest.mark.e2e

ONE_DOLLAR = '{"max_tokens": 1000}'  # the bound of a call at a thousand dollars a million
LEASE_S = 3.0


def of_many_hosts(fleet: Fleet) -> Fleet:
    fleet.config["ledger"] = {"url": "redis"}
    fleet.config["ingress"] = {"lease_s": LEASE_S}
    return fleet


@pytest.fixture
def hosts(fleet: Fleet) -> Fleet:
    return of_many_hosts(fleet)


def priced(hosts: Fleet, **routing: Any) -> None:
    hosts.config["models"] = [hosts.model("fast", output_cost_per_mtok=1000, routing=routing)]


def start(hosts: Fleet, *names: str) -> list[Serve]:
    started = []
    for name in names:
        hosts.wrapper = on_host(f"host-{name}")
        started.append(hosts.start(name, folder=hosts.folder / name))
    for process in started:
        consumer = process.wait_event("process_started", 30)["consumer"]
        assert consumer.startswith(f"host-{process.name}-") or not hosts.wrapper
    return [process.wait_ready() for process in started]


def money(process: Serve) -> tuple[float, float]:
    """Spent and held, in USD."""
    (model,) = json.loads(process.get("/status")[1])["models"]
    return float(model["spent_usd"]), float(model["held_usd"])


def state(process: Serve) -> str:
    return str(json.loads(process.get("/status")[1])["models"][0]["state"])


def test_three_hundred_identical_jobs_on_two_hosts_cost_one_call(hosts: Fleet) -> None:
    start(hosts, "a", "b")
    hosts.provider.answer(Fate(latency_s=1), prompt="same")
    replies = hosts.answers(hosts.push_all({"prompt": "same"} for _ in range(300)), 20)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert len(hosts.provider.calls) == 1
    shared = [reply for reply in replies if reply["coalesced"] == "1" or reply["cache_hit"] == "1"]
    assert len(shared) == 299
    hosts.settled()
    assert not list(hosts.folder.rglob("*.db")), "nothing of the ledger lies on a host"


def test_a_repeated_id_has_one_run_on_whichever_host(hosts: Fleet) -> None:
    start(hosts, "a", "b")
    hosts.provider.answer(Fate(latency_s=0.5))
    jobs = [{"prompt": f"x{n}", "id": f"job-{n}", "cache": "off"} for n in range(20) for _ in range(3)]
    replies = hosts.answers(hosts.push_all(jobs), 20)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert len(hosts.provider.calls) == 20
    for n in range(20):
        assert len({reply["output"] for reply in replies if reply["id"] == f"job-{n}"}) == 1
    conflict = hosts.ask(prompt="other", id="job-0")
    assert conflict["error_code"] == "id_conflict"


def test_a_killed_host_s_jobs_are_taken_over_after_its_lease_and_its_calls_are_booked_once(
    hosts: Fleet,
) -> None:
    priced(hosts)
    victim, peer = start(hosts, "victim", "peer")
    hosts.provider.answer(Fate(latency_s=1.5), prompt="x")
    entries = hosts.push_all({"prompt": f"x{n}", "params": ONE_DOLLAR} for n in range(18))
    until(lambda: len(hosts.provider.calls) == 18, 8)
    victim.kill()
    killed = time.monotonic()
    until(lambda: any(call.closed for call in hosts.provider.calls), 2, "the victim had calls out")
    replies = hosts.answers(entries, 25)
    assert time.monotonic() - killed < LEASE_S + 8
    assert {reply["status"] for reply in replies} == {"ok"}
    lost = [call.prompt for call in hosts.provider.calls if call.closed]
    assert len(hosts.provider.calls) == 18 + len(lost)
    for n, reply in enumerate(replies):
        outcomes = [attempt["outcome"] for attempt in json.loads(reply["attempts"])]
        assert outcomes == (["unknown", "ok"] if f"x{n}" in lost else ["ok"])
    hosts.settled(within_s=10)
    assert money(peer) == (pytest.approx(len(lost) * 1.0 + 18 * 0.005, abs=1e-3), 0)
    assert len(hosts.events("outcome_unknown")) == len(lost) > 0


def test_a_host_that_stood_still_for_longer_than_its_lease_ends_itself_and_nothing_is_answered_twice(
    hosts: Fleet,
) -> None:
    frozen, _ = start(hosts, "frozen", "peer")
    hosts.provider.answer(Fate(latency_s=1), prompt="x")
    entries = hosts.push_all({"prompt": f"x{n}"} for n in range(10))
    until(lambda: len(hosts.provider.calls) == 10, 8)
    frozen.stand_still()
    replies = hosts.answers(entries, 25)
    assert {reply["status"] for reply in replies} == {"ok"}
    asked = len(hosts.provider.calls)
    frozen.go_on()
    assert frozen.wait_exit(15) == 1
    assert "not among the ledger's owners any more" in frozen.log.splitlines()[-1]
    assert len(hosts.provider.calls) == asked, "it sent nothing more"
    hosts.answers(entries)  # still one reply each
    assert hosts.ask(prompt="later")["status"] == "ok"


def test_a_circuit_that_one_host_opens_is_open_on_all_within_three_tenths_of_a_second(hosts: Fleet) -> None:
    hosts.config["routing"] = {"default": "fast", "max_attempts": 1}
    hosts.config["routing"] |= {"circuit_breaker_threshold": 1, "circuit_breaker_timeout_s": 2.0}
    processes = start(hosts, "a", "b")
    hosts.provider.answer(failing(500, "boom"), Fate(latency_s=0.5), Fate())
    assert hosts.ask(prompt="x")["error_code"] == "provider_unavailable"
    opened = time.monotonic()
    until(lambda: all(state(one) == "open" for one in processes), 1, "open on both")
    replies = hosts.answers(hosts.push_all({"prompt": f"y{n}"} for n in range(20)), 15)
    assert {reply["status"] for reply in replies} == {"ok"}
    first, *others = sorted(call.at for call in hosts.provider.called("y"))
    assert first >= opened + 1.8
    assert min(others) >= first + 0.5, "while the probe ran nobody else called"
    for name in ("circuit_opened", "circuit_half_open", "circuit_closed"):
        until(partial(hosts.events, name), 3, name)
        assert len(hosts.events(name)) == 1


def test_two_hosts_with_two_hundred_jobs_stop_exactly_at_the_ceiling(hosts: Fleet) -> None:
    priced(hosts, spend_ceiling=20.0)
    hosts.provider.answer(Fate(latency_s=0.2, usage=(10, 1000)))
    one, _ = start(hosts, "a", "b")
    entries = hosts.push_all({"prompt": f"x{n}", "params": ONE_DOLLAR} for n in range(200))
    top = 0
    deadline = time.monotonic() + 20
    while hosts.finals().keys() < set(entries) and time.monotonic() < deadline:
        row = hosts.redis.hget(f"{hosts.prefix}:ledger:spend", "0 model:fast")
        if row is not None:
            spent, held, *_ = map(int, row.split())
            top = max(top, spent + held)
        time.sleep(0.01)
    replies = hosts.answers(entries, 20)
    assert top == 20 * 10**9
    assert len(hosts.provider.calls) == 20
    answered = [reply for reply in replies if reply["status"] == "ok"]
    assert sum(float(reply["cost"]) for reply in answered) == pytest.approx(20.0)
    assert {reply["error_code"] for reply in replies if reply["status"] == "error"} == {"budget_exceeded"}
    assert money(one) == (20.0, 0.0)
    hosts.settled()
    assert (len(hosts.events("budget_warning")), len(hosts.events("budget_exhausted"))) == (1, 1)


def test_redis_is_killed_amid_jobs_and_each_is_answered_and_paid_once(
    tmp_path_factory: pytest.TempPathFactory, provider: Provider
) -> None:
    with Server(tmp_path_factory.mktemp("redis"), options=("--appendfsync", "always")) as server:
        hosts = of_many_hosts(Fleet(tmp_path_factory.mktemp("hosts"), server.url, "theo", provider))
        try:
            priced(hosts)
            processes = start(hosts, "a", "b")
            provider.answer(Fate(latency_s=0.2), prompt="x")
            entries = hosts.push_all({"prompt": f"x{n}", "params": ONE_DOLLAR} for n in range(300))
            until(lambda: len(hosts.finals()) > 40, 10, "the first replies")
            server.kill()
            ready = [process.get("/readyz") for process in processes]
            time.sleep(1)
            assert {process.get("/readyz")[0] for process in processes} == {503}, ready
            assert {process.get("/healthz")[0] for process in processes} == {200}
            server.start()
            replies = hosts.answers(entries, 25)
            assert {reply["status"] for reply in replies} == {"ok"}
            assert len(provider.calls) == 300
            hosts.settled(within_s=10)
            assert money(processes[0]) == (pytest.approx(300 * 0.005), 0)
            assert all(process.running for process in processes)
            for process in processes:  # in the log: events that come while Redis is away may be dropped
                assert process.events("ledger_trouble")
                until(partial(process.events, "ledger_back"), 10)
        finally:
            hosts.close()


def test_a_drained_host_leaves_at_once_and_its_lease_is_no_matter(hosts: Fleet) -> None:
    leaver, _ = start(hosts, "leaver", "peer")
    assert hosts.ask(prompt="x")["status"] == "ok"
    leaver.terminate()
    assert leaver.wait_exit(10) == 0
    assert hosts.redis.hlen(f"{hosts.prefix}:ledger:owners") == 1
    assert hosts.ask(prompt="y")["status"] == "ok"


# -- a ledger is pinned to its streams -------------------------------------------------------------------


def test_a_second_host_with_a_ledger_of_its_own_is_refused_while_the_first_is_in_use(fleet: Fleet) -> None:
    (first,) = start(fleet, "first")
    second = fleet.start("second", folder=fleet.folder / "second")
    assert second.wait_exit(15) == 1
    last = second.log.strip().splitlines()[-3:]
    assert f"belong to another ledger: {fleet.folder / 'first' / 'theo-ledger.db'}" in last[0]
    assert 'Set ledger.url = "redis" for all of them' in last[1]
    assert f"redis-cli DEL {fleet.prefix}:ledger:pin" in last[2]
    assert fleet.ask(prompt="x")["status"] == "ok"
    first.terminate()
    assert first.wait_exit(10) == 0
    third = fleet.start("third", folder=fleet.folder / "third").wait_ready()
    reasons = [event["reason"] for event in third.events("warning")]
    assert any("these streams belonged to the ledger" in reason for reason in reasons)


def test_a_ledger_on_another_host_is_given_up_only_by_an_operator_s_word(fleet: Fleet) -> None:
    pin = f"{fleet.prefix}:ledger:pin"
    fleet.redis.hset(pin, mapping={"uuid": "u", "host": "elsewhere", "place": "/var/l.db", "seen": "1"})
    refused = fleet.start("refused")
    assert refused.wait_exit(15) == 1
    assert "belong to another ledger: /var/l.db on elsewhere (uuid u)" in refused.log
    fleet.redis.delete(pin)
    assert fleet.start("again").wait_ready().running
    assert fleet.ask(prompt="x")["status"] == "ok"


def test_a_host_that_joins_with_another_ceiling_is_told_of(hosts: Fleet) -> None:
    priced(hosts, spend_ceiling=20.0)
    (first,) = start(hosts, "first")
    priced(hosts, spend_ceiling=30.0, spend_window="1d")
    start(hosts, "second")
    (told,) = until(lambda: hosts.events("budget_config_differs"), 5)
    assert (told["scope"], told["ceiling"], told["other"]) == (
        "model fast", "30 USD per 1d", "20 USD per total",
    )  # fmt: skip
    assert told["consumer"] in first.wait_event("process_started")["consumer"]


# -- commands --------------------------------------------------------------------------------------------


def test_commands_read_and_amend_the_books_of_all_hosts(hosts: Fleet) -> None:
    shell = Shell(hosts.folder, hosts.url, hosts.prefix, http=0)
    shell.config.write_text(f'ledger = {{ url = "redis" }}\n{shell.config.read_text()}')
    assert "no daemon has kept its ledger there yet" in shell.refused("spend")[1]
    with Background(shell, "serve") as serve:
        serve.wait_for("process_started")
        shell.ok("submit", "one two three", "--model", "echo")
        (spent,) = [one for one in shell.json("spend")["models"] if one["name"] == "echo"]
        assert (spent["spent"] > 0, spent["held"], spent["ceiling"]) == (True, 0, 5.0)
        (latency,) = shell.json("latency")["models"]
        assert (latency["name"], latency["calls"]) == ("echo", 1)
        (budget,) = shell.json("budget", "show")["budgets"]
        assert budget["spent"] == spent["spent"]
        assert shell.json("budget", "reset", "echo", "--yes") == {"reset": ["echo"], "changed": 1}
        (budget,) = shell.json("budget", "show")["budgets"]
        (after,) = [one for one in shell.json("spend")["models"] if one["name"] == "echo"]
        assert (budget["spent"], after["spent"], after["spent_ever"]) == (0, 0, spent["spent"])
        findings = {one["what"]: one for one in shell.json("doctor")["findings"]}
        assert findings["ledger"]["state"] == "ok"
        assert "1 processes keep it" in findings["ledger"]["found"]
        assert findings["ledger's disk"]["state"] == "ok"
        assert findings["budgets"]["found"] == "the same ceilings in 1 running processes"
        (model,) = [one for one in shell.json("status")["models"] if one["name"] == "echo"]
        assert model["answers"] == 1


def test_a_replayed_job_runs_anew_though_its_id_was_remembered(hosts: Fleet) -> None:
    shell = Shell(hosts.folder, hosts.url, hosts.prefix, http=0)
    shell.config.write_text(f'ledger = {{ url = "redis" }}\n{shell.config.read_text()}')
    with Background(shell, "serve") as serve:
        serve.wait_for("process_started")
        entry = hosts.push(prompt="x", id="mine", model="echo")
        assert hosts.answers([entry])[0]["status"] == "ok"
        about = {"dead_reason": "r", "dead_code": "delivery_limit_exceeded", "dead_deliveries": 5}
        about |= {"dead_entry_id": entry, "dead_stream": hosts.jobs_key(), "dead_at_ms": 1}
        letter = hosts.redis.xadd(
            f"{hosts.prefix}:dead", {"prompt": "x", "id": "mine", "model": "echo", **about}
        )
        done = shell.json("dead", "replay", letter)
        (again,) = hosts.answers(list(done["replayed"].values()))
        assert (again["status"], again["cache_hit"]) == ("ok", "1"), "its own run, not the remembered reply"
