"""The configuration as the rest of the router reads it: every key of the contract, with its range and default.

Types carry the ranges, so that `config_table` can say what is allowed. Values are resolved: secrets read, paths
absolute, `P:` filled in, each model's `routing` merged over the global one. Money is USD here; `money.to_nano`
makes it exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from theo_daemon.job import OnUnknown
from theo_daemon.spend_window import SpendWindow
from theo_workers.secret import Secret
from theo_workers.upstreams.script import Fate, ScriptEnd

NAME_ALLOWED = "1-64 of A-Z a-z 0-9 . _ : -"

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._:-]{1,64}\Z", extra={"allowed": NAME_ALLOWED})]
Prefix = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9._:{}-]{1,64}\Z", extra={"allowed": f"{NAME_ALLOWED} and {{ }}"})
]
Text = Annotated[str, Meta(min_length=1, max_length=1024)]
Count = Annotated[int, Meta(ge=1, le=2**53)]
ShortCount = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
WholeSeconds = Annotated[int, Meta(ge=1, le=1_000_000_000)]
PauseSeconds = Annotated[float, Meta(ge=0, le=1e9)]  # 0: not at all
Milliseconds = Annotated[float, Meta(gt=0, le=1e12)]
Usd = Annotated[float, Meta(ge=0, le=1e9)]
Ratio = Annotated[float, Meta(ge=0, le=1)]

Provider = Literal["openai", "openai_responses", "anthropic", "gemini", "local", "scripted"]
Selector = Annotated[
    str,
    Meta(
        pattern=r"\A(?:\*|[A-Za-z0-9._:-]{1,64})\Z",
        extra={"allowed": f'"*" for each one by itself, or a name: {NAME_ALLOWED}'},
    ),
]

LogLevel = Literal["debug", "info", "warning", "error"]


class RedisConfig(Struct, frozen=True, kw_only=True):
    """`url` None: none is configured; `addresses.redacted_redis_url` shows it without its password."""

    url: Secret | None = None
    prefix: Prefix = "theo"


class IngressConfig(Struct, frozen=True, kw_only=True):
    """How jobs are read. Limits are per process."""

    group: Name = "theo"
    lanes: dict[str, int] = field(default_factory=lambda: {"high": 6, "default": 3, "low": 1})
    max_in_flight: ShortCount = 1024
    max_in_flight_bytes: Count = 256_000_000
    max_job_bytes: Count = 1_000_000
    lease_s: Seconds = 30.0
    drain_s: PauseSeconds = 130.0
    max_deliveries: ShortCount = 5
    id_ttl_s: WholeSeconds = 86_400


class ReplyConfig(Struct, frozen=True, kw_only=True):
    """Where replies go. `allowed` goes through `reply_patterns.compile_patterns`."""

    default: Text = "theo:replies"
    allowed: tuple[Text, ...] = ("theo:replies", "theo:reply:*")
    max_len: Count = 100_000
    ttl_s: WholeSeconds = 86_400


class DeadConfig(Struct, frozen=True, kw_only=True):
    """The stream of dead letters."""

    max_len: Count = 10_000


class EventsConfig(Struct, frozen=True, kw_only=True):
    """The stream of events."""

    max_len: Count = 10_000


class ControlConfig(Struct, frozen=True, kw_only=True):
    """The stream of commands to all processes."""

    max_len: Count = 10_000


class LedgerConfig(Struct, frozen=True, kw_only=True):
    """`url` is the SQLite file's absolute path, or "redis": in the same Redis, for many hosts."""

    url: Path | Literal["redis"] = Path("theo-ledger.db")
    on_unknown: OnUnknown = "retry"
    keep_days: ShortCount = 30


