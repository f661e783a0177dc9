"""`P:control` as every process reads it, over a fake server's protocol and over the real thing."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from fakeredis import TcpFakeServer

from tests.doubles import running, until
from theo_daemon.cancellations import Cancel
from theo_daemon.control import ControlReader
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.keys import Keys
from theo_daemon.redis_link import RedisLink
from theo_daemon.wire import Wire
from theo_workers.clock import SystemClock

# The fake server's threads do not expect that a client closes its connection.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(scope="module")
def fake_url() -> Iterator[str]:
    """fakeredis behind a socket: good enough for XADD and XREAD, whose blocking form it has right."""
    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["fake", "real"])
def either(request: pytest.FixtureRequest, fake_url: str, valkey: EmbeddedValkey) -> RedisLink:
    return RedisLink(fake_url if request.param == "fake" else valkey.url)


@pytest.fixture
async def client(either: RedisLink) -> AsyncIterator[Wire]:
    wire = either.wire()
    yield wire
    await wire.close()


class Heard:
    """What the reader told."""

    def __init__(self, wire: Wire, keys: Keys) -> None:
        self.cancels: list[Cancel] = []
        self.orders: list[tuple[str, str]] = []
        self.at_ms: list[int] = []
        self.reader = ControlReader(
            wire=wire,
            keys=keys,
            on_cancel=self.cancels.append,
            on_order=self.order,
            clock=SystemClock(),
            rng=random.Random(1),
        )

    def order(self, command: str, model: str, entry_id: str) -> None:
        self.orders.append((command, model))
        self.at_ms.append(int(entry_id.partition("-")[0]))


async def push(wire: Wire, keys: Keys, *words: str) -> int:
    entry_id: bytes = await wire.ask("XADD", keys.control, "*", *words)
    return int(entry_id.partition(b"-")[0])


async def test_commands_of_the_recent_past_are_read_before_the_first_job(client: Wire, keys: Keys) -> None:
    at_ms = await push(client, keys, "cmd", "cancel", "id", "a")
    await push(client, keys, "cmd", "cancel", "id", "b", "tenant", "t")
    heard = Heard(client, keys)
    await heard.reader.catch_up()
    assert heard.cancels[0] == Cancel("a", None, at_ms)
    assert (heard.cancels[1].name, heard.cancels[1].tenant) == ("b", "t")


async def test_later_commands_reach_a_waiting_reader(either: RedisLink, client: Wire, keys: Keys) -> None:
    heard = Heard(client, keys)
    async with running(heard.reader.run()):
        other = either.wire()
        at_ms = await push(other, keys, "cmd", "disable", "model", "fast")
        await until(lambda: heard.orders == [("disable", "fast")])
        assert heard.at_ms == [at_ms]
        await other.close()


@pytest.mark.parametrize(
    "words",
    [("cmd", "dance"), ("cmd", "cancel"), ("id", "a"), ("cmd", "disable"), ("cmd", "cancel", "id", "")],
)
async def test_what_is_no_command_for_us_is_left_alone(
    client: Wire, keys: Keys, words: tuple[str, ...]
) -> None:
    await push(client, keys, *words)
    await push(client, keys, "cmd", "reset", "model", "fast")
    heard = Heard(client, keys)
    await heard.reader.catch_up()
    assert heard.cancels == []
    assert heard.orders == [("reset", "fast")]
