"""Which parameter an endpoint says that it does not know, in any of the ways that they say it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_CODES = frozenset(
    {"unsupported_parameter", "unknown_parameter", "extra_forbidden", "unrecognized_parameter"}
)
# Of a value that is out of range the same field `param` is said, so that the words decide where no code does.
_UNKNOWN = re.compile(
    r"(?:unsupported|unrecognized|unknown|unexpected|invalid) (?:request )?(?:parameter|argument|field|keyword|propert)"
    r"|extra (?:inputs?|fields?) (?:are |is )?not permitted"
    r"|\b(?:is|are) (?:unsupported|not supported|not permitted|not allowed)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"['\"`]?\b([a-z]+(?:_[a-z]+)+)\b['\"`]?")


def refused_parameter(told: dict[str, Any], codes: frozenset[str], message: str) -> str | None:
    """Its name, or None where the complaint is about something else; `told` is the error's envelope.

    OpenAI says `param` and a code, FastAPI (Mistral, vLLM) a place and a type, the others only words.
    """
    for code, name in _placed(told.get("detail")):
        if code in _CODES:
            return name
    if codes.isdisjoint(_CODES) and not _UNKNOWN.search(message[:500]):
        return None
    param = told.get("param")
    if isinstance(param, str) and param:
        return param.rpartition(".")[2][:64]
    found = _NAME.search(message[:500])
    return None if found is None else found[1][:64]


def _placed(detail: Any) -> Iterator[tuple[Any, str]]:
    for one in detail if isinstance(detail, list) else ():
        place = one.get("loc") if isinstance(one, dict) else None
        if isinstance(place, list) and place and isinstance(place[-1], str):
            yield one.get("type"), place[-1]
