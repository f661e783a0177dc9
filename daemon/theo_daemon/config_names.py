"""Reads `[groups]` and `[workflows]`, and checks that every name in the configuration means one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from theo_daemon.config import NAME_ALLOWED, BudgetConfig, Config, Name, WorkflowConfig
from theo_daemon.config_budgets import check_budgets
from theo_daemon.config_models import model_label
from theo_daemon.config_table import Report, Shape, read_table, read_value, unknown

MOST_REGIONS = 64
_WORKFLOW = Shape(cls=WorkflowConfig)


def read_groups(raw: object, report: Report) -> dict[str, tuple[str, ...]]:
    """Group name -> names of its models, unchecked."""
    groups: dict[str, tuple[str, ...]] = {}
    if not isinstance(raw, Mapping):
        report.error("[groups]", 'must be a table of lists, as chat = ["fast", "claude"]')
        return groups
    for name, members in raw.items():
        at = f"[groups] {name}"
        if not _named(name, at, report):
            continue
        if not isinstance(members, list) or not all(isinstance(one, str) for one in members):
            report.error(at, 'must be a list of model names, as ["fast", "claude"]')
        elif not members:
            report.error(at, "is empty: a group needs at least one model")
        else:
            groups[name] = tuple(members)
    return groups


def read_workflows(raw: object, report: Report) -> dict[str, WorkflowConfig]:
    """Workflow name -> what it uses, unchecked."""
    workflows: dict[str, WorkflowConfig] = {}
    if not isinstance(raw, Mapping):
        report.error("[workflows]", "must be tables, as [workflows.summarise]")
        return workflows
    for name, table in raw.items():
        at = f"[workflows.{name}]"
        if not _named(name, at, report):
            continue
        read = read_table(_WORKFLOW, table, at, report)
        if "model" in read:
            workflows[name] = WorkflowConfig(**read)
        elif isinstance(table, Mapping) and "model" not in table:
            report.error(at, "model is missing: the model or group that its jobs use")
    return workflows


def check_names(
    config: Config, budgets: Mapping[str, BudgetConfig], raw: Mapping[str, Any], report: Report
) -> None:
    """`raw` too, since a model or group that is wrong in other ways is not unknown by name.

    `budgets` are those of `config`, by where they are in the file.
    """
    models = _model_names(raw.get("models"), report)
    raw_groups = raw.get("groups")
    groups = set(raw_groups) if isinstance(raw_groups, Mapping) else set()
    for name in sorted(groups & models):
        report.error(f"[groups] {name}", "a model has this name already")
    _check_groups(config, models, groups, report)
    _check_regions(config, report)
    known = models | groups
    for key in ("context_window_fallbacks", "content_policy_fallbacks"):
        _check_fallbacks(f"[routing] {key}", getattr(config.routing, key), known, report)
    targets = {f"[workflows.{name}] model": one.model for name, one in config.workflows.items()}
    if config.routing.default is not None:
        targets["[routing] default"] = config.routing.default
    for at, target in targets.items():
        if target not in known:
            report.error(at, f'"{target[:64]}": {unknown("model or group", target, known)}')
    check_budgets(budgets, models, {**dict.fromkeys(groups, ()), **config.groups}, report)


def _check_groups(config: Config, models: set[str], groups: set[str], report: Report) -> None:
    for name, members in config.groups.items():
        for position, member in enumerate(members):
            if member in groups - models:
                report.error(f"[groups] {name}", f'"{member[:64]}" is a group, and groups hold models only')
            elif member not in models:
                report.error(f"[groups] {name}", f'"{member[:64]}": {unknown("model", member, models)}')
            elif member in members[:position]:
                report.error(f"[groups] {name}", f'"{member[:64]}" is in it twice')


def _check_regions(config: Config, report: Report) -> None:
    order, labels = (
        config.routing.regions,
        {model.region for model in config.models if model.region is not None},
    )
    for position, region in enumerate(order):
        if region in order[:position]:
            report.error("[routing] regions", f'"{region[:64]}" is in it twice')
        elif region not in labels:
            report.warn("[routing] regions", f'no model has region = "{region[:64]}"')
    if len(order) > MOST_REGIONS:
        report.error("[routing] regions", f"lists {len(order)}, and may list {MOST_REGIONS}")
    for model in config.models if order else ():
        if model.region not in order:
            where = "no region" if model.region is None else f'region = "{model.region[:64]}"'
            report.warn(f'[[models]] "{model.name}"', f"has {where}, so [routing] regions puts it last")


def _check_fallbacks(at: str, rows: Mapping[str, tuple[str, ...]], known: set[str], report: Report) -> None:
    for name, others in rows.items():
        for one in (name, *others):
            if one not in known:
                report.error(f"{at} {name[:64]}", f'"{one[:64]}": {unknown("model or group", one, known)}')
        if name in others:
            report.error(f"{at} {name[:64]}", "falls back to itself")


def _model_names(raw: object, report: Report) -> set[str]:
    first: dict[str, int] = {}
    for number, table in enumerate(raw if isinstance(raw, list) else [], 1):
        name = table.get("name") if isinstance(table, Mapping) else None
        if isinstance(name, str) and first.setdefault(name, number) != number:
            report.error(f"{model_label(table, number)} name", f"#{first[name]} has this name already")
    return set(first)


def _named(name: str, at: str, report: Report) -> bool:
    try:
        read_value(Name, name)
    except ValueError:
        report.error(at, f"this name is not allowed; a name is {NAME_ALLOWED}")
        return False
    return True
