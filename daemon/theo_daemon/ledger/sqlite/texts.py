"""JSON texts in rows. A large one is written piece by piece: whoever has it keeps the only copy of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeGuard

import apsw

from theo_daemon.ledger.large_reads import LARGE_BYTES, Place
from theo_daemon.ledger.sqlite.rows import Bind, insert_rows, marks
from theo_workers.texts import Json, length

_FEW_PAGES = -4_096  # KiB
_STEP_BYTES = 1_048_576
_PLACE = "CAST(zeroblob(?) AS TEXT)"
_COLUMNS = {"cache": "answer", "ids": "outcome", "outcomes": "outcome"}
_ROWS = {
    "cache": "SELECT rowid FROM cache WHERE key = ?",
    "ids": "SELECT rowid FROM ids WHERE tenant = ? AND client_id = ? AND outcome IS NOT NULL",
    "outcomes": "SELECT rowid FROM outcomes WHERE stream = ? AND entry_id = ?",
}


class TextColumn(NamedTuple):
    """Where texts lie, and what lies beside them, in the order in which it is written."""

    table: str
    beside: str
    name: str

    @property
    def into(self) -> str:
        return f"INTO {self.table}({self.beside}, {self.name})"


def insert_texts(
    db: apsw.Connection,
    verb: str,
    column: TextColumn,
    rows: Sequence[tuple[tuple[Bind, ...], Json]],
    tail: str = "",
) -> None:
    """`insert_rows`, each row with a JSON text as its last value."""
    small = [(*binds, text.decode()) for binds, text in rows if _is_small(text)]
    insert_rows(db, f"{verb} {column.into}", small, tail)
    if len(small) == len(rows):
        return
    with few_pages(db):
        for binds, text in rows:
            if not _is_small(text):
                values = f"VALUES ({marks(len(binds))}, {_PLACE})"
                _insert_large(db, column, f"{verb} {column.into} {values} {tail}", (binds, text))


def read_text(db: apsw.Connection, place: Place) -> bytes | None:
    """What lies in a place, which names a table and a key in it. None: it is not there any more."""
    table, key, _ = place.read()
    found = db.execute(_ROWS[table], key).fetchone()
    if found is None:
        return None
    with few_pages(db), db.blob_open("main", table, _COLUMNS[table], int(found[0]), False) as blob:
        text: bytes = blob.read(blob.length())
    return text


@contextlib.contextmanager
def few_pages(db: apsw.Connection) -> Iterator[None]:
    """Large texts do not go through all the memory that is there for hot pages, nor stay in it."""
    (pages,) = db.execute("PRAGMA cache_size").fetchone() or (0,)
    db.execute(f"PRAGMA cache_size = {_FEW_PAGES}")
    try:
        yield
    finally:
        db.execute(f"PRAGMA cache_size = {pages}")


def _insert_large(
    db: apsw.Connection, column: TextColumn, sql: str, row: tuple[tuple[Bind, ...], Json]
) -> None:
    """A place for it first: bound to a statement it would be copied, and kept with that."""
    binds, text = row
    place = db.execute(f"{sql} RETURNING rowid", (*binds, length(text)), can_cache=False).fetchone()
    if place is None:
        return  # `tail` forbids it
    with db.blob_open("main", column.table, column.name, int(place[0]), True) as blob:
        for piece in (text,) if isinstance(text, bytes) else text:
            held = memoryview(piece)
            for start in range(0, len(held), _STEP_BYTES):
                blob.write(held[start : start + _STEP_BYTES])


def _is_small(text: Json) -> TypeGuard[bytes]:
    return isinstance(text, bytes) and len(text) <= LARGE_BYTES
