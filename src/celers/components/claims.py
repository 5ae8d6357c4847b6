"""How tasks are claimed: one packet that promotes what is due, takes the first ready rows, and commits.

The consumer's own row is locked first. Whoever declares a consumer dead locks the same row, so a claim either happens
before, and its tasks are in the lease that is returned, or it stops at the guard and the consumer starts anew under
another number.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from celers import rows as read
from celers.components.base import Component
from celers.components.dependants import end_dependants
from celers.components.history import started_statements
from celers.components.parts import one_part
from celers.components.settling import (
    Tally,
    certain,
    dead_letter_statements,
    last_packet,
    lock_by_seq,
)
from celers.components.throughput import sample, sampled
from celers.core import ClaimTexts, Core, Slot
from celers.db.driver import Result
from celers.errors import BrokerConnectionError, CelersError, DeserializationError
from celers.hooks import after, before
from celers.model.enums import DbTaskState, TaskHook
from celers.model.task import BrokerMessage, SerializedTask, TaskMetadata
from celers.operation import Packet, Restart, Steps
from celers.sql import Raw
from celers.wakeup import PARK_SECS, ring_statement
from celers_fast.rows import decode_claims

__all__ = ["ACKED", "Settlement", "claim"]

logger = logging.getLogger("celers.consumer")

TYPES = (TaskMetadata, SerializedTask, BrokerMessage, DeserializationError)
ACKED = Raw(b"@celers_acked")
"""How many tasks the statements of a `Settlement` have acknowledged, by `note_acked` behind each of them."""
PROMOTE_ROWS = 1000
BAD_ROWS_PER_CALL = 10


class Settlement(Protocol):
    """Statements that a claim sends along, between its guard and its claim."""

    def statements(self, component: Component[Any], slot: Slot) -> list[bytes]:
        """Return what can be settled together with a claim of this slot."""

    @property
    def count(self) -> int:
        """How many tasks these statements end."""

    def answered(self, component: Component[Any], results: list[Result]) -> None:
        """Take the packet's results; the first of `statements` is at index 1."""


class _DeclaredDead(CelersError):
    """This consumer's row is gone; the packet has stopped without effect."""


class _NotStarted(CelersError):
    """The picked task was not started; the packet has stopped without effect."""


def claim(
    component: Component[Any], count: int, worker_id: str | None, settlement: Settlement | None = None
) -> Steps[list[BrokerMessage]]:
    """Claim up to `count` due tasks in order of priority, then of enqueue.

    A slot of this process is taken for the time of the call.

    Parameters
    ----------
    settlement : Settlement, optional
        Acknowledgements to send along in the first packet, in the same transaction.
    """
    core = component.core
    if core.hooks.any(TaskHook.BEFORE_DEQUEUE) and core.queue_id:  # known, or this call begins anew
        before(core, TaskHook.BEFORE_DEQUEUE, [(None, None, {})])
    worker_no = 0
    if worker_id is not None:
        worker_no = yield from intern_worker(component, worker_id)
    messages: list[BrokerMessage] = []
    bad_left = BAD_ROWS_PER_CALL
    slot = core.slots.take()
    try:
        if slot is None:
            slot = core.slots.add((yield from open_consumer(component, worker_no)))
        if slot.unreadable:
            yield from _bury(component, slot)
        while len(messages) < count:
            wanted = core.claim_rows(count - len(messages))
            promoting = core.promotion_is_due()
            try:
                if slot.in_doubt:
                    rows = yield from _take_over(component, slot, wanted)
                else:
                    try:
                        rows = yield from _claim_once(component, slot, wanted, worker_no, settlement)
                    except _NotStarted:
                        # Interrupted unseen, or a ready row without a pending task, which the other form removes.
                        rows = yield from _claim_once(component, slot, wanted, worker_no, settlement, form="many")
                settlement = None
                held: dict[int, tuple[UUID, int]] = {}
                found, bad = decode_claims(rows, slot.consumer_no, TYPES, held)
                if bad:  # what cannot be decoded is held as well
                    held = {read.integer(r[0]): (read.uuid(r[1]), read.integer(r[11])) for r in rows}
                core.slots.hold(slot, held)
                messages += found
                if slot.ring:
                    yield from _pass_on(component, slot)
                if bad:
                    slot.unreadable.update(bad)
                    yield from _bury(component, slot)
                    bad_left -= len(bad)
                    if bad_left <= 0:
                        break
                elif len(rows) < wanted and not core.promotion_is_due():
                    break
                elif not rows and promoting and core.next_due_secs is not None:
                    break  # what is due still, after a promotion without effect, is locked by somebody
            except _DeclaredDead:
                core.slots.drop(slot)
                slot = core.slots.add((yield from open_consumer(component, worker_no)))
            except (CelersError, Restart):
                if not messages:
                    raise
                break  # what was claimed before is safe and must reach the caller
    finally:
        if slot is not None:
            core.slots.put(slot)
    if core.hooks.any(TaskHook.AFTER_DEQUEUE):
        told = [(message.task_id, message.task, {"task_name": message.task_name}) for message in messages]
        after(core, TaskHook.AFTER_DEQUEUE, told)
    return messages


