"""How much of large answers a process holds at once: the rest waits in the providers' sockets.

Small answers need no room and cost nothing here. A large one takes room in steps while it comes, and keeps what
it has until the last who needs it lets go of its share. Where there is none left, the connection is not read
on: TCP tells the provider to wait. One answer, the one that has waited longest, may go on without room: else those that
have some could wait for one another for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

SMALL_BYTES = 262_144  # an answer of up to this much needs no room
STEP_BYTES = 1_048_576
ROOM_BYTES = 4 * STEP_BYTES


class Room:
    """One per process; for one event loop."""

    def __init__(self, size: int = ROOM_BYTES, *, on_left: Callable[[], None] | None = None) -> None:
        """`on_left` is called when one that went on without room, as the largest do, is over."""
        self._left, self._on_left = size, on_left
        self._waiting: deque[Share] = deque()  # those that let go meanwhile included
        self._ridden = False  # somebody goes on without room

    def _take(self, share: Share, size: int) -> bool:
        if share.rides:
            return True
        if self._left >= size and not self._waiting:
            self._left -= size
            share.taken += size
            return True
        if not self._ridden and not self._waiting:
            self._ridden = share.rides = True
            return True
        self._waiting.append(share)
        return False

    def _give_back(self, share: Share) -> None:
        self._left += share.taken
        if share.rides:
            self._ridden = False
            if self._on_left is not None:
                self._on_left()
        while self._waiting:
            first = self._waiting[0]
            if first.resume is not None:
                if self._left >= first.wanted:
                    self._left -= first.wanted
                    first.taken += first.wanted
                elif not self._ridden:
                    self._ridden = first.rides = True
                else:
                    return
                first.go_on()
            self._waiting.popleft()


class Share:
    """One answer's. It is let go of at the latest when nobody holds it any more."""

    __slots__ = ("_room", "resume", "rides", "taken", "wanted")

    def __init__(self, room: Room) -> None:
        self._room: Room | None = room
        self.taken = self.wanted = 0
        self.rides = False  # goes on without room
        self.resume: Callable[[], None] | None = None  # what it waits to call

    def grow(self, size: int, resume: Callable[[], None]) -> bool:
        """Take room for `size` bytes in all. False: wait; `resume` is called once it is there."""
        missing = size - self.taken
        if missing <= 0 or self._room is None:
            return True
        self.wanted = -(-missing // STEP_BYTES) * STEP_BYTES
        self.resume = resume
        if self._room._take(self, self.wanted):  # noqa: SLF001 - two halves of one thing
            self.resume = None
            return True
        return False

    @property
    def waits(self) -> bool:
        """Is the answer held up for lack of room?"""
        return self.resume is not None

    def go_on(self) -> None:
        """There is room now."""
        resume, self.resume = self.resume, None
        if resume is not None:
            resume()

    def let_go(self) -> None:
        """The answer is not held any more. Idempotent."""
        room, self._room, self.resume = self._room, None, None
        if room is not None:
            room._give_back(self)  # noqa: SLF001

    def __del__(self) -> None:
        self.let_go()


class Loan:
    """Hands a share on, once. Who still knows of the loan by then, as an old traceback may, keeps no room."""

    __slots__ = ("_share",)

    def __init__(self, share: Share) -> None:
        self._share: Share | None = share

    def take(self) -> Share | None:
        """From now on it is the caller's."""
        share, self._share = self._share, None
        return share
