"""Operations of several transactions: each part begins anew by itself, and what the others have done is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from uuid import UUID

from celers import rows as read
from celers.db.session import KEPT_CHANGING, RESTARTS
from celers.errors import BrokerConnectionError, BrokerError
from celers.operation import Packet, Restart, Steps, Undo

__all__ = ["delete_chunks", "found_out", "keys_of", "one_part", "parts"]

R = TypeVar("R")


def one_part(part: Callable[[], Steps[R]]) -> Steps[R]:
    """Carry out one transaction of several; begin it anew, and only it, after a deadlock or when rows have changed.

    Parameters
    ----------
    part : callable
        Makes the steps of the part; called again when it begins anew. It looks for its rows itself.

    Raises
    ------
    BrokerError
        Retryable: the rows kept changing.
    """
    for attempt in range(RESTARTS):
        try:
            return (yield from part())
        except Restart:
            yield Undo(attempt)
    raise BrokerError(KEPT_CHANGING, retryable=True)


def parts(part: Callable[[], Steps[tuple[int, bool]]]) -> Steps[int]:
    """Repeat a part until there is nothing left, and add up what the parts did.

    Parameters
    ----------
    part : callable
        Makes the steps of one transaction, which return how much it did and whether there may be more.

    Returns
    -------
    int
        The sum. A part of unknown outcome has to find out by itself what it did; see `found_out`.
    """
    total = 0
    more = True
    while more:
        count, more = yield from one_part(part)
        total += count
    return total


def found_out(last: Steps[R], applied: Callable[[], Steps[bool]]) -> Steps[R | None]:
    """Send the last packet of a transaction; when its outcome is unknown look whether it was applied, or begin anew.

    The lost session is gone by then, so what is found is final: the whole transaction was applied or nothing of it.

    Parameters
    ----------
    last : generator
        Sends the packet.
    applied : callable
        Makes the steps of the look.

    Returns
    -------
    object or None
        What `last` returned; None when its answer was lost.
    """
    try:
        return (yield from last)
    except BrokerConnectionError as error:
        if not error.outcome_unknown:
            raise
        if not (yield from applied()):
            raise Restart from None
        return None


def keys_of(ids: Iterable[int | UUID]) -> str:
    """Return numbers, or ids in hex, as the JSON list that a statement joins by JSON_TABLE."""
    return json.dumps([key.hex if isinstance(key, UUID) else key for key in ids])


def delete_chunks(
    pick: bytes,
    size: int,
    delete: Callable[[str], bytes],
    count: Callable[[list[Any]], bytes],
    *,
    key: Callable[[bytes | None], Any] = read.uuid,
    once: bool = False,
) -> Steps[int]:
    """Delete rows by their ids, chunk by chunk; return how many.

    Parameters
    ----------
    pick : bytes
        Finds and locks the ids of one chunk.
    size : int
        Rows of a full chunk.
    delete, count : callable
        Make the statements that delete rows with these ids (as `keys_of` writes them), and that count how many of
        them are there.
    key : callable
        Reads an id.
    once : bool
        Delete one chunk only.
    """

    def part() -> Steps[tuple[int, bool]]:
        ids = [key(row[0]) for row in (yield Packet(pick))[0].rows]
        if not ids:
            return 0, False

        def last() -> Steps[None]:
            yield Packet(delete(keys_of(ids)), commit=True)

        def gone() -> Steps[bool]:
            return not read.integer((yield Packet(count(ids), commit=True))[0].rows[0][0])

        yield from found_out(last(), gone)
        return len(ids), not once and len(ids) == size

    return (yield from parts(part))
