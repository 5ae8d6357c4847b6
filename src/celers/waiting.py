"""Where the callers of `dequeue_wait` wait: woken by a ring, polling until one is sure to be heard."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from celers import validate
from celers.attendant import Attendant

if TYPE_CHECKING:
    from celers.core import Core
    from celers.db.url import ConnectOptions

__all__ = ["Patience", "WaitingRoom"]

LONGEST_POLL_SECS = 1.0
RESTING_SECS = 5.0


class WaitingRoom:
    """Shares one `Attendant` between all waiting callers of a broker.

    Parameters
    ----------
    options : ConnectOptions
    core : Core
        Of the broker; its queue has to be known.
    on_wake : callable, optional
        Called as well when a ring comes; for waiters on an event loop.
    """

    def __init__(self, options: ConnectOptions, core: Core, on_wake: Callable[[], None] | None = None) -> None:
        self.pid = os.getpid()
        self._condition = threading.Condition()
        self._rings = 0
        self._seen = threading.local()
        self._guests = 0
        self._on_wake = on_wake
        self._attendant = Attendant(options, [core], self._wake) if core.wake_up else None

    def _wake(self) -> None:
        with self._condition:
            self._rings += 1
            self._condition.notify_all()
        if self._on_wake is not None:
            self._on_wake()

    def __enter__(self) -> Self:
        with self._condition:
            self._guests += 1
            self._seen.rings = self._rings
        return self

    def __exit__(self, *exc: object) -> None:
        with self._condition:
            self._guests -= 1
            empty = self._guests == 0
        if not empty or self._attendant is None:
            return
        self._attendant.leave()
        # Only now: until then a ring may have been handed to a caller who did not look any more.
        with self._condition:
            rung = self._rings != self._seen.rings
            empty = self._guests == 0
        if rung:
            self._attendant.decline()
        if not empty:
            self._wake()  # somebody has come in the meantime, and may rely on what has just ended

    def note(self) -> None:
        """Take notice of all rings so far: a claim follows."""
        with self._condition:
            self._seen.rings = self._rings

    @property
    def rings(self) -> int:
        """Number of rings so far."""
        return self._rings

    def prepare(self) -> bool:
        """After a claim that found nothing: park; return whether a ring is sure to be heard from now on."""
        if self._attendant is None:
            return False
        self._attendant.enter()
        return self._attendant.resting

    def wait(self, secs: float) -> bool:
        """Wait for a ring that came after the last wait, but not longer than this; return whether one came."""
        with self._condition:
            if self._rings == self._seen.rings:
                self._condition.wait(secs)
            rung: bool = self._rings != self._seen.rings
            self._seen.rings = self._rings
            return rung

    def close(self) -> None:
        """End the attendant."""
        if self._attendant is not None:
            self._attendant.close()


class Patience:
    """When a caller of `dequeue_wait` looks again.

    Parameters
    ----------
    timeout_secs : timedelta, int, float or None
        None waits without end.
    poll_interval_secs : timedelta, int or float
        First pause between two looks; doubles up to 1 s.
    """

    def __init__(self, core: Core, timeout_secs: float | None, poll_interval_secs: float) -> None:
        timeout = None if timeout_secs is None else validate.duration(timeout_secs, "timeout_secs")
        self._core = core
        self._pause = validate.duration(poll_interval_secs, "poll_interval_secs", positive=True)
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def wait(self, *, resting: bool) -> float | None:
        """How long to sleep before the next look; None when the deadline has come.

        `resting`: a ring is sure to be heard.
        """
        pause = RESTING_SECS if resting else self._pause
        next_due = self._core.next_due_secs
        # What was due already and did not come is locked by somebody.
        wait = min(pause, max(next_due, 0.001)) if next_due else pause
        if self._deadline is None:
            return wait
        left = self._deadline - time.monotonic()
        return None if left <= 0 else min(wait, left)

    def grow(self) -> None:
        """Take a longer pause from now on."""
        self._pause = min(self._pause * 2, max(self._pause, LONGEST_POLL_SECS))
