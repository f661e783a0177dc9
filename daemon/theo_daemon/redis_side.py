"""Everything of one process that talks to Redis, built together and started in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from theo_daemon.background import running
from theo_daemon.backlog import Kind
from theo_daemon.config import Config
from theo_daemon.control import ControlReader, OnOrder
from theo_daemon.core import Core
from theo_daemon.events import StreamEvents
from theo_daemon.fields import DEFAULT_WORKFLOW
from theo_daemon.heir import Heir
from theo_daemon.held import HeldEntries, Room
from theo_daemon.intake import IntakeRules, StreamIntake
from theo_daemon.keys import Keys
from theo_daemon.leases import LeaseRules, Leases
from theo_daemon.levelling import LevelRules, in_order
from theo_daemon.publisher import ReplyBounds, StreamPublisher
from theo_daemon.quarantine import Quarantine, QuarantineRules
from theo_daemon.redis_clock import RedisClock
from theo_daemon.redis_link import RedisLink
from theo_daemon.reply import delta_fields, final_fields
from theo_daemon.scout import Scout, ScoutRules, Waiting
from theo_daemon.suspicion import suspect_from
from theo_workers.clock import Clock

BLOCK_S = 1.0
READ_TIMEOUT_S = 5.0  # above BLOCK_S: a reader that hears nothing for so long has lost its connection
LEVEL_BASE = 64
FEW = 32  # waiting jobs of a kind, from which on no more of it are taken before their time


class RedisSide:
    """Made in two steps, since the dispatcher stands between publisher and intake: init, then `attach`."""

    intake: StreamIntake
    leases: Leases
    quarantine: Quarantine
    scout: Scout
    control: ControlReader

    def __init__(
        self,
        config: Config,
        link: RedisLink,
        *,
        consumer: str,
        clock: Clock,
        rng: random.Random,
        log: Callable[..., None],
    ) -> None:
        self._config, self._link, self._consumer = config, link, consumer
        self._clock, self._rng = clock, rng
        self.keys = Keys(config.redis.prefix)
        self.time = RedisClock(link.wire(), clock)
        self.events = StreamEvents(
            wire=link.wire(), keys=self.keys, max_len=config.events.max_len, now_ms=self.time.now_ms,
            clock=clock, rng=rng, log=log,
        )  # fmt: skip
        self.publisher = StreamPublisher(
            wire=link.wire(), queries=link.wire(), keys=self.keys, group=config.ingress.group,
            bounds=_bounds(config), final_fields=final_fields, delta_fields=delta_fields,
            now_ms=self.time.now_ms, events=self.events, clock=clock, rng=rng,
        )  # fmt: skip
        self.held = HeldEntries()
        self.heir = Heir(lease_s=config.ingress.lease_s, clock=clock, rng=rng)

    def attach(self, core: Core, on_order: OnOrder, shut: Callable[[], bool]) -> None:
        """Build what feeds the core's dispatcher. No jobs are read while `shut`: see `look_again`.

        Nor are any while Redis takes no replies: those that wait free room when they are published.
        """
        dispatcher = core.dispatcher
        config, keys, link = self._config, self.keys, self._link
        ingress, held = config.ingress, self.held

        def room() -> Room:
            if shut() or self.publisher.trouble is not None:
                return Room(0, 0)
            return Room(ingress.max_in_flight - len(held), ingress.max_in_flight_bytes - held.bytes)

        def room_in_order() -> Room:
            whole, early = room(), self.scout.wanted
            at_rest = len(held) - dispatcher.held + dispatcher.at_rest
            jobs, soon = in_order(whole.jobs, at_rest, most=ingress.max_in_flight, early=early)
            return Room(jobs, whole.bytes - early * ingress.max_job_bytes, soon)

        common: Any = {
            "keys": keys, "consumer": self._consumer, "held": held, "clock": self._clock, "rng": self._rng,
        }  # fmt: skip
        reading: Any = {**common, "wire": link.wire(timeout_s=READ_TIMEOUT_S), "rules": _intake_rules(config)}
        leasing: Any = {**common, "wire": link.wire(), "rules": _lease_rules(config)}
        self.quarantine = Quarantine(
            wire=link.wire(), rules=_quarantine_rules(config), consumer=self._consumer, held=held,
            ledger=core.ledger, ward=dispatcher, reception=core.reception, clock=self._clock, rng=self._rng,
        )  # fmt: skip
        self.intake = StreamIntake(
            **reading, room=room_in_order, on_peers=dispatcher.lines.heed_peers, events=self.events
        )
        self.leases = Leases(
            **leasing,
            room=room,
            events=self.events,
            on_suspects=self.quarantine.take,
            on_lost=dispatcher.lose,
        )
        self.scout = Scout(
            **common,
            wire=link.wire(),
            rules=_scout_rules(config),
            room=room,
            behind=self.intake.behind,
            waiting=partial(_waiting, core),
            give_way=dispatcher.give_way,
            peers=lambda: dispatcher.lines.peers,
        )
        self.control = ControlReader(
            wire=link.wire(timeout_s=READ_TIMEOUT_S), keys=keys, on_cancel=dispatcher.cancel, on_order=on_order,
            clock=self._clock, rng=self._rng,
        )  # fmt: skip

    def look_again(self) -> None:
        """It may not be shut any more."""
        self.held.freed.set()

    async def start(self, stack: AsyncExitStack) -> list[asyncio.Task[None]]:
        """Start what must run before the first job is read, and until the last reply is out."""
        await self.control.catch_up()
        works = (
            running(self.publisher.run(), stop=self.publisher.stop),
            running(self.events.run(), stop=self.events.stop),
            running(self.time.run()),
            running(self.control.run()),
            running(self._link.watch(self._clock)),
        )
        return [await stack.enter_async_context(work) for work in works]


def _bounds(config: Config) -> ReplyBounds:
    reply = config.reply
    return ReplyBounds(
        default_reply=reply.default,
        max_len=reply.max_len,
        ttl_s=reply.ttl_s,
        dead_max_len=config.dead.max_len,
    )


def _intake_rules(config: Config) -> IntakeRules:
    ingress = config.ingress
    return IntakeRules(
        group=ingress.group,
        lanes=ingress.lanes,
        max_job_bytes=ingress.max_job_bytes,
        block_s=min(BLOCK_S, ingress.lease_s / 2),  # the lease of what a read brings counts from its start
        lease_s=ingress.lease_s,
        level=LevelRules(base=LEVEL_BASE),
    )


def _scout_rules(config: Config) -> ScoutRules:
    ingress = config.ingress
    return ScoutRules(
        group=ingress.group,
        lanes=tuple(ingress.lanes),
        max_job_bytes=ingress.max_job_bytes,
        lease_s=ingress.lease_s,
        few=max(1, min(FEW, ingress.max_in_flight // 8)),
        most=ingress.max_in_flight // 2,
    )


def _waiting(core: Core) -> Waiting:
    """How many jobs of a kind wait here at this moment; None where none could start, or has a model."""
    counted = core.dispatcher.waiting_kinds()

    def waiting(lane: str, kind: Kind) -> int | None:
        route = core.catalogue.resolve(kind.model or None, kind.workflow or DEFAULT_WORKFLOW)
        if route is None or not core.fleet.any_available(route.names):
            return None
        return counted.get((lane, kind.tenant, route.name), 0)

    return waiting


def _lease_rules(config: Config) -> LeaseRules:
    ingress = config.ingress
    return LeaseRules(
        group=ingress.group,
        lanes=tuple(ingress.lanes),
        lease_s=ingress.lease_s,
        max_job_bytes=ingress.max_job_bytes,
        adopt_after_s=2 * READ_TIMEOUT_S,
        suspect_from=suspect_from(ingress.max_deliveries),
    )


def _quarantine_rules(config: Config) -> QuarantineRules:
    ingress = config.ingress
    return QuarantineRules(
        group=ingress.group, max_job_bytes=ingress.max_job_bytes, max_deliveries=ingress.max_deliveries
    )
