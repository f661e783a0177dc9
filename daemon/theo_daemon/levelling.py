"""How far ahead a process may read, so that it does not hoard the backlog: neither before a peer that has nothing to
do, nor with the jobs of one tenant or one model before those of all others."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Peer(Struct, frozen=True, kw_only=True):
    """Another consumer of the group, all lanes together."""

    held: int  # its pending entries
    idle_s: float  # since it last asked Redis for anything


class LevelRules(Struct, frozen=True, kw_only=True):
    """`base` should not be less than what can run at once."""

    base: int = 64  # entries that a process may hold whatever its peers do
    step: int = 32  # entries read at a time beyond that, while peers are alive
    alive_s: float = 3.0  # a peer silent for longer is dead or stuck: nobody waits for it
    patience_s: float = 0.15  # a lighter peer that leaves the backlog alone for so long has enough


def alive(peers: Sequence[Peer], rules: LevelRules) -> list[Peer]:
    """Those that somebody may wait for."""
    return [peer for peer in peers if peer.idle_s < rules.alive_s]


def may_read(held: int, peers: Sequence[Peer], rules: LevelRules, *, waited_s: float) -> int | None:
    """How many more entries a process that holds `held` may read now; None means without limit.

    Beyond the base it reads on only while no live peer holds fewer. `waited_s` is how long it has been
    held back by that already: a peer may be full with less than we hold.
    """
    if held < rules.base:
        return rules.base - held
    live = alive(peers, rules)
    if not live:
        return None
    lightest = min(peer.held for peer in live)
    return rules.step if lightest >= held or waited_s >= rules.patience_s else 0


def in_order(free: int, at_rest: int, *, most: int, early: int) -> tuple[int, bool]:
    """How many entries may be read in the order of their stream; and do those limit it that are at rest?

    `free` of `most` places are left. Not more than half of all may be taken by jobs that wait for a slot, a model or
    money: a tenant's flood, or the jobs of a model that takes no calls, leave the other half to jobs of other kinds,
    which are taken from behind them. `early` of those are known and will be taken now.
    """
    ahead = most - most // 2 - at_rest
    return min(free - early, ahead), ahead < free - early
