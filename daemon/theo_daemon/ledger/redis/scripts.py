"""The scripts of the ledger in Redis, put together from the pieces in `lua/`, each of which holds one idea."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from theo_daemon.wire import Script

SCHEMA: Final = 1  # of what the scripts keep; a newer one is left alone

_PIECES = files(__package__) / "lua"


def _script(*pieces: str, flags: str = "") -> Script:
    texts = [(_PIECES / f"{piece}.lua").read_text("utf-8") for piece in pieces]
    return Script("\n".join([f"#!lua flags={flags}", *texts] if flags else texts))


COMMIT: Final = _script(
    *(
        "names",
        "batch",
        "rows",
        "money",
        "rates",
        "standings",
        "memory",
        "claims",
        "landings",
        "deaths",
        "commit",
    )
)
REGISTER: Final = _script("names", "register")
BEAT: Final = _script("names", "beat", flags="allow-oom")
LEAVE: Final = _script("names", "leave")
TEXTS: Final = _script("names", "texts")
PRUNE: Final = _script("names", "windows", "prune")
FORGET: Final = _script("names", "forget")
RESET: Final = _script("names", "windows", "reset")
BOOKS: Final = _script("names", "books")
