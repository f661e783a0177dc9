"""Who writes everything down, outside of the system: jobs, replies, calls, commits, faults; and sees some wrongs at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from tests.sim.books import Disk
from tests.sim.boots import Boot
from tests.sim.network import SCRIPT_NAMES, Server
from tests.sim.plan import Plan
from tests.sim.provider import Call
from tests.sim.redis_words import Consumer, Error, Id, Pending
from tests.sim.traffic import Job
from theo_daemon.job import EntryRef
from theo_daemon.ledger.commit import Operation
from theo_daemon.ledger.records import Ask, Granted, Landing, Verdict

REPLIES, DEAD, EVENTS, JOBS = b"theo:repl", b"theo:dead", b"theo:events", b"theo:jobs"
_BUDGET = "SELECT model, sum(CASE state WHEN 'sent' THEN coalesce(bound_nano, 0) ELSE coalesce(cost_nano, 0) END)"


class Pushed(Struct, frozen=True):
    """A job that Redis took."""

    job: Job
    ref: EntryRef
    at: float


class Reply(Struct, frozen=True):
    """An entry of a reply stream, as any reader sees it. `age`: how often Redis had lost data by then."""

    at: float
    stream: str
    fields: dict[str, str]
    age: int

    @property
    def ref(self) -> EntryRef:
        return EntryRef(self.fields["job_stream"], self.fields["entry_id"])


class Record(Struct, frozen=True):
    """An attempt that was put on record, or its end: by whom, for which entry, when."""

    boot: Any
    ref: EntryRef
    at: float


class Stretch(Struct, frozen=True):
    """Something lasted."""

    kind: str
    boot: Any
    began: float
    ended: float


class Witness:
    """Hears of everything. `now` is the world's monotonic second."""

    def __init__(self, plan: Plan, server: Server, disk: Disk, now: Callable[[], float]) -> None:
        self.plan, self._server, self._disk, self._now = plan, server, disk, now
        self.pushed: list[Pushed] = []
        self.by_ref: dict[EntryRef, Pushed] = {}
        self.replies: list[Reply] = []
        self.dead: list[dict[str, str]] = []
        self.calls: list[Call] = []
        self.claims: list[Record] = []
        self.landings: list[Record] = []
        self.standings: list[tuple[float, str, int, float]] = []  # at, model, openings, open until (monotonic)
        self.stretches: list[Stretch] = []
        self.losses: list[float] = []  # when Redis lost data
        self.cancels: dict[int, float] = {}  # job number -> when the command was on its stream
        self.takers: dict[EntryRef, set[str]] = {}  # whom Redis ever gave an entry to
        self.boots: dict[str, Boot] = {}
        self.complaints: list[str] = []
        self.events: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()  # what scripts returned
        self.points: Counter[str] = Counter()
        self.overbilled = False
        server.data.on_add, server.data.on_owner, server.data.on_script = self._added, self._owned, self._ran
        self._ceilings = {
            model.name: round(model.routing.spend_ceiling * 1e9)
            for model in plan.config.models
            if model.routing.spend_ceiling is not None
        }

    def complain(self, what: str) -> None:
        self.complaints.append(f"{self._now():.3f} {what}")

    # -- of Redis --------------------------------------------------------------------------------------

    def _added(self, key: bytes, entry: Id, fields: list[bytes]) -> None:
        self._server.added(key)
        if key.startswith(REPLIES):
            self.replies.append(Reply(self._now(), key.decode(), _text(fields), len(self.losses)))
        elif key == EVENTS:
            self.events[fields[1].decode()] += 1
        elif key == DEAD:
            self.dead.append(_text(fields))

    def _owned(self, key: bytes, entry: Id, pending: Pending, taker: Consumer) -> None:
        """An entry is given to somebody: by a read (`pending` is new), or out of another's hands."""
        ref = EntryRef(key.decode(), "%d-%d" % entry)
        self.takers.setdefault(ref, set()).add(taker.name.decode())
        owner = pending.owner
        if owner is taker:
            return
        idle = self._server.data.now - pending.at
        if idle < self.plan.config.ingress.lease_s * 1000 and self.boots[owner.name.decode()].alive:
            self.complain(
                f"{ref.entry_id} was taken from {owner.name.decode()}, who is alive and had it renewed"
                f" {idle} ms ago, by {taker.name.decode()}"
            )

    def _ran(self, sha: bytes, reply: Any) -> None:
        match SCRIPT_NAMES.get(sha):
            case "FINISH":
                for found in reply:
                    self.codes[f"FINISH {found if isinstance(found, int) else found.split()[0].decode()}"] += 1
            case "RENEW":
                lost, gone = reply
                self.codes["RENEW lost" if lost else "RENEW gone" if gone else "RENEW kept"] += 1
            case "TAKE":
                taken, vanished = reply
                self.codes["TAKE vanished" if vanished else "TAKE taken" if taken else "TAKE nothing"] += 1
            case "FORGET":
                self.codes["FORGET removed" if reply else "FORGET nobody"] += 1
            case "UNUSABLE":
                self.codes["UNUSABLE found" if reply else "UNUSABLE none"] += 1
            case _:
                pass

    # -- of the ledger ---------------------------------------------------------------------------------

    def committed(self, boot: Boot, operations: Sequence[Operation], answers: Sequence[Verdict | None]) -> list[str]:
        """What was put on disk; the names of the points that were passed."""
        now, passed = self._now(), []
        for operation, answer in zip(operations, answers, strict=True):
            if type(operation) is Ask:
                if type(answer) is Granted and operation.want is not None:
                    self.claims.append(Record(boot, operation.ref, now))
                    passed.append("claim committed")
            elif type(operation) is Landing and operation.ends:
                self.landings += [Record(boot, end.ref, now) for end in operation.ends if end.outcome is not None]
                passed.append("landing committed")
        if self._ceilings and passed:
            self._check_ceilings()
        return list(dict.fromkeys(passed))

    def _check_ceilings(self) -> None:
        """Reckoned from the attempts themselves, since the sums beside them may be what is wrong."""
        for model, nano in self._disk.rows(f"{_BUDGET} FROM attempts GROUP BY model"):
            if nano > self._ceilings[model] and not self.overbilled:
                self.complain(f"{model} has spent and held {nano} of {self._ceilings[model]}")

    # -- of the providers ------------------------------------------------------------------------------

    def called(self, call: Call) -> None:
        """A provider was called: is that on record?"""
        self.calls.append(call)
        boot = call.boot
        running = sum(one.boot is boot and one.model == call.model and one.how == "running" for one in self.calls)
        ((sent,),) = self._disk.rows(
            "SELECT count(*) FROM attempts JOIN owners ON owners.id = attempts.owner"
            " WHERE owners.name = ? AND model = ? AND state = 'sent'",
            boot.name,
            call.model,
        )
        if sent < running:
            self.complain(f"{boot} calls {call.model} for {call.prompt!r} without a record")


def _text(fields: list[bytes]) -> dict[str, str]:
    words = [word.decode("utf-8", "replace") for word in fields]
    return dict(zip(words[::2], words[1::2], strict=True))