def open_consumer(component: Component[Any], worker_no: int) -> Steps[int]:
    """Make a new consumer row and return its number."""
    core = component.core
    results = yield Packet(
        core.sql("consumer", "open", queue_id=core.queue_id, worker_no=worker_no, lease_secs=max(1, core.lease_secs)),
        commit=True,
        repeat=True,  # a row too many is empty and dies with its lease
    )
    return results[0].insert_id


def _claim_once(
    component: Component[Any],
    slot: Slot,
    count: int,
    worker_no: int,
    settlement: Settlement | None,
    form: str | None = None,
) -> Steps[tuple[Any, ...]]:
    """Send one claim packet and return the claimed rows."""
    core = component.core
    queue_id, consumer_no = core.queue_id, slot.consumer_no
    sql = core.sql
    form = form or ("one" if count == 1 else "many")
    waking = core.was_idle and core.wake_up
    guard, take, read_back = _texts(component, slot, form, count, worker_no, waking)
    statements = [guard]
    behind: tuple[bytes, ...] = ()
    acked: int | Raw = 0
    if settlement is not None:
        statements += settlement.statements(component, slot)
        if settlement.count:
            acked = ACKED
            behind = sample(component, settlement.count)
    if core.promotion_is_due():
        statements += [
            sql("consumer", "due_keys", queue_id=queue_id, count=PROMOTE_ROWS),
            sql("consumer", "due_insert", queue_id=queue_id),
            sql("consumer", "due_delete"),
        ]
    held = _raw(slot.held_text())
    statements += [
        *take,
        sql("consumer", f"lease_{form}", held=held, consumer_no=consumer_no, queue_id=queue_id, acked=acked),
        *read_back,
    ]
    # Whatever keeps us from seeing the end, an interrupt of this process included: the next claim looks first.
    slot.in_doubt = True
    try:
        results: list[Result] = yield Packet(
            *statements,
            commit=True,
            errors={(0, 1690): _DeclaredDead, (len(statements) - 3, 1690): _NotStarted},
            after=behind,
            quiet=True,
        )
    except BrokerConnectionError as error:
        if not error.outcome_unknown:
            raise
        return (yield from _take_over(component, slot, count))
    except (CelersError, Restart):
        slot.in_doubt = False  # rolled back
        raise
    slot.in_doubt = False
    sampled(core, behind)
    if settlement is not None:
        settlement.answered(component, results)
    rows = results[-2].rows
    core.was_idle = not rows
    core.due_in(read.integer_or_none(results[-1].rows[0][0]))
    core.claimed(len(rows), sum([len(row[3] or b"") + len(row[15] or b"") + 200 for row in rows]))
    if waking and rows:
        slot.ring = _leaves_behind(core, left=read.flag(results[-1].rows[0][1]))
    return rows


def _texts(component: Component[Any], slot: Slot, form: str, count: int, worker_no: int, waking: bool) -> ClaimTexts:
    """Return what claims like the last one of this slot have in common: the guard, the taking, what is read of it."""
    key = (form, count, worker_no, waking)
    if slot.texts is None or slot.texts[0] != key:
        core = component.core
        sql, queue_id, consumer_no = core.sql, core.queue_id, slot.consumer_no
        take = (
            sql("consumer", f"pick_{form}", queue_id=queue_id, count=count),
            sql("consumer", f"take_{form}", queue_id=queue_id),
            sql("consumer", f"start_{form}", consumer_no=consumer_no, worker_no=worker_no),
            *started_statements(core, form, consumer_no),
        )
        read_back = (
            sql("consumer", f"read_{form}", consumer_no=consumer_no),
            sql("consumer", "next_due_and_left" if waking else "next_due", queue_id=queue_id),
        )
        guard = sql("consumer", "guard_alive", consumer_no=consumer_no, queue_id=queue_id)
        slot.texts = (key, (guard, take, read_back))
    return slot.texts[1]


