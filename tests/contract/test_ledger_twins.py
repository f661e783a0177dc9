"""The two ledgers are one: whatever several processes ask of them in whatever order, both answer and hold the same.

SQLite's committer decides in Python over `rules.py`, Redis's script in Lua. Here both are told one random history, in a
virtual time that only tests can give the script, and everything that each holds is compared after every batch.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from msgspec import structs

from tests.contract.twins import (
    DAY_MS,
    KEEP_MS,
    LATENCY_MS,
    Answer,
    RedisTwin,
    SqliteTwin,
    State,
    landing_only,
)
from tests.deep import deep
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.job import EntryRef
from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.rates import Rate, Slice, corrected
from theo_daemon.ledger.records import (
    NO_MODEL,
    Ask,
    Bury,
    CacheWrite,
    Check,
    Clear,
    Forget,
    Granted,
    Hit,
    JobEnd,
    Landing,
    OtherWindow,
    Scope,
    Settled,
    Want,
)
from theo_daemon.ledger.shared import (
    CircuitClosed,
    CircuitOpened,
    FailureCounted,
    HealthReport,
    ModelDisabled,
    Ordered,
    PauseAsked,
)
from theo_daemon.redis_link import RedisLink
from theo_workers.health import HealthSnapshot, Sample

START = 1_700_000_000_000
HOUR = 3_600_000
MODELS = ("fast", "slow", "dear")
BOUND = {"fast": 100, "slow": 0, "dear": 1_234_567_890_123_457}  # the last sums up to almost 2^53
CEILING = {"fast": 350, "slow": None, "dear": 9_007_199_254_740_991}

KEYS = st.sampled_from([f"k{n}" for n in range(4)])
REFS = st.sampled_from([EntryRef("theo:jobs", f"{n}-0") for n in range(6)])
IDS = st.sampled_from([None, None, "i1", "i2", "käse\n"])
TENANTS = st.sampled_from(["", "acme"])
TEXTS = st.sampled_from([b'{"a":1}', '{"ü":"\\n","ß":[]}'.encode(), b'{"long":"' + b"x" * 300 + b'"}'])
RATES = st.sampled_from([None, None, Rate(2, None), Rate(None, 1_000, 400), Rate(3, 900, 2_000)])
ENDS = st.sampled_from(["ok", "ok", "failed", "maybe", "cancelled", "void"])
COUNTS = st.integers(0, 500)


class Twins(RuleBasedStateMachine):
    """Three owners, of whom any may die; one history."""

    server: EmbeddedValkey

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.wire = RedisLink(self.server.url).wire()
        self.sqlite = SqliteTwin()
        self.run(self.wire.ask("FLUSHALL"))
        self.redis = RedisTwin(self.wire, "t")
        self.now_ms = START
        self.alive: list[int] = []
        self.dead: list[int] = []
        self.attempts = 0
        self.calls: dict[int, Ask] = {}  # granted, by attempt, and not settled by their owner
        self.ended: set[EntryRef] = set()  # with an outcome: then Redis forgets what was tried before
        self.entry_of: dict[int, EntryRef] = {}
        self.last: tuple[int, list[Operation], Answer, int, int] | None = None
        self.few_answers = self.again = False
        self.windows: dict[str, tuple[int, int]] = {}  # of scopes, as the books said

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.wire.close())
        self.loop.close()
        self.sqlite.close()

    @initialize(few_answers=st.booleans())
    def start(self, few_answers: bool) -> None:
        self.few_answers = few_answers
        for name in ("a", "b", "c"):
            owner = self.run(self.redis.register(name))
            assert self.sqlite.register(name) == owner
            self.alive.append(owner)

    # -- what happens --------------------------------------------------------------------------------

    @rule(pause_ms=st.sampled_from([0, 1, 999, 1_000, 30_000, 61_000, 2 * HOUR, 25 * HOUR, -1_000, -HOUR]))
    def time_passes(self, pause_ms: int) -> None:
        """Mostly; a clock may also be set back."""
        self.now_ms += pause_ms

    @rule(data=st.data())
    def batch(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(self.alive))
        kinds = data.draw(st.lists(st.sampled_from("aaaacllllfhx"), min_size=1, max_size=6))
        self.again = data.draw(st.booleans())  # one process asks of an entry in one way only
        batch: list[Operation] = []
        settled: set[int] = set()
        for kind in kinds:
            drawn = self._draw(kind, owner, settled, data)
            if drawn is not None:
                batch.append(drawn)
        if self.few_answers and any(_caches(one) for one in batch):
            # The file's ledger drops the oldest answers before it looks for one, the script after.
            batch = [one for one in batch if not isinstance(one, Ask)]
        if batch:
            self._tell(owner, batch)

    @rule(data=st.data())
    def one_dies(self, data: st.DataObject) -> None:
        if len(self.alive) < 2:
            return
        victim, finder = data.draw(st.permutations(self.alive))[:2]
        self.alive.remove(victim)
        self.dead.append(victim)
        self._tell(finder, [Bury(victim)])

    @rule(data=st.data())
    def the_dead_speaks(self, data: st.DataObject) -> None:
        """It was only slow: what it knows of its calls is recorded, and nothing else that it wants."""
        if not self.dead:
            return
        owner = data.draw(st.sampled_from(self.dead))
        asked = self._ask(owner, data)
        landings = [
            self._landing(attempt, call, data)
            for attempt, call in self.calls.items()
            if _owner(attempt) == owner
        ]
        late = landing_only(landings)
        if late:
            self.sqlite.apply(owner, late, self.now_ms)
        assert self.run(self.redis.apply(owner, [asked, *landings], self.now_ms)) is None
        self._compare()

    @rule(data=st.data())
    def an_operator_resets_budgets(self, data: st.DataObject) -> None:
        there = sorted(self.sqlite.state().balances)
        if there:
            rows = data.draw(st.lists(st.sampled_from(there), min_size=1, unique=True))
            changed = self.sqlite.reset(rows, self.now_ms)
            assert self.run(self.redis.reset(rows, self.now_ms)) == changed
            self._compare()

    @rule(days=st.sampled_from([0, 31]))
    def what_is_old_is_dropped(self, days: int) -> None:
        self.now_ms += days * DAY_MS
        assert self.run(self.redis.prune(self.now_ms)) == self.sqlite.prune(self.now_ms)
        self.windows = {name: one for name, one in self.windows.items() if one[1] > self.now_ms - DAY_MS}
        self._compare()

    @rule()
    def an_answer_is_lost_on_the_way(self) -> None:
        """The batch comes again, and everything is as if it had come once."""
        if self.last is None:
            return
        owner, batch, told, token, now_ms = self.last
        if owner in self.alive:
            assert self.run(self.redis.apply(owner, batch, now_ms, token=token)) == told
            self._compare()

    # -- what is drawn -------------------------------------------------------------------------------

    def _draw(self, kind: str, owner: int, settled: set[int], data: st.DataObject) -> Operation | None:
        match kind:
            case "a":
                return self._ask(owner, data)
            case "c":
                return Check(
                    ref=data.draw(REFS),
                    digest=data.draw(KEYS),
                    tenant=data.draw(TENANTS),
                    client_id=data.draw(IDS),
                    redelivered=self.again,
                )
            case "l":
                mine = [n for n in self.calls if _owner(n) == owner and n not in settled]
                if not mine:
                    return self._end_without_call(data)
                attempt = data.draw(st.sampled_from(mine))
                settled.add(attempt)
                return self._landing(attempt, self.calls[attempt], data)
            case "f":
                return Forget(tuple(data.draw(st.lists(REFS, min_size=1, max_size=3, unique=True))))
            case "h":
                return self._health(data)
            case _:
                return self._change(data)

    def _ask(self, owner: int, data: st.DataObject) -> Ask:
        key = data.draw(KEYS)
        want = None
        if data.draw(st.integers(0, 3)):
            self.attempts += 1
            want = self._want(owner << 40 | self.attempts, data)
        return Ask(
            ref=data.draw(REFS),
            key=key,
            cache_key=key if data.draw(st.booleans()) else None,
            digest=key,
            tenant=data.draw(TENANTS),
            client_id=data.draw(IDS),
            redelivered=self.again,
            waited_since_ms=data.draw(st.sampled_from([None, self.now_ms - 60_000])),
            holding=data.draw(st.booleans()),
            want=want,
        )

    def _want(self, attempt: int, data: st.DataObject) -> Want:
        if not data.draw(st.integers(0, 7)):
            return Want(attempt, NO_MODEL, NO_MODEL, 0, ())  # a rehearsal
        model = data.draw(st.sampled_from(MODELS))
        return Want(
            attempt,
            model,
            "openai",
            data.draw(st.sampled_from([BOUND[model], BOUND[model], None])),
            self._scopes(model, data),
            data.draw(RATES),
            self.now_ms + 5_000 if data.draw(st.booleans()) else None,
            data.draw(st.sampled_from([None, '{"input":"0.15"}'])),
        )

    def _scopes(self, model: str, data: st.DataObject) -> tuple[Scope, ...]:
        """What it has cost in all, its own window, and what it shares with others."""
        ceiling = CEILING[model]
        warn = None if ceiling is None else ceiling * 4 // 5
        ease = None if ceiling is None else ceiling // 2
        window = self.now_ms - self.now_ms % HOUR
        own = Scope(f"model:{model}@1h", window, ceiling, window + HOUR, warn, ease)
        if ceiling is None:
            own = Scope(f"model:{model}@total", 0, 0 if data.draw(st.booleans()) else None)
        wide = {
            "all": Scope("all@total", 0, 500, None, 400, 300),
            "first": self._from_first_use("tenant=acme@~1h", data),
            "other": self._from_first_use("tenant=,model=fast@~1h", data),
        }
        drawn = data.draw(st.lists(st.sampled_from(sorted(wide)), max_size=3, unique=True))
        return Scope(f"model:{model}", 0), own, *(wide[name] for name in drawn)

    def _from_first_use(self, name: str, data: st.DataObject) -> Scope:
        """A window that begins with a call: as the books said, or as a process with this or that clock believes."""
        off_ms = data.draw(st.sampled_from([0, 0, -1, -60_000, 5_000, -2 * HOUR]))
        begun = (self.now_ms + off_ms, self.now_ms + off_ms + HOUR)
        start, reset = self.windows.get(name, begun) if data.draw(st.integers(0, 3)) else begun
        return Scope(name, start, 250, reset, 200, 100)

    def _landing(self, attempt: int, call: Ask, data: st.DataObject) -> Landing:
        want = call.want
        assert want is not None
        state = data.draw(ENDS if want.model else st.just("void"))
        bound = want.bound_nano or 0
        cost = None if state == "maybe" else data.draw(st.sampled_from([0, bound // 2, bound]))
        cache = None
        if state == "ok" and call.cache_key is not None:
            limit = 2 if self.few_answers else 1_000
            # Each key once in a batch: which of two writes is the newer one is told by the order of rows alone.
            cache = CacheWrite(f"{call.key}", data.draw(TEXTS), data.draw(st.sampled_from([0, 5_000])), limit)
        settled = Settled(
            attempt_id=attempt,
            model=want.model,
            state=state,
            bound_nano=want.bound_nano,
            cost_nano=0 if state == "void" else cost,
            scopes=want.scopes,
            latency_ms=data.draw(st.floats(0, 1e5)),
            prompt_tokens=data.draw(COUNTS),
            completion_tokens=data.draw(COUNTS),
            status_code=None if state == "ok" else 500,
            error_code=None if state == "ok" else "provider_unavailable",
            provider_request_id="r1",
            cache=cache,
        )
        ends = (self._end(call, data),) if data.draw(st.booleans()) else ()
        word = CacheWrite(f"{call.key}!", data.draw(TEXTS), 0, 2 if self.few_answers else 1_000)
        return Landing(
            settled=settled,
            release_key=call.key if data.draw(st.booleans()) else None,
            ends=ends,
            for_waiters=word if data.draw(st.booleans()) else None,
        )

    def _end_without_call(self, data: st.DataObject) -> Landing:
        call = Ask(
            ref=data.draw(REFS), key=data.draw(KEYS), cache_key=None, digest=data.draw(KEYS),
            tenant=data.draw(TENANTS), client_id=data.draw(IDS),
        )  # fmt: skip
        return Landing(ends=(self._end(call, data),))

    def _end(self, call: Ask, data: st.DataObject) -> JobEnd:
        remember = data.draw(st.booleans())
        outcome = data.draw(TEXTS) if remember or data.draw(st.booleans()) else None
        return JobEnd(
            ref=call.ref, outcome=outcome, digest=call.digest, tenant=call.tenant, client_id=call.client_id,
            remember=remember, vanished=outcome is None and data.draw(st.booleans()),
        )  # fmt: skip

    def _change(self, data: st.DataObject) -> Operation:
        model, later = (
            data.draw(st.sampled_from(MODELS)),
            self.now_ms + data.draw(st.integers(-5_000, 60_000)),
        )
        generation = data.draw(st.integers(0, 3))
        change: Operation = data.draw(
            st.one_of(
                st.builds(
                    CircuitOpened, st.just(model), st.just(generation), st.just(later), st.integers(1, 3)
                ),
                st.builds(CircuitClosed, st.just(model), st.just(generation)),
                st.builds(
                    FailureCounted, st.just(model), st.just(generation), st.integers(1, 3), st.just(later)
                ),
                st.builds(PauseAsked, st.just(model), st.just(later)),
                st.builds(
                    ModelDisabled,
                    st.just(model),
                    st.just("bound_violation"),
                    st.sampled_from(["", "c1", "c2"]),
                ),
                st.builds(
                    Ordered,
                    st.just(model),
                    st.sampled_from(["9-0", "9-2", "10-0", "10-10", "12"]),
                    st.booleans(),
                ),
            )
        )
        return change

    def _health(self, data: st.DataObject) -> HealthReport:
        samples = st.builds(
            Sample, st.just(self.now_ms), st.integers(0, 2**40), COUNTS, st.sampled_from([-1, 250_000])
        )

        def snapshot(plus: int) -> HealthSnapshot:
            return HealthSnapshot(
                total_successes=plus + 3,
                total_failures=plus,
                last_success_time=data.draw(st.sampled_from([None, 1.25, 1_700_000_000.123456])),
                last_failure_time=data.draw(st.sampled_from([None, 2.0])),
                latency_ewma_ms=data.draw(st.sampled_from([None, 0.1 + 0.2])),
                ttft_p95_ms=data.draw(st.sampled_from([None, 250.0])),
                recent=tuple(data.draw(st.lists(samples, max_size=3))),
            )

        return HealthReport(
            data.draw(st.sampled_from(MODELS)), snapshot(0), snapshot(data.draw(st.integers(0, 5)))
        )

    # -- telling and comparing -----------------------------------------------------------------------

    def _tell(self, owner: int, batch: list[Operation]) -> None:
        expected = self.sqlite.apply(owner, batch, self.now_ms)
        told = self.run(self.redis.apply(owner, batch, self.now_ms))
        assert told is not None
        self.last = (owner, batch, told, self.redis.token, self.now_ms)
        for one in batch:
            if isinstance(one, Landing):
                self.ended |= {end.ref for end in one.ends if end.outcome is not None}
        for one, right, found in zip(batch, expected.verdicts, told.verdicts, strict=True):
            assert self._without_history(one, found) == self._without_history(one, right), one
        assert sorted(map(repr, told.news)) == sorted(map(repr, expected.news))
        self._keep_calls(batch, expected)
        self._compare()

    def _without_history(self, operation: Operation, verdict: object) -> object:
        if (
            isinstance(operation, Ask | Check)
            and operation.ref in self.ended
            and isinstance(verdict, Granted | Clear | Hit)
        ):
            return structs.replace(verdict, prior=())
        return verdict

    def _keep_calls(self, batch: list[Operation], answer: Answer) -> None:
        for one, verdict in zip(batch, answer.verdicts, strict=True):
            if isinstance(one, Landing) and one.settled is not None:
                self.calls.pop(one.settled.attempt_id, None)
            if isinstance(verdict, OtherWindow):
                self.windows[verdict.name] = (verdict.start_ms, verdict.reset_ms)
            if isinstance(one, Ask) and isinstance(verdict, Granted) and one.want is not None:
                self.calls[one.want.attempt_id] = one
                self.entry_of[one.want.attempt_id] = one.ref

    def _compare(self) -> None:
        right, found = self.sqlite.state(), self.run(self.redis.state())
        for state in (right, found):
            self._normalise(state)
        assert found.total_ms == pytest.approx(right.total_ms, abs=LATENCY_MS)
        found.total_ms = right.total_ms
        for name in State.__struct_fields__:
            assert getattr(found, name) == getattr(right, name), name

    def _normalise(self, state: State) -> None:
        """Take out what makes no difference: slices that count no more, and doubts about jobs that have ended."""
        current = {
            model: corrected(
                [Slice(*one) for one in window], second=-1, requests=0, tokens=0, now_ms=self.now_ms
            )
            for model, window in state.windows.items()
        }
        state.windows = {model: [list(structs.astuple(s)) for s in w] for model, w in current.items() if w}
        # A window that is over for so long is no process's any more; of one before it only the file's ledger knows.
        state.running = {
            name: one for name, one in state.running.items() if one[1] > self.now_ms - KEEP_MS + DAY_MS
        }
        state.unknown = {n: cost for n, cost in state.unknown.items() if self.entry_of[n] not in self.ended}


def _owner(attempt: int) -> int:
    return attempt >> 40


def _caches(operation: Operation) -> bool:
    return (
        isinstance(operation, Landing)
        and operation.settled is not None
        and operation.settled.cache is not None
    )


def test_any_history_leaves_both_ledgers_with_the_same_books(own_valkey: EmbeddedValkey) -> None:
    Twins.server = own_valkey
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=deep(60),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
