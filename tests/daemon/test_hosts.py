import pytest

from theo_daemon.telemetry.hosts import HostCheck, parse_address


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1:9464",
        "127.0.0.1",
        "127.8.9.1:1",
        "localhost",
        "LOCALHOST:9464",
        "localhost.:9464",
        "[::1]:9464",
        "[::1]",
        "metrics.internal:9464",
    ],
)
def test_serves_loopback_the_bound_host_and_what_is_allowed(header: str) -> None:
    assert HostCheck("127.0.0.1", ["Metrics.Internal"])(header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ":9464",
        "evil.example:9464",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.localhost",
        "localhost@evil.example",
        "evil.example#localhost",
        "localhost/evil",
        "localhost evil",
        "localhost:port",
        "localhost:9464:1",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "10.0.0.1:9464",
        "[::]",
        "::1",
        "[fe80::1%lo]",
        "localhost\u00ad",
    ],
)
def test_serves_no_other_name(header: str | None) -> None:
    assert not HostCheck("127.0.0.1")(header)


@pytest.mark.parametrize(
    ("bound", "header", "served"),
    [
        ("10.1.2.3", "10.1.2.3:9464", True),
        ("10.1.2.3", "10.1.2.4:9464", False),
        ("router.local", "router.local", True),
        ("0.0.0.0", "10.1.2.3:9464", True),
        ("::", "[2001:db8::1]:9464", True),
        ("0.0.0.0", "evil.example", False),
        ("::", "evil.example", False),
    ],
)
def test_the_bound_host_decides_what_else_is_served(bound: str, header: str, served: bool) -> None:
    assert HostCheck(bound)(header) is served


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_is_host_and_port(address: str, parsed: tuple[str, int]) -> None:
    assert parse_address(address) == parsed


@pytest.mark.parametrize(
    "address", ["9464", ":9464", "localhost", "localhost:", "localhost:http", "localhost:65536"]
)
def test_anything_else_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        parse_address(address)
