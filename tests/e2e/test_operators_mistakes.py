"""What somebody else does to the streams while jobs run: each is answered once and called once all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e

JOBS = 6
Mistake = Callable[[Fleet, list[str]], object]


def delete_consumers(fleet: Fleet, _entries: list[str]) -> None:
    for consumer in fleet.redis.xinfo_consumers(fleet.jobs_key(), "theo"):
        fleet.redis.xgroup_delconsumer(fleet.jobs_key(), "theo", consumer["name"])


MISTAKES: dict[str, Mistake] = {
    "the consumer is deleted": delete_consumers,
    "some are acknowledged": lambda fleet, ids: fleet.redis.xack(fleet.jobs_key(), "theo", *ids[:3]),
    "the group is destroyed": lambda fleet, _: fleet.redis.xgroup_destroy(fleet.jobs_key(), "theo"),
    "the group is set back": lambda fleet, _: fleet.redis.xgroup_setid(fleet.jobs_key(), "theo", "0"),
    "some are deleted": lambda fleet, ids: fleet.redis.xdel(fleet.jobs_key(), *ids[:3]),
    "the stream is trimmed": lambda fleet, _: fleet.redis.xtrim(
        fleet.jobs_key(), maxlen=0, approximate=False
    ),
    "the stream is deleted": lambda fleet, _: fleet.redis.delete(fleet.jobs_key()),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_running_jobs_are_answered_once_whatever_is_done_to_their_stream(
    fleet: Fleet, mistake: Mistake
) -> None:
    fleet.config["ingress"] = {"lease_s": 2.0}
    fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=1), prompt="x")
    entries = fleet.push_all({"prompt": f"x{n}"} for n in range(JOBS))
    until(lambda: len(fleet.provider.calls) == JOBS, 5)
    mistake(fleet, entries)
    assert {reply["status"] for reply in fleet.answers(entries, 10)} == {"ok"}
    assert fleet.ask(prompt="new")["status"] == "ok"
    assert len(fleet.provider.calls) == JOBS + 1
    fleet.settled()


def test_what_a_dead_process_held_is_run_though_its_name_was_deleted_in_a_hurry(fleet: Fleet) -> None:
    fleet.config["ingress"] = {"lease_s": 2.0}
    victim = fleet.start("victim").wait_ready()
    fleet.provider.answer(Fate(latency_s=20), Fate())
    entry = fleet.push(prompt="x")
    until(lambda: fleet.provider.calls, 5)
    victim.kill()
    delete_consumers(fleet, [])
    assert fleet.pending() == 0
    heir = fleet.start("heir").wait_ready()
    assert fleet.answers([entry], 10)[0]["status"] == "ok"
    (told,) = heir.events("entries_restored")
    assert told["count"] == 1
    fleet.settled()
