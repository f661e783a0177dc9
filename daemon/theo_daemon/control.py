"""Reads `P:control`: commands to all processes, those of the recent past included."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError

from theo_daemon.backoff import delay_s
from theo_daemon.cancellations import Cancel
from theo_daemon.keys import Keys
from theo_daemon.wire import Wire
from theo_workers.clock import Clock, sleep

BLOCK_MS = 1_000
PAGE = 500

ORDERS = frozenset(("disable", "enable", "reset"))
OnOrder = Callable[[str, str, str], None]  # command, model, entry id of the command


class ControlReader:
    """Every process reads all commands; none is acknowledged, the stream is bounded by its writers."""

    def __init__(
        self,
        *,
        wire: Wire,
        keys: Keys,
        on_cancel: Callable[[Cancel], None],
        on_order: OnOrder,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`on_order` carries out what an operator wants of a model; old commands come again at every start."""
        self._wire, self._key = wire, keys.control
        self._on_cancel, self._on_order = on_cancel, on_order
        self._clock, self._rng = clock, rng
        self._last = b"0-0"

    async def catch_up(self) -> None:
        """Read what is there already, before the first job. Raises redis.exceptions.RedisError."""
        while await self._read(("XREAD", "COUNT", PAGE, "STREAMS", self._key, self._last)):
            pass

    async def run(self) -> None:
        """Read until cancelled."""
        failures = 0
        while True:
            try:
                await self._read(
                    ("XREAD", "COUNT", PAGE, "BLOCK", BLOCK_MS, "STREAMS", self._key, self._last)
                )
                failures = 0
            except RedisError:  # the intake reports it
                failures += 1
                await self._wire.close()
                await sleep(self._clock, delay_s(failures, self._rng.random()))

    async def _read(self, command: Sequence[str | bytes | int]) -> int:
        reply = await self._wire.ask(*command)
        entries: list[Any] = reply[0][1] if reply else []
        for entry_id, fields in entries:
            self._last = entry_id
            given = dict(zip(fields[::2], fields[1::2], strict=False))
            self._obey(entry_id, {_text(name): _text(value) for name, value in given.items()})
        return len(entries)

    def _obey(self, entry_id: bytes, command: Mapping[str, str]) -> None:
        """Unknown commands are left alone: a newer process may know them."""
        name = command.get("cmd")
        if name == "cancel" and command.get("id"):
            at_ms = int(entry_id.partition(b"-")[0])
            self._on_cancel(Cancel(command["id"], command.get("tenant"), at_ms))
        elif name in ORDERS and command.get("model"):
            self._on_order(name, command["model"], entry_id.decode())


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
