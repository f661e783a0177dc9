"""One flight from look-up to result: what the ledger says of it, waiting, and its attempts."""

from __future__ import annotations

from collections.abc import Container, Sequence

from theo_daemon import left_word
from theo_daemon.attempts import Attempts
from theo_daemon.ceilings import last_word
from theo_daemon.claiming import NotGranted
from theo_daemon.first_push import FirstPush
from theo_daemon.flight import IN_DOUBT, Flight
from theo_daemon.hold_lines import HoldLines
from theo_daemon.job import Answered, EntryRef, OnUnknown
from theo_daemon.landing import let_go
from theo_daemon.ledger.port import Claims, OnKey
from theo_daemon.ledger.records import (
    Ask,
    Busy,
    Clear,
    Conflict,
    Granted,
    Hit,
    IdBusy,
    OverBudget,
    PriorAttempt,
    Replay,
    Verdict,
    Want,
)
from theo_daemon.ledger.shared import owner_of
from theo_daemon.ledger.unknown_calls import NOT_ERRORS
from theo_daemon.measuring import Measuring
from theo_daemon.outcomes import Result, replayed
from theo_daemon.reply import decode_answer, decode_outcome
from theo_daemon.turns import Found, TurnQueue
from theo_workers.clock import Clock
from theo_workers.errors import (
    DeliveryLimitExceeded,
    IdConflict,
    NoModelAvailable,
    OutcomeUnknown,
)
from theo_workers.messages import Outcome


class LedgerQuestions:
    """How a flight asks the ledger, and what an earlier owner's death forbids."""

    def __init__(self, *, on_unknown: OnUnknown, max_attempts: int, max_deliveries: int) -> None:
        self._on_unknown, self._max_attempts = on_unknown, max_attempts
        self._max_deliveries = max_deliveries

    def ask(self, flight: Flight, want: Want | None) -> Ask:
        """The question for this flight's lead."""
        lead, job = flight.lead, flight.lead.job
        flight.asked_for = lead
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

    def heed_prior(self, flight: Flight, prior: Sequence[PriorAttempt]) -> None:
        """List what earlier owners of this very entry sent. Raises DeliveryLimitExceeded or OutcomeUnknown."""
        flight.list_prior(prior)
        flight.lead.deaths = deaths = len(deaths_among(prior))
        billed = [one for one in prior if one.is_call and one.state in IN_DOUBT]
        flight.lead.doubtful_calls = len(billed)
        if deaths >= self._max_deliveries:
            raise over_the_limit(deaths)
        policy = flight.lead.job.on_unknown or self._on_unknown
        if policy == "fail" and any(one.is_call and one.state is Outcome.CANCELLED for one in prior):
            raise OutcomeUnknown(
                "a process that left cut this job's call off; the provider may have done the work"
            )
        lost = sum(one.state is Outcome.UNKNOWN for one in billed)
        if lost and (policy == "fail" or lost >= self._max_attempts):
            raise OutcomeUnknown(
                f"a process died after sending this job ({lost} time(s)); the provider may have done the work"
            )
        if len(billed) >= self._max_attempts:
            self._spare(flight, {one.model for one in billed})

    def _spare(self, flight: Flight, called: Container[str]) -> None:
        """The attempts are used up: what is left are candidates that were not tried yet."""
        fresh = tuple(name for name in flight.candidates if name not in called)
        if not fresh:
            raise OutcomeUnknown(
                "the calls of a process that died may have been billed, and no more are allowed"
            )
        flight.aim(fresh)


def deaths_among(prior: Sequence[PriorAttempt]) -> set[int]:
    """The processes that died over it, each once though it had two calls out at a time.

    Not that which only stood still, nor that which died of another job.
    """
    unknown = (one for one in prior if one.state is Outcome.UNKNOWN and one.error_code not in NOT_ERRORS)
    return {owner_of(one.attempt_id) for one in unknown}


def over_the_limit(deaths: int) -> DeliveryLimitExceeded:
    """Why a job is not run again."""
    return DeliveryLimitExceeded(f"{deaths} processes died while they ran this job; it is not run again")


