"""Every name that operators meet: log events, metrics, spans, attributes; listed in deploy/docs/telemetry.md.

GenAI names follow the OpenTelemetry conventions as released to v1.41 (what dashboards know today); what
they do not cover is under `theo.`. Label values come from closed sets (configured models, lanes, codes of
the contract): a tenant, an id or a text is never a label.
"""

from __future__ import annotations

from theo_daemon import event_names
from theo_daemon.telemetry.signals import Kind, Level, LogEvent, Metric

EVENTS: dict[str, LogEvent] = {}
METRICS: dict[str, Metric] = {}
SPANS: dict[str, str] = {}
ATTRIBUTES: dict[str, str] = {}


def _event(name: str, level: Level, meaning: str) -> str:
    EVENTS[name] = LogEvent(name, level, meaning)
    return name


def _metric(
    name: str,
    kind: Kind,
    unit: str,
    meaning: str,
    *,
    labels: tuple[str, ...] = (),
    buckets: tuple[float, ...] = (),
) -> Metric:
    METRICS[name] = metric = Metric(name, kind, unit, labels, meaning, buckets)
    return metric


def _span(name: str, meaning: str) -> str:
    SPANS[name] = meaning
    return name


def _attribute(name: str, meaning: str) -> str:
    ATTRIBUTES[name] = meaning
    return name


# Log events. A job's own line and what only the log tells; then everything that `P:events` tells, too.

JOB_FINISHED = _event("job_finished", "info", "A job ended and its reply is on its way; one line per job.")

PROCESS_STARTED = _event("process_started", "info", "The daemon is up; says its version and consumer name.")
PROCESS_STOPPED = _event("process_stopped", "info", "The daemon has finished what it held and ends.")
PROCESS_RESTARTED = _event(
    "process_restarted", "warning", "One of several processes ended by itself; another takes its place."
)
PROCESS_GIVEN_UP = _event(
    "process_given_up", "error", "A process ended too often, or cannot start; the others are drained."
)
PROCESS_CRASHED = _event(
    "process_crashed", "error", "An exception nobody caught ended a thread or the process."
)
WARNING = _event("warning", "warning", "The configuration or the Redis server deserves a look; says what.")
DRAIN_STARTED = _event("drain_started", "info", "SIGTERM came: no more reads, unsent jobs are handed back.")
DRAIN_FINISHED = _event("drain_finished", "info", "The drain ended; says how many calls were cut off.")
LEDGER_OPENED = _event("ledger_opened", "info", "The ledger is open and of the right schema.")
LEDGER_UNRECORDED = _event(
    "ledger_unrecorded", "error", "The process ends, and says how many ended calls it could not record."
)
PRICE_UNKNOWN = _event("price_unknown", "warning", "No price is known for a model, and none is configured.")
WORKER_RESTARTED = _event(
    "worker_restarted", "error", "A model's worker died of a bug and was started again."
)
UNCAUGHT_BUG = _event("uncaught_bug", "error", "An unforeseen exception ended one job as internal_error.")
STATUS_PORT_OPENED = _event("status_port_opened", "info", "The status port listens; says where.")
STATUS_PORT_TAKEN = _event("status_port_taken", "warning", "The configured status port was taken.")
STATUS_PORT_FAILED = _event(
    "status_port_failed", "warning", "No status port could be opened; the router runs on."
)
LOG_LINES_DROPPED = _event("log_lines_dropped", "warning", "Standard error was blocked and lines were lost.")
LIBRARY_LOG = _event("library_log", "warning", "A library logged a warning or worse (at its own level).")

_STREAM_LEVELS: dict[str, Level] = {
    **dict.fromkeys(
        ("bound_violated", "model_disabled", "model_unknown", "worker_restarted", "ledger_trouble"), "error"
    ),
    **dict.fromkeys(("budget_warning", "budget_downgrade", "budget_exhausted"), "warning"),
    **dict.fromkeys(("circuit_opened", "outcome_unknown", "retries_spent", "region_evicted"), "warning"),
    "model_throttled": "warning",
    "budget_config_differs": "warning",
    **dict.fromkeys(
        (
            "ledger_wal_large",
            "ledger_restored",
            "lease_lost",
            "entries_reclaimed",
            "entries_orphaned",
            "entries_vanished",
            "dead_lettered",
        ),
        "warning",
    ),
    **dict.fromkeys(("redis_lost", "publish_stalled", "publish_refused", "events_dropped"), "warning"),
}

