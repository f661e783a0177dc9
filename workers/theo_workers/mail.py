"""What a model worker is sent: calls, how they ended, the time, orders."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from theo_workers.breaker import Permit
from theo_workers.call import Call, Result
from theo_workers.standing import Pace, Shared


class Submission:
    """A call on its way through: in the mail, waiting, running, answered."""

    __slots__ = ("admitted", "began", "call", "deadline", "permit", "reply", "sent", "task")

    def __init__(self, call: Call, reply: asyncio.Future[Result]) -> None:
        self.call, self.reply = call, reply
        self.sent, self.began = False, 0.0  # `before_send` has returned, at this monotonic second
        self.deadline = call.deadline  # of the provider: `before_send` costs it no time
        self.permit: Permit  # from admission on
        self.admitted: float  # likewise; monotonic seconds
        self.task: asyncio.Task[Result] | None = None  # likewise

    def answer(self, error: BaseException | None) -> None:
        """End it without a result; None: it was given up. Nothing happens to one that is answered already."""
        if self.reply.done():
            return
        if error is None:
            self.reply.cancel()
        else:
            self.reply.set_exception(error)


class Submitted(Struct, frozen=True):
    submission: Submission


class Finished(Struct, frozen=True):
    submission: Submission
    task: asyncio.Task[Result]


class GivenUp(Struct, frozen=True):
    submission: Submission


class Rung(Struct, frozen=True):
    """A deadline, an opening or a pause may have ended."""


class Drain(Struct, frozen=True):
    """Only wakes the loop, which looks whether it drains after each round of mail."""


class Reset(Struct, frozen=True):
    """An operator's word."""


class Disable(Struct, frozen=True):
    cause: str


class Adopt(Struct, frozen=True):
    shared: Shared


class KeepPace(Struct, frozen=True):
    pace: Pace | None


Mail = Submitted | Finished | GivenUp | Rung | Drain | Reset | Disable | Adopt | KeepPace
