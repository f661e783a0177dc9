"""deploy/users.acl on a real server: everything works as these users, and nothing else does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.processes import ROOT, Fleet, until
from tests.e2e.provider import Fate, Provider
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.ledger.redis.scripts import TEXTS
from theo_daemon.scout_scripts import PEEK, TAKE_EARLY

pytestmark = pytest.mark.e2e

USERS = ("daemon", "producer", "reader", "operator")


def lines() -> list[list[str]]:
    text = (ROOT / "deploy" / "users.acl").read_text()
    return [line.split()[1:] for line in text.splitlines() if line and not line.startswith("#")]


class World:
    """A server with these users, and one more that sees everything."""

    def __init__(self, server: EmbeddedValkey) -> None:
        self._server = server
        with redis.Redis.from_url(server.url) as first:
            first.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all")
        self.admin = self.client("admin", "admin")
        for name, *rules in lines():
            self.admin.execute_command("ACL", "SETUSER", name, *rules)

    def url(self, name: str, password: str | None = None) -> str:
        user = name if password else f"theo-{name}"
        return f"redis://{user}:{password or f'CHANGE-ME-{name}'}@127.0.0.1:{self._server.port}/0"

    def client(self, name: str, password: str | None = None) -> Any:
        return redis.Redis.from_url(self.url(name, password), decode_responses=True)

    def denied(self) -> list[str]:
        """What anybody was refused so far."""
        rows = self.admin.execute_command("ACL", "LOG")
        return [f"{row['username']}: {row['context']} {row['object']}" for row in rows]


@pytest.fixture
def world(own_valkey: EmbeddedValkey) -> World:
    return World(own_valkey)


@pytest.fixture
def fleet(world: World, tmp_path: Path, provider: Provider) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, world.url("daemon"), "theo", provider)
    fleet.config["ingress"] = {"lease_s": 2.0}
    fleet.redis.close()
    fleet.redis = world.admin
    yield fleet
    fleet.close()


def test_each_line_is_a_user_that_the_documentation_names() -> None:
    page = (ROOT / "deploy" / "docs" / "security.md").read_text()
    assert [name for name, *_ in lines()] == ["default", *(f"theo-{name}" for name in USERS)]
    assert [name for name in USERS if f"`theo-{name}`" not in page] == []


@pytest.mark.parametrize("ledger", ["sqlite:///./theo-ledger.db", "redis"])
def test_jobs_are_pushed_run_taken_over_read_and_operated_without_one_refusal(
    world: World, fleet: Fleet, ledger: str
) -> None:
    fleet.config["ledger"] = {"url": ledger}
    victim, peer = fleet.start_all("victim", "peer")
    producer, reader = world.client("producer"), world.client("reader")
    fleet.provider.answer(Fate(latency_s=3), prompt="slow")
    jobs = [
        {"prompt": "hi", "id": "1"},
        {"prompt": "streamed", "stream": "1", "reply_to": "theo:reply:me"},
        {"prompt": "elsewhere", "reply_to": "theo:reply:me"},
        {"promt": "typo"},
        *({"prompt": f"slow {n}"} for n in range(6)),
    ]
    peer.stand_still()  # so that the victim makes the slow calls
    entries = [producer.xadd("theo:jobs", job) for job in jobs]
    high = producer.xadd("theo:jobs:high", {"prompt": "urgent"})
    until(lambda: len(fleet.provider.called("slow")) == 6, 10)
    victim.kill()
    peer.go_on()

    def answered() -> set[str]:
        found = reader.xread({"theo:replies": "0", "theo:reply:me": "0"})
        return {fields["entry_id"] for _, stream in found for _, fields in stream if fields["final"] == "1"}

    until(lambda: answered() == {*entries, high}, 25, lambda: sorted({*entries, high} - answered()))
    operate(world, fleet)
    peer.terminate()
    assert peer.wait_exit(20) == 0
    assert world.denied() == []
    assert world.admin.xlen("theo:jobs") == 0


def test_the_daemon_may_read_large_texts_piece_by_piece(world: World) -> None:
    world.admin.set("theo:ledger:answer:k", "123456789")
    for step, pieces in ((4, ["1234", "5678", "9"]), (3, ["123", "456", "789"]), (99, ["123456789"])):
        assert world.client("daemon").eval(TEXTS.text, 1, "theo:ledger", "answer", "k", step) == pieces
    assert world.client("daemon").eval(TEXTS.text, 1, "theo:ledger", "answer", "gone", 4) == []


def test_the_daemon_may_look_past_what_was_read_and_take_it_early(world: World) -> None:
    daemon, jobs = world.client("daemon"), "theo:jobs"
    world.admin.xgroup_create(jobs, "theo", "0", mkstream=True)
    ids = [world.admin.xadd(jobs, {"prompt": "x", "tenant": f"t{n}"}) for n in range(4)]
    world.admin.xreadgroup("theo", "a", {jobs: ">"}, count=2)
    world.admin.xack(jobs, "theo", ids[0])
    seen = daemon.eval(PEEK.text, 1, jobs, "theo", "0-0", 10, 1_000_000)
    assert seen[0] == ids[1]
    assert [seen[2], seen[6]] == ids[2:]
    (taken,) = daemon.eval(TAKE_EARLY.text, 2, jobs, "theo:early", "theo", "a", 60_000, ids[3])
    assert taken[0] == ids[3]
    assert world.denied() == []


def operate(world: World, fleet: Fleet) -> None:
    """Every command that an operator has, as the operator."""
    url = ("--redis-url", world.url("operator"))
    assert fleet.command("status", *url)["depth"] == 0
    assert fleet.command("submit", "as the operator", *url)["status"] == "ok"
    (letter,) = fleet.command("dead", "ls", *url)["letters"]
    fleet.command("dead", "show", letter["letter_id"], *url)
    fleet.command("dead", "replay", letter["letter_id"], *url)
    until(lambda: fleet.command("dead", "ls", *url)["total"] == 1, 10)
    assert fleet.command("dead", "purge", "--all", "--yes", *url) == {"purged": 1}
    fleet.command("cancel", "nobody", *url)
    assert fleet.command("spend", *url)["models"]
    assert fleet.command("latency", *url)["models"]
    assert fleet.command("ledger", "unknown", *url)["calls"]
    assert fleet.command("budget", "show", *url)["budgets"] == []
    assert fleet.command("budget", "reset", "fast", "--yes", *url)["reset"] == ["fast"]


@pytest.mark.parametrize(
    ("user", "words"),
    [
        *((user, ("FLUSHALL",)) for user in USERS),
        *((user, ("CONFIG", "SET", "maxmemory", "1")) for user in USERS),
        *((user, ("ACL", "SETUSER", "x")) for user in USERS),
        *((user, ("KEYS", "*")) for user in USERS),
        *((user, ("GET", "other:key")) for user in USERS),
        *((user, ("XADD", "other:key", "*", "a", "b")) for user in USERS),
        ("producer", ("XRANGE", "theo:jobs", "-", "+")),
        ("producer", ("XREAD", "STREAMS", "theo:replies", "0")),
        ("producer", ("XADD", "theo:replies", "*", "a", "b")),
        ("producer", ("XADD", "theo:control", "*", "cmd", "cancel", "id", "x")),
        ("producer", ("XDEL", "theo:jobs", "1-1")),
        ("reader", ("XADD", "theo:jobs", "*", "prompt", "x")),
        ("reader", ("XREAD", "STREAMS", "theo:jobs", "0")),
        ("reader", ("XREAD", "STREAMS", "theo:dead", "0")),
        ("reader", ("XDEL", "theo:replies", "1-1")),
        ("operator", ("XACK", "theo:jobs", "theo", "1-1")),
        ("daemon", ("DEL", "theo:jobs")),
    ],
)
def test_a_user_may_nothing_that_it_does_not_need(world: World, user: str, words: tuple[str, ...]) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        world.client(user).execute_command(*words)


def test_nobody_gets_in_without_a_password(own_valkey: EmbeddedValkey, world: World) -> None:
    with redis.Redis.from_url(own_valkey.url) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
        nobody.ping()


def finding(fleet: Fleet, url: str, what: str) -> dict[str, Any]:
    """As `doctor` finds it for this login; its exit status is for the whole report."""
    report = json.loads(fleet.output("doctor", "--json", "--redis-url", url))
    return next(dict(one) for one in report["findings"] if one["what"] == what)


def test_doctor_says_what_a_login_lacks_and_what_it_has_too_much(world: World, fleet: Fleet) -> None:
    fleet.write_config()
    good = finding(fleet, world.url("daemon"), "permissions")
    assert (good["state"], good["found"]) == (
        "ok",
        "a login that may not ask for its name may do what serve does, and little more",
    )
    much = finding(fleet, world.url("admin", "admin"), "permissions")
    assert much["state"] == "warn"
    for word in ("FLUSHALL", "SHUTDOWN", "CONFIG SET", "ACL SETUSER", "keys of others"):
        assert word in much["found"]
    world.admin.execute_command(
        "ACL", "SETUSER", "theo-daemon", "-xack", "resetkeys", "~theo:jobs*", "~theo:done:*"
    )
    little = finding(fleet, world.url("daemon"), "permissions")
    assert little["state"] == "fail"
    named = set(re.split(r", | may not: ", little["found"]))
    assert {
        "XACK",
        "write theo:replies",
        "write theo:dead",
        "write theo:events",
        "read theo:control",
    } <= named
    assert "write theo:jobs" not in named


@pytest.mark.parametrize("command", ["time", "xpending", "xinfo"])
def test_what_cannot_be_looked_at_is_a_finding_and_no_crash(
    world: World, fleet: Fleet, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    fleet.write_config()
    world.admin.execute_command("ACL", "SETUSER", "theo-daemon", f"-{command}")
    report = json.loads(fleet.output("doctor", "--json", "--redis-url", world.url("daemon")))
    found = {one["what"]: one for one in report["findings"] if one["state"] == "fail"}
    assert command.upper() in found["permissions"]["found"]
    assert f"no permissions to run the '{command}" in found["streams"]["found"]
    fleet.output("status", "--redis-url", world.url("daemon"))
    assert f"no permissions to run the '{command}" in capsys.readouterr().err


def test_doctor_tries_out_what_a_ledger_in_redis_needs_where_it_lies_there(
    world: World, fleet: Fleet
) -> None:
    fleet.config["ledger"] = {"url": "redis"}
    fleet.write_config()
    assert finding(fleet, world.url("daemon"), "permissions")["state"] == "ok"
    world.admin.execute_command("ACL", "SETUSER", "theo-daemon", "clearselectors")
    poor = finding(fleet, world.url("daemon"), "permissions")
    assert poor["state"] == "fail"
    for word in ("DEL theo:ledger:...", "ZADD theo:ledger:...", "HINCRBY theo:ledger:..."):
        assert word in poor["found"]
    world.admin.execute_command("ACL", "SETUSER", "theo-daemon", "resetkeys", "~theo:jobs*")
    blind = finding(fleet, world.url("daemon"), "ledger")
    assert (blind["state"], blind["found"][:40]) == ("warn", "this login may not look at theo:ledger: ")


@pytest.mark.parametrize("ledger", ["sqlite:///./theo-ledger.db", "redis"])
def test_probing_changes_nothing(world: World, fleet: Fleet, ledger: str) -> None:
    fleet.config["ledger"] = {"url": ledger}
    fleet.write_config()
    world.admin.xadd("theo:jobs", {"prompt": "untouched"})
    before = {key: world.admin.dump(key) for key in world.admin.scan_iter("*")}
    finding(fleet, world.url("admin", "admin"), "permissions")
    assert {key: world.admin.dump(key) for key in world.admin.scan_iter("*")} == before
