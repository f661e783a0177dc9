"""Entries that were read and are nobody's: somebody's XACK, or XGROUP DELCONSUMER, has taken them from the group.

They lie in their stream for ever, since a group reads nothing twice. Nothing of ours makes them: what the router
acknowledges it deletes in the same step, and it deletes no consumer that holds anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from theo_daemon.scout_scripts import LATER
from theo_daemon.wire import Script, Wire

PAGE: Final = 100  # pending entries whose gaps are looked into at once

RESTORE: Final = Script(
    LATER
    + """
-- KEYS: job stream. ARGV: group, consumer, idle ms to set, id to look after, most. Makes what lies between pending
-- entries, and was delivered, pending again, with a lease that is over. Only those are read.
-- Returns {id to look after next, or '0-0' at the end, how many}.
local key, group, consumer, idle, at, most = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local last = delivered(key, group)
if not last or last == '0-0' or later(at, last) then return {'0-0', 0} end
local pending = redis.call('XPENDING', key, group, '(' .. at, last, most)
local restored = 0
for i = 1, math.min(#pending + 1, most) do
    local own = pending[i] and pending[i][1]
    local to = own and '(' .. own or last
    while restored < most do
        local entry = redis.call('XRANGE', key, '(' .. at, to, 'COUNT', 1)[1]
        if not entry then break end
        at = entry[1]
        redis.call('XCLAIM', key, group, consumer, 0, at, 'IDLE', idle, 'RETRYCOUNT', 1, 'FORCE', 'JUSTID')
        restored = restored + 1
    end
    if restored == most then return {at, restored} end
    if not own then return {'0-0', restored} end
    at = own
end
return {at, restored}
"""
)


class Strays:
    """Looks for them, a page of each stream at a time."""

    def __init__(
        self, wire: Wire, streams: Sequence[str], *, group: str, consumer: str, idle_ms: int
    ) -> None:
        """`idle_ms` is beyond any lease: whoever looks next takes them over, unless this process holds them still."""
        self._wire, self._group, self._consumer, self._idle_ms = wire, group, consumer, idle_ms
        self._after: dict[str, str] = dict.fromkeys(streams, "0-0")

    async def look(self) -> dict[str, int]:
        """How many there were by stream, where there were any. Raises redis.exceptions.RedisError."""
        calls = [
            ((stream,), (self._group, self._consumer, self._idle_ms, after, PAGE))
            for stream, after in self._after.items()
        ]
        found: dict[str, int] = {}
        replies = await self._wire.run_all(RESTORE, calls)
        for stream, reply in zip(list(self._after), replies, strict=True):
            if isinstance(reply, ResponseError):
                raise reply
            after, count = reply
            self._after[stream] = after.decode()
            if count:
                found[stream] = count
        return found
