from __future__ import annotations

import pytest
from redis.exceptions import AuthenticationError, OutOfMemoryError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from theo_daemon.redis_link import RedisLink, error_code, redacted
from theo_workers.errors import ConfigError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://user:hunter2@h:1/2", "redis://***@h:1/2"),
        ("rediss://:hunter2@h", "rediss://***@h"),
        ("redis://h/0?password=hunter2", "redis://h/0"),
        ("unix:///run/redis.sock?password=hunter2", "unix:///run/redis.sock"),
        ("redis://[::1]:7/0", "redis://[::1]:7/0"),
        (
            "redis+sentinel://u:hunter2@h1:1,h2:2/S/0?sentinel_password=x",
            "redis+sentinel://***@h1:1,h2:2/S/0",
        ),
        ("redis+cluster://h1:1,[::1]:2", "redis+cluster://h1:1,[::1]:2"),
        ("redis+cluster://:hun#ter2@h1:1,h2:2", "redis+cluster://***"),
        ("redis://:a#hunter2@h:1/0", "redis://***"),
        ("redis://u:12#hunter2@h:1/0", "redis://***"),
        ("redis://:hunter2:x@h:1:2", "redis://***"),
        ("hunter2", "***"),
    ],
)
def test_a_shown_url_has_no_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h", "allowed are redis://"),
        ("redis+cluster://h:7000", '[redis] prefix: on Redis Cluster write "{theo}" instead of "theo"'),
        ("redis+cluster://h:7000/1", "database 0 only"),
        ("redis+cluster://h:7000?sentinel_password=hun", "names a cluster"),
        ("redis+sentinel://h:7000", "service name"),
        ("redis+sentinel://h:7000/s?tls=hun", "neither 1 nor 0"),
        ("redis+sentinel://h:7000/s?colour=red", "unknown option 'colour'"),
        ("redis://h/jobs", "must be a database number"),
        ("redis://:hun#ter2@h/0", "percent-encoded"),
        ("redis://h:99999/0", "HOST:PORT"),
        ("redis://h?colour=red", "unknown option 'colour'"),
        ("hunter2", "not an address"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisLink(url)
    assert says in str(caught.value)
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "rediss://u:p@h:1/3?ssl_ca_certs=/ca.pem",
        "unix:///s.sock?db=2",
        "redis+sentinel://u:p@h1:1,[::1]/my%2Fservice/3?tls=1&ssl_ca_certs=/ca.pem&sentinel_password=q",
    ],
)
def test_ordinary_urls_are_accepted(url: str) -> None:
    RedisLink(url)


@pytest.mark.parametrize("prefix", ["{theo}", "prod:{theo}", "{a}{b}"])
def test_on_a_cluster_the_prefix_has_a_hash_tag(prefix: str) -> None:
    RedisLink("redis+cluster://h", prefix=prefix)


@pytest.mark.parametrize("prefix", ["theo", "{}theo", "{theo", "}theo{", "theo}"])
def test_on_a_cluster_no_other_prefix_is_accepted(prefix: str) -> None:
    with pytest.raises(ConfigError, match=r"instead of"):
        RedisLink("redis+cluster://h", prefix=prefix)


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("redis://h:7/0", "redis-cli -u redis://h:7/0 ping"),
        ("redis+sentinel://h1,h2/main", "redis-cli -h h1 -p 26379 SENTINEL GET-MASTER-ADDR-BY-NAME main"),
        ("redis+cluster://h1:7000,h2:7001", "redis-cli -h h1 -p 7000 CLUSTER INFO"),
    ],
)
def test_unreachable_names_the_command_to_try(url: str, command: str) -> None:
    assert command in str(RedisLink(url, prefix="{theo}").unreachable(RedisConnectionError("no")))


def test_unreachable_says_what_was_tried_and_what_to_do() -> None:
    link = RedisLink(f"redis://user:{SECRET}@nowhere:6379/0")
    text = str(link.unreachable(RedisConnectionError("Error 111: Connection refused")))
    for part in (
        "redis://***@nowhere:6379/0",
        "Connection refused",
        "THEO_REDIS_URL",
        "--embedded",
        "redis-cli",
    ):
        assert part in text
    assert SECRET not in text


def test_a_refused_login_is_told_apart_from_a_server_that_is_away() -> None:
    assert "user name and password" in str(RedisLink("redis://h").unreachable(AuthenticationError("no")))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ResponseError("NOGROUP No such key"), "NOGROUP"),
        (ResponseError("UNBLOCKED the stream key no longer exists"), "UNBLOCKED"),
        (OutOfMemoryError("command not allowed", status_code="OOM"), "OOM"),
        (RedisConnectionError("Connection closed by server."), "ConnectionError"),
    ],
)
def test_error_codes(error: ResponseError, code: str) -> None:
    assert error_code(error) == code
