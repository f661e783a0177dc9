"""Alert rules and dashboard ask for series that exist, with labels that they have, and handle them by their kind."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from theo_daemon.cli.commands import COMMANDS
from theo_daemon.telemetry import names
from theo_daemon.telemetry.metrics import Metrics
from theo_daemon.telemetry.signals import Kind, Metric

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PREFIXES = ("theo_", "gen_ai_", "process_")
OF_THE_SCRAPE = {"job", "instance"}


class Asked(NamedTuple):
    """One query and whatever text is shown with its labels."""

    where: str
    query: str
    shown: str


def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def scrape() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text()))


def panels() -> list[dict[str, Any]]:
    return list(json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())["panels"])


def asked() -> Iterator[Asked]:
    for rule in alerts():
        yield Asked(rule["alert"], rule["expr"], " ".join(rule["annotations"].values()))
    for panel in panels():
        for target in panel.get("targets", []):
            yield Asked(panel["title"], target["expr"], target["legendFormat"])


def series() -> dict[str, Metric]:
    """Every series there is, by the name that Prometheus stores it under."""
    found = {}
    for metric in names.METRICS.values():
        endings = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        found |= {f"{metric.prometheus_name}{ending}": metric for ending in endings}
    return found


def named(query: str) -> list[str]:
    """The series of ours that a query names; what is in quotes or between braces is not a series."""
    bare = re.sub(r"\{[^}]*\}", "", query)
    return [word for word in re.findall(r"[a-zA-Z_:][\w:]*", bare) if word.startswith(PREFIXES)]


def labels(name: str) -> set[str]:
    metric = series()[name]
    own = {label.replace(".", "_") for label in metric.labels}
    return own | OF_THE_SCRAPE | ({"le"} if name.endswith("_bucket") else set())


def selected(query: str) -> Iterator[tuple[str, str, list[str]]]:
    """Each matcher of a query as (series, label, the values it is compared with)."""
    for name, braces in re.findall(r"(\w+)\s*\{([^}]*)\}", query):
        for label, values in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', braces):
            yield name, label, values.split("|")


ASKED = list(asked())
by_place = pytest.mark.parametrize("one", ASKED, ids=[f"{one.where}-{n}" for n, one in enumerate(ASKED)])


@by_place
def test_every_series_exists(one: Asked) -> None:
    assert named(one.query) or "up{" in one.query
    assert [name for name in named(one.query) if name not in series()] == []


@by_place
def test_every_label_belongs_to_its_series(one: Asked) -> None:
    known = OF_THE_SCRAPE.union(*(labels(name) for name in named(one.query)))
    for name, label, _ in selected(one.query):
        assert label in (labels(name) if name in series() else OF_THE_SCRAPE), (name, label)
    grouped = {
        label for inside in re.findall(r"by \(([^)]*)\)", one.query) for label in re.findall(r"\w+", inside)
    }
    assert grouped <= known
    shown = set(re.findall(r"\$labels\.(\w+)", one.shown)) | set(re.findall(r"\{\{(\w+)\}\}", one.shown))
    aggregated = re.search(r"\b(sum|max|min|count)\b", one.query)
    assert shown <= (grouped if aggregated else known), "a label that is aggregated away is shown as nothing"


CLOSED: dict[str, set[str]] = {
    "event": set(names.EVENTS),
    "status": {"ok", "error"},
    "code": {sample.labels[1] for sample in next(
        family.samples for family in Metrics().collect() if family.metric is names.JOBS_FINISHED
    )},
    "error_type": {"none"},
    "job": {"theo-router"},
}  # fmt: skip


@by_place
def test_every_value_that_is_looked_for_can_occur(one: Asked) -> None:
    for _, label, values in selected(one.query):
        assert set(values) <= CLOSED[label], label


@by_place
def test_counters_are_looked_at_by_their_growth_and_gauges_as_they_are(one: Asked) -> None:
    grown = set(re.findall(r"\b(?:rate|increase)\(\s*(\w+)", one.query))
    for name in named(one.query):
        counts = series()[name].kind is not Kind.GAUGE
        assert (name in grown) == counts, name


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_what_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert re.fullmatch(r"TheoRouter[A-Z]\w+", rule["alert"])
    for text in rule["annotations"].values():
        assert text.endswith(".")
        for command in re.findall(r"`theo-router ([\w-]+)", text):
            assert command in COMMANDS


def test_no_two_alerts_have_the_same_name() -> None:
    found = [rule["alert"] for rule in alerts()]
    assert len(found) == len(set(found)) > 20


def test_what_the_page_says_to_watch_is_watched() -> None:
    page = (DEPLOY / "docs" / "telemetry.md").read_text()
    watch = page.partition("## What to watch")[2].partition("\n## ")[0]
    series_named = set(re.findall(r"theo_\w+", watch))
    assert series_named
    queries = " ".join(rule["expr"] for rule in alerts())
    assert [name for name in series_named if name not in queries] == []
    assert [event for event in re.findall(r'event="(\w+)"', watch) if event not in queries] == []


def test_the_rules_look_for_the_job_that_is_scraped() -> None:
    (job,) = scrape()["scrape_configs"]
    assert job["job_name"] == "theo-router"
    assert scrape()["rule_files"] == ["alerts.yaml"]
    targets = job["static_configs"][0]["targets"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["theo-router"]
    assert len(targets) == int(compose["command"][-1]), "a process without a target is not counted"


def test_the_dashboard_is_what_its_tool_writes() -> None:
    made = runpy.run_path(str(DEPLOY / "tools" / "dashboard.py"))["dashboard"]()
    assert json.loads((DEPLOY / "grafana" / "dashboard.json").read_text()) == made, (
        "run `python deploy/tools/dashboard.py > deploy/grafana/dashboard.json`"
    )


def test_no_two_panels_of_the_dashboard_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_panel_asks_the_data_source_that_the_reader_chooses() -> None:
    for panel in panels():
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
