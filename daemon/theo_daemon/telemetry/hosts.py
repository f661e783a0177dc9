"""Which Host headers the status port answers, so that no page elsewhere can reach it by DNS rebinding."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?")
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - named, not bound


def parse_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:9464` or `[::1]:9464` as host and port. Raises ValueError for anything else."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 65536):
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


class HostCheck:
    """Loopback names, the host we are bound to and what else is allowed, with any port.

    Bound to every interface, any literal address is answered too: no name can be rebound to it.
    """

    def __init__(self, bound: str, allowed: Iterable[str] = ()) -> None:
        self._names = {"localhost", bound.lower(), *(name.lower() for name in allowed)}
        self._any_address = bound in _WILDCARDS

    def __call__(self, header: str | None) -> bool:
        match = _HOST.fullmatch(header or "")
        if match is None:
            return False
        name = (match["six"] or match["name"]).lower().removesuffix(".")
        if name in self._names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return self._any_address or address.is_loopback
