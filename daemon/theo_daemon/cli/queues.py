"""What Redis says about the lanes: the same whichever process one asks."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from redis.exceptions import ResponseError

from theo_daemon.cli.target import Target
from theo_daemon.oldest import age_s, oldest_ids
from theo_daemon.redis_link import error_code
from theo_daemon.wire import Wire


class Lane(Struct, frozen=True, kw_only=True):
    """One lane. `depth` is all jobs in it, `in_flight` those that some process holds."""

    lane: str
    stream: str
    depth: int
    in_flight: int
    oldest_age_s: float | None


class Consumer(Struct, frozen=True, kw_only=True):
    """One process that reads the lanes; `silent_s` since it last asked for anything."""

    name: str
    in_flight: int
    silent_s: float


class Queues(Struct, frozen=True, kw_only=True):
    """All lanes."""

    lanes: tuple[Lane, ...]
    consumers: tuple[Consumer, ...]
    dead: int

    @property
    def depth(self) -> int:
        return sum(lane.depth for lane in self.lanes)

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self.lanes)

    @property
    def oldest_age_s(self) -> float | None:
        return max((lane.oldest_age_s for lane in self.lanes if lane.oldest_age_s is not None), default=None)


async def look(wire: Wire, target: Target) -> Queues:
    """Two round trips. Raises redis.exceptions.RedisError."""
    group = target.config.ingress.group
    lanes = {lane: target.keys.jobs(lane) for lane in target.config.ingress.lanes}
    questions: list[tuple[str | int, ...]] = [("TIME",), ("XLEN", target.keys.dead)]
    for stream in lanes.values():
        questions += [
            ("XLEN", stream),
            ("XPENDING", stream, group),
            ("XINFO", "CONSUMERS", stream, group),
        ]
    time, dead, *answers = await wire.ask_all(questions)
    if isinstance(time, ResponseError):
        raise time
    oldest_of = await oldest_ids(wire, list(lanes.values()))
    now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
    found: list[Lane] = []
    consumers: dict[str, Consumer] = {}
    for number, (lane, stream) in enumerate(lanes.items()):
        depth, pending, members = answers[3 * number : 3 * number + 3]
        oldest = oldest_of[number]
        _raise_unless_missing(depth, oldest, pending, members)
        found.append(
            Lane(
                lane=lane,
                stream=stream,
                depth=depth,
                in_flight=0 if isinstance(pending, ResponseError) else pending[0],
                oldest_age_s=age_s(oldest, now_ms),
            )
        )
        for row in () if isinstance(members, ResponseError) else members:
            _count(consumers, dict(zip(row[::2], row[1::2], strict=True)))
    return Queues(
        lanes=tuple(found),
        consumers=tuple(sorted(consumers.values(), key=lambda one: one.name)),
        dead=0 if isinstance(dead, ResponseError) else dead,
    )


def _raise_unless_missing(*answers: Any) -> None:
    """Before the first process there is no stream and no group: then nothing is in flight."""
    for answer in answers:
        missing = "no such key" in str(answer)
        if isinstance(answer, ResponseError) and error_code(answer) != "NOGROUP" and not missing:
            raise answer


def _count(consumers: dict[str, Consumer], facts: dict[bytes, Any]) -> None:
    name = facts[b"name"].decode("utf-8", "replace")
    known = consumers.get(name, Consumer(name=name, in_flight=0, silent_s=float("inf")))
    consumers[name] = Consumer(
        name=name,
        in_flight=known.in_flight + facts[b"pending"],
        silent_s=min(known.silent_s, facts[b"idle"] / 1000),
    )
