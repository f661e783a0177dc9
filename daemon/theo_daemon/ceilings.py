"""Which candidates of a job its money forbids, and how a refusal is put into words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from theo_daemon.budget_names import in_words, selectors_of
from theo_daemon.ledger.records import OverBudget
from theo_daemon.money import format_usd
from theo_workers.errors import BudgetExceeded, GenerationError


class Barred(Struct, frozen=True):
    """A candidate that this job may not call. `own`: for the job's own ceiling, not for one that all share."""

    error: GenerationError
    own: bool


def unaffordable(
    bounds: Mapping[str, int | None], *, limit_nano: int, spent_nano: int
) -> dict[str, BudgetExceeded]:
    """The candidates whose next call may cost more than the job's own ceiling leaves; `bounds` are by model."""
    return {
        model: _own_refusal(model, bound, limit_nano=limit_nano, spent_nano=spent_nano)
        for model, bound in bounds.items()
        if not fits(bound, limit_nano - spent_nano)
    }


def fits(bound_nano: int | None, left_nano: int) -> bool:
    """May a call of this bound be made with what is left? One of unknown price never."""
    return bound_nano is not None and bound_nano <= left_nano


def over_ceiling(verdict: OverBudget, now_ms: int, *, tenant: str) -> BudgetExceeded:
    """The refusal of a call for what a scope has spent, or for its unknown price. `now_ms` is Unix ms.

    What a tenant's job is told of a budget that others draw on too is its ceiling, not what they have spent.
    """
    scope, whose = verdict.scope, in_words(verdict.scope.name)
    ceiling = f"{format_usd(scope.ceiling_nano or 0)} USD"
    if verdict.bound_nano is None:
        return BudgetExceeded(
            f"the price of this call is unknown and {whose} has a ceiling of {ceiling}; {_SET_PRICE}",
            retryable=False,
        )
    if selectors_of(scope.name).get("tenant", "") == tenant:
        state = f"{whose} has spent {format_usd(verdict.spent_nano)} of {ceiling}"
    else:
        state = f"{whose}, {ceiling}, is used up"
    text = f"{state}; this call may cost {format_usd(verdict.bound_nano)} USD"
    if scope.reset_ms is None:
        return BudgetExceeded(text, retryable=False)
    return BudgetExceeded(
        f"{text}; it resets at {_utc(scope.reset_ms)}",
        retryable=True,
        retry_after_s=max(0, scope.reset_ms - now_ms) / 1000,
    )


def hold_wait_s(jitter: float) -> float:
    """How long to wait for calls in flight to give back what they hold; `jitter` is from [0, 1)."""
    return 0.05 + 0.1 * jitter


def last_word(barred: Iterable[Barred]) -> Barred:
    """Of the refusals of all candidates, the one that is the job's: that which ends first, else the last.

    Where some are of money it is one of those: these models could take the job.
    """
    refusals: Sequence[Barred] = list(barred)
    refusals = [one for one in refusals if isinstance(one.error, BudgetExceeded)] or refusals
    ending = [one for one in refusals if one.error.retry_after_s is not None]
    return min(ending, key=_ends_in_s) if ending else refusals[-1]


_SET_PRICE = "set input_cost_per_mtok and output_cost_per_mtok"


def _utc(unix_ms: int) -> str:
    return datetime.fromtimestamp(-(-unix_ms // 1000), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ends_in_s(barred: Barred) -> float:
    return barred.error.retry_after_s or 0.0


def _own_refusal(model: str, bound_nano: int | None, *, limit_nano: int, spent_nano: int) -> BudgetExceeded:
    limit = f"{format_usd(limit_nano)} USD"
    if spent_nano:
        limit += f", of which {format_usd(spent_nano)} is spent"
    if bound_nano is None:
        why = f"the price of a call of {model} is unknown and max_cost is {limit}; {_SET_PRICE}"
    else:
        why = f"a call of {model} may cost {format_usd(bound_nano)} USD and max_cost is {limit}"
    return BudgetExceeded(why, retryable=False)
