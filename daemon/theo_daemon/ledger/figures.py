"""The figures that people read in the books: spend and latency by model."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from theo_daemon.job import EntryRef
from theo_daemon.ledger.unknown_calls import UnknownCall


class ModelSpend(Struct, frozen=True, kw_only=True):
    """USD of one model. `held` is reserved by calls in flight."""

    spent: float
    held: float


class Balance(Struct, frozen=True, kw_only=True):
    """One budget row, in nano-dollars. `window_start_ms` is 0 for what counts for ever."""

    scope: str
    window_start_ms: int
    spent_nano: int
    held_nano: int
    reset_ms: int | None = None  # when its window ends; None: never


class ModelLatency(Struct, frozen=True, kw_only=True):
    """Milliseconds of one model's answered calls, and its tokens."""

    calls: int
    mean_ms: float
    last_ms: float | None
    prompt_tokens: int
    completion_tokens: int


class LedgerTransaction(Protocol):
    """A consistent view of the ledger; made by `Ledger.transaction()`."""

    def get_all_spend(self) -> dict[str, float]:
        """USD spent so far, by model."""

    def get_all_latency(self) -> dict[str, float]:
        """Mean milliseconds of answered calls, by model."""

    def spend(self) -> dict[str, ModelSpend]:
        """Spent and held, by model."""

    def balances(self, running_at_ms: int = 0) -> list[Balance]:
        """Budget rows by scope and window: all that there are, or those of windows that are not over then (Unix ms)."""

    def latency(self) -> dict[str, ModelLatency]:
        """Count, mean and last latency and tokens, by model."""

    def id_holder(self, tenant: str, client_id: str) -> EntryRef | None:
        """The entry whose job runs, or waits, under this id; None when there is none, or an outcome is remembered."""

    def unknown_calls(
        self, *, since_ms: int = 0, model: str | None = None, limit: int = 1_000
    ) -> list[UnknownCall]:
        """Calls sent since then (Unix ms) of which nobody knows whether they were billed, the newest first."""
