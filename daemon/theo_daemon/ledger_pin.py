"""Which ledger belongs to these streams, and what budgets its processes believe in: said in Redis, for all hosts.

Two ledgers over one set of streams would keep ids and budgets apart and pay for jobs twice, without a sign of it. So
the first ledger is pinned, and a process that comes with another one is refused: always when the pinned one lies on
another host, where nobody here can see what became of it; on the same host, while any process uses it.

A ceiling that two processes have configured differently is only warned of: each enforces its own against what all have
spent, so the higher one of the two holds (and what a process without that budget spends does not count there). Were it
refused, a new configuration could not be rolled out one process after another.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct
from redis.exceptions import RedisError

from theo_daemon.budgets import Budgets
from theo_daemon.config import Config
from theo_daemon.keys import Keys
from theo_daemon.ledger.port import Ledger
from theo_daemon.money import to_usd
from theo_daemon.wire import Script, Wire
from theo_workers.clock import Clock, sleep
from theo_workers.errors import LedgerError

LOOK_EVERY_S: Final = 10.0
GONE_S: Final = 30.0  # a process that has not looked for so long is not running any more

BUDGET: Final = "budget "  # begins what one of `[[budgets]]` is for
Plan = Mapping[str, str]  # what is budgeted -> its ceiling, in words

PIN: Final = Script("""
-- KEYS: pin, plans   ARGV: uuid, host and place of the ledger, process, its plan, ms after which a process is gone
-- Pins the ledger, or finds it pinned: {1, uuid, host and place of the one that it replaces or '', plans of others...}
-- by name; or finds another one that stays: {0, uuid, host, place, ms since it was seen}.
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local others = {}
local plans = redis.call('HGETALL', KEYS[2])
for i = 1, #plans, 2 do
    local at, plan = string.match(plans[i + 1], '^(%d+) (.*)$')
    if now_ms - tonumber(at) > tonumber(ARGV[6]) then
        redis.call('HDEL', KEYS[2], plans[i])
    elseif plans[i] ~= ARGV[4] then
        others[#others + 1] = plans[i]
        others[#others + 1] = plan
    end
end
local replaced = { '', '', '' }
local uuid, host, place, seen = unpack(redis.call('HMGET', KEYS[1], 'uuid', 'host', 'place', 'seen'))
if uuid and uuid ~= ARGV[1] then
    if host ~= ARGV[2] or #others > 0 then return { 0, uuid, host, place, now_ms - tonumber(seen) } end
    replaced = { uuid, host, place }
end
redis.call('HSET', KEYS[1], 'uuid', ARGV[1], 'host', ARGV[2], 'place', ARGV[3], 'seen', string.format('%.0f', now_ms))
redis.call('HSET', KEYS[2], ARGV[4], string.format('%.0f ', now_ms) .. ARGV[5])
return { 1, replaced[1], replaced[2], replaced[3], unpack(others) }
""")


class Replaced(Struct, frozen=True, kw_only=True):
    """Until now these streams belonged to another ledger of this host, which no process uses any more."""

    uuid: str
    place: str


class Differing(Struct, frozen=True, kw_only=True):
    """Another process has another ceiling for the same scope."""

    process: str
    scope: str
    here: str
    there: str


class LedgerPin:
    """Of one process. `check` before the first job is read; `run` beside it."""

    def __init__(
        self, wire: Wire, keys: Keys, ledger: Ledger, *, process: str, plan: Plan, clock: Clock
    ) -> None:
        """`ledger` is open."""
        self._wire, self._keys, self._clock = wire, keys, clock
        self._ledger, self._host = ledger, socket.gethostname()
        self._process, self._plan = process, plan

    async def check(self) -> tuple[Replaced | None, list[Differing]]:
        """Pin the ledger, or find it pinned; and what living processes have configured otherwise.

        Raises LedgerError where another one is pinned, and redis.exceptions.RedisError.
        """
        ledger, keys = self._ledger, (self._keys.ledger_pin, self._keys.ledger_plans)
        plan = msgspec.json.encode(self._plan)
        words = (ledger.uuid, self._host, ledger.place, self._process, plan, int(GONE_S * 1000))
        ours, uuid, host, place, *rest = await self._wire.run(PIN, keys, words)
        if not ours:
            raise self._refusal(uuid.decode(), host.decode(), place.decode(), rest[0] / 1000)
        replaced = Replaced(uuid=uuid.decode(), place=place.decode()) if uuid else None
        differing = [
            one
            for process, plan in zip(rest[::2], rest[1::2], strict=True)
            for one in differences(process.decode(), self._plan, msgspec.json.decode(plan))
        ]
        return replaced, differing

    async def leave(self) -> None:
        """This process uses the ledger no more."""
        with contextlib.suppress(RedisError):  # then it is found gone in time
            await self._wire.ask("HDEL", self._keys.ledger_plans, self._process)
        await self._wire.close()

    async def run(self) -> None:
        """Look again from time to time, until cancelled. Raises LedgerError once another ledger is pinned."""
        while True:
            await sleep(self._clock, LOOK_EVERY_S)
            try:
                await self.check()
            except RedisError:  # others report that; it is pinned again when Redis is back without its data
                await self._wire.close()

    def _refusal(self, uuid: str, host: str, place: str, silent_s: float) -> LedgerError:
        return LedgerError(
            f"the jobs of prefix {self._keys.prefix} belong to another ledger: {place} on {host} (uuid {uuid}), in use "
            f"{silent_s:.0f} s ago. This process came with {self._ledger.place} on {self._host} (uuid "
            f"{self._ledger.uuid}). Two ledgers over one set of streams would pay for jobs twice and keep budgets "
            'apart.\nSeveral hosts? Set ledger.url = "redis" for all of them. Another router? Give it a [redis] prefix '
            "of its own.\nIs that ledger gone for good, and does nothing run with it? Then redis-cli DEL "
            f"{self._keys.ledger_pin}, and start again: what it remembered, and what was in flight, is forgotten."
        )


def plan_of(config: Config) -> dict[str, str]:
    """The ceilings of the configuration, by what they are for."""
    plan = {f"model {model.name}": "none" for model in config.models}
    for one in Budgets(config).ceilings():
        window = str(one.window) if one.aligned else f"{one.window} from the first use"
        scope = f"model {one.selectors['model']}" if one.own else f"{BUDGET}{one.name}"
        plan[scope] = f"{to_usd(one.ceiling_nano):.9g} USD per {window}"
    return plan


def differences(process: str, here: Plan, there: Plan) -> list[Differing]:
    """What is configured differently: of models those that both have, and every one of `[[budgets]]`."""
    return [
        Differing(process=process, scope=scope, here=here.get(scope, "none"), there=there.get(scope, "none"))
        for scope in dict.fromkeys((*here, *there))
        if here.get(scope) != there.get(scope)
        and (scope.startswith(BUDGET) or (scope in here and scope in there))
    ]


async def plans_in_use(wire: Wire, keys: Keys) -> dict[str, dict[str, str]]:
    """By process, those of the last minute. Raises redis.exceptions.RedisError."""
    seconds, _ = await wire.ask("TIME")
    words = await wire.ask("HGETALL", keys.ledger_plans)
    found: dict[str, dict[str, str]] = {}
    for process, text in zip(words[::2], words[1::2], strict=True):
        at_ms, _, plan = text.partition(b" ")
        if int(seconds) * 1000 - int(at_ms) <= GONE_S * 1000:
            found[process.decode()] = msgspec.json.decode(plan)
    return found
