"""Ceilings over more than one deployment become `[[budgets]]`."""

from __future__ import annotations

from typing import Any

from theo_daemon.config import CAP_UNDER_CEILINGS
from theo_daemon.litellm.families import Families
from theo_daemon.litellm.notes import Notes
from theo_daemon.litellm.settings import Settings


def list_budgets(settings: Settings, families: Families, notes: Notes) -> list[dict[str, Any]]:
    """The tables, that over everything first. What cannot be said by them is noted."""
    budgets = [budget for budget in (settings.budget, settings.tenant_budget) if budget]
    for provider, budget in settings.provider_budgets.items():
        where = f"provider_budget_config {provider[:64]}"
        models = [draft.name for draft in families.models if draft.whose == provider]
        if not models:
            notes.lost(where, "none of its models was taken over")
        elif len(models) > 1:
            shown = ", ".join(models[:8])
            notes.lost(
                where,
                f"budgets are by model, not by provider: give each of {shown} a spend_ceiling of its own",
            )
        else:
            budgets.append({"model": models[0], **budget})
            notes.told(where, f"became a budget of {models[0]}, its only model")
    if budgets and any(draft.max_output_tokens is None for draft in families.models):
        notes.told(
            "[[budgets]]",
            "under a budget a call needs a known price, and an answer that neither its job nor max_output_tokens caps "
            f"gets {CAP_UNDER_CEILINGS} tokens at most",
        )
    return budgets
