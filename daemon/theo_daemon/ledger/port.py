"""What the router asks of a ledger, whichever way it is kept: one Protocol for each kind of asker, and all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from theo_daemon.job import EntryRef
from theo_daemon.ledger.condition import Tidings
from theo_daemon.ledger.figures import LedgerTransaction
from theo_daemon.ledger.records import Ask, Check, Landing, News, Verdict
from theo_daemon.ledger.shared import Change, HealthReport, SharedStanding
from theo_workers.errors import RouterError
from theo_workers.health import HealthSnapshot
from theo_workers.upstreams.room import Room

Orphaned = Callable[[Verdict | None], None]


class OnKey(NamedTuple):
    """Wait until nobody holds this flight key."""

    key: str


class OnId(NamedTuple):
    """Wait until this client id's first job has ended."""

    tenant: str
    client_id: str


Token = OnKey | OnId


class InflightTimeout(RouterError, TimeoutError):
    """`wait_for_inflight` waited for nothing."""


class Claims(Protocol):
    """For jobs: may it run, is it over, has another process let go?"""

    def ask(self, ask: Ask | Check, orphaned: Orphaned | None = None) -> asyncio.Future[Verdict | None]:
        """The verdict, once whatever it grants is durable.

        Cancelling the future does not take the ask back: its verdict goes to `orphaned` then.
        """

    def land(self, landing: Landing) -> asyncio.Future[Verdict | None]:
        """Resolves once the landing is durable."""

    def tell(self, landing: Landing) -> None:
        """As `land`, for what nobody waits for; operations keep their order."""

    def forget(self, ref: EntryRef) -> None:
        """The entry's reply is published; its stored outcome may go with a later commit."""

    def wait(self, token: Token) -> asyncio.Future[None]:
        """Resolves when another process let go of `token`: ask again then."""

    def next_attempt_id(self) -> int:
        """Unique in this ledger: the owner, which no other boot shares, and a counter below it."""


class SharedModels(Protocol):
    """For what all processes hold true of the models."""

    @property
    def owner(self) -> int:
        """This process's id in the ledger."""

    def change(self, change: Change) -> asyncio.Future[Verdict | None]:
        """Tell all processes of a model's standing. Resolves with Changed once it is durable."""

    def report_health(self, reports: Sequence[HealthReport]) -> None:
        """Add to the record that outlives this process."""

    async def standings(self) -> tuple[list[SharedStanding], dict[str, HealthSnapshot]]:
        """What is known of the models: their standings, and their health by name."""

    def on_standings(self, told: Callable[[Sequence[SharedStanding]], None]) -> None:
        """Tell `told` the models' standings within 0.2 s of another process's commit."""


class Books(Protocol):
    """For people."""

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        """A consistent reading transaction, on a connection of its own; usable from any thread.

        ```
        with ledger.transaction() as txn:
            txn.get_all_spend(), txn.get_all_latency()
        ```
        """

    async def wait_for_inflight(self, key: str, timeout_s: float) -> bytes | None:
        """Wait until the generation in flight under `key` has ended, in whichever process it runs."""


class Ledger(Claims, SharedModels, Books, Protocol):
    """An open ledger, and how it is; for those who build the process round it."""

    name: str  # of this process, unique to its boot
    uuid: str  # of the books, whoever opens them; known once they are open

    def share_room(self, room: Room) -> None:
        """Large texts that are read from it take room here, as do answers on their way from providers."""

    async def __aenter__(self) -> Self:
        """Open it. Raises LedgerError, which says what was found and what to do."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit what is queued and close. Raises LedgerError for ended calls that could not be recorded in time."""

    @property
    def place(self) -> str:
        """Where it is kept, for people."""

    @property
    def crashed(self) -> asyncio.Future[None]:
        """Never resolves; raises LedgerError when nothing can be recorded any more."""

    @property
    def trouble(self) -> str | None:
        """Why commits, and so all calls, have to wait, or None."""

    @property
    def warnings(self) -> Sequence[str]:
        """What was odd when it was opened."""

    @property
    def size(self) -> int:
        """Bytes of its file; 0 where it has none."""

    @property
    def wal_size(self) -> int:
        """Bytes of its write-ahead log; 0 where it has none."""

    def on_death(self, told: Callable[[str], None]) -> None:
        """Tell `told` the name of every process that died, once its calls are booked as unknown."""

    def on_commit(self, told: Callable[[float], None]) -> None:
        """Tell `told` the seconds of every commit; it may be called on another thread."""

    def on_news(self, told: Callable[[News], None]) -> None:
        """Tell `told` of ceilings and lost calls that this process booked; in the loop, once they are durable."""

    def on_tidings(self, told: Callable[[Tidings], None]) -> None:
        """Tell `told` when commits have to wait, and when they go on; in the loop."""
