"""What the demo shows: progress while it runs, the replies when they are in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from theo_daemon.cli.console import duration, table, visible
from theo_daemon.demo.client import Run
from theo_daemon.demo.jobs import attempts

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CUT = 44
_WIDE = 140  # columns that the whole table needs
_COLUMNS = ("job", "status", "model", "tokens>", "cost>", "shared", "ms>")


class Board:
    """Live in a terminal; elsewhere one line for each reply."""

    def __init__(self, console: Console) -> None:
        self._console, self._runs = console, list[Run]()
        self._live = Live(
            get_renderable=self._progress, console=console, transient=True, refresh_per_second=10
        )
        self._is_live = console.is_terminal

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()

    def changed(self, run: Run) -> None:
        """A job was pushed, or something came back."""
        if run not in self._runs:
            self._runs.append(run)
        elif run.reply is not None and not self._is_live:
            seconds = run.ended_at - run.pushed_at
            self._console.print(f"  {run.job.kind:14} {outcome(run.reply)}, {seconds:.2f} s")

    def _progress(self) -> Table:
        now = time.monotonic()
        rows = []
        for run in self._runs:
            state = Text(_SPINNER[int(now * 10) % len(_SPINNER)] + " under way", style="yellow")
            if run.reply is not None:
                state = _coloured(outcome(run.reply))
            elif run.deltas:
                state.append(f", {run.deltas} deltas")
            rows.append((run.job.kind, state, duration((run.ended_at or now) - run.pushed_at)))
        done = sum(run.reply is not None for run in self._runs)
        return table(("job", "reply", "after>"), rows, title=f"{done} of {len(self._runs)} answered")


def show_replies(console: Console, runs: Sequence[Run]) -> None:
    """All replies in one table; what was said goes below it where the terminal is too narrow."""
    if console.width >= _WIDE:
        columns = (*_COLUMNS, "calls", "output or error")
        console.print(table(columns, [(*_row(run), _calls(run), _said(run, _CUT)) for run in runs]))
        return
    console.print(table((*_COLUMNS, "calls>"), [(*_row(run), _count(run)) for run in runs], tight=True))
    console.print()
    for run in runs:
        console.print(f"{run.job.kind}: {_said(run, console.width - 20)}", style="dim", markup=False)


def outcome(reply: dict[str, str]) -> str:
    """`ok`, or the error code."""
    return reply.get("error_code", reply["status"])


def _row(run: Run) -> tuple[object, ...]:
    reply = run.reply
    if reply is None:
        return (run.job.kind, Text("no reply", style="red"), *[None] * 5)
    tokens = f"{reply['prompt_tokens']}+{reply['completion_tokens']}" if "prompt_tokens" in reply else None
    shared = (
        "cache" if reply.get("cache_hit") == "1" else "coalesced" if reply.get("coalesced") == "1" else None
    )
    ms = f"{(run.ended_at - run.pushed_at) * 1000:.0f}"
    return (
        run.job.kind, _coloured(outcome(reply)), reply.get("model"), tokens, f"${reply['cost']}", shared, ms,
    )  # fmt: skip


def _calls(run: Run) -> str | None:
    """Each attempt: who was asked, and what became of it if it was no answer."""
    made = [] if run.reply is None else attempts(run.reply)
    texts = [one["model"] if one["outcome"] == "ok" else f"{one['model']} ({one['outcome']})" for one in made]
    return ", ".join(texts) or None


def _count(run: Run) -> int:
    return 0 if run.reply is None else len(attempts(run.reply))


def _said(run: Run, length: int) -> str | None:
    if run.reply is None:
        return None
    said = run.reply.get("error_message", run.reply.get("output", ""))
    text = " ".join(visible(f"({run.deltas} deltas) {said}" if run.deltas else said).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _coloured(text: str) -> Text:
    return Text(text, style="green" if text == "ok" else "magenta")
