"""Write the Grafana dashboard: deploy/grafana/dashboard.json.

    python deploy/tools/dashboard.py > deploy/grafana/dashboard.json

Rows and panels are the tables below. Counters are those of one process each, so they are added up; lanes, budgets,
circuits and dead letters are the same in every process, so the greatest is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, HEIGHT, STAT_HEIGHT = 24, 8, 4
CIRCUITS = {"0": ("closed", "green"), "1": ("half-open", "yellow"), "2": ("open", "red")}
USE = {"0": ("in use", "green"), "1": ("disabled", "red")}
ERRORS = 'theo_jobs_finished_total{status="error"}'


class Panel(NamedTuple):
    """One picture: its queries by legend, the unit as Grafana names it, and what the reader should know."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    note: str = ""
    kind: str = "timeseries"
    values: Mapping[str, tuple[str, str]] | None = None
    red_above: float | None = None
    stacked: bool = False


def quantiles(metric: str, *, by: str = "", legend: str = "") -> dict[str, str]:
    """p50, p95 and p99 of a histogram over five minutes."""
    labels = f"le, {by}" if by else "le"
    return {
        f"{legend}p{int(part * 100)}": (
            f"histogram_quantile({part}, sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))"
        )
        for part in (0.5, 0.95, 0.99)
    }


def rate(metric: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}[$__rate_interval]))"


def share(part: str, whole: str) -> str:
    return f"(sum({part}) or vector(0)) / sum({whole})"


NOW = (
    Panel("Processes", {"": 'count(up{job="theo-router"} == 1) or vector(0)'}, kind="stat"),
    Panel("Jobs ended", {"": "sum(rate(theo_jobs_finished_total[$__rate_interval]))"}, "reqps", kind="stat"),
    Panel(
        "Ended with an error",
        {"": share(f"rate({ERRORS}[$__rate_interval])", "rate(theo_jobs_finished_total[$__rate_interval])")},
        "percentunit",
        "Mistakes of clients included.",
        kind="stat",
        red_above=0.05,
    ),
    Panel("Oldest job", {"": "max(theo_lane_oldest_age_seconds)"}, "s", kind="stat", red_above=300),
    Panel("Dead letters", {"": "max(theo_dead_letters)"}, kind="stat", red_above=1),
    Panel(
        "Spend in 24 hours", {"": "sum(increase(theo_model_cost_usd_total[1d]))"}, "currencyUSD", kind="stat"
    ),
)

JOBS = (
    Panel(
        "Jobs in the lanes",
        {"{{lane}}": "max by (lane) (theo_lane_depth)"},
        note="Waiting and in flight.",
        stacked=True,
    ),
    Panel("Age of the oldest job", {"{{lane}}": "max by (lane) (theo_lane_oldest_age_seconds)"}, "s"),
    Panel(
        "Held by the processes",
        {"in flight": "sum(theo_jobs_in_flight)", "of these waiting": "sum(theo_jobs_waiting)"},
        note="Waiting for a slot, for an identical job or for a model.",
    ),
    Panel(
        "Ends", {"{{status}} {{code}}": f"{rate('theo_jobs_finished_total', 'status', 'code')} > 0"}, "reqps"
    ),
    Panel("From push to start", quantiles("theo_job_queued_duration_seconds"), "s"),
    Panel(
        "In provider calls",
        quantiles("theo_job_call_duration_seconds"),
        "s",
        "All attempts of a job added.",
    ),
    Panel("From receipt to end", quantiles("theo_job_total_duration_seconds"), "s"),
    Panel(
        "Answered without a call of their own",
        {
            "from the cache": share(
                "rate(theo_jobs_cache_hits_total[$__rate_interval])",
                "rate(theo_jobs_finished_total[$__rate_interval])",
            ),
            "shared a call": share(
                "rate(theo_jobs_coalesced_total[$__rate_interval])",
                "rate(theo_jobs_finished_total[$__rate_interval])",
            ),
        },
        "percentunit",
    ),
)

MODELS = (
    Panel("Calls that run", {"{{model}}": "sum by (model) (theo_model_running)"}),
    Panel(
        "Circuits",
        {"{{model}}": "max by (model) (theo_model_breaker_state)"},
        kind="state-timeline",
        values=CIRCUITS,
    ),
    Panel(
        "Out of use",
        {"{{model}}": "max by (model) (theo_model_disabled)"},
        note="Until somebody acts: theo-router model enable NAME.",
        kind="state-timeline",
        values=USE,
    ),
    Panel(
        "Calls at a time that each may have",
        {"{{model}}": "sum by (model) (theo_model_slots)"},
        note="All processes together. Less than concurrency while a model recovers or is overloaded.",
    ),
    Panel(
        "Share of calls that others take",
        {"{{model}}": "max by (model) (theo_model_throttle) > 0"},
        unit="percentunit",
        note="With circuit_breaker_adaptive: the model takes less than half of what it is asked. The worst process's.",
    ),
    Panel(
        "Left of the budgets of repeats",
        {"{{model}}": "min by (model) (theo_model_retry_tokens)"},
        note="Of the process that has least. Below 14 jobs are not repeated at that endpoint.",
    ),
    Panel(
        "Changes",
        {"{{model}} {{event}}": "sum by (model, event) (increase(theo_model_changes_total[5m])) > 0"},
        note="In five minutes.",
    ),
    Panel(
        "Attempts",
        {"{{model}} {{outcome}}": f"{rate('theo_attempts_finished_total', 'model', 'outcome')} > 0"},
        "reqps",
    ),
    Panel(
        "Errors of calls",
        {
            "{{model}} {{error_type}}": (
                "sum by (model, error_type) (rate(gen_ai_client_operation_duration_seconds_count"
                '{error_type!="none"}[$__rate_interval])) > 0'
            )
        },
        "reqps",
    ),
    Panel(
        "Duration of calls, p95",
        {
            "{{model}}": (
                "histogram_quantile(0.95, sum by (le, model) "
                "(rate(gen_ai_client_operation_duration_seconds_bucket[$__rate_interval])))"
            )
        },
        "s",
    ),
    Panel(
        "Time to the first text, p95",
        {
            "{{model}}": (
                "histogram_quantile(0.95, sum by (le, model) "
                "(rate(gen_ai_client_operation_time_to_first_chunk_seconds_bucket[$__rate_interval])))"
            )
        },
        "s",
        "Streamed answers only.",
    ),
    Panel(
        "Tokens",
        {"{{model}} {{kind}}": f"{rate('theo_model_tokens_total', 'model', 'kind')} > 0"},
        note="A second. Prompt includes cached, completion includes reasoning.",
    ),
)

