"""Waking one waiting thread from threads and signal handlers."""

from __future__ import annotations

import _thread
from contextlib import suppress

__all__ = ["Bell"]


class Bell:
    """Lets one thread sleep until somebody rings or the time is over.

    A ring while nobody waits makes the next wait return at once. Made of one plain lock, so ringing is safe in a
    signal handler (`threading.Event` may deadlock there) and costs nothing much in a task's thread.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the waiting thread, or let its next wait end at once."""
        if self._lock.locked():
            with suppress(RuntimeError):  # somebody else rang in between
                self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Sleep for at most `timeout` seconds; return whether somebody rang."""
        if timeout <= 0:
            return self._lock.acquire(blocking=False)
        return self._lock.acquire(timeout=min(timeout, 3600.0))
