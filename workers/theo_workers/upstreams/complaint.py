"""Reads what a provider says is wrong, in any of the envelopes that providers use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from theo_workers.upstreams.refused_parameter import refused_parameter

_LONGEST_READ = 65_536
_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s", re.ASCII)

_decoder = msgspec.json.Decoder()


class Complaint(NamedTuple):
    """A provider's error. `codes` are all its machine-readable names, in lower case."""

    message: str = ""
    code: str | None = None  # the most telling of `codes`, as the provider wrote it
    codes: frozenset[str] = frozenset()
    status: int | None = None  # an HTTP status inside the body, as some gateways put one into a 200
    retry_after_s: float | None = None  # Google's RetryInfo
    parameter: str | None = None  # one that this endpoint does not know


def read_complaint(body: bytes | bytearray) -> Complaint:
    """Never fails: a body that says nothing readable is an empty complaint."""
    if len(body) > _LONGEST_READ:
        return Complaint()
    try:
        return complaint_of(_decoder.decode(body))
    except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
        return Complaint()


def complaint_of(told: Any) -> Complaint:
    """The same for JSON already decoded: an error's envelope, or what is under its `error`."""
    if isinstance(told, list) and told:
        told = told[0]  # Gemini's streams wrap the error in a list
    if isinstance(told, str):
        return Complaint(message=told)
    if not isinstance(told, dict):
        return Complaint()
    inner = told.get("error")
    if isinstance(inner, str):
        # {error: "text"} or xAI's {code: "text", error: "text"}
        told = {**told, "message": inner}
    elif isinstance(inner, dict):
        told = inner
    names = list(_names(told))
    telling = [name for name in names if name not in {"error", "object"}]
    message, codes = _message(told), frozenset(name.lower() for name in names)
    return Complaint(
        message=message,
        code=telling[0] if telling else None,
        codes=codes,
        status=_status(told),
        retry_after_s=_retry_after_s(told.get("details")),
        parameter=refused_parameter(told, codes, message),
    )


def _names(told: dict[str, Any]) -> Iterator[str]:
    inner = told.get("innererror")
    details = told.get("details")
    places: list[Any] = [told.get("code"), told.get("type"), told.get("status"), told.get("object")]
    if isinstance(inner, dict):
        places.append(inner.get("code"))
    if isinstance(details, dict):
        places += [details.get("error_code"), details.get("type")]
    elif isinstance(details, list):
        places += [detail.get("reason") for detail in details if isinstance(detail, dict)]
        places += [violation.get("quotaId") for violation in _violations(details)]
    for place in places:
        if isinstance(place, str) and place and not place.isdigit():
            yield place[:100]


def _violations(details: list[Any]) -> Iterator[dict[str, Any]]:
    """Google's QuotaFailure: each has the `quotaId` of a limit that was reached."""
    for detail in details:
        violations = detail.get("violations") if isinstance(detail, dict) else None
        yield from (
            one for one in (violations if isinstance(violations, list) else ()) if isinstance(one, dict)
        )


def _retry_after_s(details: Any) -> float | None:
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (found := _DELAY.fullmatch(delay)):
            return float(found[1])
    return None


def _message(told: dict[str, Any]) -> str:
    for name in ("message", "detail", "msg"):
        said = told.get(name)
        if isinstance(said, list) and said and isinstance(said[0], dict):
            said = said[0].get("msg")  # FastAPI's validation errors
        if isinstance(said, dict):
            said = said.get("message")
        if isinstance(said, str) and said:
            metadata = told.get("metadata")
            raw = metadata.get("raw") if isinstance(metadata, dict) else None
            return f"{said}: {raw}" if isinstance(raw, str) and raw else said
    return ""


def _status(told: dict[str, Any]) -> int | None:
    for name in ("code", "status", "status_code", "raw_status_code"):
        said = told.get(name)
        if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) == 3:
            said = int(said)
        if isinstance(said, int) and not isinstance(said, bool) and 400 <= said <= 599:
            return said
    return None