def _leaves_behind(core: Core, *, left: bool) -> bool:
    """Is another consumer to be woken behind a claim that brought something, the first after idling?

    When it leaves work behind; and when something is due soon, for which this consumer was to wake up: it may be busy
    by then.
    """
    due = core.next_due_secs
    return left or (due is not None and due < PARK_SECS)


def _pass_on(component: Component[Any], slot: Slot) -> Steps[None]:
    """Ring another consumer; in a packet of its own, since a claim after idling rarely leaves anything behind."""
    yield Packet(b"DO 0", commit=True, after=(ring_statement(component.core.slot_names),), repeat=True)
    slot.ring = False


def _raw(text: bytes) -> str:
    return text.decode("ascii")


def _take_over(component: Component[Any], slot: Slot, count: int) -> Steps[tuple[Any, ...]]:
    """After a claim of unknown outcome: what this consumer holds without knowing it is the claim's result.

    No more than `count` rows; while there are more the slot stays in doubt, and its lease as it is.
    """
    core = component.core
    # As it is before the look: while the answer is under way another thread may acknowledge what it still shows.
    known = {seq: deliveries for seq, (_, deliveries) in list(slot.held.items())}
    lease, held = yield Packet(
        core.sql("consumer", "lock_lease", consumer_no=slot.consumer_no, queue_id=core.queue_id),
        core.sql("consumer", "read_lease", consumer_no=slot.consumer_no, queue_id=core.queue_id),
        commit=True,
        repeat=True,
    )
    core.due_unknown()
    slot.in_doubt = False
    if not lease.rows:
        raise _DeclaredDead
    found = tuple(row for row in held.rows if known.get(read.integer(row[0])) != read.integer(row[11]))
    slot.in_doubt = len(found) > count
    slot.ring = core.wake_up and bool(found)
    return found[:count]


def _bury(component: Component[Any], slot: Slot) -> Steps[None]:
    """Move held tasks that cannot be decoded to the dead letters, each with its reason; what fails is tried again."""
    for seq, reason in list(slot.unreadable.items()):
        try:
            yield from one_part(partial(_bury_one, component, slot, seq, reason))
        except CelersError as error:
            # Claims go on without it; the next one of this slot, or the end of its consumer, takes care of it.
            logger.warning("a task that cannot be read stays in work for now (seq %d: %s): %s", seq, reason, error)
        else:
            del slot.unreadable[seq]
            slot.held.pop(seq, None)


def _bury_one(component: Component[Any], slot: Slot, seq: int, reason: str) -> Steps[None]:
    held = slot.held.get(seq)
    own = [
        task
        for task in (yield from lock_by_seq(component, [seq]))
        if task.state is DbTaskState.PROCESSING
        and held is not None
        and (task.consumer_no, task.deliveries) == (slot.consumer_no, held[1])
    ]
    if not own:
        return
    tally = Tally(failures=len(own))
    yield from end_dependants(component, [], [(task, "was moved to the dead letters") for task in own], tally)
    statements = dead_letter_statements(component, own, f"the stored task cannot be read: {reason}")
    statements += tally.statements(component, slot.consumer_no)
    yield from certain(component, last_packet(statements), own, lambda now, _: now is None)


def intern_worker(component: Component[Any], worker_id: str) -> Steps[int]:
    """Return the number of a worker of this queue, making it when it is new."""
    core = component.core
    known = core.worker_numbers.get(worker_id)
    if known is not None:
        return known
    find = core.sql("workers", "find", worker_id=worker_id, queue_id=core.queue_id)
    rows = (yield Packet(find))[0].rows
    if not rows:
        create = core.sql("workers", "intern", worker_id=worker_id, queue_id=core.queue_id)
        rows = (yield Packet(create, find, commit=True, repeat=True))[1].rows
    number = core.worker_numbers[worker_id] = read.integer(rows[0][0])
    return number
