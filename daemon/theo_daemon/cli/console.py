"""Printing for people and for programs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 160  # columns where there is no terminal to fit into
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def console() -> Console:
    """Standard output; as wide as a table needs when it is a file or a pipe."""
    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else _WIDE)


def print_json(document: Any) -> None:
    """One JSON document, indented for a terminal and on one line for a pipe."""
    encoded = msgspec.json.encode(document)
    if sys.stdout.isatty():
        encoded = msgspec.json.format(encoded, indent=2)
    sys.stdout.write(visible(encoded.decode()) + "\n")


def visible(text: str) -> str:
    """`text` without what could move a terminal's cursor or forge its output: models and jobs write it, too."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def say(text: str) -> None:
    """A remark beside the output, on standard error."""
    print(text, file=sys.stderr, flush=True)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    tight: bool = False,
) -> Table:
    """A plain table; columns whose name ends in `>` are set to the right, and None is a dash."""
    padding = (0, 1, 0, 0) if tight else (0, 2, 0, 0)
    made = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=padding
    )
    for column in columns:
        made.add_column(
            column.rstrip(">"), justify="right" if column.endswith(">") else "left", header_style="dim"
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(_shown(cell)) for cell in row))
    return made


def usd(amount: float | None) -> str | None:
    """Dollars, to the last digit that says something; None stays None."""
    if amount is None:
        return None
    digits = f"{amount:.9f}".rstrip("0")
    whole, _, cents = digits.partition(".")
    return f"${whole}.{cents:0<2}"


def duration(seconds: float | None) -> str | None:
    """`0.4 s`, `12 s`, `3 min`, `5.2 h`, `4 d`; None stays None."""
    if seconds is None:
        return None
    for limit, divisor, unit in ((10, 1, "s"), (120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return (
                f"{seconds / divisor:.1f} {unit}"
                if limit in (10, 172_800)
                else f"{seconds / divisor:.0f} {unit}"
            )
    return f"{seconds / 86_400:.0f} d"


def _shown(cell: object) -> str:
    return "–" if cell is None else visible(str(cell)).replace("\n", "⏎")
