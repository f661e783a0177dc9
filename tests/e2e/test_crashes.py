"""Processes that are killed, and processes that leave politely."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest

from tests.e2e.processes import Fleet, Serve, until
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e

BOUND_USD = 1.0  # of one call: a thousand tokens at a thousand dollars a million


def priced(fleet: Fleet) -> None:
    """Short leases, and a model whose calls are bounded at one dollar and cost half a cent."""
    fleet.config["models"] = [fleet.model("fast", output_cost_per_mtok=1000)]
    fleet.config["ingress"] = {"lease_s": 2.0}


def job(n: int, **more: str) -> dict[str, str]:
    return {"prompt": f"x{n}", "params": '{"max_tokens": 1000}', **more}


def crash(fleet: Fleet, **more: str) -> list[str]:
    """Twelve jobs over two processes, of which one is killed while all are at the provider; their entry ids."""
    priced(fleet)
    victim, _ = fleet.start_all("victim", "peer")
    fleet.provider.answer(Fate(latency_s=2), prompt="x")
    entries = fleet.push_all(job(n, **more) for n in range(12))
    until(lambda: len(fleet.provider.calls) == 12, 5)
    victim.kill()
    until(
        lambda: any(call.closed for call in fleet.provider.calls), 2, "the victim had nothing at the provider"
    )
    return entries


def lost(fleet: Fleet) -> list[str]:
    """The prompts whose call died with the victim."""
    return [call.prompt for call in fleet.provider.calls if call.closed]


def spent_usd(fleet: Fleet) -> float:
    (model,) = json.loads(fleet.processes[-1].get("/status")[1])["models"]
    assert float(model["held_usd"]) == 0
    return float(model["spent_usd"])


def test_every_job_of_a_killed_process_gets_its_one_reply_and_lost_calls_are_charged(fleet: Fleet) -> None:
    replies = fleet.answers(crash(fleet), 25)
    assert [reply["status"] for reply in replies] == ["ok"] * 12
    assert len(fleet.provider.calls) == 12 + len(lost(fleet))
    fleet.settled(within_s=10)
    assert spent_usd(fleet) == pytest.approx(len(lost(fleet)) * BOUND_USD + 12 * 0.005, abs=1e-3)


def test_a_process_that_is_started_again_goes_on_at_once_though_leases_are_long(fleet: Fleet) -> None:
    """Alone on its host: nobody saw the old one die, and its leases would last half a minute."""
    fleet.config["ingress"] = {"lease_s": 30.0}
    killed = fleet.start()
    fleet.provider.answer(Fate(latency_s=20), prompt="x")
    entries = fleet.push_all(job(n) for n in range(6))
    until(lambda: len(fleet.provider.calls) == 6, 5)
    killed.kill()
    fleet.provider.answer(Fate(), prompt="x")
    fleet.start()
    assert [reply["status"] for reply in fleet.answers(entries, 20)] == ["ok"] * 6


def test_a_reply_after_a_crash_tells_the_lost_attempt_and_its_cost(fleet: Fleet) -> None:
    for n, reply in enumerate(fleet.answers(crash(fleet), 25)):
        attempts = [(attempt["outcome"], attempt["cost"]) for attempt in json.loads(reply["attempts"])]
        if f"x{n}" in lost(fleet):
            assert [outcome for outcome, _ in attempts] == ["unknown", "ok"]
            assert float(reply["cost"]) == pytest.approx(BOUND_USD + 0.005, abs=1e-3)
        else:
            assert [outcome for outcome, _ in attempts] == ["ok"]
            assert float(reply["cost"]) == pytest.approx(0.005)


def test_a_lost_call_that_must_not_be_repeated_is_told_as_unknown(fleet: Fleet) -> None:
    replies = fleet.answers(crash(fleet, on_unknown="fail"), 25)
    assert len(fleet.provider.calls) == 12
    for n, reply in enumerate(replies):
        if f"x{n}" in lost(fleet):
            assert (reply["error_code"], reply["error_retryable"]) == ("outcome_unknown", "0")
        else:
            assert reply["status"] == "ok"
    fleet.settled(within_s=10)
    kept = 12 - len(lost(fleet))
    assert spent_usd(fleet) == pytest.approx(len(lost(fleet)) * BOUND_USD + kept * 0.005, abs=1e-3)


def test_an_unknown_outcome_is_told_with_the_cost_it_is_charged_at(fleet: Fleet) -> None:
    replies = fleet.answers(crash(fleet, on_unknown="fail"), 25)
    charged = [float(reply["cost"]) for reply in replies if reply["status"] == "error"]
    assert charged == pytest.approx([BOUND_USD] * len(charged), abs=1e-3)
    assert len(fleet.events("outcome_unknown")) == len(charged) > 0


def test_lost_calls_are_listed_beside_the_running_daemons(fleet: Fleet) -> None:
    entries = crash(fleet)
    fleet.answers(entries, 25)
    calls = {call["entry_id"]: call for call in fleet.command("ledger", "unknown")["calls"]}
    assert calls.keys() == {entries[int(prompt[1:])] for prompt in lost(fleet)}
    for call in calls.values():
        assert (call["model"], call["outcome"], call["charged"]) == (
            "fast",
            "unknown",
            pytest.approx(BOUND_USD, abs=1e-3),
        )
        assert call["followed"] == "sent again: fast ok"


def finished_more_than(process: Serve, jobs: int) -> bool:
    return len(process.events("job_finished")) > jobs


def called_times(fleet: Fleet, calls: int) -> bool:
    return len(fleet.provider.calls) == calls


def test_kills_at_random_moments_lose_no_job_and_answer_none_twice(fleet: Fleet) -> None:
    fleet.config["ingress"] = {"lease_s": 2.0}
    fleet.start("peer").wait_ready()
    fleet.provider.answer(Fate(latency_s=0.03), prompt="x")
    entries = []
    for round_ in range(3):
        victim = fleet.start(f"victim-{round_}").wait_ready()
        entries += fleet.push_all({"prompt": f"x{round_}-{n}", "cache": "off"} for n in range(150))
        until(partial(finished_more_than, victim, 20), 10)
        victim.kill()
    replies = fleet.answers(entries, 25)
    assert {reply["status"] for reply in replies} == {"ok"}
    fleet.settled(within_s=10)
    assert fleet.entries("dead") == []


def test_a_drain_hands_unsent_jobs_back_at_once_and_finishes_sent_ones(fleet: Fleet) -> None:
    fleet.config["models"] = [fleet.model("fast", concurrency=2)]
    leaver = fleet.start("leaver").wait_ready()
    fleet.provider.answer(Fate(latency_s=12), prompt="sent")  # longer than a peer takes to start
    sent = fleet.push_all({"prompt": f"sent{n}"} for n in range(2))
    until(lambda: len(fleet.provider.calls) == 2, 5)
    unsent = fleet.push_all({"prompt": f"unsent{n}"} for n in range(10))
    fleet.start("peer").wait_ready()
    leaver.terminate()
    replies = fleet.answers(unsent, 10)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert not leaver.events("process_stopped")
    late = fleet.ask(prompt="late")
    assert late["status"] == "ok"
    assert [reply["status"] for reply in fleet.answers(sent, 20)] == ["ok", "ok"]
    assert leaver.wait_exit(5) == 0
    assert len(fleet.provider.called("sent")) == 2
    assert fleet.events("process_left")
    assert len(leaver.events("job_finished")) == 2
    fleet.settled()


def test_a_process_that_stood_still_until_its_drain_was_over_takes_in_the_answers_that_came(
    fleet: Fleet,
) -> None:
    fleet.config["ingress"] = {"drain_s": 2.0}
    leaver = fleet.start("leaver").wait_ready()
    fleet.provider.answer(Fate(latency_s=1), prompt="x")
    entry = fleet.push(prompt="x")
    until(lambda: fleet.provider.calls, 5)
    leaver.terminate()
    leaver.wait_event("drain_started")
    leaver.stand_still()
    time.sleep(3)  # drain_s, and the provider's answer long before
    leaver.go_on()
    assert leaver.wait_exit(5) == 0
    (finished,) = leaver.events("job_finished")
    assert finished["status"] == "ok"
    assert fleet.answers([entry])[0]["status"] == "ok"
    assert len(fleet.provider.calls) == 1


def test_a_second_signal_ends_it_at_once_and_the_peer_takes_over(fleet: Fleet) -> None:
    fleet.config["ingress"] = {"lease_s": 2.0}
    hurried = fleet.start("hurried").wait_ready()
    fleet.provider.answer(Fate(latency_s=20), Fate())
    entry = fleet.push(prompt="x")
    until(lambda: fleet.provider.calls, 5)
    hurried.terminate()
    hurried.wait_event("drain_started")
    started = time.monotonic()
    hurried.terminate()
    hurried.wait_exit(3)
    assert time.monotonic() - started < 2
    fleet.start("peer").wait_ready()
    assert fleet.answers([entry], 10)[0]["status"] == "ok"


def test_a_job_that_kills_its_process_each_time_is_given_up(fleet: Fleet) -> None:
    fleet.config["ingress"] = {"lease_s": 2.0, "max_deliveries": 2}
    fleet.provider.answer(Fate(latency_s=30), prompt="deadly")
    entry = fleet.push(prompt="deadly")
    for life in range(2):
        victim = fleet.start(f"life-{life}").wait_ready()
        until(partial(called_times, fleet, life + 1), 10)
        victim.kill()
    fleet.start("last").wait_ready()
    (reply,) = fleet.answers([entry], 10)
    assert (reply["error_code"], reply["error_retryable"]) == ("delivery_limit_exceeded", "0")
    (letter,) = fleet.entries("dead")
    assert (letter["prompt"], letter["dead_code"]) == ("deadly", "delivery_limit_exceeded")
    assert letter["dead_entry_id"] == entry
    assert len(fleet.provider.calls) == 2
    fleet.settled()
