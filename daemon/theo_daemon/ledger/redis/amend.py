"""What an operator may change in the books in Redis, beside running daemons."""

from __future__ import annotations

from collections.abc import Iterable

from theo_daemon.ledger.redis.keys import LedgerKeys, id_digest, spend_row
from theo_daemon.ledger.redis.scripts import FORGET, RESET
from theo_daemon.wire import Wire


async def forget_ids(wire: Wire, keys: LedgerKeys, ids: Iterable[tuple[str, str]]) -> int:
    """Forget what is remembered for these (tenant, client id); the number of those that were known.

    A later job with such an id runs anew. Raises redis.exceptions.RedisError, as `reset_spend` does.
    """
    digests = [id_digest(tenant, client_id) for tenant, client_id in ids]
    return int(await wire.run(FORGET, (keys.base,), digests))


async def reset_spend(wire: Wire, keys: LedgerKeys, rows: Iterable[tuple[str, int]]) -> int:
    """Set what these budgets have spent to 0; the number of those that had spent anything.

    `rows` are scopes and the starts of their windows (Unix ms). What calls in flight hold stays held, and the
    attempts on record stay as they are. A window that a clock began before its time is taken back, unless calls
    hold anything in it.
    """
    names = [spend_row(scope, start) for scope, start in rows]
    return int(await wire.run(RESET, (keys.base,), ("", *names)))
