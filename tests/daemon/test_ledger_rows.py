"""Rows in few statements, whatever the size of their texts."""

from __future__ import annotations

import apsw
import pytest

from theo_daemon.ledger.sqlite.texts import TextColumn, insert_texts
from theo_workers.texts import Json

LARGE = "é" * 400_000
KEPT = TextColumn("kept", "number", "text")


def in_pieces(text: str) -> Json:
    """A large text as an answer's outcome is kept: in pieces, of whatever kind."""
    told = text.encode()
    if len(text) < len(LARGE):
        return told
    return told[:7], memoryview(told)[7:-9], bytearray(told[-9:])


@pytest.mark.parametrize(
    "texts", [[], ["a"], ["a", LARGE, "b"], [LARGE, LARGE], ["a"] * 150, ["a"] * 70 + [LARGE]]
)
def test_small_and_large_texts_land_alike(texts: list[str]) -> None:
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE kept(number, text)")
    insert_texts(
        db,
        "INSERT",
        KEPT,
        [((number,), in_pieces(text)) for number, text in enumerate(texts)],
    )
    assert db.execute("SELECT number, text FROM kept ORDER BY number").fetchall() == list(enumerate(texts))


def test_what_follows_the_values_holds_for_large_texts_too() -> None:
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE kept(number PRIMARY KEY, text)")
    for text in ("first", LARGE, "third"):
        insert_texts(db, "INSERT", KEPT, [((1,), in_pieces(text))], "ON CONFLICT(number) DO NOTHING")
    assert db.execute("SELECT text FROM kept").fetchall() == [("first",)]


def test_a_large_text_takes_the_place_of_another() -> None:
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE kept(number PRIMARY KEY, text)")
    for text in ("first", LARGE):
        tail = "ON CONFLICT(number) DO UPDATE SET text = excluded.text"
        insert_texts(db, "INSERT", KEPT, [((1,), in_pieces(text))], tail)
    assert db.execute("SELECT text, typeof(text) FROM kept").fetchall() == [(LARGE, "text")]
    assert (
        db.execute("PRAGMA cache_size").fetchall()
        == apsw.Connection(":memory:").execute("PRAGMA cache_size").fetchall()
    )
