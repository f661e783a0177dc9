"""What `doctor` makes of a server's version, of the way to it, of its replicas and of its troubles."""

from __future__ import annotations

import pytest

from theo_daemon.cli.server_checks import check_replicas, check_transport, check_troubles, check_version


@pytest.mark.parametrize(
    ("facts", "state", "said"),
    [
        ({"redis_version": "7.4.11"}, "ok", "redis 7.4.11"),
        ({"redis_version": "7.4.10"}, "warn", "upgrade to 7.4.11"),
        ({"redis_version": "8.2.8"}, "warn", "upgrade to 8.2.9"),
        ({"redis_version": "8.10.0"}, "ok", "redis 8.10.0"),
        ({"redis_version": "8.12.1"}, "ok", "redis 8.12.1"),
        ({"redis_version": "7.2.4"}, "warn", "a series without fixes"),
        ({"redis_version": "8.0.6"}, "warn", "a series without fixes"),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.3"}, "warn", "upgrade to 8.1.4"),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.4"}, "ok", "valkey 8.1.4"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "ok", "valkey 9.1.2"),
        ({"redis_version": "8.4"}, "warn", "upgrade to 8.4.6"),
        ({"redis_version": "cloud"}, "warn", "cloud"),
        ({}, "warn", "of an unknown version"),
    ],
)
def test_versions_with_known_defects_are_told_with_the_one_to_upgrade_to(
    facts: dict[str, str], state: str, said: str
) -> None:
    finding = check_version(facts)
    assert finding.state == state
    assert said in finding.found
    assert (finding.promise is None) == (state == "ok")


@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("redis://127.0.0.1:6379/0", "ok"),
        ("redis://localhost/0", "ok"),
        ("redis://[::1]:6379/0", "ok"),
        ("unix:///run/valkey.sock", "ok"),
        ("rediss://redis.example:6380/0", "ok"),
        ("redis://:hunter2@10.0.0.5:6379/0", "warn"),
        ("rediss://:hunter2@redis.example:6380/0?ssl_cert_reqs=none", "warn"),
        ("redis+sentinel://127.0.0.1:26379,10.0.0.5:26379/main/0", "warn"),
        ("redis+sentinel://10.0.0.4:26379,10.0.0.5:26379/main/0?tls=1", "ok"),
        ("redis+cluster://127.0.0.1:7000,127.0.0.1:7001", "ok"),
        ("redis+cluster://10.0.0.4:7000,10.0.0.5:7001", "warn"),
    ],
)
def test_a_way_that_others_can_read_along_is_told(url: str, state: str) -> None:
    finding = check_transport(url)
    assert finding.state == state
    assert "hunter2" not in repr(finding)


ALONE, SERVICE = "redis://127.0.0.1/0", "redis+sentinel://127.0.0.1/main/0"


@pytest.mark.parametrize(
    ("facts", "url", "states"),
    [
        ({"connected_slaves": "0"}, ALONE, []),
        ({"connected_slaves": "0"}, SERVICE, ["warn"]),
        ({"connected_slaves": "2"}, ALONE, ["warn"]),
        ({"connected_slaves": "2", "min_slaves_good_slaves": "2"}, SERVICE, ["ok"]),
    ],
)
def test_what_a_failover_loses_is_told(facts: dict[str, str], url: str, states: list[str]) -> None:
    found = check_replicas(facts, url)
    assert [one.state for one in found] == states
    assert all(one.promise for one in found)


@pytest.mark.parametrize(
    ("facts", "states"),
    [
        ({"maxmemory": "1000000"}, []),
        ({"maxmemory": "0"}, ["ok"]),
        ({"maxmemory": "1", "evicted_keys": "3"}, ["warn"]),
        ({"aof_last_bgrewrite_status": "err", "rdb_last_bgsave_status": "err"}, ["warn", "warn"]),
        ({}, []),
    ],
)
def test_what_the_server_says_went_wrong_is_told(facts: dict[str, str], states: list[str]) -> None:
    assert [one.state for one in check_troubles(facts)] == states
