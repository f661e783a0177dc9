"""How far ahead a process may read, so that no process hoards the backlog while a peer has nothing to do."""

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


def may_read(held: int, peers: Sequence[Peer], rules: LevelRules, *, waited_s: float) -> int | None:
    """How many more entries a process that holds `held` may read now; None means without limit.

    Beyond the base it reads on only while no live peer holds fewer. `waited_s` is how long it has been
    held back by that already: a peer may be full with less than we hold.
    """
    if held < rules.base:
        return rules.base - held
    live = [peer.held for peer in peers if peer.idle_s < rules.alive_s]
    if not live:
        return None
    return rules.step if min(live) >= held or waited_s >= rules.patience_s else 0
