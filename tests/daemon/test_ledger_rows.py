"""Rows in few statements, whatever the size of their texts."""

from __future__ import annotations

import apsw
import pytest

from theo_daemon.ledger.sqlite.rows import insert_texts

LARGE = "é" * 400_000


@pytest.mark.parametrize(
    "texts", [[], ["a"], ["a", LARGE, "b"], [LARGE, LARGE], ["a"] * 150, ["a"] * 70 + [LARGE]]
)
def test_small_and_large_texts_land_alike(texts: list[str]) -> None:
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE kept(number, text)")
    insert_texts(
        db,
        "INSERT INTO kept(number, text)",
        [((number,), text.encode()) for number, text in enumerate(texts)],
    )
    assert db.execute("SELECT number, text FROM kept ORDER BY number").fetchall() == list(enumerate(texts))


def test_what_follows_the_values_holds_for_large_texts_too() -> None:
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE kept(number PRIMARY KEY, text)")
    for text in ("first", LARGE, "third"):
        insert_texts(
            db, "INSERT INTO kept(number, text)", [((1,), text.encode())], "ON CONFLICT(number) DO NOTHING"
        )
    assert db.execute("SELECT text FROM kept").fetchall() == [("first",)]
