from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from theo_daemon import server_check
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.redis_link import RedisLink, RedisUnreachable
from theo_daemon.server_check import ServerUnsuitable, check_server


async def test_a_fit_server_passes_without_warnings(link: RedisLink) -> None:
    facts = await check_server(link)
    assert facts.version[0].isdigit()
    assert facts.warnings == ()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_an_evicting_server_is_refused_with_the_cure(own_valkey: EmbeddedValkey, policy: str) -> None:
    link = RedisLink(own_valkey.url)
    wire = link.wire()
    await wire.ask("CONFIG", "SET", "maxmemory-policy", policy)
    with pytest.raises(ServerUnsuitable, match=rf"{policy}(.|\n)*CONFIG SET maxmemory-policy noeviction"):
        await check_server(link)
    await wire.close()


async def test_an_old_server_is_refused_by_what_it_cannot_do(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_check, "FLOOR_COMMANDS", ("XAUTOCLAIM", "COMMANDOFTOMORROW"))
    with pytest.raises(ServerUnsuitable, match=r"COMMANDOFTOMORROW: Redis 7\.0 or Valkey 8"):
        await check_server(link)


@pytest.mark.parametrize(
    ("hidden", "warnings"),
    [
        (["-config"], 0),  # INFO tells the policy as well
        (["-config", "-info"], 1),
        (["-config", "-info", "-command"], 2),
    ],
)
async def test_a_server_that_hides_its_settings_is_accepted_with_a_warning(
    own_valkey: EmbeddedValkey, hidden: list[str], warnings: int
) -> None:
    wire = RedisLink(own_valkey.url).wire()
    await wire.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", *hidden)
    await wire.close()
    facts = await check_server(RedisLink(f"redis://app:pw@127.0.0.1:{own_valkey.port}/0"))
    assert len(facts.warnings) == warnings


async def test_a_wrong_password_is_named_as_such(link: RedisLink, valkey: EmbeddedValkey) -> None:
    with pytest.raises(RedisUnreachable, match="refused the login") as caught:
        await check_server(RedisLink(f"redis://app:wr0ng@127.0.0.1:{valkey.port}/0"))
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "unix:///nonexistent/redis.sock", "redis://no.invalid/0"]
)
async def test_a_server_that_is_away_is_unreachable(url: str) -> None:
    with pytest.raises(RedisUnreachable, match="Redis does not answer at"):
        await check_server(RedisLink(url))


async def test_a_unix_socket_works_like_a_port(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as short,  # a socket's path has at most 107 bytes
        EmbeddedValkey(tmp_path / "data", options=("--unixsocket", f"{short}/s.sock")),
    ):
        link = RedisLink(f"unix://{short}/s.sock?db=3")
        assert (await check_server(link)).warnings == ()
        wire = link.wire()
        assert b"db=3" in await wire.ask("CLIENT", "INFO")
        await wire.close()
