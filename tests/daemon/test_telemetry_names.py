"""The lists of names and the page about them stay equal. Run as a program, this prints the page's tables."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from theo_daemon import event_names
from theo_daemon.telemetry import names

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy" / "docs" / "telemetry.md"


def tables() -> dict[str, str]:
    """The page's tables, by their heading."""
    events = ((f"`{event.name}`", event.level, event.meaning) for event in names.EVENTS.values())
    metrics = (
        (
            f"`{metric.name}`<br>`{metric.prometheus_name}`",
            metric.kind.value,
            metric.unit,
            " ".join(f"`{label}`" for label in metric.labels),
            metric.meaning,
        )
        for metric in names.METRICS.values()
    )
    spans = ((f"`{name}`", meaning) for name, meaning in names.SPANS.items())
    attributes = ((f"`{name}`", meaning) for name, meaning in names.ATTRIBUTES.items())
    return {
        "Log events": table(("event", "level", "meaning"), events),
        "Metrics": table(("OpenTelemetry and Prometheus name", "kind", "unit", "labels", "meaning"), metrics),
        "Spans": table(("span", "meaning"), spans),
        "Attributes of spans": table(("attribute", "meaning"), attributes),
    }


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@pytest.mark.parametrize("heading", list(tables()))
def test_the_page_lists_every_name_with_its_meaning(heading: str) -> None:
    sections = PAGE.read_text().split("\n## ")
    (section,) = (text for text in sections if text.startswith(f"{heading}\n"))
    listed = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert listed == tables()[heading], f"{PAGE} is old: run `python {Path(__file__).name}` for its tables"


def told_events() -> Iterator[tuple[str, str]]:
    """Every literal event name that the sources give to `.event(...)` or `.emit(...)`, and where."""
    for path in sorted([*ROOT.glob("daemon/**/*.py"), *ROOT.glob("workers/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            name = node.args[0]
            if (
                node.func.attr in ("event", "emit")
                and isinstance(name, ast.Constant)
                and isinstance(name.value, str)
            ):
                yield name.value, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_event_that_the_sources_tell_is_listed() -> None:
    assert [(name, where) for name, where in told_events() if name not in names.EVENTS] == []


@pytest.mark.parametrize("name", list(event_names.EVENTS))
def test_every_event_of_the_event_stream_is_a_log_event_too(name: str) -> None:
    assert name in names.EVENTS


def test_levels_are_given_to_events_that_exist() -> None:
    assert set(names._STREAM_LEVELS) <= set(event_names.EVENTS)


def test_meanings_are_one_sentence_that_fits_a_table() -> None:
    meanings = [
        *(event.meaning for event in names.EVENTS.values()),
        *(metric.meaning for metric in names.METRICS.values()),
        *names.SPANS.values(),
        *names.ATTRIBUTES.values(),
    ]
    for meaning in meanings:
        assert meaning.endswith(".")
        assert "|" not in meaning
        assert "\n" not in meaning


if __name__ == "__main__":
    for title, text in tables().items():
        print(f"## {title}\n\n{text}\n")
