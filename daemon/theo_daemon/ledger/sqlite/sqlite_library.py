"""Is the SQLite that is linked in fit for a ledger that several processes write?"""

from __future__ import annotations

from theo_workers.errors import LedgerError

# Of the WAL-reset bug, by which two connections can lose commits (sqlite.org/wal.html).
_MENDED = (
    (3, 44, 6),
    (3, 50, 7),
    (3, 51, 3),
)  # and every later one of each branch, and all of 3.52 and above


def check_library(version: str) -> None:
    """`version` as SQLite tells it. Raises LedgerError for one with the WAL-reset bug."""
    found = tuple(int(part) for part in version.split("."))
    if found >= (3, 52):
        return
    if any(found[:2] == mended[:2] and found >= mended for mended in _MENDED):
        return
    raise LedgerError(
        f"SQLite {version} can lose commits when several processes write (its WAL-reset bug). "
        "Install the apsw that this package asks for, from a wheel: it brings SQLite 3.51.3 or later."
    )