for _name, _meaning in event_names.EVENTS.items():
    _event(_name, _STREAM_LEVELS.get(_name, "info"), f"{_meaning[0].upper()}{_meaning[1:]}.")

# Metrics. Durations are seconds.

_GENAI_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_JOB_SECONDS = (0.001, 0.002, 0.005, *_GENAI_SECONDS, 163.84, 327.68)
_COMMIT_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024)
_TOKENS = tuple(float(4**power) for power in range(14))

LANE_DEPTH = _metric(
    "theo.lane.depth", Kind.GAUGE, "{job}", "Jobs in a lane, waiting and in flight.", labels=("lane",)
)
LANE_OLDEST_AGE = _metric(
    "theo.lane.oldest_age", Kind.GAUGE, "s", "Age of the oldest entry of a lane.", labels=("lane",)
)
JOBS_IN_FLIGHT = _metric("theo.jobs.in_flight", Kind.GAUGE, "{job}", "Jobs this process holds.")
JOBS_WAITING = _metric(
    "theo.jobs.waiting", Kind.GAUGE, "{job}", "Jobs held that wait for a slot, peer or model."
)
JOBS_FINISHED = _metric(
    "theo.jobs.finished",
    Kind.COUNTER,
    "{job}",
    "Jobs ended, by status and error code (`none` when ok).",
    labels=("status", "code"),
)
CACHE_HITS = _metric("theo.jobs.cache_hits", Kind.COUNTER, "{job}", "Jobs answered from the cache.")
COALESCED = _metric(
    "theo.jobs.coalesced", Kind.COUNTER, "{job}", "Jobs that shared an identical call's answer."
)
JOB_QUEUED = _metric(
    "theo.job.queued.duration",
    Kind.HISTOGRAM,
    "s",
    "From push to start, as `queued_ms` of the reply.",
    buckets=_JOB_SECONDS,
)
JOB_CALL = _metric(
    "theo.job.call.duration",
    Kind.HISTOGRAM,
    "s",
    "In provider calls, all attempts of the job added; jobs without a call are not in it.",
    buckets=_JOB_SECONDS,
)
JOB_TOTAL = _metric(
    "theo.job.total.duration",
    Kind.HISTOGRAM,
    "s",
    "From receipt by this process to its end.",
    buckets=_JOB_SECONDS,
)

