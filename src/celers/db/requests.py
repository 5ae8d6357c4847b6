"""What an operation's `drive` asks of the loop that fulfils it, and what it holds meanwhile."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celers.db.outcome import Result

__all__ = ["Acquire", "Discard", "Request", "Send", "Session", "Sleep", "advance"]


class Acquire:
    """Ask for a connection."""

    __slots__ = ()


@dataclass(slots=True)
class Send:
    """Ask to send a packet of `count` statements; answered by the results or a `DriverError`.

    Those behind the first `needed` may fail.
    """

    connection: Any
    text: bytes
    count: int
    needed: int | None = None


@dataclass(slots=True)
class Discard:
    """Ask to close a connection that cannot be used again."""

    connection: Any


@dataclass(slots=True)
class Sleep:
    """Ask to wait."""

    secs: float


Request = Acquire | Send | Discard | Sleep


@dataclass(slots=True)
class Session:
    """What an operation holds while it runs; the loop cleans it up however the operation ends."""

    slow: bool = False
    """Statements that may take long: a connection outside the pool, with a long read timeout."""
    single: bool = False
    """That connection refuses packets of several statements."""
    connection: Any = None
    in_transaction: bool = False
    in_flight: bool = False
    changed: bool = False
    """Has the open transaction sent anything but reads?"""
    places: bool = False
    """Has the open transaction placed tasks, so that idle consumers are to be rung?"""


def advance(steps: Generator[Any, Any, None], reply: list[Result]) -> Any:
    """Send a reply into a stream's generator; return what it yields next, None at its end."""
    try:
        return steps.send(reply)
    except StopIteration:
        return None
