"""What the keys of `router_settings`, `litellm_settings` and `general_settings` mean here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from theo_daemon.litellm.values import Values

Read = Callable[[Values, Any, str], Any]


def _one_more(values: Values, value: Any, where: str) -> int | None:
    number = values.number(value, where)
    return None if number is None else max(1, min(int(number) + 1, 1_000_000))


# key -> (key of [routing], how it is read, what is told of it)
ROUTING_KEYS: dict[str, tuple[str, Read, str]] = {
    "timeout": ("timeout_s", Values.seconds, ""),
    "request_timeout": ("timeout_s", Values.seconds, ""),
    "num_retries": (
        *("max_attempts", _one_more),
        "became max_attempts: calls of one job over all its models. A model that was not tried yet is always tried",
    ),
    "allowed_fails": (
        *("circuit_breaker_threshold", _one_more),
        "became circuit_breaker_threshold: failures in a row. Those of a minute count, too, if half of 20 calls fail",
    ),
    "max_response_size_mb": ("max_response_bytes", Values.megabytes, ""),
    "cooldown_time": (
        *("circuit_breaker_timeout_s", Values.seconds),
        "became circuit_breaker_timeout_s: after it one probe decides, and not all calls return at once",
    ),
}

_KEYS = "clients have no keys here: who may write to the job streams may spend. Redis ACLs say who may"
_DATABASE = "there is no database beside the ledger"
_PRICES = "a price table is built in; input_cost_per_mtok and output_cost_per_mtok of a model win over it"
_CACHE_REDIS = "is not taken for the jobs' Redis, which must not evict: set THEO_REDIS_URL, or [redis] url"
NO_EQUIVALENT: dict[str, str] = {
    # router_settings
    "routing_strategy_args": "there are no further arguments",
    "retry_after": "waits between attempts grow from half a second, and what the provider asks for is obeyed",
    "model_group_retry_policy": "attempts are counted for a job, whatever model it asked for: routing.max_attempts",
    "stream_timeout": "a stream has the call's own timeout",
    "max_fallbacks": "every model of a group is tried once, whatever max_attempts is",
    "enable_tag_filtering": "there are no tags: give a group its own name, or a workflow its own model",
    "tag_filtering_match_any": "there are no tags",
    "tag_budget_config": "there are no tags: budgets are by tenant, workflow, group and model",
    "default_priority": "lanes are what jobs are pushed to: P:jobs:high goes before P:jobs",
    "cache_responses": "see cache of litellm_settings",
    "optional_pre_call_checks": "which models can take a job is looked at before each call",
    "default_litellm_params": "jobs must send them in params",
    "client_ttl": "connections are kept as long as the provider keeps them",
    **dict.fromkeys(("redis_host", "redis_port", "redis_password", "redis_url", "redis_db"), _CACHE_REDIS),
    # litellm_settings
    "drop_params": "params that a provider cannot take are refused, unless they ask for nothing",
    "modify_params": "params are translated or refused, never changed",
    "max_internal_user_budget": _KEYS,
    "internal_user_budget_duration": _KEYS,
    "default_internal_user_params": _KEYS,
    "default_team_settings": _KEYS,
    "upperbound_key_generate_params": _KEYS,
    "key_generation_settings": _KEYS,
    "force_ipv4": "the system chooses",
    "ssl_verify": "certificates are always verified; a model's ca_file names others to trust",
    "mcp_aliases": "tools are the client's own affair",
    **dict.fromkeys(("model_cost", "custom_pricing", "model_cost_map_url"), _PRICES),
    **dict.fromkeys(
        ("success_callback", "failure_callback", "callbacks"),
        "there are no callbacks: logs, metrics, traces and P:events",
    ),
    # general_settings
    "master_key": _KEYS,
    "custom_auth": _KEYS,
    "enable_jwt_auth": _KEYS,
    "litellm_jwtauth": _KEYS,
    "allowed_routes": _KEYS,
    "enforce_user_param": "tenant is a field of the job, and never required",
    "database_url": _DATABASE,
    "store_model_in_db": "models stand in the configuration; `theo-router model` takes them out and back",
    "global_max_parallel_requests": "concurrency is by model; ingress.max_in_flight bounds what a process holds",
    "alerting": "alert on the metrics: deploy/prometheus has rules",
    "pass_through_endpoints": "there is no pass-through",
    "key_management_system": "keys come from env:NAME or file:PATH, which every secret manager can fill",
}
# what is so here anyway, or concerns only LiteLLM's own insides
SILENT = frozenset(
    [
        "set_verbose",
        "json_logs",
        "debug",
        "turn_off_message_logging",
        "redact_user_api_key_info",
        "telemetry",
        "enable_pre_call_checks",
        "background_health_checks",
        "health_check_interval",
        "disable_spend_logs",
        "store_prompts_in_spend_logs",
        "suppress_debug_info",
        "langfuse_default_tags",
        "service_callbacks",
        "database_connection_pool_limit",
        "database_connection_timeout",
        "proxy_batch_write_at",
        "alerting_threshold",
        "disable_master_key_return",
        "allow_requests_on_db_unavailable",
        "maximum_spend_logs_retention_period",
        "maximum_spend_logs_retention_interval",
        "disable_end_user_cost_tracking",
        "ui_access_mode",
        "model_list",
    ]
)
STRATEGIES: dict[str, tuple[dict[str, Any], str]] = {
    "simple-shuffle": ({}, ""),
    "least-busy": ({}, "models of equal weight share the calls by load as soon as they fill up"),
    "latency-based-routing": (
        {"strategy": "predictive", "predictive_usd_per_s": 1.0},
        'became strategy = "predictive", which learns who is quick and reliable; a second outweighs what calls cost',
    ),
    "cost-based-routing": (
        {"strategy": "predictive", "predictive_usd_per_s": 0.0},
        'became strategy = "predictive", which learns who is cheap and reliable; latency is worth nothing',
    ),
    **dict.fromkeys(
        ("usage-based-routing", "usage-based-routing-v2"),
        ({}, "a group's models are chosen by weight among those whose rpm and tpm have room"),
    ),
}
"""Their keys of [routing], and what is told of them."""
NO_COOLDOWNS = {"circuit_breaker_threshold": 1_000_000, "circuit_breaker_failure_ratio": 0.0}
SAME_FAULTS = ("TimeoutErrorAllowedFails", "InternalServerErrorAllowedFails")
"""Of allowed_fails_policy: what is a failure of the model here, too."""
