"""`ledger unknown`: what it takes as a time, and what it shows for people and for programs."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import typer

from theo_daemon.cli import app
from theo_daemon.cli.ledger import since_when
from theo_daemon.ledger.sqlite.schema import open_ledger

NOW_S = 1_769_846_400.0  # 2026-01-31T08:00:00Z


@pytest.mark.parametrize(
    ("text", "unix_s"),
    [
        ("90m", NOW_S - 5_400),
        ("24h", NOW_S - 86_400),
        ("7d", NOW_S - 604_800),
        ("30s", NOW_S - 30),
        ("2026-01-31T08:00", NOW_S),
        ("2026-01-31T09:00+01:00", NOW_S),
        ("2026-01-31", NOW_S - 8 * 3_600),
    ],
)
def test_a_time_is_so_long_ago_or_a_date_of_utc(text: str, unix_s: float) -> None:
    assert since_when(text, NOW_S) == int(unix_s * 1000)


@pytest.mark.parametrize("text", ["", "yesterday", "-1h", "0h", "1w", "1\u0663h"])
def test_any_other_time_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        since_when(text, NOW_S)


def called(folder: Path, *words: str) -> str:
    """What the command prints, over a configuration in `folder`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        app(["ledger", "unknown", "--config", str(folder / "c.toml"), *words], prog_name="theo-router")
    assert ended.value.code == 0
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a ledger in which two calls were lost."""
    (tmp_path / "c.toml").write_text('[ledger]\nurl = "sqlite:///l.db"\n')
    db = open_ledger(tmp_path / "l.db")
    insert = (
        "INSERT INTO attempts(id, stream, entry_id, key, owner, model, provider, state, bound_nano, cost_nano,"
        " scopes, started_at, ended_at, provider_request_id)"
        " VALUES(?, 'theo:jobs', ?, 'k', 1, ?, 'openai', ?, 2000000000, ?, '', ?, ?, 'req\x1b[2J')"
    )
    at = int(NOW_S * 1000)
    rows = [
        (1, "1-0", "fast", "unknown", 2 * 10**9),
        (2, "2-0", "slow", "maybe", 5 * 10**8),
        (3, "3-0", "fast", "ok", 1),
    ]
    for row in rows:
        db.execute(insert, (*row, at + row[0], at + 1000))
    db.close()
    return tmp_path


def test_lost_calls_are_listed_newest_first_with_their_sum(folder: Path) -> None:
    said = called(folder)
    assert said.index("2-0") < said.index("1-0")
    assert "3-0" not in said
    assert "2 calls of unknown outcome, charged $2.50" in said
    assert "\x1b" not in said  # a provider wrote it: it must not move the cursor
    assert "1 calls of unknown outcome, charged $2.00" in called(folder, "--model", "fast")
    assert "raise --limit" in called(folder, "-n", "1")


def test_programs_get_every_field(folder: Path) -> None:
    (call,) = json.loads(called(folder, "--json", "--model", "slow", "--since", "2026-01-31"))["calls"]
    assert (call["entry_id"], call["outcome"], call["bound"], call["charged"]) == ("2-0", "maybe", 2.0, 0.5)
    assert (call["calls_since"], call["followed"]) == ([], "not sent again")
    assert json.loads(called(folder, "--json", "--since", "1s")) == {"calls": []}
