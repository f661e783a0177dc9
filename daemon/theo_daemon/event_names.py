"""Every event that can be in `P:events`: its name and what it tells. The list is part of the contract."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

EVENTS: Final = MappingProxyType(
    {
        # models
        "circuit_opened": "a model's circuit breaker opened; details: reason (in_a_row, rate, unusual or probe), "
        "failures (in a row), openings, retry_after_ms, error_code, status_code",
        "circuit_half_open": "the breaker lets one probe through",
        "circuit_closed": "the breaker closed: the model serves again",
        "model_disabled": "a credential is refused by the provider, or an operator took the model out; "
        "details: cause, status_code",
        "model_unknown": "a provider does not know the configured model, which others stand in for; details: reason",
        "model_enabled": "an operator put the model back",
        "model_paused": "the provider asked to wait; details: retry_after_ms, error_code, status_code",
        "model_throttled": "a model takes less than half of the calls it gets, so some go to others; told once "
        "until none has gone for two minutes; details: share (of its calls)",
        "retries_spent": "an endpoint fails so often that jobs are not repeated there, told once until it recovers",
        "bound_violated": "a provider billed more than its own limits allow; the model is stopped",
        "region_evicted": "a region is out of order as a whole; details: region, circuits that are open",
        "region_readmitted": "a probe of an evicted region was answered; details: region, probed",
        "worker_restarted": "a model's actor died and was started again",
        # money
        "budget_warning": "spend passed `warning_ratio` of a ceiling; details: scope, spent, ceiling",
        "budget_downgrade": "spend passed `downgrade_ratio`: cheaper models come first; details: scope, spent, ceiling",
        "budget_exhausted": "a ceiling is reached; details: scope, retry_after_ms",
        "budget_config_differs": "a process joined with another ceiling than one that runs; details: scope, other",
        "outcome_unknown": "a call was sent and nobody knows whether it was billed; charged at its bound",
        # processes
        "process_joined": "a process began to read jobs",
        "process_left": "a process stopped, after handing back what it had not started",
        "consumer_removed": "the name of a process that is gone and held nothing was deleted from the group",
        # entries
        "lease_lost": "entries this process held are another's now, or gone; details: job_stream, count, why",
        "entries_reclaimed": "entries of a process that does not renew them were taken over",
        "entries_adopted": "entries of this process that had not arrived, or had given way to others, were fetched",
        "entries_vanished": "pending entries were deleted from the job stream by somebody else: lost jobs",
        "entries_orphaned": "entries without a reply were acknowledged by somebody else, or their consumer was "
        "deleted; they were taken back",
        "group_created": "the consumer group was created, or created again after its stream was lost",
        "duplicate_suppressed": "a second answer to a job was not published; details: entry_id, job_stream, cost",
        "dead_lettered": "a job went to the dead-letter stream, which has the reason; details: code, entry_id",
        "dead_replayed": "an operator pushed dead letters again",
        # connections and files
        "redis_lost": "jobs cannot be read: Redis is away or refuses; details: reason",
        "redis_back": "jobs are read again; details: after_s",
        "publish_stalled": "replies are kept because Redis is away; details: waiting, reason",
        "publish_refused": "Redis refuses replies; they are kept and tried again; details: reason, waiting, entry_id",
        "publish_back": "all replies that were kept are published; details: after_s",
        "events_dropped": "events were thrown away while Redis was away; details: count",
        "ledger_trouble": "the ledger cannot be written, so no calls are made and no jobs read; details: reason",
        "ledger_back": "the ledger can be written again; details: after_s",
        "ledger_restored": "Redis had lost what it had acknowledged, and was told again; details: batches",
        "ledger_wal_large": "the ledger's write-ahead log passed 64 MiB: a reader holds it up; details: bytes",
    }
)
