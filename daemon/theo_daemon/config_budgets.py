"""Reads `[[budgets]]`: ceilings over what several calls have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from theo_daemon.budget_names import EACH, KEYS
from theo_daemon.config import BudgetConfig, Usd
from theo_daemon.config_routing import read_window, with_warning_ratio
from theo_daemon.config_table import Report, Shape, read_table, unknown

_BUDGET = Shape(
    cls=BudgetConfig,
    readers={"spend_window": read_window},
    extras={"soft_budget": Usd},
    aliases={"max_budget": "spend_ceiling", "budget_duration": "spend_window"},
)


def read_budgets(raw: object, report: Report) -> dict[str, BudgetConfig]:
    """The budgets by how the file is quoted, `[[budgets]] #2`; their names unchecked."""
    if not isinstance(raw, list):
        report.error("[budgets]", "each budget is a table of its own: write [[budgets]], in double brackets")
        return {}
    read = {f"[[budgets]] #{number}": table for number, table in enumerate(raw, 1)}
    budgets = {at: _read(table, at, report) for at, table in read.items()}
    return {at: budget for at, budget in budgets.items() if budget is not None}


def check_budgets(
    budgets: Mapping[str, BudgetConfig],
    models: Collection[str],
    groups: Mapping[str, Sequence[str]],
    report: Report,
) -> None:
    """Every name is one that calls can have, and no budget is there twice.

    `models` are the names in the file, since a model that is wrong in other ways is not unknown.
    """
    first: dict[tuple[object, ...], str] = {}
    for at, budget in budgets.items():
        _check_name("model", budget.model, at, report, there=models, others=groups)
        _check_name("group", budget.group, at, report, there=groups, others=models)
        _check_pair(budget, groups, at, report)
        same = (*(getattr(budget, key) for key in KEYS), budget.spend_window, budget.calendar_aligned)
        if first.setdefault(same, at) != at:
            report.error(at, f"{first[same]} counts the same calls over the same window: keep one")


def _read(raw: object, at: str, report: Report) -> BudgetConfig | None:
    errors = len(report.errors)
    read = with_warning_ratio(read_table(_BUDGET, raw, at, report), {}, at, report)
    if len(report.errors) > errors:
        return None
    if "spend_ceiling" not in read:
        report.error(at, "spend_ceiling is missing")
        return None
    return BudgetConfig(**read)


def _check_name(
    kind: str, name: str | None, at: str, report: Report, *, there: Collection[str], others: Collection[str]
) -> None:
    if name is None or name == EACH or name in there:
        return
    if name in others:
        other = "model" if kind == "group" else "group"
        report.error(f"{at} {kind}", f'"{name}" is a {other}: write {other} = "{name}"')
    else:
        report.error(f"{at} {kind}", f'"{name}": {unknown(kind, name, there)}')


def _check_pair(budget: BudgetConfig, groups: Mapping[str, Sequence[str]], at: str, report: Report) -> None:
    members = groups.get(budget.group or "", ())
    if members and budget.model not in (None, EACH, *members):
        report.error(
            f"{at} model",
            f'"{budget.model}" is not in the group {budget.group}, so no call would ever count; '
            f"in it are {', '.join(members)}",
        )
