from __future__ import annotations

import pytest

from theo_daemon.redis_url import ClusterNodes, Node, OneServer, Sentinels, read_redis_url, secrets_in


def test_one_server_is_left_to_the_client_library() -> None:
    url = "rediss://u:p%2F@h:1/3?ssl_ca_certs=/ca.pem"
    assert read_redis_url(url) == OneServer(url)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        (
            "redis+sentinel://h1:1,h2/main",
            Sentinels(
                sentinels=(Node("h1", 1), Node("h2", 26_379)),
                service="main",
                url="redis://h1:1/0",
                sentinel_url="redis://h1:1/0",
            ),
        ),
        (
            "redis+sentinel://u:p%2F@[::1]:1/m%20n/2?tls=1&ssl_ca_certs=/ca.pem&sentinel_password=q/&sentinel_username=s",
            Sentinels(
                sentinels=(Node("::1", 1),),
                service="m n",
                url="rediss://u:p%2F@[::1]:1/2?ssl_ca_certs=%2Fca.pem",
                sentinel_url="rediss://s:q%2F@[::1]:1/0?ssl_ca_certs=%2Fca.pem",
            ),
        ),
        (
            "redis+cluster://:p@h1,[::1],[::2]:7/0?tls=0",
            ClusterNodes(
                nodes=(Node("h1", 6379), Node("::1", 6379), Node("::2", 7)), url="redis://:p@h1:6379/0"
            ),
        ),
    ],
)
def test_what_an_address_of_several_hosts_names(url: str, named: Sentinels | ClusterNodes) -> None:
    assert read_redis_url(url) == named


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("redis://h:1/0", set()),
        ("redis://u:p%2F@h", {"p%2F", "p/"}),
        ("redis://:a@b@h", {"a@b"}),
        ("redis+sentinel://:p@h1,h2/main?sentinel_password=q%2F", {"p", "q/"}),
        ("unix:///s.sock?password=p", {"p"}),
    ],
)
def test_secrets_are_found_wherever_they_stand(url: str, secrets: set[str]) -> None:
    assert set(secrets_in(url)) == secrets
