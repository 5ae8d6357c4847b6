"""How much a worker process claims, and when it looks again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

__all__ = ["Intake", "unknown_delay"]

# So much work may wait in a process beside what is running: enough to bridge the round trips, too little to keep
# it from other workers for long.
AHEAD_SECS = 0.05
TWO_CLAIMS = 1000  # together; of a larger one the second half is run meanwhile
FIRST_PAUSE_SECS = 0.05
LONGEST_PAUSE_SECS = 1.0
_WEIGHT = 0.2


class Intake:
    """Decides on the size and time of the next claim.

    Parameters
    ----------
    threads : int
        Tasks that run at a time.
    batch : int
        Most tasks in one claim.
    """

    def __init__(self, threads: int, batch: int) -> None:
        self._threads = threads
        self._batch = batch
        self._mean_secs: float | None = None
        self._pause = FIRST_PAUSE_SECS
        self._next_look = 0.0
        self._singly = False
        self.resting: Callable[[], bool] = _never
        """Is a ring sure to be heard when there is work?"""
        self.due_secs: Callable[[], float | None] = _nothing_due
        """In how many seconds is something scheduled due, as far as known?"""

    @property
    def ahead(self) -> int:
        """Tasks that may wait beside the running ones: none while the run time is unknown or long.

        Two claims, one that is run while the next is on its way; of a very large one that is done by its halves.
        """
        mean = self._mean_secs
        if mean is None:
            return 0
        most = max(self._batch, min(2 * self._batch, TWO_CLAIMS))
        return min(most, int(self._threads * AHEAD_SECS / max(mean, 1e-6)))

    def ran(self, mean_secs: float) -> None:
        """Take the mean run time of some tasks into account."""
        known = self._mean_secs
        # A first sight of slow tasks counts at once: what waits behind them is kept from other workers.
        if known is None or mean_secs > 10 * known:
            self._mean_secs = mean_secs
        else:
            self._mean_secs = known + _WEIGHT * (mean_secs - known)

    def stalled(self) -> None:
        """Note that running tasks take long: nothing shall wait behind them."""
        self._mean_secs = max(self._mean_secs or 0.0, 2 * self._threads * AHEAD_SECS)

    def wanted(self, have: int, now: float) -> int:
        """Return how many tasks to claim now when `have` run or wait; 0 for not now."""
        return 0 if self.look_in(now) > 0 else self.room(have)

    def room(self, have: int) -> int:
        """Return how many tasks there is room for when `have` run or wait."""
        ahead = self.ahead
        # Half of what may wait is let go before the next claim, so that claims are not all of one task.
        if have > self._threads - 1 + ahead // 2:
            return 0
        if self._singly:
            return 1 if have == 0 else 0
        return min(self._batch, self._threads + ahead - have)

    def low_water(self) -> int:
        """Return the number of waiting tasks at which the next claim is due."""
        return self.ahead // 2

    def look_in(self, now: float) -> float:
        """Return the seconds until the next look for tasks; infinite while a ring is sure to come before it."""
        if self._next_look == 0.0:
            return 0.0
        if not self.resting():
            return max(0.0, self._next_look - now)
        due = self.due_secs()
        if due is None:
            return math.inf
        # What is due and did not come is locked by somebody: no need to hurry.
        return due if due > 0 else max(0.0, self._next_look - now)

    def claimed(self, count: int, next_due_secs: float | None) -> None:
        """Note what a claim brought; after one without any the next look waits, longer each time up to 1 s."""
        if count:
            self._pause = FIRST_PAUSE_SECS
            self._next_look = 0.0
            return
        self._singly = False
        # Idle workers that started together shall not look together.
        pause = self._pause * random.uniform(0.8, 1.0)
        if next_due_secs:
            pause = min(pause, max(next_due_secs, 0.001))
        self._next_look = time.monotonic() + pause
        self._pause = min(LONGEST_PAUSE_SECS, self._pause * 2)

    def woken(self) -> None:
        """Look at once: somebody said that there is work."""
        self._pause = FIRST_PAUSE_SECS
        self._next_look = 0.0

    def isolated(self, was: bool) -> None:
        """Note whether the last claim met a task that has to run alone: the next ones then come singly."""
        self._singly = was


def _never() -> bool:
    return False


def _nothing_due() -> float | None:
    return None


def unknown_delay(tries: int) -> float:
    """Return after how many seconds a task that this worker cannot run is offered again: 5 s doubling to 5 min."""
    return float(min(300, 5 * 2 ** min(max(tries, 0), 6)))
