from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.addresses import (
    check_host_port,
    check_http_url,
    check_proxy_url,
    check_redis_url,
    is_loopback,
    redacted_redis_url,
    split_host_port,
)
from theo_workers.secret import Secret


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://localhost",
        "redis://my_redis:6379/",
        "redis://[::1]:6379/15",
        "redis://:s3cret@h:1/0",
        "redis://user:s3cr%2Fet@h:1/0?protocol=2",
        "rediss://user:pw@redis.example.com:6380/0",
        "unix:///run/redis.sock",
        "unix://:pw@/run/redis.sock?db=1",
        "redis+sentinel://h1:26379,h2:26379/SERVICE/0",
        "redis+sentinel://:pw@h1,h2/mymaster",
        "redis+cluster://h1:7000,h2:7001",
        "redis+cluster://u:pw@h1:7000/0",
    ],
)
def test_the_forms_of_the_contract_are_accepted(url: str) -> None:
    check_redis_url(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "not an address"),
        ("h:6379", "not an address"),
        ("http://h:6379", "not an address"),
        ("REDIS://h:6379", "not an address"),
        ("redis+sentinels://h/x", "not an address"),
        ("redis://", "HOST:PORT"),
        ("redis://:6379", "HOST:PORT"),
        ("redis://h:0/0", "HOST:PORT"),
        ("redis://h:65536/0", "HOST:PORT"),
        ("redis://h:x/0", "HOST:PORT"),
        ("redis://h1:1,h2:2/0", "HOST:PORT"),
        ("redis://h:1/zero", "database number"),
        ("redis://h:1/0#x", "fragment"),
        ("redis://:pa/ss@h:1/0", "percent-encoded"),
        ("redis://:pa?ss@h:1/0", "percent-encoded"),
        ("redis://:pa#ss@h:1/0", "percent-encoded"),
        ("unix://run/redis.sock", "unix:///PATH"),
        ("unix://", "unix:///PATH"),
        ("redis+sentinel://h1:26379", "service name"),
        ("redis+sentinel://h1:26379/", "service name"),
        ("redis+sentinel://h1:26379,/SERVICE", "HOST:PORT"),
        ("redis+cluster://h1:7000/1", "database 0 only"),
    ],
)
def test_other_addresses_are_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_redis_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:s3cret@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://user:s3cret@host:6379/0", "redis://user:***@host:6379/0"),
        ("redis://s3cret@host/0", "redis://***@host/0"),
        ("redis://:s3c@ret@host/0", "redis://:***@host/0"),
        ("redis://:s3c:ret@host/0", "redis://:***@host/0"),
        ("redis://h/0?password=s3cret", "redis://h/0"),
        ("redis://h/0#s3cret", "redis://h/0"),
        ("redis://:s3c/ret@host/0", "redis://***"),
        ("redis://:s3c?ret@host/0", "redis://***"),
        ("unix://u:s3cret@/run/r.sock", "unix://u:***@/run/r.sock"),
        ("redis+sentinel://:s3cret@h1:1,h2:2/S/0", "redis+sentinel://:***@h1:1,h2:2/S/0"),
        ("s3cret", "***"),
        ("s3 cret://h", "***"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted_redis_url(Secret(url)) == shown


def test_no_address_is_shown_as_that() -> None:
    assert redacted_redis_url(None) == "(no Redis address)"


@given(
    password=st.text("QZ/?#@:%[], \\", min_size=4),
    scheme=st.sampled_from(["redis", "rediss", "redis+cluster"]),
)
def test_no_piece_of_any_password_is_shown_or_quoted(password: str, scheme: str) -> None:
    url = f"{scheme}://user:{password}@host:1/0"
    assert not set("QZ") & set(redacted_redis_url(Secret(url)))
    try:
        check_redis_url(url)
    except ValueError as error:
        assert not set("QZ") & set(str(error).replace("HOST", ""))  # noqa: PT017


@pytest.mark.parametrize("url", ["https://api.openai.com/v1/", "http://[::1]:8080/v1?x=1", "http://h"])
def test_http_urls_are_accepted(url: str) -> None:
    assert check_http_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("h/v1", "http:// or https://"),
        ("ws://h", "http:// or https://"),
        ("https://", "with a host"),
        ("https://h:0/", "with a host"),
        ("https://h:x/", "is no URL"),
        ("https://[::1/", "is no URL"),
        ("https://h/a b", "no blanks"),
        ("https://h/ü", "nothing but ASCII"),
        ("https://h/#x", "fragment"),
        ("https://u@h/", "no user"),
    ],
)
def test_other_urls_are_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_http_url(url)


def test_a_proxy_may_have_credentials() -> None:
    assert check_proxy_url("http://u:pw@h:3128") == "http://u:pw@h:3128"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_host_and_port_are_told_apart(text: str, parts: tuple[str, int]) -> None:
    assert split_host_port(check_host_port(text)) == parts


@pytest.mark.parametrize("text", ["9464", ":9464", "h:", "h:x", "h:65536", "::1:9464", "http://h:1", "h:1/"])
def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        check_host_port(text)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8080/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]/v1", True),
        ("http://10.0.0.1/v1", False),
        ("http://127.evil.example/v1", False),
    ],
)
def test_knows_what_stays_on_this_machine(url: str, local: bool) -> None:
    assert is_loopback(url) is local
