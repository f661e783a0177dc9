"""What is written down during a rehearsal, outside the system: jobs, calls, faults, replies. All times monotonic."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct, field

Entry = tuple[str, str]  # job stream, entry id
FOREVER = float("inf")


class Pushed(Struct, frozen=True, kw_only=True):
    """One job as it was pushed. Jobs of one `group` may share one call; other groups have other prompts."""

    entry: Entry
    group: str  # its prompt
    fields: dict[str, str]


class Call(Struct, kw_only=True):
    """One request as the provider saw it. `how`: its fate, or `closed` by the caller before."""

    number: int
    prompt: str
    boot: str
    started_at: float
    ended_at: float = FOREVER
    how: str = "unended"
    fate: str = "ok"  # what was in store for it


class Reply(Struct, frozen=True, kw_only=True):
    """One final reply, and when the reader saw it."""

    entry: Entry
    fields: dict[str, str]
    seen_at: float

    @property
    def call(self) -> int | None:
        """The number of the call that its output came from."""
        _, mark, number = self.fields.get("output", "").rpartition("#")
        return int(number) if mark else None


class Stop(Struct, kw_only=True):
    """A process stood still; or nothing could be recorded."""

    boot: str
    started_at: float
    ended_at: float = FOREVER


class Faults(Struct, kw_only=True):
    """What was done to the system."""

    kills: dict[str, float] = field(default_factory=dict)  # boot -> when
    stops: list[Stop] = field(default_factory=list)
    redis_kills: list[float] = field(default_factory=list)
    unrecorded: list[Stop] = field(default_factory=list)  # while the ledger was away with Redis
    cut_connections: list[float] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)  # boots that ended by themselves, with their last words


def read_calls(log: Path) -> list[Call]:
    """The provider's log, oldest call first."""
    calls: dict[int, Call] = {}
    for line in log.read_text().splitlines():
        said = json.loads(line)
        number = said["call"]
        if said["what"] == "start":
            calls[number] = Call(
                number=number,
                prompt=said["prompt"],
                boot=said["boot"],
                started_at=said["at"],
                fate=said["fate"],
            )
        else:
            call = calls[number]
            given_up = said["how"] == "closed" and call.fate == "hang"  # as was to be expected
            call.ended_at, call.how = said["at"], "hang" if given_up else said["how"]
    return sorted(calls.values(), key=lambda call: call.started_at)


def by_prompt(calls: Iterable[Call]) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in calls:
        found.setdefault(call.prompt, []).append(call)
    return found
