"""Who writes everything down, outside of the system: jobs, replies, calls, faults; and sees some wrongs at once."""

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
from tests.sim.redis_words import Consumer, Id, Pending
from tests.sim.traffic import Job
from theo_daemon.job import EntryRef
from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.records import Ask, Changed, Granted, Landing, Settled, Verdict, Want

EARLY = b"theo:early"
REPLIES, DEAD, EVENTS, JOBS = b"theo:repl", b"theo:dead", b"theo:events", b"theo:jobs"


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


class Cancelled(Struct, frozen=True):
    """A command to cancel whatever bears this name was on its stream."""

    name: str
    at: float


class Record(Struct, frozen=True):
    """An attempt that was put on record, or its end: by whom, for which entry, when."""

    boot: Any
    ref: EntryRef
    at: float
    attempt_id: int = 0  # of a claim


class Standing(Struct, frozen=True):
    """A model's circuit changed: `openings` 0 is closed, `until` the monotonic second to which it is open."""

    at: float
    model: str
    openings: int
    until: float


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
        self.settled_at: dict[int, float] = {}  # attempts, by whoever made them
        self.standings: list[Standing] = []  # every change of a circuit that was put on disk
        self.stretches: list[Stretch] = []
        self.losses: list[float] = []  # when Redis lost data
        self.rollbacks: list[float] = []  # those of them after which it had older data
        self.cancels: list[Cancelled] = []
        self.takers: dict[EntryRef, set[str]] = {}  # whom Redis ever gave an entry to
        self._passed_by: dict[
            EntryRef, bytes
        ] = {}  # whose it was, of those that were given to whoever read them
        self._dropped: dict[
            EntryRef, tuple[str, float]
        ] = {}  # whose it was, and since when it is nobody's, or was
        self._drops: dict[
            EntryRef, tuple[float, float]
        ] = {}  # the first and last of those that followed one another
        self.boots: dict[str, Boot] = {}
        self.complaints: list[str] = []
        self.events: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()  # what scripts returned
        self.points: Counter[str] = Counter()
        self.overbilled = False
        self._calls_on_record: dict[tuple[Boot, str], int] = {}  # and not over, as far as the ledger knows
        self._bounds: dict[int, tuple[Boot, str, int]] = {}  # of open attempts
        self._charged: dict[str, int] = {}
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
            self.replies.append(Reply(self._now(), key.decode(), text_fields(fields), len(self.losses)))
        elif key == EVENTS:
            self.events[fields[1].decode()] += 1
        elif key == DEAD:
            self.dead.append(text_fields(fields))

    def _owned(self, key: bytes, entry: Id, pending: Pending, taker: Consumer) -> None:
        """An entry is given to somebody: by a read (`pending` is new), or out of another's hands."""
        ref = EntryRef(key.decode(), f"{entry[0]}-{entry[1]}")
        self._was_dropped(ref, taker)
        self.takers.setdefault(ref, set()).add(taker.name.decode())
        owner = pending.owner
        if owner is taker or self._was_early(ref, owner, taker):
            return
        idle = self._server.data.now - pending.at
        if idle < self.plan.config.ingress.lease_s * 1000 and self.boots[owner.name.decode()].alive:
            self.complain(
                f"{ref.entry_id} was taken from {owner.name.decode()}, who is alive and had it renewed"
                f" {idle} ms ago, by {taker.name.decode()}"
            )

    def drop(self, ref: EntryRef, owner: str) -> None:
        """Somebody else makes an entry nobody's that this process had."""
        first, last = self._drops.get(ref, (0.0, 0.0))
        now = self._now()
        if (
            last < now - self.plan.config.ingress.lease_s
        ):  # else it may never have been seen in somebody's hands
            first = now
        self._drops[ref] = first, now
        self._dropped[ref] = owner, first

    def _was_dropped(self, ref: EntryRef, taker: Consumer) -> None:
        early = self._server.data.keys.get(EARLY)
        kept = early.get(f"{ref.stream} {ref.entry_id}".encode()) if isinstance(early, dict) else None
        owner, at = self._dropped.pop(ref, ("", 0.0))
        if (
            kept is not None and kept != taker.name
        ):  # taken before its turn, and handed back if it is nobody's
            self._passed_by[ref] = kept
        elif (
            owner
            and taker.name.decode()
            not in self.takers.get(ref, ())  # else he may believe that he has it still
            and self.boots[owner].alive
            and self._now() - at < self.plan.config.ingress.lease_s
            and not any(at <= loss for loss in self.losses)
        ):
            self.complain(f"{ref.entry_id} was dropped, and not left to {owner}, who is alive, for a lease")

    def _was_early(self, ref: EntryRef, owner: Consumer, taker: Consumer) -> bool:
        """Was it taken before its turn? Whoever comes by it in turn is given it, and has to give it back."""
        early = self._server.data.keys.get(EARLY)
        if isinstance(early, dict) and early.get(f"{ref.stream} {ref.entry_id}".encode()) == owner.name:
            self._passed_by[ref] = owner.name
            return True
        return self._passed_by.pop(ref, None) == taker.name

    def _ran(self, sha: bytes, reply: Any) -> None:
        match SCRIPT_NAMES.get(sha):
            case "FINISH":
                for found in reply:
                    self.codes[
                        f"FINISH {found if isinstance(found, int) else found.split()[0].decode()}"
                    ] += 1
            case "RENEW":
                lost, gone, back = reply
                self.codes[
                    "RENEW back" if back else "RENEW lost" if lost else "RENEW gone" if gone else "RENEW kept"
                ] += 1
            case "TAKE_IN":
                self.codes["TAKE_IN taken" if reply[0] else "TAKE_IN nothing"] += 1
            case "TAKE" | "RECLAIM" as name:
                taken, suspects, vanished = reply[-3:]
                found = ("vanished", "suspect", "taken", "nothing")
                self.codes[
                    f"{name} {found[[bool(vanished), bool(suspects), bool(taken), True].index(True)]}"
                ] += 1
            case "FETCH":
                self.codes["FETCH words" if reply else "FETCH not ours"] += 1
            case "FORGET":
                self.codes["FORGET removed" if reply else "FORGET nobody"] += 1
            case "UNUSABLE":
                self.codes["UNUSABLE found" if reply else "UNUSABLE none"] += 1
            case _:
                pass

    # -- of the ledger ---------------------------------------------------------------------------------

    def committed(
        self, boot: Boot, operations: Sequence[Operation], answers: Sequence[Verdict | None]
    ) -> list[str]:
        """What was put on disk; the names of the points that were passed."""
        now = self._now()
        landings = [one for one in operations if type(one) is Landing]
        for landing in landings:  # first, as they are carried out
            if landing.settled is not None:
                self.settled_at.setdefault(landing.settled.attempt_id, now)
                self._settle(landing.settled)
            self.landings += [Record(boot, one.ref, now) for one in landing.ends if one.outcome is not None]
        claimed = False
        for operation, answer in zip(operations, answers, strict=True):
            if type(operation) is Ask and type(answer) is Granted and operation.want is not None:
                self.claims.append(Record(boot, operation.ref, now, operation.want.attempt_id))
                self._open(boot, operation.want)
                claimed = True
            elif type(answer) is Changed and answer.news:
                row = answer.standing
                until = now + row.open_until_ms / 1000 - boot.clock.wall()
                self.standings.append(Standing(now, row.model, row.openings, until))
        landed = any(one.ends for one in landings)
        return ["claim committed"] * claimed + ["landing committed"] * landed

    def _open(self, boot: Boot, want: Want) -> None:
        """Reckoned here once more: the sums in the ledger may be what is wrong."""
        self._calls_on_record[boot, want.model] = self._calls_on_record.get((boot, want.model), 0) + 1
        self._bounds[want.attempt_id] = (boot, want.model, want.bound_nano or 0)
        self._add(want.model, want.bound_nano or 0)

    def _settle(self, settled: Settled) -> None:
        open_attempt = self._bounds.pop(settled.attempt_id, None)
        if open_attempt is not None:
            boot, model, bound = open_attempt
            self._calls_on_record[boot, model] -= 1
            self._add(model, (bound if settled.cost_nano is None else settled.cost_nano) - bound)

    def _add(self, model: str, nano: int) -> None:
        """To what is spent or held. What a dead process held stays, since it is charged."""
        total = self._charged[model] = self._charged.get(model, 0) + nano
        ceiling = self._ceilings.get(model)
        if ceiling is not None and total > ceiling and not self.overbilled:
            self.complain(f"{model} has spent and held {total} of {ceiling}")

    # -- of the providers ------------------------------------------------------------------------------

    def called(self, call: Call) -> None:
        """A provider was called: is that on record?"""
        self.calls.append(call)
        running = sum(
            one.boot is call.boot and one.model == call.model and one.how == "running" for one in self.calls
        )
        if running > self._calls_on_record.get((call.boot, call.model), 0):
            self.complain(f"{call.boot} calls {call.model} for {call.prompt!r} without a record")


def text_fields(fields: list[bytes]) -> dict[str, str]:
    """An entry's fields by name."""
    words = [word.decode("utf-8", "replace") for word in fields]
    return dict(zip(words[::2], words[1::2], strict=True))
