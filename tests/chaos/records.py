"""What is written down during a rehearsal, outside the system: jobs, calls, faults, replies. All times monotonic."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct, field

Entry = tuple[str, str]  # job stream, entry id
FOREVER = float("inf")


class Pushed(Struct, frozen=True, kw_only=True):
    """One job as it was pushed. Jobs of one `group` may share one call; other groups have other prompts."""

    entry: Entry
    group: str  # its prompt
    fields: dict[str, str]
    age: int = 0  # how often Redis had been wiped by then
    certain: bool = True  # was it stored? Else it may have been


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
    age: int = 0  # how often Redis had been wiped by then

    @property
    def call(self) -> int | None:
        """The number of the call that its output came from."""
        _, mark, number = self.fields.get("output", "").rpartition("#")
        return int(number) if mark else None


class Stop(Struct, kw_only=True):
    """A process stood still, or Redis was away, or nothing could be recorded."""

    boot: str
    started_at: float
    ended_at: float = FOREVER


class Wipe(Struct, frozen=True, kw_only=True):
    """Redis lost all that it held, at one moment."""

    at: float
    how: str
    held: frozenset[Entry]  # jobs that it held, none of them answered


class Faults(Struct, kw_only=True):
    """What was done to the system."""

    kills: dict[str, float] = field(default_factory=dict)  # boot -> when
    kills_of_booting: int = 0  # so many of them before they read jobs
    stops: list[Stop] = field(default_factory=list)
    redis_kills: list[Stop] = field(default_factory=list)  # until it answered again
    wipes: list[Wipe] = field(default_factory=list)
    unrecorded: list[Stop] = field(default_factory=list)  # while the ledger was away with Redis
    cut_connections: list[float] = field(default_factory=list)
    acknowledged: int = 0  # entries, by a stranger
    dropped: int = 0  # entries, with a consumer that a stranger deleted
    gave_up: int = 0  # boots that found no Redis
    crashes: list[str] = field(
        default_factory=list
    )  # other boots that ended by themselves, with their last words


def read_calls(logs: Iterable[Path]) -> list[Call]:
    """The providers' logs, oldest call first."""
    calls: dict[int, Call] = {}
    decode = msgspec.json.Decoder().decode
    for line in (line for log in logs for line in log.read_bytes().splitlines()):
        said = decode(line)
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
