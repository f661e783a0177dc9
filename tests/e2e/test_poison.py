"""Jobs that kill whoever touches them, before their call can be on record; real processes, killed by themselves."""

from __future__ import annotations

import contextlib
from functools import partial

import apsw
import pytest

from tests.e2e.nursery import Nursery
from tests.e2e.processes import Fleet, Serve, until
from tests.e2e.provider import Fate
from theo_daemon.lease_scripts import FETCH

pytestmark = pytest.mark.e2e

LIVES = 12  # more than any poison needs


def lives_until_answered(fleet: Fleet, entries: list[str]) -> int:
    """One process after another, as a supervisor starts them, until everything is answered; how many died."""
    with Nursery(fleet) as nursery:
        for number in range(LIVES):
            life = nursery.start(f"life-{number}")
            until(partial(over, fleet, life, entries), 20, life.name)
            if life.running:
                return number
    raise AssertionError(f"not answered after {LIVES} lives")


def over(fleet: Fleet, life: Serve, entries: list[str]) -> bool:
    return not life.running or fleet.finals().keys() >= set(entries)


def finished(fleet: Fleet, count: int) -> bool:
    return len(fleet.finals()) >= count


@pytest.mark.parametrize(
    ("kind", "padding", "code"),
    [
        ("decode", 0, "delivery_limit_exceeded"),
        ("count", 0, "delivery_limit_exceeded"),
        ("read", 1_100_000, "payload_too_large"),  # never read again as a whole, and so harmless
    ],
)
def test_a_job_that_kills_its_process_before_the_claim_is_given_up_and_healthy_ones_are_answered(
    fleet: Fleet, kind: str, padding: int, code: str
) -> None:
    fleet.config["ingress"] = {"max_deliveries": 2, "lease_s": 2.0}
    fleet.config["models"] = [fleet.model("fast", max_output_tokens=100, output_cost_per_mtok=1)]
    fleet.provider.answer(Fate(latency_s=0.2))
    healthy = fleet.push_all({"prompt": f"before {n}"} for n in range(5))
    prompt = "x" * padding + f"poison:{kind}"
    poison = fleet.push(prompt=prompt, id="p-1", reply_to=f"{fleet.prefix}:reply:p")
    healthy += fleet.push_all({"prompt": f"after {n}"} for n in range(5))
    deaths = lives_until_answered(fleet, healthy)
    (reply,) = fleet.answers([poison], 20, key="reply:p")
    assert (reply["error_code"], reply["id"], reply["cost"]) == (code, "p-1", "0")
    assert [one["status"] for one in fleet.answers(healthy, 1)] == ["ok"] * 10
    (letter,) = fleet.entries("dead")
    assert (letter["dead_entry_id"], letter["dead_code"]) == (poison, code)
    assert letter["prompt"] == prompt[:1024]
    # two deaths that nobody can tell whose they are, then those on record, if it kills when it is rehearsed, too
    assert deaths == (2 if code == "payload_too_large" else 4)
    assert not fleet.provider.called("poison")
    fleet.settled()


def test_twenty_crashes_in_a_row_give_up_no_healthy_job(fleet: Fleet) -> None:
    """Each life is killed while some of its jobs are under way and most wait: all are suspects before long."""
    fleet.config["ingress"] = {"lease_s": 2.0}
    fleet.config["models"] = [fleet.model("fast", concurrency=4)]
    fleet.provider.answer(Fate(latency_s=0.05))
    entries = fleet.push_all({"prompt": f"x{n}", "cache": "off"} for n in range(240))
    with Nursery(fleet) as nursery:
        for life in range(20):
            victim = nursery.start(f"life-{life}")
            until(partial(finished, fleet, 6 * (life + 1)), 20, victim.name)
            victim.kill()
        nursery.start("last")
        replies = fleet.answers(entries, 40)
        assert [one["error_code"] for one in replies if one["status"] != "ok"] == []
        assert fleet.entries("dead") == []
        fleet.settled()
    assert marks(fleet).get("void", 0) > 100, "hardly any was ever a suspect"


def marks(fleet: Fleet) -> dict[str, int]:
    """Rehearsals on record, by what became of them."""
    with contextlib.closing(apsw.Connection(str(fleet.folder / "theo-ledger.db"))) as books:
        return dict(books.execute("SELECT state, count(*) FROM attempts WHERE model = '' GROUP BY state"))


def test_a_job_that_nobody_died_of_costs_nothing_for_it(own_fleet: Fleet) -> None:
    fleet = own_fleet
    serve = fleet.start().wait_ready()
    replies = fleet.answers(fleet.push_all({"prompt": f"x{n}"} for n in range(200)), 20)
    assert {one["status"] for one in replies} == {"ok"}
    assert marks(fleet) == {}
    assert fleet.redis.script_exists(FETCH.sha) == [False], "an entry was looked at before it was read"
    assert serve.events("entries_reclaimed") == []
