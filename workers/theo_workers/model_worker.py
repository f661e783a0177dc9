"""One model behind one mailbox: admits calls, runs them as tasks, learns from how they end."""

from __future__ import annotations

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from theo_workers.alarm import Alarm
from theo_workers.breaker import HalfOpen
from theo_workers.call import Call, CallFailed, Completed, Observer, Result
from theo_workers.clock import Clock
from theo_workers.errors import (
    DeadlineExceeded,
    InternalError,
    MailboxFull,
    NotAdmitted,
    UpstreamError,
    WorkerStopped,
)
from theo_workers.failures import BreakerEffect
from theo_workers.health import HealthSnapshot, ModelHealth
from theo_workers.mail import (
    Adopt,
    Disable,
    Drain,
    Finished,
    GivenUp,
    KeepPace,
    Mail,
    Reset,
    Rung,
    Submission,
    Submitted,
)
from theo_workers.mailbox import Mailbox
from theo_workers.record import Record
from theo_workers.standing import Available, Pace, Shared, Standing, Unavailable
from theo_workers.upstream import Upstream

__all__ = [
    "Available",
    "Call",
    "CallFailed",
    "Completed",
    "MailboxFull",
    "ModelWorker",
    "NotAdmitted",
    "Observer",
    "Result",
    "Unavailable",
    "WorkerStopped",
]


