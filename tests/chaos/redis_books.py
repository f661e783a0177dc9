"""The ledger in Redis after the rehearsal, read key by key, as `books.Books`.

It keeps no row for a call that was answered. So those are taken from outside: every final reply with an output that is
not another's stands for one, at the price of what the provider uses for each. Of the others it lists the latest ten
thousand: that list is followed from the beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.chaos.books import NANO, Books
from tests.chaos.provider import USAGE
from tests.chaos.records import Entry, Reply
from tests.chaos.traffic import client, until_answered

LOOK_EVERY_S = 0.5
INPUT_USD, OUTPUT_USD = 100, 1000  # per million tokens, of each model
ANSWER_NANO = (USAGE["prompt_tokens"] * INPUT_USD + USAGE["completion_tokens"] * OUTPUT_USD) * NANO // 10**6

Attempt = tuple[Entry, str, str, str, int, int]


def living(redis: Any, prefix: str) -> set[int]:
    """The processes that were not buried, by pid."""
    return {int(name.rsplit("-", 2)[1]) for name in redis.hvals(f"{prefix}:ledger:owners")}


class Listing:
    """Reads what is listed of calls that did not answer, as it appears; Redis must keep its data."""

    def __init__(self, url: str, prefix: str) -> None:
        self.calls: dict[str, dict[str, str]] = {}  # by attempt, as listed last
        self._redis = client(url)
        self._last = {f"{prefix}:ledger:{name}": "0-0" for name in ("doubtful", "failures")}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listing", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read what is left, and no more."""
        self._stop.set()
        self._thread.join(30)
        self._take()
        self._redis.close()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self._take()

    def _take(self) -> None:
        while found := until_answered(lambda: self._redis.xread(self._last, count=500)):
            for stream, entries in found:
                self._last[stream] = entries[-1][0]
                self.calls |= {words["attempt"]: words for _, words in entries if words["state"] != "ok"}


def read_books(redis: Any, prefix: str, listing: Listing, replies: Mapping[Entry, Sequence[Reply]]) -> Books:
    base = f"{prefix}:ledger"
    spend: dict[str, tuple[int, int]] = {}
    for row, text in redis.hgetall(f"{base}:spend").items():
        start, scope = row.split(" ", 1)
        spent, held, *_ = text.split()
        if start == "0":
            spend[scope] = (int(spent), int(held))
        elif held != "0":
            spend[scope] = (spend.get(scope, (0, 0))[0], int(held))
    opened = sum(redis.hlen(key) for key in redis.scan_iter(f"{base}:open:*"))
    return Books(
        integrity="ok",
        attempts=[*_listed(listing), *_answered(replies)],
        spend=spend,
        inflight=opened + redis.hlen(f"{base}:flights"),
        owners=dict.fromkeys(living(redis, prefix)),
    )


def _listed(listing: Listing) -> Iterator[Attempt]:
    """Those that failed, or that nobody knows the outcome of."""
    for words in listing.calls.values():
        jobs, _, entry_id = words["entry"].rpartition(":")
        cost, bound = int(words["cost_nano"]), int(words["bound_nano"])
        yield (jobs, entry_id), "", words["model"], words["state"], cost, bound


def _answered(replies: Mapping[Entry, Sequence[Reply]]) -> Iterator[Attempt]:
    """One for each call that is quoted: by the reply that says that it was paid for, of pushes of one id."""
    paid: dict[int | None, Reply] = {}
    for reply in (its[0] for its in replies.values()):
        fields = reply.fields
        if fields["status"] == "ok" and "1" not in (fields["cache_hit"], fields["coalesced"]):
            known = paid.setdefault(reply.call, reply)
            paid[reply.call] = max(known, reply, key=lambda one: float(one.fields["cost"]))
    for reply in paid.values():
        yield reply.entry, "", reply.fields["model"], "ok", ANSWER_NANO, ANSWER_NANO
