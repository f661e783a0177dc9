"""The way to the simulated Redis and back: connections take time, and break before or after a command took effect."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.sim.loop import SimLoop
from tests.sim.redis_commands import Block, Commands
from tests.sim.redis_words import Error
from theo_daemon.finish_script import FINISH
from theo_daemon.lease_scripts import FETCH, FORGET, HAND_BACK, RECLAIM, RENEW, TAKE
from theo_daemon.ledger_pin import PIN
from theo_daemon.publisher import UNUSABLE
from theo_daemon.scout_scripts import PASS, PEEK, SHELVE, TAKE_EARLY
from theo_daemon.unowned import FIND, TAKE_IN
from theo_workers.clock import sleep

SCRIPTS = {
    "FINISH": FINISH, "RENEW": RENEW, "HAND_BACK": HAND_BACK, "RECLAIM": RECLAIM, "TAKE": TAKE, "FETCH": FETCH,
    "FORGET": FORGET, "UNUSABLE": UNUSABLE, "PIN": PIN, "PEEK": PEEK, "TAKE_EARLY": TAKE_EARLY, "PASS": PASS,
    "SHELVE": SHELVE, "FIND": FIND, "TAKE_IN": TAKE_IN,
}  # fmt: skip
SCRIPT_NAMES = {
    word: name for name, script in SCRIPTS.items() for word in (script.sha.encode(), script.text.encode())
}
_to_exception = BaseParser.parse_error


class Connection:
    """What `Wire` uses of a connection of the client library. `owner` is whoever would close it by dying."""

    __slots__ = (
        "_replies",
        "_server",
        "_waiter",
        "arrives_at",
        "broken",
        "closed",
        "open",
        "owner",
        "returns_at",
    )

    def __init__(self, server: Server, owner: Any) -> None:
        self._server, self.owner = server, owner
        self._replies: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.open = False
        self.closed = False  # by this side
        self.broken: Exception | None = None
        self.arrives_at = self.returns_at = 0.0  # nothing overtakes what was sent before

    async def send_packed_command(self, packed: bytes, check_health: bool = True) -> None:
        assert not check_health
        if not self.open:
            await self._server.accept(self)
            self.open = True
        if self.broken is not None:
            raise self.broken
        self._server.send(self, packed)

    async def read_response(self) -> Any:
        if not self._replies:
            if self.broken is not None:
                raise self.broken
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        reply = self._replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, nowait: bool = False) -> None:
        assert nowait
        self.close()

    def close(self) -> None:
        """As the kernel does for the dead, too: what was sent before still arrives."""
        if not self.closed:
            self.closed = True
            self._server.hung_up(self)

    def receive(self, replies: Sequence[Any]) -> None:
        if not self.closed and self.broken is None:
            self._replies += replies
            self._wake()

    def cut(self) -> None:
        """By the network or the server: nothing on its way arrives."""
        if self.broken is None:
            self.broken = RedisConnectionError("Connection closed by server.")
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            if self._replies:
                self._waiter.set_result(None)
            elif self.broken is not None:
                self._waiter.set_exception(self.broken)


class Waiting:
    """A blocking read that waits."""

    __slots__ = ("block", "done", "link")

    def __init__(self, link: Connection, block: Block) -> None:
        self.link, self.block, self.done = link, block, False


class Server:
    """One Redis, its moods, and the network in front of it.

    `point(name, owner)` is asked as a command arrives and after it took effect, and says what befalls it:
    `cut`, seconds of delay, or nothing.
    """

    def __init__(
        self, loop: SimLoop, rng: random.Random, clock: Callable[[], float], point: Callable[[str, Any], Any]
    ) -> None:
        self._loop, self._random, self._point = loop, rng.random, point
        self.data = Commands(clock)
        self.up = True
        self.stands_until = 0.0  # it answers nobody before this second
        self.trace = 0  # of all that ever arrived
        self.on_exchange: Callable[[Any, str, Any], None] | None = None
        self._links: dict[Connection, None] = {}
        self._waiting: dict[bytes, list[Waiting]] = {}
        self._woken: list[bytes] = []

    def hop(self) -> float:
        """Seconds that something takes on its way."""
        draw = self._random()
        return 0.00005 + 0.0004 * draw if draw < 0.97 else 0.02 * self._random()

    # -- connections -----------------------------------------------------------------------------------

    async def accept(self, link: Connection) -> None:
        clock = link.owner.clock
        await sleep(clock, self.hop())
        if not self.up:
            raise RedisConnectionError("Error 111 connecting to redis:6379. Connection refused.")
        self._links[link] = None

    def send(self, link: Connection, packed: bytes) -> None:
        link.arrives_at = max(link.arrives_at, self._loop.now + self.hop())
        self._loop.at(link.arrives_at, self._arrive, link, packed)

    def hung_up(self, link: Connection) -> None:
        link.arrives_at = max(link.arrives_at, self._loop.now + self.hop())
        self._loop.at(link.arrives_at, self._forget, link)

    def cut(self, chosen: Callable[[Connection], bool]) -> int:
        """Cut these connections; their number."""
        links = [link for link in self._links if chosen(link)]
        for link in links:
            self._forget(link)
            link.cut()
        return len(links)

    def stop(self) -> None:
        """The server dies. What it had is kept, or lost, by whoever starts it again."""
        self.up = False
        self.cut(lambda _: True)

    def start(self) -> None:
        self.up = True
        self.data.restart()

    def _forget(self, link: Connection) -> None:
        if self._links.pop(link, 0) is None:
            for waiting in self._waiting.values():
                for one in waiting:
                    one.done = one.done or one.link is link

    # -- commands --------------------------------------------------------------------------------------

    def _arrive(self, link: Connection, packed: bytes) -> None:
        if self.stands_until > self._loop.now:
            self._loop.at(self.stands_until, self._arrive, link, packed)
            return
        if link not in self._links:
            return
        reader = hiredis.Reader()
        reader.feed(packed)
        commands = []
        while (words := reader.gets()) is not False:
            commands.append(words)
        label = _label(commands[0])
        self.trace = zlib.crc32(packed, self.trace)
        if self._point(f"{label} sent", link.owner) == "cut":
            self._forget(link)
            link.cut()
            return
        replies = [self.data.do(words) for words in commands]
        if self.on_exchange is not None:
            self.on_exchange(link.owner, label, (commands, replies))
        self._serve_waiting()
        if type(replies[0]) is Block:
            self._wait(link, replies[0])
        else:
            self._reply(link, label, replies)

    def _reply(self, link: Connection, label: str, replies: Sequence[Any]) -> None:
        after = self._point(f"{label} done", link.owner)
        if after == "cut":
            self._forget(link)
            link.cut()
            return
        delay = self.hop() if after is None else after
        link.returns_at = max(link.returns_at, self._loop.now + delay)
        told = [_to_exception(one.text.decode()) if isinstance(one, Error) else one for one in replies]
        self._loop.at(link.returns_at, link.receive, told)

    # -- blocking reads --------------------------------------------------------------------------------

    def _wait(self, link: Connection, block: Block) -> None:
        waiting = Waiting(link, block)
        for key in block.keys:
            self._waiting.setdefault(key, []).append(waiting)
        self._loop.at(self._loop.now + block.ms / 1000, self._time_out, waiting)

    def _time_out(self, waiting: Waiting) -> None:
        if not waiting.done:
            self._end(waiting, None)

    def added(self, key: bytes) -> None:
        """Something was written there."""
        self._woken.append(key)

    def wake(self) -> None:
        """Somebody wrote without a connection."""
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Whoever waited longest for a key gets what is there; a key that is gone lets them all go."""
        while self._woken:
            for waiting in list(self._waiting.get(self._woken.pop(), ())):
                if not waiting.done:
                    try:
                        found = waiting.block.again()
                    except Error as error:
                        found = error
                    if found is not None:
                        self._end(waiting, found)

    def unblock(self) -> None:
        """Keys were deleted under those who wait for them."""
        for key in list(self._waiting):
            for waiting in list(self._waiting.get(key, ())):
                if not waiting.done and self.data.keys.get(key) is None:
                    self._end(waiting, Error("UNBLOCKED the stream key no longer exists"))

    def _end(self, waiting: Waiting, found: Any) -> None:
        waiting.done = True
        for key in waiting.block.keys:
            self._waiting[key] = [one for one in self._waiting[key] if not one.done]
        self._reply(waiting.link, "XREAD", [found])


def _label(words: Sequence[bytes]) -> str:
    if words[0] in (b"EVALSHA", b"EVAL"):
        return SCRIPT_NAMES.get(words[1], "script")
    return words[0].decode()
