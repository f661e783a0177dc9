"""How old the oldest entry of a stream is, without reading it: it may be large, or what its processes die of."""

from __future__ import annotations

from typing import Any, Final

from redis.exceptions import ResponseError

from theo_daemon.wire import Script, Wire

OLDEST: Final = Script("""
local entry = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return entry and entry[1]
""")


async def oldest_ids(wire: Wire, streams: list[str]) -> list[bytes | ResponseError | None]:
    """The lowest entry id of each stream; None for an empty one."""
    found: list[Any] = await wire.run_all(OLDEST, [((stream,), ()) for stream in streams])
    return found


def age_s(oldest: bytes | ResponseError | None, now_ms: int) -> float | None:
    """Seconds since it was pushed, by its id; None where there is none."""
    if oldest is None or isinstance(oldest, ResponseError):
        return None
    return round(max(0, now_ms - int(oldest.partition(b"-")[0])) / 1000, 3)