MONEY = (
    Panel(
        "Spend an hour",
        {"{{model}}": "sum by (model) (increase(theo_model_cost_usd_total[1h]))"},
        "currencyUSD",
        stacked=True,
    ),
    Panel(
        "Budgets: how far used",
        {"{{budget}}": "max by (budget) (theo_budget_used)"},
        "percentunit",
        "Of the scope that has used most. At 100 % its jobs end as budget_exceeded.",
        red_above=0.9,
    ),
    Panel(
        "Budgets: spent and held",
        {
            "{{budget}} spent": "max by (budget) (theo_budget_spent_usd)",
            "{{budget}} held": "max by (budget) (theo_budget_held_usd)",
        },
        "currencyUSD",
        "Held: the most that calls in flight may cost.",
    ),
    Panel(
        "Calls of which nobody knows whether they were billed",
        {
            "{{model}} unknown": "sum by (model) (increase(theo_attempts_unknown_total[1h])) > 0",
            "{{model}} asked again": "sum by (model) (increase(theo_attempts_resent_total[1h])) > 0",
        },
        note="An hour. See theo-router ledger unknown.",
    ),
    Panel(
        "The most that was paid twice, an hour",
        {"{{model}}": "sum by (model) (increase(theo_attempts_resent_cost_usd_total[1h]))"},
        "currencyUSD",
    ),
)

INSIDE = (
    Panel(
        "Redis and the ledger",
        {
            "Redis {{instance}}": "theo_redis_connected",
            "ledger {{instance}}": "theo_ledger_writable",
        },
        kind="state-timeline",
        values={"0": ("away", "red"), "1": ("there", "green")},
    ),
    Panel("One commit of the ledger", quantiles("theo_ledger_commit_duration_seconds"), "s", red_above=0.05),
    Panel(
        "Files of the ledger",
        {"ledger": "max(theo_ledger_size_bytes)", "write-ahead log": "max(theo_ledger_wal_size_bytes)"},
        "bytes",
    ),
    Panel(
        "Events",
        {"{{event}}": 'sum by (event) (increase(theo_events_total{event!="job_finished"}[5m])) > 0'},
        note="In five minutes. deploy/docs/telemetry.md says what each means.",
    ),
    Panel(
        "Processor",
        {"{{instance}}": 'rate(process_cpu_time_seconds_total{job="theo-router"}[$__rate_interval])'},
        "percentunit",
        "100 % is one core: a process cannot use more of the event loop.",
    ),
    Panel("Memory", {"{{instance}}": 'process_memory_usage_bytes{job="theo-router"}'}, "bytes"),
)

ROWS = (
    ("Now", NOW),
    ("Jobs", JOBS),
    ("Models", MODELS),
    ("Money", MONEY),
    ("Redis, ledger, processes", INSIDE),
)


def dashboard() -> dict[str, Any]:
    """The whole dashboard, as Grafana imports it."""
    return {
        "title": "theo-router",
        "uid": "theo-router",
        "tags": ["theo-router"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
            ]
        },
        "panels": list(_placed()),
    }


def _placed() -> Iterable[dict[str, Any]]:
    number = top = 0
    for title, panels in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        top += 1
        stats = panels[0].kind == "stat"
        width, height = (COLUMNS // len(panels), STAT_HEIGHT) if stats else (COLUMNS // 2, HEIGHT)
        for place, panel in enumerate(panels):
            number += 1
            line, column = divmod(place, COLUMNS // width)
            at = {"x": column * width, "y": top + line * height, "w": width, "h": height}
            yield _drawn(panel) | {"id": number, "gridPos": at}
        top += -(-len(panels) // (COLUMNS // width)) * height


def _drawn(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": query,
            "legendFormat": legend or "__auto",
        }
        for number, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.note,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel.kind),
    }


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_above is not None:
        steps.append({"color": "red", "value": panel.red_above})
    field: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        field["min"] = 0
        field["color"] = {"mode": "palette-classic"}
        field["custom"] = {
            "fillOpacity": 30 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "off" if panel.red_above is None else "line"},
        }
    else:
        field["color"] = {"mode": "thresholds"}
    if panel.values is not None:
        shown = {
            value: {"text": text, "color": color, "index": index}
            for index, (value, (text, color)) in enumerate(panel.values.items())
        }
        field["mappings"] = [{"type": "value", "options": shown}]
    return field


def _options(kind: str) -> dict[str, Any]:
    match kind:
        case "stat":
            return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
        case "state-timeline":
            return {"showValue": "never", "mergeValues": True, "legend": {"showLegend": True}}
        case _:
            return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
