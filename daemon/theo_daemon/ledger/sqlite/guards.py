"""What guards a model in a batch of operations: the right to probe, and its calls and tokens per minute."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
from msgspec import Struct

from theo_daemon.ledger.rates import SLICE_MS, WINDOW_MS, Slice, corrected, reserved_tokens
from theo_daemon.ledger.records import Ask, Check, Settled
from theo_daemon.ledger.rules import Claims, Known
from theo_daemon.ledger.sqlite import shared_store
from theo_workers.messages import Outcome


class Reserved(Struct, frozen=True, gc=False):
    """What an attempt took of its model's rate."""

    model: str
    second: int
    tokens: int


class Guards:
    """Of one owner, who alone ends its attempts: so which of them probe or took of a rate is kept in memory.

    A batch may be applied twice, when its first commit failed: whatever is kept here bears that.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._probes: dict[str, int] = {}  # the latest of each model
        self._reserved: dict[int, Reserved] = {}  # by attempt, of the last minute

    def read(self, asks: Sequence[Ask | Check], known: Known) -> None:
        """Add to `known` what the asks' models are guarded by; most are not."""
        for ask in asks:
            want = ask.want if isinstance(ask, Ask) else None
            if want is None:
                continue
            if want.probe_until_ms is not None and want.model not in known.standings:
                known.standings[want.model] = shared_store.read_standing(self._db, want.model)
            if want.rate is not None and want.model not in known.windows:
                known.windows[want.model] = shared_store.read_window(self._db, want.model)

    def write(self, claims: Claims, now_ms: int) -> None:
        """Record what was granted."""
        if claims.standings:
            shared_store.write_standings(self._db, claims.standings.values())
            self._probes |= {one.model: one.probe for one in claims.standings.values() if one.probe}
        if claims.windows:
            shared_store.write_windows(self._db, claims.windows)
            self._forget_old(now_ms)
            for ask in claims.attempts:
                if ask.want is not None and (rate := ask.want.rate) is not None:
                    reserved = Reserved(ask.want.model, now_ms // SLICE_MS, reserved_tokens(rate))
                    self._reserved[ask.want.attempt_id] = reserved

    def settle(self, settled: Sequence[Settled], now_ms: int) -> None:
        """These attempts ended: a probe makes room for the next, a rate learns what was really used."""
        if self._probes:
            over = {one.model: one.attempt_id for one in settled if one.attempt_id in self._probes.values()}
            shared_store.release_probes(self._db, over)
        if self._reserved:
            self._correct(settled, now_ms)

    def bury(self, owner: int) -> None:
        """The owner is dead, and with it its probe."""
        shared_store.release_probes_of(self._db, owner)

    def _correct(self, settled: Sequence[Settled], now_ms: int) -> None:
        windows: dict[str, tuple[Slice, ...]] = {}
        for one in settled:
            reserved = self._reserved.get(one.attempt_id)
            used = _used(one)
            if reserved is None or used is None or (one.state != "void" and not reserved.tokens):
                continue
            window = windows.get(one.model)
            windows[one.model] = corrected(
                shared_store.read_window(self._db, one.model) if window is None else window,
                second=reserved.second,
                requests=-1 if one.state == "void" else 0,
                tokens=used - reserved.tokens if reserved.tokens else 0,
                now_ms=now_ms,
            )
        shared_store.write_windows(self._db, windows)

    def _forget_old(self, now_ms: int) -> None:
        oldest = (now_ms - WINDOW_MS) // SLICE_MS - 1
        while self._reserved:
            attempt_id = next(iter(self._reserved))
            if self._reserved[attempt_id].second >= oldest:
                return
            del self._reserved[attempt_id]


def _used(settled: Settled) -> int | None:
    """Tokens that the call used as far as its provider counts them; None: nobody knows, the estimate stays."""
    match settled.state:
        case Outcome.OK:
            return settled.prompt_tokens + settled.completion_tokens
        case Outcome.FAILED | "void":
            return 0
    return None
