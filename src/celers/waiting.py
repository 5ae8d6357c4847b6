"""Where the callers of `dequeue_wait` wait: woken by a ring, polling until one is sure to be heard."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from celers.attendant import Attendant

if TYPE_CHECKING:
    from celers.core import Core
    from celers.db.url import ConnectOptions

__all__ = ["WaitingRoom"]


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
            rung = self._rings != self._seen.rings
        if empty and self._attendant is not None:
            if rung:
                self._attendant.decline()
            else:
                self._attendant.leave()

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
