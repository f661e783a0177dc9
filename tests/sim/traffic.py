"""The jobs of a world: plain ones, and all that clients do to a router."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, field

from theo_daemon.config import Config

LANES = ("default", "default", "high", "low")
CONNECTION_ERRORS = frozenset(
    {"provider_unavailable", "provider_timeout", "rate_limited", "no_model_available", "outcome_unknown"}
)

# (name, weight): what a question is like. One question is one prompt, asked by one or several jobs.
KINDS = (
    ("plain", 26), ("shared", 14), ("off", 8), ("refresh", 4), ("repeated", 10), ("conflict", 3), ("deadline", 8),
    ("cancelled", 7), ("streamed", 10), ("strict", 5), ("cheap", 3), ("malformed", 6), ("poison", 1),
)  # fmt: skip
MALFORMED: tuple[tuple[str, dict[str, str]], ...] = (
    ("invalid_job", {"params": "{"}),
    ("invalid_job", {"prompt": ""}),
    ("invalid_job", {"ttl_ms": "-1"}),
    ("invalid_job", {"cache": "perhaps"}),
    ("invalid_job", {"messages": "[]"}),
    ("invalid_job", {"metadata": "[1]"}),
    ("unsupported_version", {"v": "2"}),
    ("unknown_model", {"model": "nobody"}),
    ("payload_too_large", {"system": "x" * 5_000}),
    ("reply_to_not_allowed", {"reply_to": "theo:jobs"}),
    ("reply_to_not_allowed", {"reply_to": "theo:reply:text"}),  # a key of another type
)


class Job(Struct, frozen=True, kw_only=True):
    """One push. `refusal`: what it must be answered; `cancel_at`: when its client thinks better of it."""

    number: int
    at: float
    kind: str
    prompt: str
    lane: str
    fields: dict[str, str]
    refusal: str | None = None
    cancel_at: float | None = None
    cancel_by: str = "id"  # or `entry`
    as_document: bool = False

    @property
    def client_id(self) -> str | None:
        return self.fields.get("id")


class _Question(Struct, kw_only=True):
    kind: str
    prompt: str
    fields: dict[str, str] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)


def draw_jobs(rng: random.Random, count: int, config: Config, within_s: float) -> list[Job]:
    """So many jobs, in the order of their pushes."""
    models = [model.name for model in config.models]
    names, weights = zip(*KINDS, strict=True)
    jobs: list[Job] = []
    number = 0
    while len(jobs) < count:
        number += 1
        kind = rng.choices(names, weights)[0]
        jobs += _ask(rng, kind, f"q{number} {kind}", models, within_s, len(jobs))
    return sorted(jobs[:count], key=lambda job: job.at)


def _ask(
    rng: random.Random, kind: str, prompt: str, models: Sequence[str], within_s: float, number: int
) -> list[Job]:
    at = (
        rng.uniform(0.0, within_s)
        if rng.random() < 0.6
        else rng.choice((0.2, 1.5, 2.5)) + rng.uniform(0, 0.05)
    )
    fields: dict[str, str] = {"prompt": prompt}
    if rng.random() < 0.3:
        fields["model"] = rng.choice(models)
    if rng.random() < 0.3:
        fields["tenant"] = rng.choice(("t1", "t2"))
    if rng.random() < 0.3:
        fields["reply_to"] = f"theo:reply:{rng.choice('xyz')}"
    if rng.random() < 0.15:
        fields["metadata"] = json.dumps({"n": number})
    common: dict[str, Any] = {"kind": kind, "prompt": prompt}
    times = [at]
    match kind:
        case "shared" | "refresh":
            times += [at + rng.choice((0.0, 0.02, rng.uniform(0, 2.0))) for _ in range(rng.randint(1, 3))]
            if kind == "refresh":
                fields["cache"] = "refresh"
        case "off":
            times += [at + rng.uniform(0, 0.5)] if rng.random() < 0.3 else []
            fields["cache"] = "off"
        case "repeated" | "conflict":
            fields["id"] = f"id {prompt}"
            if rng.random() < 0.3:
                fields["cache"] = "off"
            times += [at + rng.choice((0.001, 0.05, rng.uniform(0, 2.5))) for _ in range(rng.randint(1, 2))]
        case "deadline":
            fields["ttl_ms"] = str(rng.choice((1, 30, 150, 600, 2_000)))
        case "cancelled":
            common["cancel_at"] = at + rng.choice((0.0, 0.01, 0.1, 0.5, 1.5))
            if rng.random() < 0.5:
                fields["id"] = f"id {prompt}"
            else:
                common["cancel_by"] = "entry"
            if rng.random() < 0.3:
                times.append(at + 0.02)
        case "streamed":
            fields["stream"] = "1"
            times += [at + rng.uniform(0, 0.3)] if rng.random() < 0.5 else []
        case "strict":
            fields["on_unknown"] = "fail"
        case "cheap":
            fields["max_cost"] = rng.choice(("0.00000001", "0.0002", "0.001"))
        case "malformed":
            common["refusal"], more = rng.choice(MALFORMED)
            fields |= more
            if "cache" in more or "messages" in more:
                fields.pop("metadata", None)
    return [_job(rng, number + nth, moment, fields, nth, common) for nth, moment in enumerate(times)]


def _job(
    rng: random.Random, number: int, at: float, fields: dict[str, str], nth: int, common: dict[str, Any]
) -> Job:
    kind = common["kind"]
    fields = dict(fields)
    if nth and kind == "conflict":
        fields["prompt"] = f"{fields['prompt']} or another"
    if kind == "streamed" and nth and rng.random() < 0.5:
        del fields["stream"]
    if nth and kind == "cancelled":
        common = {**common, "cancel_at": None}
        fields.pop("id", None)
    common = {**common, "prompt": fields["prompt"] or common["prompt"]}
    return Job(
        number=number,
        at=at,
        lane=rng.choice(LANES),
        fields=fields,
        as_document=kind == "plain" and rng.random() < 0.2,
        **common,
    )
