"""What is asked of the ledger, what it answers, and what it is told."""

from __future__ import annotations

from msgspec import Struct

from theo_daemon.job import EntryRef
from theo_daemon.ledger.rates import Pace, Rate
from theo_daemon.ledger.shared import SharedStanding
from theo_workers.messages import Outcome
from theo_workers.texts import Json
from theo_workers.upstreams.room import Loan

NO_MODEL = ""  # of what is on record as an attempt without being a call: the rehearsal of a suspect job


class Scope(Struct, frozen=True, gc=False, omit_defaults=True):
    """One budget that a call draws on. `ceiling_nano` None: recorded, never refused.

    The windows of one name never overlap: which one a call counts in is settled by the ledger, see OtherWindow.
    """

    name: str  # e.g. `model:fast`, `tenant=acme@1d`
    window_start_ms: int  # 0 for the total
    ceiling_nano: int | None = None
    reset_ms: int | None = None  # when the window ends, Unix ms; None: never
    warn_nano: int | None = None  # spending this much is told, once for each window; None: never
    ease_nano: int | None = None  # from here on groups prefer cheaper members; told once, too; None: never


class Want(Struct, frozen=True, gc=False):
    """The call that a claim would allow: inserted as an attempt in state `sent`, its bound held."""

    attempt_id: int
    model: str
    provider: str
    bound_nano: int | None  # None: no price known
    scopes: tuple[Scope, ...]
    rate: Rate | None = None  # None: the model has no limit per minute
    probe_until_ms: int | None = None  # its circuit is half-open: the right to probe is asked for, until then
    price: str | None = None  # what its tokens cost at this moment, as `prices.snapshot` tells it


class Ask(Struct, frozen=True, kw_only=True, gc=False):
    """May this job run now? With `want`, a clear way is claimed in the same commit."""

    ref: EntryRef
    key: str  # of the flight: identical jobs that may share have the same
    cache_key: str | None  # where a fresh answer may lie; None: do not look
    digest: str  # the inputs of the cache key, which a repeated id must repeat
    tenant: str = ""
    client_id: str | None = None
    redelivered: bool = False  # look for what an earlier owner of this very entry left
    waited_since_ms: int | None = None  # an answer recorded since then is shared, fresh or not
    holding: bool = False  # this flight holds the key already: only the next attempt is claimed
    want: Want | None = None


class Check(Struct, frozen=True, kw_only=True, gc=False):
    """For a job that joins a flight of this process: does its own past, or its client id's, answer it already?"""

    ref: EntryRef
    digest: str
    tenant: str = ""
    client_id: str | None = None
    redelivered: bool = False


class PriorAttempt(Struct, frozen=True, array_like=True):
    """What was done for an entry by whoever had it before, as it stands in the books: mostly a call."""

    attempt_id: int
    model: str
    provider: str
    state: Outcome
    cost_nano: int  # what is charged: the bound where nobody knows
    latency_ms: float = 0.0
    status_code: int | None = None
    error_code: str | None = None

    @property
    def is_call(self) -> bool:
        """Else it is a rehearsal: nothing was sent, but a process died over it."""
        return self.model != NO_MODEL


class Clear(Struct, frozen=True):
    """Nothing is known of it; nothing was claimed."""

    prior: tuple[PriorAttempt, ...] = ()  # calls that earlier owners of this entry sent, oldest first


class Granted(Struct, frozen=True):
    """Claimed: the attempt is on record as sent; call the provider now."""

    prior: tuple[PriorAttempt, ...] = ()
    standing: SharedStanding | None = None  # of its model, where the right to probe was asked for
    pace: Pace | None = None  # what is left of the model's rate, where it has one
    strained: tuple[
        str, ...
    ] = ()  # of its scopes with `ease_nano`, the names of those that have spent so much


class Hit(Struct, frozen=True):
    """A fresh answer is on record."""

    answer: bytes
    prior: tuple[PriorAttempt, ...] = ()  # calls for this very entry that were lost with their processes
    held: Loan | None = None  # of a large one: to be taken, and kept until nobody needs it any more


class Replay(Struct, frozen=True):
    """This entry's outcome, or the outcome remembered for its id, is on record."""

    outcome: bytes
    own: bool  # True: this very entry's own outcome, cost and all; False: a repeated id
    held: Loan | None = None  # as of a Hit


