"""Takes in entries that were delivered, have no reply and are nobody's any more.

Somebody else has acknowledged them, or has deleted a consumer that held them: XGROUP DELCONSUMER drops what is pending.
They lie in the job stream, and Redis will not deliver them again. Who holds such an entry takes it back when it renews
(`lease_scripts.RENEW`); these are the others, whose process is gone or never heard of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from theo_daemon.held import HeldEntries
from theo_daemon.job import EntryRef
from theo_daemon.script_parts import UNOWNED
from theo_daemon.wire import Script, Wire

MOST_AT_ONCE: Final = 500  # entries that one call of a script looks at, or takes
MOST_BYTES: Final = 4_000_000  # that one looks at: a few milliseconds of the server's time
PAGES: Final = 8  # calls in one look, others between them
MOST_SEEN: Final = 10_000  # ids remembered

FIND: Final = Script(
    UNOWNED
    + """
-- ARGV: group, where to look from, most entries, most bytes. Walks over what was delivered and is not finished.
-- Returns {where to go on, ids of unowned entries}.
local key, group, from, most, left = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local last = delivered(key, group)
local found, seen, page = {}, 0, 8
while last and seen < most and left > 0 do
    local entries = redis.pcall('XRANGE', key, from, last, 'COUNT', page)
    if entries.err then return {'-', found} end -- nothing can lie behind the greatest id there is
    local before = left
    for _, entry in ipairs(entries) do
        if unowned(key, group, entry[1], last) then found[#found + 1] = entry[1] end
        for _, word in ipairs(entry[2]) do left = left - #word end
        from = '(' .. entry[1]
    end
    seen = seen + #entries
    if #entries < page then return {'-', found} end
    page = math.max(1, math.min(100, most - seen, math.floor(left * #entries / (before - left + 1))))
end
return {last and from or '-', found}
"""
)

TAKE_IN: Final = Script(
    UNOWNED
    + """
-- ARGV: group, consumer, entry ids. Takes those that are still unowned. Returns what `lease_scripts.TAKE` returns. How
-- often they were delivered is not known any more.
local key, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local last = delivered(key, group)
local entries = {}
for i = 3, #ARGV do
    local id = ARGV[i]
    if unowned(key, group, id, last) then
        entries[#entries + 1] = redis.call('XCLAIM', key, group, consumer, 0, id, 'RETRYCOUNT', 1, 'FORCE')[1]
    end
end
return {entries, {}, 0}
"""
)

START: Final = b"-"


class Walk:
    """Over one stream: where it goes on, and what it has found so far."""

    def __init__(self) -> None:
        self.at: bytes = START
        self.found: set[EntryRef] = set()


Take = Callable[[str, Any, float], int]
"""Holds and delivers what a script has given: of a stream, its reply, and when it was asked, in monotonic seconds."""


class Unowned:
    """Belongs to `Leases`, which asks it to look from time to time."""

    def __init__(self, *, wire: Wire, held: HeldEntries, group: str, consumer: str, lease_s: float) -> None:
        """Whoever works on an entry takes it back within `lease_s`: from then on it is for anybody."""
        self._wire, self._held, self._group, self._consumer = wire, held, group, consumer
        self._lease_s = lease_s
        self._walks: dict[str, Walk] = {}  # by stream; a look goes on where the last one ended
        self._seen: dict[EntryRef, float] = {}  # when they were found, in monotonic seconds

    async def look(self, streams: Iterable[str], now: float, fits: Callable[[], int], take: Take) -> None:
        """Take what was found a lease ago and is unowned still, as far as it fits, and find more.

        Raises redis.exceptions.RedisError.
        """
        for stream in streams:
            due = [
                ref
                for ref, since in self._seen.items()
                if ref.stream == stream and since + self._lease_s <= now
            ]
            while page := due[: max(0, min(MOST_AT_ONCE, fits()))]:
                del due[: len(page)]
                await self._take(stream, page, now, take)
            await self._find(stream, now)

    async def _take(self, stream: str, page: Sequence[EntryRef], now: float, take: Take) -> None:
        ids = [ref.entry_id for ref in page if ref not in self._held]
        found = await self._wire.run(TAKE_IN, (stream,), (self._group, self._consumer, *ids))
        for ref in page:  # what is not taken has found somebody, or its end
            del self._seen[ref]
        take(stream, found, now)

    async def _find(self, stream: str, now: float) -> None:
        walk = self._walks.setdefault(stream, Walk())
        for _ in range(PAGES):
            walk.at, ids = await self._wire.run(
                FIND, (stream,), (self._group, walk.at, MOST_AT_ONCE, MOST_BYTES)
            )
            for entry_id in ids:
                ref = EntryRef(stream, entry_id.decode())
                if ref in self._seen or len(self._seen) < MOST_SEEN:
                    self._seen.setdefault(ref, now)
                    walk.found.add(ref)
            if walk.at == START:  # what was found before, and not by a whole walk, has found somebody
                self._seen = {
                    ref: at for ref, at in self._seen.items() if ref.stream != stream or ref in walk.found
                }
                walk.found = set()
                return
