"""Every key this project uses in Redis, built in one place from the configured prefix."""

from __future__ import annotations

from theo_daemon.job import EntryRef

DEFAULT_LANE = "default"


class Keys:
    """Key names under one prefix. On Redis Cluster it is a hash tag (`{theo}`), so that all share a slot."""

    __slots__ = (
        "_done", "control", "dead", "early", "events", "ledger_pin", "ledger_plans", "prefix", "replies",
        "reply_prefix",
    )  # fmt: skip

    def __init__(self, prefix: str = "theo") -> None:
        self.prefix = prefix
        self.replies = f"{prefix}:replies"
        self.reply_prefix = f"{prefix}:reply:"
        self.dead = f"{prefix}:dead"
        self.events = f"{prefix}:events"
        self.control = f"{prefix}:control"
        self.ledger_pin = f"{prefix}:ledger:pin"  # which ledger these streams belong to
        self.ledger_plans = f"{prefix}:ledger:plans"  # the budgets that its processes believe in
        self.early = f"{prefix}:early"  # which entries were taken before their time, and by whom
        self._done = f"{prefix}:done:"

    def jobs(self, lane: str = DEFAULT_LANE) -> str:
        """The job stream of a lane; the lane `default` has the short name."""
        return f"{self.prefix}:jobs" if lane == DEFAULT_LANE else f"{self.prefix}:jobs:{lane}"

    def done(self, ref: EntryRef) -> str:
        """The marker that this very entry has had its final reply."""
        return f"{self._done}{ref[0]}:{ref[1]}"
