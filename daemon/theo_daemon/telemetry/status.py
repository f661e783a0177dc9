"""What `/status`, the dashboard and `theo-router status --json` show. None: not known now."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

BreakerState = Literal["closed", "half_open", "open"]
ModelState = Literal["closed", "half_open", "open", "paused", "disabled", "stopped"]


class LaneStatus(Struct, frozen=True, kw_only=True):
    """One lane, as Redis has it: the same in every process."""

    lane: str
    depth: int | None = None  # waiting and in flight
    oldest_age_s: float | None = None


class Prediction(Struct, frozen=True, kw_only=True):
    """What predictive routing expects of a model's next call with a prompt of 1,000 bytes."""

    workflow: str  # `*`: all of them
    success: float  # from 0 to 1
    latency_ms: float
    cost_usd: float
    calls: float  # that it rests on, older ones counted in part


class ModelStatus(Struct, frozen=True, kw_only=True):
    """One configured model. Calls are this process's; spend is the fleet's, and health some seconds ago was, too."""

    name: str
    provider: str
    model: str
    region: str | None = None
    state: ModelState  # what stands in the way of calls, or the breaker's
    breaker: BreakerState = "closed"
    retry_in_s: float | None = None  # until an open or paused model is tried again
    throttle: float | None = None  # the share of its calls that go to others now; None: all are its own
    passed_over: int = 0  # calls that it sent to others since the process began
    running: int = 0
    # Calls at a time as things are: fewer than `concurrency` while it recovers or is overloaded.
    slots: int = 0
    concurrency: int = 0
    total_successes: int = 0
    total_failures: int = 0
    consecutive_failures: int = 0
    last_success_at: float | None = None  # Unix seconds, as all `_at` here
    last_failure_at: float | None = None
    latency_ms: float | None = None  # moving average; the rest is over the last 256 answers
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    ttft_p50_ms: float | None = None  # to the first token of streamed calls
    ttft_p95_ms: float | None = None
    tokens_per_s: float | None = None
    spent_usd: float | None = None
    held_usd: float | None = None
    ceiling_usd: float | None = None
    window: str | None = None
    why: tuple[
        Prediction, ...
    ] = ()  # all workflows first, then those asked last; empty unless routing is predictive


class RegionStatus(Struct, frozen=True, kw_only=True):
    """One region of `routing.regions`, or of a model, in order of preference."""

    name: str
    evicted_s: float | None = None  # since it was; None: it is not
    circuits: tuple[str, ...] = ()  # its models whose circuits are not closed


class ScopeStatus(Struct, frozen=True, kw_only=True):
    """One scope of a budget in the window that runs: a tenant's, where the budget counts each tenant."""

    name: str
    spent_usd: float
    held_usd: float
    used: float  # of the ceiling; 1 is all of it
    resets_at: float | None = None


class BudgetStatus(Struct, frozen=True, kw_only=True):
    """One of `[[budgets]]`, for the whole fleet. Spent and held are those of all its scopes together."""

    name: str
    ceiling_usd: float  # of each scope
    window: str
    spent_usd: float
    held_usd: float
    used: float  # by the most used scope
    downgrading: bool = False  # cheaper models are preferred for its sake
    scopes: int = 1  # on record
    most_used: tuple[ScopeStatus, ...] = ()


class JobTotals(Struct, frozen=True, kw_only=True):
    """Jobs this process ended since it started."""

    ok: int = 0
    failed: int = 0
    cache_hits: int = 0
    coalesced: int = 0


class Status(Struct, frozen=True, kw_only=True):
    """One process and what it knows of the fleet."""

    at: float
    version: str
    consumer: str
    prefix: str
    uptime_s: float
    not_ready: str | None = None  # why no jobs are read; None while they are
    in_flight: int = 0
    waiting: int = 0
    consumers: int | None = None  # processes that read these lanes
    dead: int | None = None  # dead letters kept
    jobs: JobTotals = JobTotals()
    lanes: tuple[LaneStatus, ...] = ()
    models: tuple[ModelStatus, ...] = ()
    regions: tuple[RegionStatus, ...] = ()
    budgets: tuple[BudgetStatus, ...] = ()
