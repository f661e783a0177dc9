"""The single fields of a job: what each may hold, and what it means.

A value is text (as in the flat form) or what JSON had in its place (in the `job` form). Functions named for a field
raise a leaf of JobRefused that names the field; functions named `usable_...` answer None instead, since what they
look at is left out rather than refused.
"""

from __future__ import annotations

import re
from typing import Any

from theo_daemon.job import CacheMode, EntryRef, OnUnknown
from theo_daemon.money import to_nano
from theo_daemon.strict_json import quote
from theo_workers.errors import InvalidJob, ReplyToNotAllowed, UnknownModel, UnsupportedVersion

VERSION = 1
MAX_ID = 128
MAX_NAME = 64
MAX_REPLY_TO = 512
MAX_TRACESTATE = 512
MAX_INSTANT_MS = 2**53 - 1  # later deadlines are as good as none
MAX_COST_NANO = 2**63 - 1  # larger ceilings are as good as none, and a ledger column holds no more
CACHE_MODES: tuple[CacheMode, ...] = ("use", "refresh", "off")
ON_UNKNOWN: tuple[OnUnknown, ...] = ("retry", "fail")
DEFAULT_WORKFLOW = "default"

_NAME = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_NAME}}}").fullmatch
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]").search
_INTEGER = re.compile(r"[0-9]{1,308}").fullmatch
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?").fullmatch
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
).fullmatch
_MAX_DECIMAL = 400  # characters; what a double can need, and no more digits to count than that


def check_version(value: Any) -> None:
    """Raises UnsupportedVersion for everything but 1, as text or as a number."""
    if value == "1" or (type(value) in (int, float) and value == VERSION):
        return
    raise UnsupportedVersion(f"v {quote(value)} is not known here; this router serves v {VERSION}")


def text(name: str, value: Any) -> str:
    """Any text. Raises InvalidJob for another JSON type."""
    if type(value) is not str:
        raise InvalidJob(f"{name} must be text, not {quote(value)}")
    return value


def prompt(value: Any) -> str:
    said = text("prompt", value)
    if not said:
        raise InvalidJob("prompt must not be empty")
    return said


def model(value: Any) -> str:
    asked = text("model", value)
    if not asked:
        raise UnknownModel("model is empty; to let the router choose, leave the field out")
    return asked


def name(field: str, value: Any) -> str:
    """`workflow` and `tenant`."""
    if type(value) is not str or _NAME(value) is None:
        raise InvalidJob(f"{field} must be 1 to {MAX_NAME} of A-Z a-z 0-9 . _ : - and not {quote(value)}")
    return value


def reply_to(value: Any) -> str:
    """A name that could be a stream's; whether it is allowed is another matter. A text that could not is
    refused like one that is not allowed."""
    named = usable_reply_to(text("reply_to", value))
    if named is None:
        raise ReplyToNotAllowed(
            f"reply_to must have 1 to {MAX_REPLY_TO} characters, none of them a control character"
        )
    return named


def is_whole(value: Any) -> bool:
    """A JSON number without a fraction, however it is spelled."""
    return type(value) is int or (type(value) is float and value.is_integer())


def cache(value: Any) -> CacheMode:
    for mode in CACHE_MODES:
        if value == mode:
            return mode
    raise _not_one_of("cache", CACHE_MODES, value)


def on_unknown(value: Any) -> OnUnknown:
    for choice in ON_UNKNOWN:
        if value == choice:
            return choice
    raise _not_one_of("on_unknown", ON_UNKNOWN, value)


def stream(value: Any) -> bool:
    """`0` or `1`, as text or number; JSON's true and false as well."""
    if type(value) in (str, int, float, bool):
        if value in ("1", 1):
            return True
        if value in ("0", 0):
            return False
    raise _not_one_of("stream", ("0", "1"), value)


def positive_integer(field: str, value: Any) -> int:
    """`ttl_ms` and `deadline_ms`."""
    whole = _INTEGER(value) is not None if type(value) is str else is_whole(value)
    if not whole or int(value) <= 0:
        raise InvalidJob(f"{field} must be a positive integer (milliseconds), not {quote(value)}")
    return int(value)


def deadline_ms(ref: EntryRef, ttl: Any, deadline: Any) -> int | None:
    """The earlier of both, absolute, in Unix milliseconds; None without either."""
    ends = []
    if ttl is not None:
        ends.append(ref.pushed_ms + positive_integer("ttl_ms", ttl))
    if deadline is not None:
        ends.append(positive_integer("deadline_ms", deadline))
    return min(*ends, MAX_INSTANT_MS) if ends else None


def max_cost_nano(value: Any) -> int:
    """A ceiling in USD, as nano-dollars; 0 leaves what costs nothing."""
    written = str(value) if type(value) in (int, float) else value
    if type(written) is str and len(written) <= _MAX_DECIMAL and _DECIMAL(written) is not None:
        dollars = float(written)
        if dollars == float("inf"):
            raise InvalidJob("max_cost is beyond a double")
        if dollars >= 0:
            return min(to_nano(written), MAX_COST_NANO)
    raise InvalidJob(f"max_cost must be an amount of US dollars such as 0.05, not {quote(value)}")


def usable_id(value: Any) -> str | None:
    """A client's id, if it is 1 to 128 printable characters of text."""
    return value if type(value) is str and 0 < len(value) <= MAX_ID and value.isprintable() else None


def usable_reply_to(value: Any) -> str | None:
    if type(value) is str and 0 < len(value) <= MAX_REPLY_TO and _CONTROL(value) is None:
        return value
    return None


def usable_tenant(value: Any) -> str | None:
    return value if type(value) is str and _NAME(value) is not None else None


def usable_trace(traceparent: Any, tracestate: Any) -> tuple[str | None, str | None]:
    """W3C trace context, if it is valid. A tracestate counts only beside a valid traceparent."""
    if type(traceparent) is not str or len(traceparent) > MAX_TRACESTATE or not _is_traceparent(traceparent):
        return None, None
    if type(tracestate) is not str or not 0 < len(tracestate) <= MAX_TRACESTATE:
        return traceparent, None
    return traceparent, tracestate if tracestate.isascii() and tracestate.isprintable() else None


def _is_traceparent(value: str) -> bool:
    found = _TRACEPARENT(value)
    # Version 00 is exactly four parts; a later version may add some.
    return found is not None and (found[1] is None or not value.startswith("00"))


def _not_one_of(field: str, known: tuple[str, ...], value: Any) -> InvalidJob:
    return InvalidJob(f"{field} must be {' or '.join(known)}, not {quote(value)}")