MODEL_RUNNING = _metric(
    "theo.model.running", Kind.GAUGE, "{call}", "Calls to a model that run now.", labels=("model",)
)
MODEL_AMENDMENTS = _metric(
    "theo.model.amendments",
    Kind.COUNTER,
    "{request}",
    "Requests refused for a parameter's name or for reasoning that went back, and sent again at once.",
    labels=("model",),
)
BREAKER_STATE = _metric(
    "theo.model.breaker_state",
    Kind.GAUGE,
    "1",
    "Circuit breaker of a model: 0 closed, 1 half-open, 2 open.",
    labels=("model",),
)
MODEL_DISABLED = _metric(
    "theo.model.disabled",
    Kind.GAUGE,
    "1",
    "1 while a model is out of use (its key is refused, a bill was too high, an operator), else 0.",
    labels=("model",),
)
MODEL_SLOTS = _metric(
    "theo.model.slots",
    Kind.GAUGE,
    "{call}",
    "Calls to a model at a time as things are: its concurrency, less while it recovers or is overloaded.",
    labels=("model",),
)
MODEL_CHANGES = _metric(
    "theo.model.changes",
    Kind.COUNTER,
    "{event}",
    "Changes of a model's standing that this process told of, by event.",
    labels=("model", "event"),
)
MODEL_EVENTS = (
    *("circuit_opened", "circuit_half_open", "circuit_closed", "model_paused"),
    *("model_throttled", "model_disabled", "model_enabled", "model_unknown"),
)
MODEL_THROTTLE = _metric(
    "theo.model.throttle",
    Kind.GAUGE,
    "1",
    "The share of its calls that go to others now, as the model takes less than half of them; only where it may.",
    labels=("model",),
)
MODEL_PASSED_OVER = _metric(
    "theo.model.passed_over",
    Kind.COUNTER,
    "{choice}",
    "How often that share sent a call to another candidate.",
    labels=("model",),
)
MODEL_RETRY_TOKENS = _metric(
    "theo.model.retry_tokens",
    Kind.GAUGE,
    "{token}",
    "What is left of the retry budget of a model's endpoint in this process; a repeat takes 14, after a 429 5.",
    labels=("model",),
)
BREAKER_VALUES = {"closed": 0, "half_open": 1, "open": 2}
MODEL_TOKENS = _metric(
    "theo.model.tokens",
    Kind.COUNTER,
    "{token}",
    "Tokens billed; `prompt` includes `cached` and `cache_write`, `completion` includes `reasoning`.",
    labels=("model", "kind"),
)
TOKEN_KINDS = ("prompt", "completion", "cached", "cache_write", "reasoning")
MODEL_COST = _metric("theo.model.cost", Kind.COUNTER, "USD", "Settled spend of a model.", labels=("model",))
BUDGET_SPENT = _metric(
    "theo.budget.spent",
    Kind.GAUGE,
    "USD",
    "Spent against a ceiling in the window that runs; with `*` in its name, all its scopes together.",
    labels=("budget",),
)
BUDGET_HELD = _metric(
    "theo.budget.held", Kind.GAUGE, "USD", "Held by calls in flight, counted likewise.", labels=("budget",)
)
BUDGET_CEILING = _metric(
    "theo.budget.ceiling", Kind.GAUGE, "USD", "The ceiling, of each scope.", labels=("budget",)
)
BUDGET_USED = _metric(
    "theo.budget.used",
    Kind.GAUGE,
    "1",
    "How much of its ceiling the most used scope has spent or holds; 1 is all of it.",
    labels=("budget",),
)
BUDGET_SCOPES = _metric(
    "theo.budget.scopes",
    Kind.GAUGE,
    "{scope}",
    "Scopes on record in the window that runs: with `tenant=*`, tenants that have spent anything.",
    labels=("budget",),
)
ATTEMPTS_FINISHED = _metric(
    "theo.attempts.finished",
    Kind.COUNTER,
    "{attempt}",
    "Attempts ended, by model and outcome.",
    labels=("model", "outcome"),
)
ATTEMPTS_UNKNOWN = _metric(
    "theo.attempts.unknown",
    Kind.COUNTER,
    "{attempt}",
    "Attempts sent of which nobody knows whether they were billed (outcome maybe or unknown).",
    labels=("model",),
)
ATTEMPTS_RESENT = _metric(
    "theo.attempts.resent",
    Kind.COUNTER,
    "{attempt}",
    "Attempts made for a job after one of which nobody knows whether it was billed.",
    labels=("model",),
)
RESENT_COST = _metric(
    "theo.attempts.resent_cost",
    Kind.COUNTER,
    "USD",
    "What those attempts cost: the most that may have been paid twice.",
    labels=("model",),
)

