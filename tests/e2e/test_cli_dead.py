"""`theo-router dead`, run as processes against a real server."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
import redis as redis_client

from tests.e2e.commands import Shell, reply_to, running
from tests.e2e.processes import until
from theo_daemon.cli import letters
from theo_daemon.cli.target import find_target
from theo_daemon.ledger.sqlite.schema import open_ledger

pytestmark = pytest.mark.e2e


def test_dead_letters_are_listed_shown_replayed_once_and_purged(
    shell: Shell, client: redis_client.Redis
) -> None:
    pushed = client.xadd(f"{shell.prefix}:jobs", {"promt": "typo", "id": "dead-1"})
    assert reply_to(client, shell, str(pushed))["error_code"] == "invalid_job"
    (letter,) = shell.json("dead", "ls")["letters"]
    assert (letter["code"], letter["job_id"], letter["entry_id"]) == ("invalid_job", "dead-1", pushed)
    assert letter["letter_id"] in shell.ok("dead", "ls")
    assert "promt: typo" in shell.ok("dead", "show", letter["letter_id"])
    fields = shell.json("dead", "show", letter["letter_id"])["fields"]
    assert fields == [["promt", "typo"], ["id", "dead-1"]]

    replayed = shell.json("dead", "replay", letter["letter_id"])["replayed"]
    again = reply_to(client, shell, replayed[letter["letter_id"]])
    assert (again["id"], again["error_code"]) == ("dead-1", "invalid_job")
    status, said = shell.refused("dead", "replay", letter["letter_id"])
    assert (status, "there is no dead letter" in said) == (1, True)
    events = [fields for _, fields in client.xrange(f"{shell.prefix}:events")]
    assert [event["count"] for event in events if event["event"] == "dead_replayed"] == ["1"]

    assert shell.run("dead", "purge", "--all", stdin="n\n").returncode == 1
    assert shell.json("dead", "purge", "--all", "--yes") == {"purged": 1}
    assert shell.json("dead", "ls") == {"total": 0, "letters": []}
    assert shell.refused("dead", "purge")[0] == 2


def test_a_replayed_job_runs_anew_although_its_id_was_answered_before(
    shell: Shell, client: redis_client.Redis
) -> None:
    fields = {"prompt": "once more", "id": "twice", "cache": "off"}
    pushed = [str(client.xadd(f"{shell.prefix}:jobs", fields)) for _ in range(2)]
    first, repeated = (reply_to(client, shell, entry_id) for entry_id in pushed)
    assert (float(first["cost"]) > 0, float(repeated["cost"])) == (True, 0)
    about = {"dead_reason": "r", "dead_code": "delivery_limit_exceeded", "dead_deliveries": "5"}
    about |= {"dead_entry_id": "1-1", "dead_stream": f"{shell.prefix}:jobs", "dead_at_ms": "1"}
    letter = str(client.xadd(f"{shell.prefix}:dead", fields | about))
    entry_id = shell.json("dead", "replay", letter)["replayed"][letter]
    assert float(reply_to(client, shell, entry_id)["cost"]) > 0


def letter_of(
    client: redis_client.Redis,
    shell: Shell,
    fields: dict[str, str],
    lane: str = "",
    code: str = "delivery_limit_exceeded",
) -> str:
    """A dead letter as the router would have written it."""
    about = {
        "dead_reason": "r",
        "dead_code": code,
        "dead_deliveries": "5",
        "dead_entry_id": "1-1",
    }
    about |= {"dead_stream": f"{shell.prefix}:jobs{lane}", "dead_at_ms": "1"}
    return str(client.xadd(f"{shell.prefix}:dead", fields | about))


def test_a_replay_waits_for_a_push_of_its_id_that_runs(shell: Shell, client: redis_client.Redis) -> None:
    fields = {"prompt": "one at a time", "id": "busy", "model": "slow", "cache": "off"}
    first = str(client.xadd(f"{shell.prefix}:jobs", fields))
    until(lambda: running(shell, "slow"), 10.0)
    letter = letter_of(client, shell, fields)
    replayed = shell.json("dead", "replay", letter)["replayed"][letter]
    paid, waited = reply_to(client, shell, first), reply_to(client, shell, replayed)
    assert (paid["output"], waited["output"], waited["cost"]) == ("at last", "at last", "0")
    assert len(json.loads(paid["attempts"])) == 1


def test_an_id_that_is_held_by_an_entry_that_is_gone_is_cleared_by_a_replay(
    shell: Shell, client: redis_client.Redis
) -> None:
    fields = {"prompt": "gone", "id": "held", "model": "spare"}
    holder = ("", "held", "another payload", f"{shell.prefix}:jobs", "1-1", None, int(time.time() * 1000))
    with contextlib.closing(open_ledger(shell.folder / "theo-ledger.db")) as books:
        books.execute("INSERT INTO ids VALUES(?, ?, ?, ?, ?, ?, ?)", holder)
    letter = letter_of(client, shell, fields)
    replayed = shell.json("dead", "replay", letter)["replayed"][letter]
    assert reply_to(client, shell, replayed)["status"] == "ok"


@pytest.mark.parametrize("ledger", ["sqlite", "redis"])
def test_letters_are_chosen_by_their_code_or_all_at_once(
    quiet: Shell, client: redis_client.Redis, ledger: str
) -> None:
    if ledger == "redis":
        quiet.config.write_text(f'ledger = {{ url = "redis" }}\n{quiet.config.read_text()}')
    worn, broken = [], []
    for n in range(3):
        worn.append(letter_of(client, quiet, {"prompt": f"worn {n}", "id": f"worn-{n}"}))
        broken.append(letter_of(client, quiet, {"prompt": f"broken {n}"}, code="invalid_job"))

    def pushed() -> list[str]:
        return [fields["prompt"] for _, fields in client.xrange(f"{quiet.prefix}:jobs")]

    listed = quiet.json("dead", "ls", "--code", "invalid_job", "-n", "2")
    assert (listed["total"], [one["letter_id"] for one in listed["letters"]]) == (6, broken[:0:-1])
    assert list(quiet.json("dead", "replay", "--code", "delivery_limit_exceeded")["replayed"]) == worn
    assert pushed() == ["worn 0", "worn 1", "worn 2"], "in the order in which they died"
    assert quiet.json("dead", "replay", "--code", "delivery_limit_exceeded")["replayed"] == {}
    assert quiet.json("dead", "purge", broken[0], "--yes") == {"purged": 1}
    assert quiet.json("dead", "purge", "--code", "no_such_code", "--yes") == {"purged": 0}
    assert list(quiet.json("dead", "replay", "--all")["replayed"]) == broken[1:]
    assert pushed()[3:] == ["broken 1", "broken 2"]
    assert quiet.json("dead", "replay", "--all") == {"replayed": {}, "problems": []}
    assert quiet.refused("dead", "replay", worn[0], "--all")[0] == 2


async def test_of_two_who_replay_one_letter_one_pushes_its_job(
    quiet: Shell, client: redis_client.Redis
) -> None:
    letter_id = letter_of(client, quiet, {"prompt": "once", "id": "once"})
    target = find_target(quiet.config, None)
    async with target.wire() as wire:
        seen = [await letters.find(wire, target, letter_id) for _ in range(2)]  # both before either acts
        pushed = [await letters.replay(wire, target, letter) for letter in seen if letter is not None]
    assert [entry_id is not None for entry_id in pushed] == [True, False]
    assert client.xlen(f"{quiet.prefix}:jobs") == 1
    assert client.xlen(f"{quiet.prefix}:dead") == 0


def test_a_letter_of_a_lane_that_nobody_reads_is_kept(shell: Shell, client: redis_client.Redis) -> None:
    letter = letter_of(client, shell, {"prompt": "x"}, lane=":express")
    status, said = shell.refused("dead", "replay", letter)
    assert (status, "none of the lanes that are read (high, default, low)" in said) == (1, True)
    assert client.exists(f"{shell.prefix}:jobs:express") == 0
    assert shell.json("dead", "purge", letter, "--yes") == {"purged": 1}


def test_many_large_letters_are_listed_in_parts_and_shown_whole(
    quiet: Shell, client: redis_client.Redis
) -> None:
    text = "x" * 200_000
    for number in range(60):
        letter = letter_of(client, quiet, {"prompt": text, "id": f"job-{number}"})
    listed = quiet.json("dead", "ls", "-n", "60")
    assert (listed["total"], [one["job_id"] for one in listed["letters"]][:2]) == (60, ["job-59", "job-58"])
    assert quiet.json("dead", "show", letter)["fields"][0] == ["prompt", text]
    said = quiet.ok("dead", "show", letter)
    assert "job-59" in said
    assert "1970-01-01 00:00:00 UTC" in said


def test_a_letter_without_its_whole_job_is_not_replayed(shell: Shell, client: redis_client.Redis) -> None:
    about = {"dead_reason": "r", "dead_deliveries": "1", "dead_entry_id": "1-1", "dead_at_ms": "1"}
    cut = about | {"dead_code": "payload_too_large", "dead_stream": f"{shell.prefix}:jobs"}
    forged = about | {"dead_code": "invalid_job", "dead_stream": "somebody:else"}
    order = ("dead_reason", "dead_code", "dead_deliveries", "dead_entry_id", "dead_stream", "dead_at_ms")
    letters = [{"prompt": "x"} | {name: one[name] for name in order} for one in (cut, forged)]
    ids = [str(client.xadd(f"{shell.prefix}:dead", letter)) for letter in letters]
    status, out, _ = shell.here("dead", "replay", *ids, "--json")
    report = json.loads(out)
    assert (status, report["replayed"], len(report["problems"])) == (1, {}, 2)
    assert client.exists("somebody:else") == 0
    assert shell.json("dead", "purge", *ids, "--yes") == {"purged": 2}
