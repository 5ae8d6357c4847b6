"""The consumers of this process: heartbeats, ends, and what becomes of the tasks of a dead one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.dependants import end_dependants
from celers.components.parts import found_out, one_part
from celers.components.settling import (
    Locked,
    Tally,
    dead_letter_statements,
    lock_by_seq,
    requeue_statements,
)
from celers.operation import Packet, Steps, operation
from celers.wakeup import ring_each

__all__ = ["Consumers", "recover_locked", "rescue_consumers"]

MICROSECOND = 1_000_000


class Consumers(Component[M]):
    """Rows of `celers_consumers`: each is a lease, a heartbeat and counters."""

    attribute = "consumers"

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of the consumers that this broker has open for its queue; no I/O."""
        return self.core.slots.numbers()

    @operation("plain", repeat_unknown=True, needs_queue=False)
    def beat(self, numbers: Collection[int]) -> Steps[int]:
        """Say that these consumers are alive; return how many of their rows were found."""
        wanted = [validate.integer(number, "numbers", 0) for number in numbers]
        if not wanted:
            return 0
        results = yield Packet(self.core.sql("consumer", "beat", numbers=wanted))
        return results[0].affected

    @operation(needs_queue=False)
    def rescue(self, numbers: Collection[int], started: Collection[int] | None) -> Steps[int]:
        """Take back what consumers hold that are known to be dead, and remove them.

        Parameters
        ----------
        numbers : collection of int
            Their numbers; their rows in all queues are meant.
        started : collection of int or None
            `seq` of the tasks that had been started: these count as an attempt and run alone from then on. The others
            are given back without counting. None: nobody knows, all count.

        Returns
        -------
        int
            Tasks taken out of processing.
        """
        wanted = [validate.integer(number, "numbers", 0) for number in numbers]
        if not wanted:
            return 0
        results = yield Packet(self.core.sql("maintenance", "rows_of", numbers=wanted))
        return (yield from rescue_consumers(self, results[0].rows, started, only_dead=False))

    @operation(needs_queue=False)
    def end(self) -> Steps[int]:
        """Remove this process's consumers that hold nothing; return how many there were.

        Consumers with unsettled deliveries stay until their lease is over, and are rescued then.
        """
        slots = self.core.slots.empty()
        if not slots:
            return 0

        def look() -> Steps[list[tuple[bytes | None, ...]]]:
            numbers = [slot.consumer_no for slot in slots]
            return list((yield Packet(self.core.sql("maintenance", "rows_of", numbers=numbers)))[0].rows)

        # They are taken out: nobody would find them again if the operation began anew.
        rows = yield from one_part(look)
        yield from rescue_consumers(self, rows, (), only_dead=False, ring=False)
        return len(slots)


def rescue_consumers(
    component: Component[Any],
    rows: Iterable[tuple[bytes | None, ...]],
    started: Collection[int] | None,
    *,
    only_dead: bool,
    ring: bool = True,
) -> Steps[int]:
    """Return the tasks of consumer rows (number, queue), each in its own transaction; return how many.

    Parameters
    ----------
    ring : bool
        Wake all parked consumers: the dead one may hold a slot still, and have taken rings with it.
    """
    rescued = 0
    for row in rows:
        consumer_no, queue_id = read.integer(row[0]), read.integer(row[1])
        rescue = partial(_rescue_consumer, component, consumer_no, queue_id, started, only_dead=only_dead, ring=ring)
        rescued += yield from one_part(rescue)
    return rescued


def _rescue_consumer(
    component: Component[Any],
    consumer_no: int,
    queue_id: int,
    started: Collection[int] | None,
    *,
    only_dead: bool,
    ring: bool,
) -> Steps[int]:
    """Return the tasks of one consumer row, fold its counters, and remove it, in one transaction."""
    sql = component.core.sql
    key = {"consumer_no": consumer_no, "queue_id": queue_id}
    locked_row, leased, name = yield Packet(
        sql("maintenance", "lock_consumer", **key),
        sql("maintenance", "leased", **key),
        sql("maintenance", "queue_name", queue_id=queue_id),
    )
    if not locked_row.rows or (only_dead and not read.flag(locked_row.rows[0][0])):
        yield Packet(b"DO 0", commit=True)
        return 0
    other = _for_queue(component, queue_id, read.text(name.rows[0][0]) if name.rows else "")
    locked = yield from lock_by_seq(other, [read.integer(row[0]) for row in leased.rows])
    own = [task for task in locked if task.consumer_no == consumer_no and task.state == "processing"]
    counted = own if started is None else [task for task in own if task.seq in started]
    given_back = [task for task in own if task not in counted]
    statements: list[bytes] = []
    if given_back:
        statements += requeue_statements(other, given_back, granted=0)
    statements += yield from recover_locked(
        other, counted, "the worker that ran it was lost", isolated=True, tally=(tally := Tally())
    )

    def end() -> Steps[None]:
        yield Packet(
            *statements,
            *tally.statements(other),
            sql("maintenance", "fold_consumer", **key),
            sql("maintenance", "delete_consumer", **key),
            commit=True,
            quiet=True,
        )

    def ended() -> Steps[bool]:
        # Numbers are used once: the row is either still there or gone for good.
        return not (yield Packet(sql("maintenance", "lock_consumer", **key), commit=True))[0].rows

    yield from found_out(end(), ended)
    if other.core.wake_up and ring:
        for statement in ring_each(other.core.slot_names):
            yield Packet(b"DO 0", commit=True, after=(statement,))
    return len(own)


def recover_locked(
    component: Component[Any], tasks: Sequence[Locked], note: str, *, isolated: bool, tally: Tally
) -> Steps[list[bytes]]:
    """Count a lost attempt of locked processing tasks: pending again, or a dead letter when retries are used up."""
    again = [task for task in tasks if task.retry_count < task.max_retries]
    dead = [task for task in tasks if task.retry_count >= task.max_retries]
    statements: list[bytes] = []
    if again:
        statements += requeue_statements(component, again, granted=1, error=note, isolated=isolated)
        tally.retried += len(again)
    if dead:
        yield from end_dependants(component, [], [(task, "was moved to the dead letters") for task in dead], tally)
        statements += dead_letter_statements(component, dead, note)
        tally.failures += len(dead)
    return statements


def _for_queue(component: Component[Any], queue_id: int, name: str) -> Component[Any]:
    """The same component for another queue of the database."""
    core = component.core
    if core.has_queue_id and core.queue_id == queue_id:
        return component
    other = core.for_queue(name)
    other.set_queue_id(queue_id)
    return type(component)(other, component.runner)
