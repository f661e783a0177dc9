"""What a model worker is asked, what it answers and who hears of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from theo_workers.errors import UpstreamError
from theo_workers.messages import Completion, DeltaSink, Outcome, Request


class Call(Struct, kw_only=True):
    """One attempt at one request. `deadline` is monotonic seconds: it is not started, and not waited for, after it.

    `timeout_s` is the time that the provider has from its start on; None: what is left until the deadline.
    `before_send` is awaited after admission, right before the provider is called: the ledger's claim. What it
    raises reaches the caller, frees the slot and abandons the permit, and nothing is sent. `end` is the worker's: how
    the provider's part ended, from that moment until the caller has it, who may be cancelled in between.
    """

    request: Request
    deadline: float
    timeout_s: float | None = None
    before_send: Callable[[], Awaitable[None]]
    on_delta: DeltaSink | None = None
    end: Completed | CallFailed | None = None


class Completed(Struct, frozen=True, kw_only=True):
    """The model answered. `latency_ms` is counted from after `before_send`."""

    completion: Completion
    latency_ms: float


class CallFailed(Struct, frozen=True, kw_only=True):
    """The provider failed in a way its adapter knows. `latency_ms` is counted from after `before_send`."""

    error: UpstreamError
    latency_ms: float


Result = Completed | CallFailed


class Observer(Protocol):
    """Hears what a worker does, in the loop's thread; must not block or raise."""

    def on_transition(self, model: str, event: str, details: Mapping[str, Any]) -> None:
        """`event` is circuit_opened, circuit_half_open, circuit_closed, model_paused or model_disabled.

        Or failure_counted, of the closed circuit, which is for those who share the model.
        """

    def on_attempt(
        self, model: str, outcome: Outcome, latency_ms: float, error: BaseException | None
    ) -> None:
        """A call that was sent has ended."""

    def on_defect(self, model: str, error: BaseException) -> None:
        """Something raised what nobody foresaw: the upstream's adapter, or the worker itself."""
