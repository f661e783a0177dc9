"""How long to look for a counter-example: a moment in every run of the suite, longer where somebody asks for it."""

from __future__ import annotations

import os

DEPTH = int(os.environ.get("DEPTH", "1"))  # `DEPTH=50 make test ARGS="tests/contract tests/sim"`


def deep(examples: int) -> int:
    """So many examples of a property, times DEPTH."""
    return examples * DEPTH
