"""Reads `router_settings`, `litellm_settings` and `general_settings`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from theo_daemon.litellm.settings_table import (
    NO_COOLDOWNS,
    NO_EQUIVALENT,
    ROUTING_KEYS,
    SAME_FAULTS,
    SILENT,
    STRATEGIES,
)
from theo_daemon.litellm.values import Values

FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
DEFAULT_TIMEOUT_S, DEFAULT_DRAIN_S = 120.0, 130.0


class Settings(Struct, kw_only=True):
    """What holds for all models. Fallbacks are by model_name; "*" is everybody without an entry."""

    routing: dict[str, Any] = {}
    fallbacks: dict[str, dict[str, list[str]]] = {}
    aliases: dict[str, str] = {}
    default: str | None = None  # the model_name of jobs that name none
    concurrency: int | None = None  # of every deployment that says nothing of its own
    strategy: dict[str, Any] = {}  # keys of [routing]
    strategy_told: str | None = None  # what became of it, if nothing speaks against it
    max_job_bytes: int | None = None
    budget: dict[str, Any] = {}  # over everything
    tenant_budget: dict[str, Any] = {}  # of each tenant
    provider_budgets: dict[str, dict[str, Any]] = {}  # by LiteLLM's name of the provider
    budgets: list[dict[str, Any]] = []  # what becomes of these, as tables


def read_settings(document: Mapping[str, Any], values: Values) -> Settings:
    """Where both say something, router_settings win over litellm_settings."""
    reading = _Reading(values)
    for section in ("litellm_settings", "router_settings", "general_settings"):
        given = document.get(section)
        for key, value in given.items() if isinstance(given, Mapping) else ():
            if value is not None:
                reading.read(f"{section} {key}", key, value)
    return reading.close()


class _Reading:
    """`_read_KEY` methods are for keys that mean more than one number."""

    def __init__(self, values: Values) -> None:
        self._values, self._notes = values, values.notes
        # LiteLLM caches only where it is told to.
        self._settings = Settings(
            routing={"cache_enabled": False}, fallbacks={key: {} for key in FALLBACKS}, aliases={}, budget={},
            tenant_budget={}, provider_budgets={},
        )  # fmt: skip
        self._cooldowns = True
        self._by_kind: dict[str, int] = {}  # keys of [routing] that the file says by kinds of errors

    def read(self, where: str, key: str, value: Any) -> None:
        special: Callable[[str, Any], None] | None = getattr(self, f"_read_{key}", None)
        if key in ROUTING_KEYS:
            ours, read, told = ROUTING_KEYS[key]
            number = read(self._values, value, where)
            if number is not None:
                self._settings.routing[ours] = number
                if told:
                    self._notes.told(where, told)
        elif key in FALLBACKS:
            self._fallbacks(where, key, value)
        elif special is not None:
            special(where, value)
        elif key not in SILENT:
            self._notes.lost(where, NO_EQUIVALENT.get(key, "has no equivalent here"))

    def close(self) -> Settings:
        settings, notes = self._settings, self._notes
        settings.budget = _budget(**settings.budget)
        settings.routing = {**self._by_kind, **settings.routing}
        if not self._cooldowns:
            settings.routing.update(NO_COOLDOWNS)
        if "timeout_s" not in settings.routing:
            notes.told(
                "router_settings timeout",
                f"is not set: a call may take {DEFAULT_TIMEOUT_S:g} s here, not 6000",
            )
        return settings

    def _fallbacks(self, where: str, key: str, value: Any) -> None:
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, Mapping):
                self._notes.lost(where, "is no list of {model_name: [model_name, ...]}")
                continue
            for asked, targets in entry.items():
                names = [one for one in targets if isinstance(one, str)] if isinstance(targets, list) else []
                if not isinstance(targets, list) or len(names) < len(targets):
                    self._notes.lost(
                        f"{where} of {str(asked)[:64]!r}",
                        "fallbacks with messages or params of their own are not offered",
                    )
                self._settings.fallbacks[key][str(asked)] = names

    def _read_default_fallbacks(self, where: str, value: Any) -> None:
        self._fallbacks(where, "fallbacks", [{"*": value}])

    def _read_routing_strategy(self, _where: str, value: Any) -> None:
        keys, told = STRATEGIES.get(
            str(value), ({}, "is not known here; a group's models are chosen by weight")
        )
        self._settings.strategy, self._settings.strategy_told = keys, told

    def _read_retry_policy(self, where: str, value: Any) -> None:
        counts = self._counts(where, value)
        if counts:
            self._by_kind["max_attempts"] = max(1, min(max(counts.values()) + 1, 1_000_000))
        self._notes.lost(
            where,
            "attempts are counted for a job, whatever ended them: the largest number became max_attempts, where there "
            "is no num_retries",
        )

    def _read_allowed_fails_policy(self, where: str, value: Any) -> None:
        counts = self._counts(where, value)
        counted = [counts[kind] for kind in SAME_FAULTS if kind in counts]
        if counted:
            self._by_kind["circuit_breaker_threshold"] = max(1, min(min(counted) + 1, 1_000_000))
        self._notes.lost(
            where,
            "time-outs and server errors are counted together, in a row: the smaller number became "
            "circuit_breaker_threshold, where there is no allowed_fails. A 429 pauses a model, a refused key disables "
            "it, and mistakes of the caller never count",
        )

    def _counts(self, where: str, value: Any) -> dict[str, int]:
        if not isinstance(value, Mapping):
            self._notes.lost(where, "is no mapping")
            return {}
        read = {str(kind): self._values.number(one, f"{where} {kind}") for kind, one in value.items()}
        return {kind: int(number) for kind, number in read.items() if number is not None and number >= 0}

    def _read_disable_cooldowns(self, where: str, value: Any) -> None:
        if value is True:
            self._cooldowns = False
            self._notes.told(
                where, "became a threshold that is never reached: failing models are asked all the same"
            )

    def _read_model_group_alias(self, where: str, value: Any) -> None:
        for alias, target in value.items() if isinstance(value, Mapping) else ():
            name = target.get("model") if isinstance(target, Mapping) else target
            if isinstance(name, str):
                self._settings.aliases[str(alias)] = name
            else:
                self._notes.lost(f"{where} {str(alias)[:64]!r}", "names no model")

    def _read_cache(self, _where: str, value: Any) -> None:
        self._settings.routing["cache_enabled"] = value is True

    def _read_cache_params(self, where: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            self._notes.lost(where, "is no mapping")
            return
        routing = self._settings.routing
        if "semantic" in str(value.get("type")):
            self._notes.lost(
                where, "answers are shared by identical jobs only, never by similar ones: the cache is off"
            )
            routing["cache_enabled"] = False
        if value.get("mode") == "default_off":
            self._notes.lost(f"{where} mode", "jobs cannot opt in one by one, only out: the cache is off")
            routing["cache_enabled"] = False
        ttl = self._values.seconds(value.get("ttl"), f"{where} ttl")
        if ttl is not None:
            routing["cache_ttl_seconds"] = ttl
        self._notes.told(where, "answers are kept in the ledger; the further parameters have no equivalent")

    def _read_completion_model(self, where: str, value: Any) -> None:
        self._settings.default = self._values.text(value, where)

    def _read_default_max_parallel_requests(self, where: str, value: Any) -> None:
        self._read_max_parallel_requests(where, value)

    def _read_max_request_size_mb(self, where: str, value: Any) -> None:
        self._settings.max_job_bytes = self._values.megabytes(value, where)

    def _read_max_parallel_requests(self, where: str, value: Any) -> None:
        self._settings.concurrency = self._values.count(value, where)

    def _read_max_budget(self, where: str, value: Any) -> None:
        self._settings.budget["spend_ceiling"] = self._values.usd(value, where)

    def _read_budget_duration(self, where: str, value: Any) -> None:
        self._settings.budget["spend_window"] = self._values.window(value, where)

    def _read_max_end_user_budget(self, where: str, value: Any) -> None:
        """A job's tenant is who LiteLLM calls the end user."""
        self._settings.tenant_budget = _budget(tenant="*", spend_ceiling=self._values.usd(value, where))
        self._notes.told(where, "became a budget of each tenant that never resets: give it a spend_window")

    def _read_provider_budget_config(self, where: str, value: Any) -> None:
        for provider, given in value.items() if isinstance(value, Mapping) else ():
            at = f"{where} {str(provider)[:64]}"
            if not isinstance(given, Mapping):
                self._notes.lost(at, "is no mapping")
                continue
            budget = _budget(
                spend_ceiling=self._values.usd(given.get("budget_limit", given.get("max_budget")), at),
                spend_window=self._values.window(given.get("time_period", given.get("budget_duration")), at),
            )
            if budget:
                self._settings.provider_budgets[str(provider)] = budget


def _budget(**keys: Any) -> dict[str, Any]:
    """A `[[budgets]]` table; empty without a ceiling. LiteLLM's windows begin with the first call."""
    given = {key: value for key, value in keys.items() if value is not None}
    if "spend_ceiling" not in given:
        return {}
    return {**given, "calendar_aligned": False} if "spend_window" in given else given
