"""How a budget is called: in the ledger, on the command line, and in words. Pure.

`tenant=acme,model=fast@1d` is what tenant acme spends on the model fast in a day; `all@1mo` is everybody's. Of the
signs between the names none can be part of one, so no job can name itself into another's budget.
"""

from __future__ import annotations

from collections.abc import Mapping

MODEL_SCOPE = "model:"  # a model's own ceiling, out of its `routing`
KEYS = ("tenant", "workflow", "group", "model")
EACH = "*"  # every name by itself


def scope_name(selectors: Mapping[str, str], window: str) -> str:
    """The name of a row in the ledger; with a `*` among the selectors, of all rows of that budget."""
    line = ",".join(f"{key}={selectors[key]}" for key in KEYS if key in selectors) or "all"
    return f"{line}@{window}"


def selectors_of(name: str) -> dict[str, str]:
    """The selectors in a name, whether it tells a window or not."""
    line = name.partition("@")[0]
    if line.startswith(MODEL_SCOPE):
        return {"model": line.removeprefix(MODEL_SCOPE)}
    pairs = (part.partition("=") for part in line.split(",") if "=" in part)
    return {key: value for key, _, value in pairs}


def in_words(name: str) -> str:
    """`the budget of tenant acme and model fast`."""
    parts = [_part(key, value) for key, value in selectors_of(name).items()]
    return f"the budget of {' and '.join(parts) if parts else 'all jobs'}"


def _part(key: str, value: str) -> str:
    if value == EACH:
        return f"each {key}"
    return f"{key} {value}" if value else f"jobs without a {key}"