class Conflict(Struct, frozen=True):
    """The id belongs to another payload."""


class Busy(Struct, frozen=True):
    """A call for this key is in flight."""


class IdBusy(Struct, frozen=True):
    """The job of another entry runs, or will run, under this client id."""

    holder: EntryRef


class OverBudget(Struct, frozen=True):
    """The call does not fit under a ceiling."""

    scope: Scope
    spent_nano: int
    held_nano: int
    bound_nano: int | None  # None: unknown price under a ceiling
    by_holds: bool  # True: only what is held, not what is spent, stands in the way


class OtherWindow(Struct, frozen=True):
    """Nothing was claimed: this window of the scope runs, or ran last and is later than the one asked for.

    So a window that begins with its first call begins once for all processes, and none goes back with a clock.
    """

    name: str
    start_ms: int
    reset_ms: int


class Throttled(Struct, frozen=True):
    """The model's calls or tokens per minute are used up."""

    pace: Pace


class Unfit(Struct, frozen=True):
    """Not now: another process probes or knows something worse of the model, or this very batch has shut it."""

    standing: SharedStanding


class Changed(Struct, frozen=True):
    """What a change made of the model's row; `news`: it should be told."""

    standing: SharedStanding
    news: bool


Verdict = (
    Clear
    | Granted
    | Hit
    | Replay
    | Conflict
    | Busy
    | IdBusy
    | OverBudget
    | OtherWindow
    | Throttled
    | Unfit
    | Changed
)


FOR_WAITERS = "*"  # in the place of the model, of what is kept for those who wait


class CacheWrite(Struct, frozen=True, gc=False):
    """An answer to keep for other jobs; or a whole outcome, for those who wait for it in other processes."""

    key: str
    answer: Json
    ttl_ms: int
    max_entries: int  # of this model


class Settled(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt ended. Conditional: an attempt that was taken over meanwhile is only corrected."""

    attempt_id: int
    model: str
    state: str  # theo_workers.messages.Outcome
    bound_nano: int | None
    cost_nano: int | None  # None: charge the bound
    scopes: tuple[Scope, ...]
    latency_ms: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    status_code: int | None = None
    error_code: str | None = None
    provider_request_id: str | None = None
    cache: CacheWrite | None = None


class JobEnd(Struct, frozen=True, kw_only=True, gc=False):
    """One job ended with an outcome that must survive a crash before it is published."""

    ref: EntryRef
    outcome: Json | None  # None: nothing to publish again, e.g. a hit
    digest: str = ""  # as in the job's Ask
    tenant: str = ""
    client_id: str | None = None
    remember: bool = False  # the outcome also answers repeated pushes of the id; else the id is free again
    vanished: bool = False  # Redis has lost the entry: its id is free unless a call for it is still out


class Landing(Struct, frozen=True, kw_only=True, gc=False):
    """All that one commit C records: at most one attempt's end, the flight's, and those of its jobs."""

    settled: Settled | None = None
    release_key: str | None = None
    ends: tuple[JobEnd, ...] = ()
    for_waiters: CacheWrite | None = None


class Forget(Struct, frozen=True, gc=False):
    """These entries are published: their outcomes need not be kept for publishing."""

    refs: tuple[EntryRef, ...]


class Bury(Struct, frozen=True, gc=False):
    """This owner is dead: its open attempts become unknown, charged at their bound; its keys are free."""

    owner: int


class CeilingNear(Struct, frozen=True):
    """What this scope has spent in its window passed `warn_nano`. Told once for a window, by one process."""

    scope: Scope
    spent_nano: int


class CeilingReached(Struct, frozen=True):
    """A call was refused for what this scope has spent. Told once for a window, by one process."""

    scope: Scope
    spent_nano: int


class CeilingEased(Struct, frozen=True):
    """What this scope has spent passed `ease_nano`. Told once for a window, by one process."""

    scope: Scope
    spent_nano: int


class CallLost(Struct, frozen=True):
    """A process died while this call was out; it is charged at its bound. Told once, by who booked it."""

    ref: EntryRef
    attempt: PriorAttempt


News = CeilingNear | CeilingReached | CeilingEased | CallLost
