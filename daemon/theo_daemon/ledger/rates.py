"""Calls and tokens per minute of one model: exactly those of the last sixty seconds count, never more fit.

Pure. A window is its slices, a second long each, oldest first; a slice counts until all of it is a minute old.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, structs

WINDOW_MS = 60_000
SLICE_MS = 1_000


class Rate(Struct, frozen=True, gc=False):
    """A model's limits per minute (None: none), and the tokens that one call is expected to use."""

    rpm: int | None
    tpm: int | None
    tokens: int = 0


class Slice(Struct, frozen=True, array_like=True, gc=False):
    """What was taken within one second."""

    second: int  # Unix
    requests: int
    tokens: int


class Pace(Struct, frozen=True, gc=False):
    """Room for `calls` more calls like the last one, from `from_ms` (Unix ms) on, if nobody else takes it."""

    from_ms: int
    calls: int


class Taken(Struct, frozen=True):
    """A call fits: the window with it, and the room that is left."""

    window: tuple[Slice, ...]
    left: Pace


def take(window: Sequence[Slice], rate: Rate, now_ms: int) -> Taken | Pace:
    """Take one call out of the window, or say when there is room for one."""
    current = _current(window, now_ms)
    pace = _room(current, rate, now_ms)
    if pace.from_ms > now_ms:
        return pace
    taken = _added(current, now_ms // SLICE_MS, requests=1, tokens=_tokens(rate))
    return Taken(taken, _room(taken, rate, now_ms))


def corrected(
    window: Sequence[Slice], *, second: int, requests: int, tokens: int, now_ms: int
) -> tuple[Slice, ...]:
    """The window once a call of that second turned out to take this much more (or, negative, less)."""
    current = _current(window, now_ms)
    if all(one.second != second for one in current):
        return current  # a minute ago: it counts no more
    return _added(current, second, requests=requests, tokens=tokens)


def reserved_tokens(rate: Rate) -> int:
    """What `take` sets aside for a call."""
    return _tokens(rate)


def _tokens(rate: Rate) -> int:
    # A call larger than the limit itself has the window to itself, or it would wait for ever.
    return 0 if rate.tpm is None else min(max(1, rate.tokens), rate.tpm)


def _current(window: Sequence[Slice], now_ms: int) -> tuple[Slice, ...]:
    """Without what is a minute old, and what a clock set back would keep for long."""
    latest = now_ms // SLICE_MS + 1
    return tuple(one for one in window if _ends_ms(one) > now_ms and one.second <= latest)


def _ends_ms(one: Slice) -> int:
    return (one.second + 1) * SLICE_MS + WINDOW_MS


def _room(window: Sequence[Slice], rate: Rate, now_ms: int) -> Pace:
    requests = sum(one.requests for one in window)
    tokens = sum(one.tokens for one in window)
    from_ms = now_ms
    for oldest in (*window, None):
        calls = _calls(rate, requests, tokens)
        if calls > 0 or oldest is None:
            break
        requests, tokens, from_ms = requests - oldest.requests, tokens - oldest.tokens, _ends_ms(oldest)
    return Pace(from_ms, max(1, calls))


def _calls(rate: Rate, requests: int, tokens: int) -> int:
    by_requests = None if rate.rpm is None else rate.rpm - requests
    by_tokens = None if rate.tpm is None else (rate.tpm - tokens) // _tokens(rate)
    return min(count for count in (by_requests, by_tokens, 1_000_000) if count is not None)


def _added(window: Sequence[Slice], second: int, *, requests: int, tokens: int) -> tuple[Slice, ...]:
    """With this much more in the slice of that second, which is made if need be."""
    found = {one.second: one for one in window}
    old = found.get(second, Slice(second, 0, 0))
    found[second] = structs.replace(
        old, requests=max(0, old.requests + requests), tokens=max(0, old.tokens + tokens)
    )
    return tuple(found[key] for key in sorted(found))
