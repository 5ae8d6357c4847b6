"""What has to be made anew in the child of a fork.

The child of a fork gets a copy of every object and of none of the threads. Locks may be held by threads that are not
there, and sockets are shared with the parent: a single byte from the child, such as the farewell that the client
library sends when a connection object goes, would end the parent's session.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["Forked", "watch"]


class Forked(Protocol):
    """An object that wants to know that it is a copy in a child process."""

    def forked(self) -> None:
        """Begin anew; called in the child, right after the fork, while it has one thread."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()
_lock = threading.Lock()


def watch(wanted: Forked) -> None:
    """Call `wanted.forked` in every child process, as long as the object lives."""
    with _lock:
        _watched.add(wanted)


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for found in list(_watched):
        found.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
