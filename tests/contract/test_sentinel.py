"""A real sentinel, a primary and a replica: found, followed through failovers, and told about when they are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.topologies import SERVICE, Server, Watched, node_password
from tests.contract.traffic import KEYS, Traffic
from theo_daemon.redis_link import RedisLink, RedisUnreachable
from theo_daemon.server_check import check_server

pytestmark = pytest.mark.e2e


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with Watched(tmp_path).running() as watched:
        yield watched


@pytest.fixture
def traffic(watched: Watched, tmp_path: Path) -> Traffic:
    return Traffic(watched, tmp_path)


def test_a_killed_primary_costs_no_job(traffic: Traffic) -> None:
    with traffic.served():
        traffic.survives("sentinel, primary killed", Server.kill)


def test_a_planned_failover_costs_no_job(traffic: Traffic, watched: Watched) -> None:
    with traffic.served() as serve:
        traffic.survives("sentinel, failover by command", lambda _: watched.fail_over())
        assert serve.events("process_stopped") == []


def test_a_ledger_in_redis_follows_a_planned_failover(watched: Watched, tmp_path: Path) -> None:
    traffic = Traffic(watched, tmp_path, ledger="redis")
    with traffic.served():
        traffic.survives(
            "sentinel with a ledger in Redis, failover by command", lambda _: watched.fail_over()
        )


def test_a_ledger_in_redis_outlives_a_killed_primary(watched: Watched, tmp_path: Path) -> None:
    traffic = Traffic(watched, tmp_path, ledger="redis")
    with traffic.served():
        traffic.survives("sentinel with a ledger in Redis, primary killed", Server.kill)


def test_commands_find_the_primary(traffic: Traffic, watched: Watched) -> None:
    shell = traffic.shell
    with traffic.served():
        assert shell.json("submit", "hello", "--model", "echo")["output"] == "hello"
        watched.fail_over()
        assert watched.primary is watched.servers[1]
        assert shell.json("submit", "again", "--model", "echo")["output"] == "again"
        assert shell.json("status")["depth"] == 0
        redis = [one for one in shell.json("doctor")["findings"] if one["what"] in {"redis", "role"}]
        assert [one["state"] for one in redis] == ["ok", "ok"]
    assert watched.primary.client.exists(KEYS.events)


async def test_sentinels_and_servers_have_passwords_of_their_own(watched: Watched) -> None:
    node_password(watched, "d/ta")
    watched.sentinel.execute_command("ACL", "SETUSER", "theo", "on", ">s/ntinel", "+@all")
    watched.sentinel.execute_command("ACL", "SETUSER", "default", "off")
    hosts = watched.url.partition("://")[2]
    login = "sentinel_username=theo&sentinel_password=s/ntinel"
    assert (await check_server(RedisLink(f"redis+sentinel://:d%2Fta@{hosts}?{login}"))).warnings == ()
    for url, says in {
        f"redis+sentinel://:wrong@{hosts}?{login}": "refused the login",
        f"redis+sentinel://:d%2Fta@{hosts}?{login}wrong": "invalid username-password",
        f"redis+sentinel://:d%2Fta@{hosts}": "[Aa]uthentication required",
    }.items():
        with pytest.raises(RedisUnreachable, match=says) as caught:
            await check_server(RedisLink(url))
        assert "ta@" not in str(caught.value)
        assert "wrong@" not in str(caught.value)


async def test_what_no_sentinel_knows_is_named(watched: Watched) -> None:
    url = watched.url.replace(SERVICE, "nobody")
    with pytest.raises(RedisUnreachable, match="knows no service 'nobody'"):
        await check_server(RedisLink(url))


async def test_sentinels_that_are_away_are_each_named() -> None:
    with pytest.raises(RedisUnreachable, match=r"127\.0\.0\.1:1: .*127\.0\.0\.1:2: "):
        await check_server(RedisLink("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main"))
