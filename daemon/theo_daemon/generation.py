"""One flight from look-up to result: what the ledger says of it, waiting, and its attempts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from theo_daemon.attempts import Attempts, NotGranted
from theo_daemon.fleet import LARGE_BYTES, Fleet
from theo_daemon.flight import Flight
from theo_daemon.job import Answer, Answered, OnUnknown
from theo_daemon.ledger.ledger import Ledger
from theo_daemon.ledger.records import (
    Ask,
    Busy,
    Clear,
    Conflict,
    Granted,
    Hit,
    OverBudget,
    Replay,
    Verdict,
    Want,
)
from theo_daemon.ledger.watcher import OnId, OnKey
from theo_daemon.money import format_usd
from theo_daemon.outcomes import Result, replayed
from theo_daemon.reply import decode_outcome
from theo_daemon.turns import Found, TurnQueue
from theo_workers.clock import Clock, sleep
from theo_workers.errors import (
    BudgetExceeded,
    DeliveryLimitExceeded,
    IdConflict,
    NoModelAvailable,
    OutcomeUnknown,
)
from theo_workers.messages import Outcome

decode_answer = msgspec.json.Decoder(Answer).decode


class LedgerQuestions:
    """How a flight asks the ledger, and what an earlier owner's death forbids."""

    def __init__(self, *, on_unknown: OnUnknown, max_attempts: int, max_deliveries: int) -> None:
        self._on_unknown, self._max_attempts = on_unknown, max_attempts
        self._max_deliveries = max_deliveries

    def ask(self, flight: Flight, want: Want | None) -> Ask:
        """The question for this flight's lead."""
        lead, job = flight.lead, flight.lead.job
        return Ask(
            ref=lead.ref,
            key=flight.key,
            cache_key=lead.key if job.cache == "use" else None,
            digest=lead.key,
            tenant=job.tenant,
            client_id=job.client_id,
            redelivered=lead.redelivered,
            waited_since_ms=flight.waited_since_ms,
            holding=flight.holding,
            want=want,
        )

    def heed_prior(self, flight: Flight, prior: Sequence[str]) -> None:
        """Processes died over this very entry. Raises DeliveryLimitExceeded or OutcomeUnknown."""
        flight.lead.deaths = deaths = sum(state == Outcome.UNKNOWN for state in prior)
        if deaths == 0:
            return
        if deaths >= self._max_deliveries:
            raise DeliveryLimitExceeded(
                f"{deaths} processes died while they ran this job; it is not run again"
            )
        policy = flight.lead.job.on_unknown or self._on_unknown
        if policy == "fail" or deaths >= self._max_attempts:
            raise OutcomeUnknown(
                f"a process died after sending this job ({deaths} time(s)); the provider may have done the work"
            )


class Generation:
    """Runs flights. Holds nothing of any one of them."""

    def __init__(
        self, *, fleet: Fleet, ledger: Ledger, turns: TurnQueue, attempts: Attempts, questions: LedgerQuestions,
        clock: Clock, rng: random.Random,
    ) -> None:  # fmt: skip
        self._fleet, self._ledger, self._turns = fleet, ledger, turns
        self._attempts, self._questions = attempts, questions
        self._clock, self._rng = clock, rng

    async def run(self, flight: Flight) -> Result:
        """Bring the flight to its end. Raises GenerationError for what ends it without a call."""
        if flight.lead.size > LARGE_BYTES:
            flight.prompt_bounds = await self._fleet.prompt_bounds(flight.route, flight.lead.job)
        # The claim itself looks for answers; a look before it is for those that are likely to have one.
        look_first = flight.lead.redelivered
        while True:
            if look_first:
                verdict = await self._look(flight)
                result = await self._heed(flight, verdict)
                if result is not None:
                    return result
                look_first = isinstance(verdict, Busy)  # it has ended meanwhile: look for its answer
                continue
            try:
                started = await self._turns.turn(flight)
                result = await self._attempts.run(flight, started)
            except NoModelAvailable:
                if flight.last_error is None:
                    raise
                return self._attempts.gave_up(flight, flight.last_error)
            except (NotGranted, Found) as found:
                result = await self._heed(flight, found.verdict)
                look_first = isinstance(found.verdict, Busy)
            if result is not None:
                return result

    async def _look(self, flight: Flight) -> Verdict:
        flight.looked = True
        verdict = await self._ledger.ask(self._questions.ask(flight, None))
        assert verdict is not None
        return verdict

    async def _heed(self, flight: Flight, verdict: Verdict | None) -> Result | None:
        """What a verdict means; None: go on (after waiting, if somebody else is at it)."""
        match verdict:
            case Hit(answer):
                waited = flight.waited_since_ms is not None
                hit = Answered(answer=decode_answer(answer), cache_hit=not waited, coalesced=waited)
                return Result(hit, shared=True)
            case Replay(outcome, own):
                return Result(replayed(decode_outcome(outcome), own=own), shared=False)
            case Conflict():
                raise IdConflict("this id was used before with another payload; choose a new id")
            case OverBudget():
                await self._over_budget(verdict)
            case Busy(on_id):
                await self._wait_elsewhere(flight, on_id=on_id)
            case Clear(prior) | Granted(prior):
                self._questions.heed_prior(flight, prior)
        return None

    async def _wait_elsewhere(self, flight: Flight, *, on_id: bool) -> None:
        job = flight.lead.job
        if flight.waited_since_ms is None:
            flight.waited_since_ms = int(self._clock.wall() * 1000)
        await self._ledger.wait(OnId(job.tenant, job.client_id or "") if on_id else OnKey(flight.key))

    async def _over_budget(self, verdict: OverBudget) -> None:
        """Blocked by holds: wait a little. Blocked by what is spent, or an unknown price: BudgetExceeded."""
        if verdict.by_holds:
            await sleep(self._clock, 0.05 + 0.1 * self._rng.random())
            return
        scope = verdict.scope
        ceiling = format_usd(scope.ceiling_nano or 0)
        if verdict.bound_nano is None:
            raise BudgetExceeded(
                f"the price of this call is unknown and {scope.name} has a ceiling of {ceiling} USD; "
                "set input_cost_per_mtok, output_cost_per_mtok and max_output_tokens",
                retryable=False,
            )
        wait_s = None if scope.reset_ms is None else max(0.0, scope.reset_ms / 1000 - self._clock.wall())
        raise BudgetExceeded(
            f"{scope.name} has spent {format_usd(verdict.spent_nano)} of {ceiling} USD; "
            f"this call may cost {format_usd(verdict.bound_nano)}",
            retryable=wait_s is not None,
            retry_after_s=wait_s,
        )
