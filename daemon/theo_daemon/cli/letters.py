"""Dead letters: reading them, pushing their jobs again, throwing them away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec import Struct

from theo_daemon.cli.target import Target
from theo_daemon.cli.which_ledger import forget_ids, id_holder
from theo_daemon.job import Delivery, EntryRef
from theo_daemon.salvage import salvage
from theo_daemon.wire import Script, Wire
from theo_workers.errors import RouterError

PAGE = 500  # of ids
LISTED = 50  # letters in one answer: each may be as large as a job
LISTED_BYTES = 1_024  # of each field of a letter that is only listed
ABOUT = ("dead_reason", "dead_code", "dead_deliveries", "dead_entry_id", "dead_stream", "dead_at_ms")
CUT = "dead_fields_cut"
TOO_LARGE = "payload_too_large"  # such a letter holds the first bytes of each field only

# Push and delete in one step, so that a letter is replayed once however many try. 0: it was gone.
REPLAY = Script("""
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
local id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
""")


# The newest letters from ARGV[1] down, with the beginnings of their fields.
LIST = Script("""
local entries = redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', ARGV[2])
for _, entry in ipairs(entries) do
    for i, word in ipairs(entry[2]) do entry[2][i] = string.sub(word, 1, ARGV[3]) end
end
return entries
""")


class NotReplayable(RouterError):
    """The letter does not hold the job as it was; the message says what to do."""


class Letter(Struct, frozen=True, kw_only=True):
    """One dead letter. `fields` are the job's own, name, value, name, value..., bytes as they came."""

    letter_id: str
    reason: str
    code: str
    deliveries: int
    entry_id: str
    stream: str
    at_ms: int
    fields: list[bytes]
    cut: bool = False

    @property
    def job_id(self) -> str | None:
        """The client's id, where it gave one that can be read."""
        return self.identity()[1]

    def identity(self) -> tuple[str, str | None]:
        """Tenant ("" for none) and client id."""
        ref = EntryRef(self.stream, self.entry_id)
        envelope = salvage(Delivery(ref, "", self.fields))
        return envelope.tenant or "", None if envelope.id == ref.entry_id else envelope.id


async def newest(wire: Wire, target: Target, *, limit: int, code: str | None = None) -> list[Letter]:
    """The newest letters first, as `each`."""
    found: list[Letter] = []
    async for letter in each(wire, target):
        if code is None or letter.code == code:
            found.append(letter)
            if len(found) == limit:
                break
    return found


async def each(wire: Wire, target: Target) -> AsyncIterator[Letter]:
    """All letters, the newest first, with the beginnings of their fields: `find` has the whole of one."""
    end = "+"
    while True:
        page = await wire.run(LIST, (target.keys.dead,), (end, LISTED, LISTED_BYTES))
        for entry_id, flat in page:
            yield parse_letter(entry_id.decode(), flat)
        if len(page) < LISTED:
            return
        end = f"({page[-1][0].decode()}"


async def find(wire: Wire, target: Target, letter_id: str) -> Letter | None:
    """The letter of this id; None when there is none."""
    found = await wire.ask("XRANGE", target.keys.dead, letter_id, letter_id)
    return parse_letter(letter_id, found[0][1]) if found else None


async def replay(wire: Wire, target: Target, letter: Letter) -> str | None:
    """Push the letter's job again; its new entry id, or None when the letter was gone.

    What the ledger remembers for the job's id is cleared first, or the old outcome would be its reply. While another
    push of the id runs there is nothing to clear: the job waits for it, as any other push. Raises NotReplayable,
    LedgerError.
    """
    if letter.cut:
        raise NotReplayable(
            f"{letter.letter_id}: its fields were cut when it was kept ({letter.code}): push the job again from "
            "where it came"
        )
    if not is_job_stream(target, letter.stream):
        raise NotReplayable(f"{letter.letter_id}: {letter.stream!r} is no job stream of this router")
    lanes = target.config.ingress.lanes
    if letter.stream not in map(target.keys.jobs, lanes):
        raise NotReplayable(
            f"{letter.letter_id}: {letter.stream} is none of the lanes that are read ({', '.join(lanes)}); "
            "is this the daemon's configuration?"
        )
    tenant, client_id = letter.identity()
    if client_id is not None and not await _runs(wire, target, tenant, client_id):
        forget_ids(target.config, [(tenant, client_id)])
    keys = target.keys
    entry_id: bytes | int = await wire.run(
        REPLAY, (keys.dead, letter.stream), (letter.letter_id, *letter.fields)
    )
    return entry_id.decode() if isinstance(entry_id, bytes) else None


async def _runs(wire: Wire, target: Target, tenant: str, client_id: str) -> bool:
    """Is another push of this id under way? An entry that is gone without an outcome holds it for nothing."""
    holder = id_holder(target.config, tenant, client_id)
    return holder is not None and bool(
        await wire.ask("XRANGE", holder.stream, holder.entry_id, holder.entry_id)
    )


async def purge(wire: Wire, target: Target, letter_ids: Sequence[str]) -> int:
    """Delete letters; how many there were."""
    pages = [letter_ids[start : start + PAGE] for start in range(0, len(letter_ids), PAGE)]
    return sum([await wire.ask("XDEL", target.keys.dead, *page) for page in pages])


async def announce(wire: Wire, target: Target, count: int) -> None:
    """Tell those who watch `P:events` that letters were replayed."""
    seconds, micros = await wire.ask("TIME")
    at_ms = int(seconds) * 1000 + int(micros) // 1000
    events, max_len = target.keys.events, target.config.events.max_len
    fields = ("event", "dead_replayed", "at_ms", at_ms, "count", count)
    await wire.ask("XADD", events, "MAXLEN", "~", max_len, "*", *fields)


def is_job_stream(target: Target, stream: str) -> bool:
    """A letter is written by anyone who may write to Redis: only lanes are replayed into."""
    jobs = target.keys.jobs()
    return stream == jobs or stream.startswith(f"{jobs}:")


def parse_letter(letter_id: str, flat: list[bytes]) -> Letter:
    """The letter in an entry's flat fields. What the router adds comes last; such names before it are the job's own."""
    at = len(flat) - 2 * len(ABOUT)
    names = tuple(name.decode("utf-8", "replace") for name in flat[at::2]) if at >= 0 else ()
    if names != ABOUT:
        return _foreign(letter_id, flat)
    about: dict[str, Any] = {
        name: value.decode("utf-8", "replace") for name, value in zip(ABOUT, flat[at + 1 :: 2], strict=True)
    }
    fields = flat[:at]
    cut = about["dead_code"] == TOO_LARGE
    if len(fields) >= 2 and fields[-2] == CUT.encode():
        fields, cut = fields[:-2], True
    return Letter(
        letter_id=letter_id,
        reason=about["dead_reason"],
        code=about["dead_code"],
        deliveries=_number(about["dead_deliveries"]),
        entry_id=about["dead_entry_id"],
        stream=about["dead_stream"],
        at_ms=_number(about["dead_at_ms"]),
        fields=fields,
        cut=cut,
    )


def _foreign(letter_id: str, flat: list[bytes]) -> Letter:
    """Something else wrote it: it can be shown and purged."""
    return Letter(
        letter_id=letter_id,
        reason="not written by this router",
        code="",
        deliveries=0,
        entry_id="",
        stream="",
        at_ms=int(letter_id.partition("-")[0]),
        fields=flat,
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 15 else 0
