"""Everything round the workers: intake, dispatcher, ledger, publisher, configuration, telemetry, command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the library face
    from theo_daemon.router import GenerationError as GenerationError
    from theo_daemon.router import Ledger as Ledger
    from theo_daemon.router import LedgerTransaction as LedgerTransaction
    from theo_daemon.router import ModelHealth as ModelHealth
    from theo_daemon.router import RoutedGeneration as RoutedGeneration
    from theo_daemon.router import Router as Router

__version__ = "0.1.0"

_FACE = frozenset(
    ("GenerationError", "Ledger", "LedgerTransaction", "ModelHealth", "RoutedGeneration", "Router")
)


def __getattr__(name: str) -> Any:
    """The library face, loaded when it is asked for: commands start without it."""
    if name in _FACE:
        from theo_daemon import router  # noqa: PLC0415 - see above

        return getattr(router, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