class Generation:
    """Runs flights. Holds nothing of any one of them."""

    def __init__(
        self, *, measuring: Measuring, ledger: Claims, turns: TurnQueue, attempts: Attempts, questions: LedgerQuestions,
        hold_lines: HoldLines, first_push: FirstPush, clock: Clock,
    ) -> None:  # fmt: skip
        self._ledger, self._turns = ledger, turns
        self._attempts, self._questions, self._measuring = attempts, questions, measuring
        self._hold_lines, self._first_push, self._clock = hold_lines, first_push, clock

    async def run(self, flight: Flight) -> Result:
        """Bring the flight to its end. Raises GenerationError for what ends it without a call."""
        try:
            return await self._to_the_end(flight)
        finally:
            self._hold_lines.over(flight)

    async def _to_the_end(self, flight: Flight) -> Result:
        # The claim itself looks for answers; a look before it is for those that are likely to have one.
        look_first = flight.lead.redelivered
        while True:
            verdict = await (self._look(flight) if look_first else self._fly(flight))
            if isinstance(verdict, Result):
                return verdict
            if verdict is not None and not flight.is_told:
                look_first = (
                    True  # it is about a job that has left; of the one that leads now nothing was asked
                )
                continue
            result = await self._heed(flight, verdict)
            if result is not None:
                return result
            # What was waited for has ended and left an answer; and one on record costs nothing.
            look_first = isinstance(verdict, Busy | IdBusy) or not (flight.candidates or flight.looked)

    async def _fly(self, flight: Flight) -> Result | Verdict | None:
        """One turn: its result, what the ledger says instead, or None when another turn is needed."""
        if self._measuring.is_due(flight):
            await self._measuring.measure(flight)
        self._attempts.bar_unaffordable(flight)
        if not flight.candidates:
            return self._without_candidates(flight) if flight.looked else None
        try:
            started = await self._turns.turn(flight)
            try:
                return await self._attempts.run(flight, started)
            finally:
                self._turns.over(flight)
        except NoModelAvailable:
            if flight.last_error is None:
                raise
            return self._attempts.gave_up(flight)
        # They come through a future that their own frames know: a cycle, and a large answer in it until that is found.
        except Found as found:
            found.__traceback__ = None
            return found.verdict
        except NotGranted as refused:
            refused.__traceback__ = None
            if not isinstance(refused.verdict, OverBudget):
                return refused.verdict
            await self._over_budget(flight, refused.model, refused.verdict)
            return None

    def _without_candidates(self, flight: Flight) -> Result | None:
        """Money or their windows forbid all of them. None: there are others to ask."""
        if self._attempts.detour(flight, last_word(flight.barred.values()).error):
            return None
        return self._attempts.unaffordable(flight)

    async def _look(self, flight: Flight) -> Result | Verdict:
        flight.looked = True
        verdict = await self._ledger.ask(self._questions.ask(flight, None))
        assert verdict is not None
        if flight.waited_since_ms is not None and isinstance(verdict, Clear | Busy):
            word = await self._ledger.ask(left_word.question(flight))
            if isinstance(word, Hit) and flight.is_told:
                return left_word.taken(flight, word)
        return verdict

    async def _heed(self, flight: Flight, verdict: Verdict | None) -> Result | None:
        """What a verdict means; None: go on (after waiting, if somebody else is at it)."""
        match verdict:
            case Hit(answer, prior, held):
                flight.held = held and held.take()
                flight.list_prior(prior)
                waited = flight.waited_since_ms is not None
                hit = Answered(
                    answer=decode_answer(answer),
                    cache_hit=not waited,
                    coalesced=waited,
                    attempts=tuple(flight.attempts),
                )
                return Result(hit, shared=True, remember=True)
            case Replay(outcome, own, held):
                flight.held = held and held.take()
                return Result(replayed(decode_outcome(outcome), own=own), shared=False)
            case Conflict():
                raise IdConflict("this id was used before with another payload; choose a new id")
            case Busy():
                self._begin_to_wait(flight)
                flight.wake = self._ledger.wait(OnKey(flight.key))
                await flight.wake
            case IdBusy(holder):
                await self._wait_for_first_push(flight, holder)
            case Clear(prior) | Granted(prior):
                self._questions.heed_prior(flight, prior)
        return None

    async def _wait_for_first_push(self, flight: Flight, holder: EntryRef) -> None:
        """The id belongs to another entry. If that is here too, it goes first, or both would wait for ever."""
        first = next((ticket for ticket in flight.waiters if ticket.ref == holder), None)
        if first is not None:
            flight.yield_lead(first)
            return
        if flight.holding:  # it lost the id on the way, and the first push waits for the key
            let_go(self._ledger, flight)
        self._begin_to_wait(flight)
        await self._first_push.wait(flight, holder)

    def _begin_to_wait(self, flight: Flight) -> None:
        if flight.waited_since_ms is None:
            flight.waited_since_ms = int(self._clock.wall() * 1000) - left_word.ON_THE_WAY_MS
        self._hold_lines.over(flight)

    async def _over_budget(self, flight: Flight, model: str, verdict: OverBudget) -> None:
        """Blocked by holds: another, or wait for room. By what is spent, or an unknown price: the others are left."""
        if verdict.by_holds:
            if not self._attempts.sidestep(flight, model, verdict, flight.targets):
                await self._hold_lines.wait(flight, verdict.scope)
            return
        flight.looked = True  # the claim has looked for answers, too
        self._attempts.bar(flight, model, verdict)