GEN_AI_DURATION = _metric(
    "gen_ai.client.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "One call to a provider; `error.type` is the error code, `none` when ok.",
    labels=("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "model", "error.type"),
    buckets=_GENAI_SECONDS,
)
GEN_AI_FIRST_CHUNK = _metric(
    "gen_ai.client.operation.time_to_first_chunk",
    Kind.HISTOGRAM,
    "s",
    "From asking a provider to the first text of its streamed answer.",
    labels=("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "model"),
    buckets=_GENAI_SECONDS,
)
GEN_AI_TOKENS = _metric(
    "gen_ai.client.token.usage",
    Kind.HISTOGRAM,
    "{token}",
    "Tokens of one call.",
    labels=(
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "model",
        "gen_ai.token.type",
    ),
    buckets=_TOKENS,
)

EVENTS_TOTAL = _metric("theo.events", Kind.COUNTER, "{event}", "Log events, by name.", labels=("event",))
REDIS_UP = _metric(
    "theo.redis.connected", Kind.GAUGE, "1", "1 while jobs are read and Redis takes replies, else 0."
)
DEAD_LETTERS = _metric("theo.dead.letters", Kind.GAUGE, "{letter}", "Dead letters that wait for an operator.")
LEDGER_WRITABLE = _metric(
    "theo.ledger.writable", Kind.GAUGE, "1", "1 while the ledger can be written, else 0: no calls are made."
)
LEDGER_COMMIT = _metric(
    "theo.ledger.commit.duration",
    Kind.HISTOGRAM,
    "s",
    "One group commit of the ledger.",
    buckets=_COMMIT_SECONDS,
)
LEDGER_SIZE = _metric("theo.ledger.size", Kind.GAUGE, "By", "Size of the ledger's file.")
LEDGER_WAL_SIZE = _metric(
    "theo.ledger.wal_size", Kind.GAUGE, "By", "Size of the ledger's write-ahead log; 64 MiB is an alarm."
)
BUILD_INFO = _metric("theo.build.info", Kind.GAUGE, "1", "Always 1.", labels=("version", "python"))
CPU_TIME = _metric("process.cpu.time", Kind.COUNTER, "s", "Processor time of this process, user and system.")
MEMORY = _metric("process.memory.usage", Kind.GAUGE, "By", "Resident memory of this process.")
UPTIME = _metric("process.uptime", Kind.GAUGE, "s", "Since this process started.")
LINES_DROPPED = _metric(
    "theo.log.dropped", Kind.COUNTER, "{line}", "Log lines lost to a blocked standard error."
)
TRACES_DROPPED = _metric("theo.traces.dropped", Kind.COUNTER, "{trace}", "Jobs not traced: too many at once.")

# Spans and their attributes.

SPAN_JOB = _span(
    "process {stream}", "One job from receipt to its end; child of the job's `traceparent`. CONSUMER."
)
SPAN_ATTEMPT = _span("chat {model}", "One call to a provider; child of its job's span. CLIENT.")

MESSAGING_SYSTEM = _attribute("messaging.system", "Always `redis`.")
MESSAGING_OPERATION = _attribute("messaging.operation.name", "Always `process`.")
MESSAGING_OPERATION_TYPE = _attribute("messaging.operation.type", "Always `process`.")
MESSAGING_DESTINATION = _attribute("messaging.destination.name", "The stream the job was pushed to.")
MESSAGING_GROUP = _attribute("messaging.consumer.group.name", "The consumer group.")
MESSAGING_MESSAGE_ID = _attribute("messaging.message.id", "The entry id.")
JOB_ID = _attribute("theo.job.id", "The client's id of the job, or the entry id.")
JOB_LANE = _attribute("theo.job.lane", "The lane the job came by.")
JOB_TENANT = _attribute("theo.job.tenant", "The job's tenant, if it names one.")
JOB_QUEUED_MS = _attribute("theo.job.queued_ms", "As in the reply.")
JOB_CACHE_HIT = _attribute("theo.job.cache_hit", "Answered from the cache.")
JOB_COALESCED = _attribute("theo.job.coalesced", "Shared the answer of an identical job.")
COST = _attribute("theo.cost_usd", "What the job or the attempt cost, in USD.")
MODEL = _attribute("theo.model", "The configured name of the model.")
ATTEMPT_NUMBER = _attribute("theo.attempt.number", "1 for the first.")
ATTEMPT_OUTCOME = _attribute("theo.attempt.outcome", "ok, failed, maybe, unknown or cancelled.")
ERROR_TYPE = _attribute("error.type", "The error code of the contract.")
HTTP_STATUS = _attribute("http.response.status_code", "What the provider answered with.")
GEN_AI_OPERATION = _attribute("gen_ai.operation.name", "Always `chat`.")
GEN_AI_PROVIDER = _attribute("gen_ai.provider.name", "The provider, by the name of the conventions.")
GEN_AI_MODEL = _attribute("gen_ai.request.model", "The provider's own name of the model.")
GEN_AI_FINISH = _attribute("gen_ai.response.finish_reasons", "Why the model stopped.")
GEN_AI_FIRST_CHUNK_S = _attribute(
    "gen_ai.response.time_to_first_chunk", "Seconds to the first text of a streamed answer."
)
GEN_AI_INPUT = _attribute("gen_ai.usage.input_tokens", "Prompt tokens, cached ones included.")
GEN_AI_OUTPUT = _attribute("gen_ai.usage.output_tokens", "Completion tokens, reasoning included.")
GEN_AI_CACHED = _attribute(
    "gen_ai.usage.cache_read.input_tokens", "Prompt tokens read from the provider's cache."
)
GEN_AI_REASONING = _attribute("gen_ai.usage.reasoning.output_tokens", "Completion tokens spent on reasoning.")

_GENAI_PROVIDERS = {"openai_responses": "openai", "gemini": "gcp.gemini"}


def genai_provider(provider: str) -> str:
    """The conventions' name of a configured `provider`; unlisted ones keep their own."""
    return _GENAI_PROVIDERS.get(provider, provider)
