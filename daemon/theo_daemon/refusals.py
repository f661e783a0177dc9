"""The end of jobs that cannot run: an error, and a dead letter where the contract says so.

A job that a dead process had may have run there, before its reply stream, its model or a limit was changed. Then its
outcome is on record, paid for and never published; or calls are that nobody knows the end of, which it pays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from msgspec import structs

from theo_daemon.ledger.port import Claims
from theo_daemon.ledger.records import Check, Clear, JobEnd, Landing, Replay, Verdict
from theo_daemon.outcomes import with_prior
from theo_daemon.ports import Finish, Holds, Publisher
from theo_daemon.reception import Refused
from theo_daemon.reply import decode_outcome


class Refusals:
    """Publishes them. `on_refusal` hears of each, as it is published."""

    def __init__(
        self, *, ledger: Claims, publisher: Publisher, holds: Holds, on_refusal: Callable[[Refused], None]
    ) -> None:
        self._ledger, self._publisher, self._holds = ledger, publisher, holds
        self._on_refusal = on_refusal

    def refuse(self, refused: Refused) -> asyncio.Future[Finish]:
        """What becomes of the reply."""
        if refused.past is None:
            return self._publish(refused)
        finished: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()
        self._ledger.ask(refused.past).add_done_callback(
            partial(self._looked, refused, refused.past, finished)
        )
        return finished

    def _looked(
        self,
        refused: Refused,
        past: Check,
        finished: asyncio.Future[Finish],
        look: asyncio.Future[Verdict | None],
    ) -> None:
        if look.cancelled():
            finished.cancel()
            return
        held: object = None
        match look.result():
            case Replay(kept, own=True, held=loan):
                held = loan and loan.take()
                # The finish script finds the key in the way, and says so in the reply.
                envelope = refused.stream_gone or refused.envelope
                refused = structs.replace(refused, envelope=envelope, outcome=decode_outcome(kept), dead=None)
            case Clear(prior):
                refused = structs.replace(refused, outcome=with_prior(refused.outcome, prior))
                if past.client_id is not None:  # the look has taken it: it is free for the next push
                    end = JobEnd(ref=past.ref, outcome=None, tenant=past.tenant, client_id=past.client_id)
                    self._ledger.tell(Landing(ends=(end,)))
        self._publish(refused).add_done_callback(partial(_pass_on, finished, held))

    def _publish(self, refused: Refused) -> asyncio.Future[Finish]:
        future = self._publisher.finish(refused.envelope, refused.outcome, queued_ms=0, dead=refused.dead)
        future.add_done_callback(lambda _: self._holds.release(refused.envelope.ref))
        self._on_refusal(refused)
        return future


def _pass_on(finished: asyncio.Future[Finish], _held: object, published: asyncio.Future[Finish]) -> None:
    """`_held` is what a large outcome takes of the process's room, until it is published."""
    if published.cancelled():
        finished.cancel()
    elif not finished.done():
        finished.set_result(published.result())