class RoutingConfig(Struct, frozen=True, kw_only=True):
    """How calls are spread, limited and cached. As `ModelConfig.routing`, what holds for that one model."""

    default: str | None = None  # model or group; None: a job must name one, or its workflow must
    when_unavailable: Literal["park", "fail"] = "park"
    max_wait_s: PauseSeconds = 30.0
    max_attempts: ShortCount = 4
    retry_budget: Annotated[int, Meta(ge=0, le=1_000_000)] = (
        500  # tokens of each endpoint; 0: repeats are not counted
    )
    timeout_s: Seconds = 120.0
    max_response_bytes: Count = 20_000_000
    weight: Annotated[float, Meta(ge=0, le=1e12)] = 1.0
    spend_ceiling: Usd | None = None  # None: none; 0 forbids
    spend_window: SpendWindow = SpendWindow()
    calendar_aligned: bool = True
    latency_threshold_ms: Milliseconds = 5000.0
    warning_ratio: Ratio = 0.8  # of the ceiling; `soft_budget` ends up here
    downgrade_ratio: Ratio | None = (
        None  # of the ceiling: from here on cheaper models come first; None: never
    )
    circuit_breaker_threshold: ShortCount = 3
    circuit_breaker_timeout_s: Seconds = 60.0
    circuit_breaker_failure_ratio: Ratio = 0.5  # 0: failures in a row alone count
    circuit_breaker_minimum_calls: ShortCount = 20
    circuit_breaker_window_s: Seconds = 60.0
    circuit_breaker_ramp_s: PauseSeconds = 10.0
    circuit_breaker_adaptive: bool | Literal["history", "throttle"] = False  # true: both
    adaptive_concurrency: bool = False
    cache_enabled: bool = True
    cache_ttl_seconds: PauseSeconds = 300.0
    cache_max_entries: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 128
    strategy: Literal["weighted", "predictive"] = "weighted"
    predictive_usd_per_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.001  # what a second of latency is worth
    regions: tuple[Text, ...] = ()  # labels of models, in order of preference; empty: they make no difference
    region_eviction_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.5
    hedge_after_ms: Milliseconds | None = None  # None: no call has a rival
    hedge_max_cost: Usd | None = None  # of a rival; None: only those that cost nothing
    context_window_fallbacks: dict[str, tuple[str, ...]] = {}  # model or group -> models or groups
    content_policy_fallbacks: dict[str, tuple[str, ...]] = {}


CAP_UNDER_CEILINGS = 4_096
"""Tokens of an answer that neither its job nor its model caps, where a ceiling needs to know the most it can cost."""


class ModelConfig(Struct, frozen=True, kw_only=True):
    """One model at one endpoint with one credential."""

    name: Name
    provider: Provider
    model: Text  # the provider's own name
    base_url: str | None = None  # with the version path, without a slash at the end
    api_key: Secret | None = None
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    proxy: str | None = None
    ca_file: str | None = None  # absolute path
    region: Text | None = None
    concurrency: Annotated[int, Meta(ge=1, le=100_000)] = 64
    rpm: Count | None = None
    tpm: Count | None = None
    context_window: Count | None = None
    max_output_tokens: Count | None = None
    hidden_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None  # None: as measured of its kind
    input_cost_per_mtok: Usd | None = None  # None: as in the price table
    output_cost_per_mtok: Usd | None = None
    routing: RoutingConfig = RoutingConfig()
    script: tuple[Fate, ...] = ()  # provider `scripted` only, as is script_end
    script_end: ScriptEnd = "repeat_last"

    def __repr__(self) -> str:
        """Names only: headers, query and proxy may carry credentials."""
        return f"ModelConfig(name={self.name!r}, provider={self.provider!r}, model={self.model!r})"


class WorkflowConfig(Struct, frozen=True, kw_only=True):
    """What a workflow's jobs use when they name no model."""

    model: str  # model or group


class BudgetConfig(Struct, frozen=True, kw_only=True):
    """One ceiling over what several calls have in common. Selectors that are None make no difference."""

    tenant: Selector | None = None
    workflow: Selector | None = None
    group: Selector | None = None  # as the job asked for it, or its workflow or the default did
    model: Selector | None = None
    spend_ceiling: Usd  # 0 forbids
    spend_window: SpendWindow = SpendWindow()
    calendar_aligned: bool = True
    warning_ratio: Ratio = 0.8  # of the ceiling; `soft_budget` ends up here
    downgrade_ratio: Ratio | None = (
        None  # of the ceiling: from here on cheaper models come first; None: never
    )


class TelemetryConfig(Struct, frozen=True, kw_only=True):
    """What operators see. Empty strings turn an exit off."""

    log_level: LogLevel = "info"
    otlp_endpoint: str = ""
    http: str = "127.0.0.1:9464"


class Config(Struct, frozen=True, kw_only=True):
    """All of it. `warnings` are for the log: nothing in them keeps the router from running."""

    redis: RedisConfig = RedisConfig()
    ingress: IngressConfig = IngressConfig()
    reply: ReplyConfig = ReplyConfig()
    dead: DeadConfig = DeadConfig()
    events: EventsConfig = EventsConfig()
    control: ControlConfig = ControlConfig()
    ledger: LedgerConfig = LedgerConfig()
    routing: RoutingConfig = RoutingConfig()
    models: tuple[ModelConfig, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    workflows: dict[str, WorkflowConfig] = {}
    budgets: tuple[BudgetConfig, ...] = ()
    telemetry: TelemetryConfig = TelemetryConfig()
    source: Path | None = None  # the file it was read from
    warnings: tuple[str, ...] = ()
