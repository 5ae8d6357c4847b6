"""Waking idle consumers without polling: a parked connection that a producer rings.

Theory of operation
-------------------
An idle consumer *parks* (`celers.attendant`): a connection of its own, which runs nothing else, takes a free slot of
each queue (a named lock of the server) and waits inside one statement. A producer's packet ends, after its COMMIT,
with KILL QUERY for whoever holds a slot. The wait ends at once, the lock is released by the same statement, and the
consumer claims. When nobody is parked the KILL has error 1094, which means nothing.

No ring is lost, because of the order: the consumer first sees that its lock is visible, and then looks for tasks.
A task committed before the look is found by it; a task committed later finds the lock.

Whoever gives up its slot for another reason looks once more and passes the ring on, since the ring of a task may have
come to it in the meantime. A claim that leaves tasks behind rings the next consumer, and so does one that takes its
consumer's attention from a scheduled task that is due soon.

When all slots of a queue are taken, further consumers stand in line: they wait for a slot to come free, and look once
they have it. While they stand there, whoever holds the slot hears the rings.

On MariaDB the wait is a GET_LOCK on a *gate*, a lock that the control connection always holds: two KILLs that meet a
thread entering SLEEP would block every sleeper on that server. On MySQL the wait is SLEEP.

A connection that runs packets is never rung: KILL QUERY between two statements of a packet ends it without an answer.

Where it cannot work, consumers poll
------------------------------------
- Named locks belong to one server. With several writers (Galera, Group Replication without a single primary), or when
  the connections of one process reach different servers, nobody parks.
- An account may end statements of its own threads only, unless it has CONNECTION_ADMIN. A producer that is refused
  (1095) notes it in `celers_queues.unheard_at`, once in ten minutes; consumers that find a fresh note poll, for a day.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celers.operation import Packet

__all__ = ["PARK_SECS", "SLOTS", "Ring", "pass_on_statements", "ring_each", "ring_statement", "slot_names"]

SLOTS = 4
"""Consumers of one queue that can be parked at a time; further idle ones stand in line."""

PARK_SECS = 30.0
"""Length of one wait. It bounds what is left to chance, such as a slot held for a client that died silently."""

REFUSED_ERRNOS = frozenset({1095, 1227})
"""A ring reached a consumer of another account, whom this one may not wake."""
REPORT_EVERY_SECS = 600.0


class Ring:
    """Wakes an idle consumer of a queue behind a COMMIT.

    Parameters
    ----------
    statement : bytes
    placing : tuple of bytes
        How statements begin that make tasks claimable, or soon so.
    report : bytes
        Notes in the database that this account may not ring the queue's consumers.
    """

    __slots__ = ("_report_at", "placing", "report", "statement")

    def __init__(self, statement: bytes, placing: tuple[bytes, ...], report: bytes) -> None:
        self.statement = statement
        self.placing = placing
        self.report = report
        self._report_at = 0.0

    def was_refused(self, connection: Any) -> bool:
        """Did the server refuse this connection's ring, and is it time to say so again?"""
        if connection.tail_errno not in REFUSED_ERRNOS:
            return False
        now = time.monotonic()
        due = now >= self._report_at
        if due:
            self._report_at = now + REPORT_EVERY_SECS
        return due

    def is_due(self, packet: Packet) -> bool:
        """Does this packet place tasks?"""
        if packet.quiet:
            return False
        placing = self.placing
        for text in packet.statements:  # noqa: SIM110 - for every packet there is
            if text.startswith(placing):
                return True
        return False


def slot_names(database: str, prefix: str, queue_name: str) -> tuple[str, ...]:
    """Return the lock names of a queue's slots.

    Lock names are server-wide, at most 64 characters and, on MySQL, blind to case; so they are hashes. Databases
    whose names differ only in case share their rings, which wakes somebody in vain at worst.
    """
    text = f"{database.lower()}\0{prefix}\0{queue_name}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:40]
    return tuple(f"celers:{digest}:{slot}" for slot in range(SLOTS))


def ring_statement(names: Sequence[str]) -> bytes:
    """Return the statement that wakes one parked consumer of a queue; error 1094 when nobody is parked."""
    return b"KILL QUERY COALESCE(%s)" % b",".join(b"IS_USED_LOCK('%s')" % name.encode() for name in names)


def ring_each(names: Sequence[str]) -> list[bytes]:
    """Return a statement for each slot, each for a packet of its own: it fails when nobody holds the slot.

    After the death of a process, whose slots stay taken until the server notices.
    """
    return [b"KILL QUERY IS_USED_LOCK('%s')" % name.encode() for name in names]


def pass_on_statements(names: Sequence[str], ready_table: str, queue_id: int) -> tuple[bytes, bytes]:
    """Return statements that wake another consumer if tasks are ready: a plain read, then a KILL."""
    look = b"SELECT COUNT(*) INTO @celers_left FROM (SELECT 1 FROM %s WHERE queue_id = %d LIMIT 1) ready"
    ring = b",".join(b"IS_USED_LOCK('%s')" % name.encode() for name in names)
    return (
        look % (ready_table.encode(), queue_id),
        b"KILL QUERY IF(@celers_left, COALESCE(%s), NULL)" % ring,
    )
