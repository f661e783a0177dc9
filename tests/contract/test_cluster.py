"""A real cluster: its slot found, followed to other nodes, and told about when it is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.topologies import PREFIX, Cluster, Server, move_slot, node_id
from tests.contract.traffic import KEYS, Traffic
from tests.e2e.commands import Shell
from tests.e2e.processes import until
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.redis_link import RedisLink, RedisUnreachable
from theo_daemon.server_check import check_server

pytestmark = pytest.mark.e2e


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path).running() as cluster:
        yield cluster


@pytest.fixture
def traffic(cluster: Cluster, tmp_path: Path) -> Traffic:
    return Traffic(cluster, tmp_path)


def test_a_killed_primary_costs_no_job(traffic: Traffic) -> None:
    with traffic.served():
        traffic.survives("cluster, primary killed", Server.kill)


def test_a_planned_failover_costs_no_job(traffic: Traffic, cluster: Cluster) -> None:
    with traffic.served():
        spare = cluster.servers[-1]
        traffic.survives(
            "cluster, failover by command", lambda _: spare.client.execute_command("CLUSTER", "FAILOVER")
        )


def test_a_slot_that_moves_to_another_node_costs_no_job(traffic: Traffic, cluster: Cluster) -> None:
    with traffic.served():
        traffic.survives("cluster, slot moved", lambda old: move_slot(cluster, old))


def test_a_ledger_in_the_cluster_moves_with_its_slot(cluster: Cluster, tmp_path: Path) -> None:
    traffic = Traffic(cluster, tmp_path, ledger="redis")
    with traffic.served():
        traffic.survives("cluster with its ledger, slot moved", lambda old: move_slot(cluster, old))
        spare = cluster.servers[-1]
        spare.client.execute_command("CLUSTER", "REPLICATE", node_id(cluster.primary))
        until(lambda: spare.is_replica_in_step, 10, "a replica in step")
        assert traffic.shell.json("spend")["total"] > 0


def test_a_ledger_in_the_cluster_outlives_the_primary_of_its_slot(cluster: Cluster, tmp_path: Path) -> None:
    traffic = Traffic(cluster, tmp_path, ledger="redis")
    with traffic.served():
        traffic.survives("cluster with its ledger, primary killed", Server.kill)


def test_commands_find_the_slot(traffic: Traffic, cluster: Cluster) -> None:
    shell = traffic.shell
    with traffic.served():
        assert shell.json("submit", "hello", "--model", "echo")["output"] == "hello"
        assert shell.json("status")["depth"] == 0
        redis = [one for one in shell.json("doctor")["findings"] if one["what"] in {"redis", "role"}]
        assert [one["state"] for one in redis] == ["ok", "ok"]
    assert cluster.primary.client.exists(KEYS.events)


def test_a_reply_stream_in_another_slot_is_refused_with_the_cure(traffic: Traffic) -> None:
    config = traffic.shell.config
    config.write_text(f'reply = {{ allowed = ["P:reply:*", "mine:*"] }}\n{config.read_text()}')
    with traffic.served():
        tagged, untagged = f"mine:{PREFIX}", "mine:1"
        ids = traffic.push(1, "echo", reply_to=tagged) + traffic.push(1, "echo", reply_to=untagged)
        (refused,) = traffic.answered(ids[1:])
        assert refused["error_code"] == "reply_to_not_allowed"
        assert PREFIX in refused["error_message"]
        assert traffic.finals(tagged).keys() == {ids[0]}


@pytest.mark.parametrize("command", ["serve", "submit x", "status"])
def test_a_prefix_without_braces_is_refused_by_every_command(tmp_path: Path, command: str) -> None:
    shell = Shell(tmp_path, "redis+cluster://127.0.0.1:1", "theo", http=0)
    status, said = shell.refused(*command.split())
    assert status == 2
    assert '[redis] prefix: on Redis Cluster it needs braces, as in "{theo}"' in said


async def test_a_server_that_is_no_cluster_is_named_as_such(valkey: EmbeddedValkey) -> None:
    with pytest.raises(RedisUnreachable, match="cluster support disabled"):
        await check_server(RedisLink(f"redis+cluster://127.0.0.1:{valkey.port}", prefix=PREFIX))
