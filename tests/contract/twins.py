"""One history told to two sets of books, SQLite's and Redis's, in the same virtual time; and what each then holds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import apsw
import msgspec
from msgspec import Struct, structs

from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.records import Bury, Landing, News
from theo_daemon.ledger.redis.keys import Keeping, LedgerKeys, id_digest, scope_of, spend_row
from theo_daemon.ledger.redis.packing import Packer
from theo_daemon.ledger.redis.scripts import COMMIT, PRUNE, REGISTER, RESET, SCHEMA
from theo_daemon.ledger.redis.told import Buried, Fenced, Told, read_standing, read_told
from theo_daemon.ledger.shared import SharedStanding
from theo_daemon.ledger.sqlite import owners, schema
from theo_daemon.ledger.sqlite.amend import reset_rows
from theo_daemon.ledger.sqlite.commit import Committer
from theo_daemon.ledger.sqlite.pruning import over_windows
from theo_daemon.ledger.sqlite.reading import SqliteTransaction
from theo_daemon.ledger.sqlite.shared_store import all_health, all_standings
from theo_daemon.wire import Wire
from theo_workers.health import HealthSnapshot

DAY_MS = 86_400_000
ID_MS, KEEP_MS = DAY_MS, 30 * DAY_MS
unpack = msgspec.msgpack.decode
_numbers = itertools.count()
TEXTS = ("id", "outcome", "answer")
HASHES = ("prior", "spend", "running", "latency", "flights", "standings", "health", "rates", "open")
LATENCY_MS = 1e-6  # how far sums of latencies may be apart: they are added up in another order


class Answer(Struct):
    """To one batch. News in no particular order."""

    verdicts: list[Any]
    news: list[News]


class State(Struct):
    """All that a ledger holds for later decisions, and what people read."""

    balances: dict[
        tuple[str, int], tuple[int, int, str, int]
    ]  # spent, held, what was told, end of the window
    running: dict[str, tuple[int, int]]  # scope -> start and end of its last window
    holders: dict[str, int]
    ids: dict[
        str, tuple[int, str, str, str | None]
    ]  # by digest: taken at, digest of the payload, entry, outcome
    outcomes: dict[str, str]
    answers: dict[str, tuple[str, str, int, int]]  # model, text, created, fresh until
    standings: dict[str, SharedStanding]
    health: dict[str, HealthSnapshot]
    windows: dict[str, list[list[int]]]
    counts: dict[str, tuple[int, float | None, int, int]]  # calls, last, tokens
    total_ms: dict[str, float]
    open_attempts: set[int]
    unknown: dict[int, int]  # attempt -> what is charged


class SqliteTwin:
    """The committers of several owners over one database in memory."""

    def __init__(self) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        self._db = apsw.Connection(f"file:/twin-{next(_numbers)}?vfs=memdb", flags=flags)
        self._db.execute(schema.TABLES)
        self._committers: dict[int, Committer] = {}

    def register(self, name: str) -> int:
        owner = owners.register(self._db, name, 0)
        self._committers[owner] = Committer(self._db, owner, id_ttl_ms=ID_MS)
        return owner

    def apply(self, owner: int, batch: Sequence[Operation], now_ms: int) -> Answer:
        committer = self._committers[owner]
        with self._db:
            verdicts = committer.apply(batch, now_ms)
        return Answer(list(verdicts), committer.news)

    def reset(self, rows: Sequence[tuple[str, int]], now_ms: int) -> int:
        with self._db:
            return reset_rows(self._db, rows, now_ms)

    def prune(self, now_ms: int) -> int:
        with self._db:
            return over_windows(self._db, now_ms - KEEP_MS)

    def state(self) -> State:
        rows = self._db.execute
        books = SqliteTransaction(self._db)
        latency = books.latency()
        return State(
            balances={
                (scope, start): (spent, held, f"{warned}{exhausted}{eased}", reset or 0)
                for scope, start, spent, held, warned, exhausted, eased, reset in rows(
                    "SELECT * FROM spend"
                ).fetchall()
            },
            running={
                scope: (start, reset)
                for scope, start, reset in rows(
                    "SELECT scope, max(window_start), reset_at FROM spend WHERE window_start > 0 GROUP BY scope"
                ).fetchall()
            },
            holders=dict(rows("SELECT key, owner FROM inflight").fetchall()),
            ids={
                id_digest(tenant, client_id): (taken_at, digest, f"{stream}:{entry}", outcome)
                for tenant, client_id, digest, stream, entry, outcome, taken_at in rows(
                    "SELECT tenant, client_id, digest, stream, entry_id, outcome, created_at FROM ids"
                ).fetchall()
            },
            outcomes={
                f"{stream}:{entry}": outcome
                for stream, entry, outcome in rows(
                    "SELECT stream, entry_id, outcome FROM outcomes"
                ).fetchall()
            },
            answers={
                key: (model, text, created, fresh)
                for key, model, text, created, fresh in rows("SELECT * FROM cache").fetchall()
            },
            standings={
                one.model: one for one in all_standings(self._db) if one != SharedStanding(model=one.model)
            },
            health=all_health(self._db),
            windows={
                model: msgspec.json.decode(slices)
                for model, slices in rows("SELECT model, slices FROM rates").fetchall()
            },
            counts={
                model: (one.calls, one.last_ms, one.prompt_tokens, one.completion_tokens)
                for model, one in latency.items()
            },
            total_ms=dict(rows("SELECT model, total_ms FROM latency").fetchall()),
            open_attempts={row[0] for row in rows("SELECT id FROM attempts WHERE state = 'sent'").fetchall()},
            unknown=dict(
                rows("SELECT id, coalesce(cost_nano, 0) FROM attempts WHERE state = 'unknown'").fetchall()
            ),
        )

    def close(self) -> None:
        self._db.close()


class RedisTwin:
    """The commit script, told the time; production tells it none."""

    def __init__(self, wire: Wire, prefix: str) -> None:
        self._wire, self.keys = wire, LedgerKeys(prefix)
        self._settings = Keeping(id_ms=ID_MS, keep_ms=KEEP_MS).packed()
        self._packer = Packer()
        self._names: dict[int, str] = {}
        self._tokens = itertools.count(1)
        self._last: dict[int, int] = {}
        self.token = -1  # of the last batch

    async def register(self, name: str) -> int:
        owner, *_ = await self._wire.run(REGISTER, (self.keys.base,), (name, 3_600_000, "uuid", SCHEMA))
        self._names[owner] = name
        return int(owner)

    async def apply(
        self, owner: int, batch: Sequence[Operation], now_ms: int, *, token: int | None = None
    ) -> Answer | None:
        """None: it is fenced. With the `token` of the batch before, it is that one again."""
        for one in batch:
            if isinstance(one, Bury):  # what the file's ledger is told, Redis looks for itself
                await self._wire.ask("ZADD", f"{self.keys.base}:leases", "XX", 0, one.owner)
        self.token = token = next(self._tokens) if token is None else token
        last = self._last.get(owner, 0)
        args = (
            owner,
            self._names[owner],
            token,
            last,
            str(now_ms),
            self._settings,
            *self._packer.pack(batch),
        )
        told = read_told(await self._wire.run(COMMIT, (self.keys.base,), args), batch)
        if isinstance(told, Fenced):
            return None
        assert isinstance(told, Told)
        if told.changed:
            self._last[owner] = token
        verdicts = [None if isinstance(one, Buried) else one for one in told.verdicts]
        return Answer(verdicts, told.news)

    async def reset(self, rows: Sequence[tuple[str, int]], now_ms: int) -> int:
        names = [spend_row(*row) for row in rows]
        return int(await self._wire.run(RESET, (self.keys.base,), (str(now_ms), *names)))

    async def prune(self, now_ms: int) -> int:
        """The number of windows that are gone, as the file's ledger counts."""
        before = await self._wire.ask("ZRANGE", self.keys.windows, 0, -1, "WITHSCORES")
        await self._wire.run(PRUNE, (self.keys.base,), (100, KEEP_MS, str(now_ms)))
        # What calls hold something in is put off there, and looked at again each time by the file's ledger.
        for row, ends in zip(before[::2], before[1::2], strict=True):
            await self._wire.ask("ZADD", self.keys.windows, "XX", ends, row)
        return len(before) // 2 - int(await self._wire.ask("ZCARD", self.keys.windows))

    async def state(self) -> State:
        found = await self._everything()
        ids, outcomes, answers, unknown = {}, {}, {}, {}
        for name, value in found.items():
            kind, _, rest = name.partition(":")
            match kind:
                case "id":
                    head, _, outcome = value.decode().partition("\n")
                    taken_at, digest, entry = head[1:].split(" ")
                    ids[rest] = (int(taken_at), digest, entry, outcome if head[0] == "d" else None)
                case "outcome":
                    outcomes[rest] = value.decode()
                case "answer":
                    head, _, text = value.decode().partition("\n")
                    created, fresh, model = head.split(" ")
                    answers[rest] = (model, text, int(created), int(fresh))
                case "prior":
                    for attempt, *prior in map(unpack, value.values()):
                        if prior[2] == "unknown":
                            unknown[int(attempt)] = prior[3]
        balances = {}
        for row, text in found.get("spend", {}).items():
            spent, held, told, reset = text.split()
            balances[scope_of(row)] = (int(spent), int(held), told.decode(), int(reset))
        latency = {model: text.split() for model, text in found.get("latency", {}).items()}
        return State(
            balances=balances,
            running={
                scope: (int(start), int(reset))
                for scope, text in found.get("running", {}).items()
                for start, reset, *_ in [text.split()]
            },
            holders={key: int(owner) for key, owner in found.get("flights", {}).items()},
            ids=ids,
            outcomes=outcomes,
            answers=answers,
            standings={
                model: read_standing({"model": model, **unpack(row)})
                for model, row in found.get("standings", {}).items()
            },
            health={
                model: msgspec.msgpack.decode(row, type=HealthSnapshot)
                for model, row in found.get("health", {}).items()
            },
            windows={model: unpack(row) for model, row in found.get("rates", {}).items()},
            counts={model: (int(w[0]), float(w[2]), int(w[3]), int(w[4])) for model, w in latency.items()},
            total_ms={model: float(words[1]) for model, words in latency.items()},
            open_attempts={
                int(field[1:])
                for owner in self._names
                for field in found.get(f"open:{owner}", ())
                if field.startswith("a")
            },
            unknown=unknown,
        )

    async def _everything(self) -> dict[str, Any]:
        """What is under the ledger's name: texts, and hashes by field."""
        start = f"{self.keys.base}:"
        names = [key.decode() for key in await self._wire.ask("KEYS", f"{start}*")]
        kinds = {name: name.removeprefix(start).partition(":")[0] for name in names}
        names = [name for name in names if kinds[name] in (*TEXTS, *HASHES)]
        if not names:
            return {}
        asked = [("GET" if kinds[name] in TEXTS else "HGETALL", name) for name in names]
        found: dict[str, Any] = {}
        for name, value in zip(names, await self._wire.ask_all(asked), strict=True):
            found[name.removeprefix(start)] = _fields(value) if kinds[name] in HASHES else value
        return found


def _fields(words: list[bytes]) -> dict[str, bytes]:
    return {words[at].decode(): words[at + 1] for at in range(0, len(words), 2)}


def landing_only(batch: Sequence[Operation]) -> list[Landing]:
    """What of a batch counts when its owner was buried: how calls ended."""
    return [
        Landing(settled=structs.replace(one.settled, cache=None))
        for one in batch
        if isinstance(one, Landing) and one.settled is not None
    ]
