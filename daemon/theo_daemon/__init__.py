"""Everything round the workers: intake, dispatcher, ledger, publisher, configuration, telemetry, command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theo_daemon.router import Router as Router  # the library face

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`theo_daemon.Router`, loaded when it is asked for: commands start without it."""
    if name == "Router":
        from theo_daemon.router import Router  # noqa: PLC0415 - see above

        return Router
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