class ModelWorker:
    """The actor. Only `run` changes the standing, so there are no locks; it never awaits an upstream.

    As many calls run at a time as the standing has slots, and `mailbox` more wait in order. `standing` and `health`
    outlive a crash of `run`: called again, it goes on with them. `on_change` is called in the loop's thread when a
    slot has become free or the model may have become available; the owner sets it.
    """

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        standing: Standing,
        health: ModelHealth,
        *,
        clock: Clock,
        rng: random.Random,
        observer: Observer,
        mailbox: int = 64,
    ) -> None:
        self.name, self.upstream, self.health = name, upstream, health
        self.limit = standing.slots.most  # calls at a time, when all is well
        self.on_change: Callable[[], None] = _nobody_listens
        self._mailbox = mailbox
        self._standing, self._slots, self._clock = standing, standing.slots, clock
        self._record = Record(
            name, standing, health, clock=clock, rng=rng, observer=observer, changed=self._arm_for_standing
        )
        self._mail: Mailbox[Mail] = Mailbox()
        self._alarm = Alarm(clock, partial(self._mail.post, Rung()))
        self._unanswered: set[Submission] = set()  # in the mail, waiting or running
        self._waiting: OrderedDict[Submission, None] = OrderedDict()
        self._running: set[Submission] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False  # by a drain or, until `run` is called again, by a crash
        self._draining = False
        self._paced = False  # by the last word on it
        self._improved = False  # since `on_change` was last called

    # What the owner calls, from the loop's thread.

    def submit(self, call: Call) -> asyncio.Future[Result]:
        """Post `call`; cancelling the future cancels it.

        Raises WorkerStopped or MailboxFull at once. The future raises NotAdmitted or DeadlineExceeded
        (nothing was sent), WorkerStopped, what `before_send` raised, or InternalError for a defect of the
        adapter, which may have been billed.
        """
        if self._stopped:
            raise WorkerStopped(self.name)
        if len(self._unanswered) >= self.limit + self._mailbox:
            raise MailboxFull(self.name, limit=self.limit + self._mailbox)
        submission = Submission(call, self._running_loop().create_future())
        submission.reply.add_done_callback(partial(self._replied, submission))
        self._unanswered.add(submission)
        self._mail.post(Submitted(submission))
        return submission.reply

    @property
    def running(self) -> int:
        """Calls under way."""
        return len(self._running)

    @property
    def slots(self) -> int:
        """Calls at a time as things are: fewer than `limit` while it recovers or is overloaded."""
        return self._slots.now

    def free(self, now: float) -> int:
        """Slots that a submit would get at once; a half-open breaker has one, for the probe."""
        if self._stopped:
            return 0
        unanswered = len(self._unanswered)
        left = self._slots.now - unanswered
        if left <= 0:
            return 0
        admits = self._standing.admits(now)
        if admits == math.inf:
            return left
        return int(max(0, min(left, admits - (unanswered - len(self._running)))))

    def availability(self, now: float) -> Available | Unavailable:
        """Whether the model may be asked now; says nothing of free slots."""
        return Unavailable("stopped", None) if self._stopped else self._standing.availability(now)

    def drain(self) -> None:
        """Take no more, refuse what waits, let admitted calls finish; then `run` returns."""
        self._stopped = self._draining = True
        self._mail.post(Drain())

    def disable(self, cause: str) -> None:
        """Admit nothing until `reset`."""
        self._mail.post(Disable(cause))

    def reset(self) -> None:
        """Enable it, end its pause, close its circuit."""
        self._mail.post(Reset())

    def adopt(self, shared: Shared) -> None:
        """Take over what all processes hold true of the model; nobody is told of it."""
        self._mail.post(Adopt(shared))

    def remember(self, record: HealthSnapshot) -> None:
        """Begin with what was known of the model before this process."""
        self.health.restore(record)
        if (drift := self._standing.breaker.drift) is not None:
            drift.recall(record.total_successes, record.total_failures)

    def keep_pace(self, pace: Pace | None) -> None:
        """Start no more calls than that; a model out of pace is only busy. None: no limit is near."""
        if pace is not None or self._paced:
            self._paced = pace is not None
            self._mail.post(KeepPace(pace))

    def starts_at(self, now: float) -> float:
        """When the model's rate has room for a call: `now`, or later."""
        pace = self._standing.pace
        return now if pace is None else max(now, pace.since)

    @property
    def half_open(self) -> bool:
        """Is a call that is admitted now a probe?"""
        return isinstance(self._standing.breaker.state, HalfOpen)

    @property
    def disabled(self) -> str | None:
        """Why it is disabled, if it is."""
        return None if self._standing.disabled is None else self._standing.disabled.cause

    # The actor.

    async def run(self) -> None:
        """Serve until drained. Cancelled or crashed, it first ends its calls and answers everybody."""
        loop = self._running_loop()
        self._stopped, self._improved = self._draining, True
        self._arm_for_standing()
        try:
            while True:
                now = self._clock.monotonic()
                while self._mail:
                    self._handle(self._mail.take(), now)
                self._start_waiting(now)
                if self._improved:
                    self._improved = False
                    self.on_change()
                if self._draining and not self._unanswered:
                    return
                await self._mail.wait(loop)
        finally:
            self._stopped = True
            self._alarm.disarm()
            await self._leave_nobody_waiting()

    def _handle(self, mail: Mail, now: float) -> None:
        match mail:
            case Submitted(submission):
                self._queue(submission)
            case Finished(submission, task):
                if submission in self._running:  # else a crash has seen to it
                    self._finish(submission, task, now)
            case GivenUp(submission):
                self._give_up(submission)
            case Rung():
                self._look_at_the_time(now)
            case Disable(cause):
                self._record.announce(self._standing.disable(cause), now)
            case Reset():
                self._standing.reset()
                self._improved = True
            case Adopt(shared):
                self._standing.adopt(shared, now)
                self._arm_for_standing()
                self._improved = True
            case KeepPace(pace):
                self._standing.pace = pace
                self._arm_for_standing()
                self._improved = True

    def _queue(self, submission: Submission) -> None:
        self._waiting[submission] = None
        if self._standing.pace is not None or len(self._waiting) + len(self._running) > self._slots.now:
            self._alarm.arm(submission.call.deadline)

    def _start_waiting(self, now: float) -> None:
        while self._waiting:
            submission = next(iter(self._waiting))
            if submission.reply.done():  # given up, or answered by a crash
                self._forget(submission)
            elif self._draining:
                self._refuse(submission, WorkerStopped(self.name))
            elif submission.call.deadline <= now:
                self._refuse(submission, _too_late())
            elif len(self._running) < self._slots.now and self._standing.in_pace(now):
                self._start(submission, now)
            else:
                match self._standing.availability(now):
                    case Available():
                        return
                    case Unavailable(reason=reason, until=until):
                        self._refuse(submission, NotAdmitted(reason, until))

    def _start(self, submission: Submission, now: float) -> None:
        try:
            submission.permit = self._standing.admit(now)
        except NotAdmitted as refusal:
            self._refuse(submission, refusal)
            return
        submission.admitted = now
        if submission.call.timeout_s is not None:
            submission.deadline = now + submission.call.timeout_s
        del self._waiting[submission]
        self._running.add(submission)
        submission.task = self._running_loop().create_task(self._carry_out(submission))
        # A callback, since a task cancelled before its first step never reaches a `finally` of its own.
        submission.task.add_done_callback(partial(self._ended, submission))

    async def _carry_out(self, submission: Submission) -> Result:
        call, clock = submission.call, self._clock
        asked = clock.monotonic()
        await call.before_send()
        submission.sent, submission.began = True, (began := clock.monotonic())
        submission.deadline += (
            began - asked
        )  # the ledger may have taken minutes, which the provider has still
        self._record.announce(submission.permit.probe, began)
        try:
            completion = await self.upstream.generate(
                call.request, deadline=submission.deadline, on_delta=call.on_delta
            )
        except UpstreamError as error:
            call.end = CallFailed(error=error, latency_ms=(clock.monotonic() - began) * 1000)
        else:
            call.end = Completed(completion=completion, latency_ms=(clock.monotonic() - began) * 1000)
        return call.end

    def _finish(self, submission: Submission, task: asyncio.Task[Result], now: float) -> None:
        permit, reply, began = submission.permit, submission.reply, submission.began
        error = None if task.cancelled() else task.exception()
        if not submission.sent:  # `before_send` refused, or the caller gave up before it was done
            self._standing.abandoned(permit, now)
            submission.answer(error)
        elif task.cancelled() and reply.cancelled():
            self._record.cancelled(permit, began=began, now=now)
        elif task.cancelled() or error is not None:
            defect = _defect(error)
            self._record.broke(permit, defect, began=began, now=now)
            submission.answer(defect)
        else:
            effect = None
            match result := task.result():
                case Completed():
                    self._record.completed(permit, result, now)
                case CallFailed():
                    given_s = submission.deadline - began
                    effect = self._record.failed(permit, result, given_s=given_s, now=now)
            if self._slots.load is not None:
                self._bore(submission, result, effect, now)
            if not reply.done():
                reply.set_result(result)
                submission.call.end = None
        self._forget(submission)  # last: should the observer crash, it is still among the unanswered
        # A refusal's traceback knows the submission: what it tells, maybe a large answer, would stay for long.
        submission.task = None

    def _bore(self, submission: Submission, result: Result, effect: BreakerEffect | None, now: float) -> None:
        running = len(self._running)
        self._record.load(result, effect, admitted=submission.admitted, running=running, now=now)
        if self._waiting:  # who had a slot may have to wait now, past its deadline
            self._alarm.arm(min((w.call.deadline for w in self._waiting), default=None))

    def _give_up(self, submission: Submission) -> None:
        if submission.task is not None:
            submission.task.cancel()  # its end comes as mail, and frees the slot
        else:
            self._forget(submission)

    def _refuse(self, submission: Submission, error: Exception) -> None:
        self._forget(submission)
        submission.answer(error)

    def _forget(self, submission: Submission) -> None:
        self._waiting.pop(submission, None)
        self._running.discard(submission)
        self._unanswered.discard(submission)
        self._improved = True

    def _look_at_the_time(self, now: float) -> None:
        for waiting in [w for w in self._waiting if w.call.deadline <= now]:
            self._refuse(waiting, _too_late())
        self._alarm.arm(min((w.call.deadline for w in self._waiting), default=None))
        self._slots.tick(now)
        self._arm_for_standing()
        self._improved = True

    def _arm_for_standing(self) -> None:
        self._alarm.arm(self._standing.next_change(self._clock.monotonic()))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:  # kept: asking for it is a system call
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _replied(self, submission: Submission, reply: asyncio.Future[Result]) -> None:
        if reply.cancelled():
            self._mail.post(GivenUp(submission))

    def _ended(self, submission: Submission, task: asyncio.Task[Result]) -> None:
        self._mail.post(Finished(submission, task))

    async def _leave_nobody_waiting(self) -> None:
        left = list(self._unanswered)
        tasks = [submission.task for submission in left if submission.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)  # their connections are closed before we say so
        for submission in left:
            self._forget(submission)
            reply, begun = submission.reply, submission.task
            if begun is not None:
                self._standing.abandoned(submission.permit, self._clock.monotonic())
            if reply.done():
                continue
            if begun is None or begun.cancelled() or begun.exception() is not None:
                reply.set_exception(WorkerStopped(self.name, sent=submission.sent))
            else:
                reply.set_result(begun.result())  # paid for: it must not be lost


def _defect(error: BaseException | None) -> InternalError:
    what = "cancelled its own call" if error is None else f"raised {type(error).__name__}"
    defect = InternalError(f"the upstream's adapter {what}")
    defect.__cause__ = error
    return defect


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed while the job waited for the model")


def _nobody_listens() -> None:
    """Stands in until the owner sets `on_change`."""
