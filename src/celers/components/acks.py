"""How tasks are acknowledged.

The common case, tasks that this process claimed and nobody depends on, is one packet: an UPDATE by primary key with the
receipts in its condition, and the counter. What that statement does not change, and what somebody else claimed, goes
the longer way: lock the rows, look at each, complete those that may be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celers import validate
from celers.components.base import Component
from celers.components.dependants import end_dependants
from celers.components.settling import (
    Locked,
    Tally,
    certain,
    finish_statements,
    lock_by_id,
    same_delivery,
)
from celers.components.throughput import sample, sampled
from celers.db.driver import Result
from celers.errors import (
    BrokerError,
    CelersError,
    InvalidStateTransitionError,
    PayloadTooLargeError,
    StaleReceiptError,
    TaskNotFoundError,
    ValidationError,
)
from celers.hooks import before, later
from celers.model.enums import DbTaskState, TaskHook
from celers.model.result import BatchResultInput
from celers.operation import Packet, Steps
from celers_fast.rows import parse_receipt

__all__ = [
    "MAX_RESULT_BYTES",
    "MAX_TRACEBACK_BYTES",
    "Item",
    "Outcome",
    "ack_items",
    "acknowledged_before",
    "check_items",
    "check_result_text",
    "own_statements",
    "problem",
    "result_statements",
    "result_text",
    "results_of",
]

MAX_TRACEBACK_BYTES = 1_000_000
MAX_RESULT_BYTES = 16_777_215
OUT_OF_RANGE = 1690
FRAME_BYTES = 512
"""Room for START TRANSACTION and COMMIT in a packet."""


@dataclass(slots=True)
class Outcome:
    """A result to store with the acknowledgement; `result` is JSON text, None for no value."""

    status: str
    result: str | None = None
    error: str | None = None
    traceback: str | None = None
    runtime_ms: int | None = None
    task_name: str | None = None


def result_text(value: Any) -> str | None:
    """Return the JSON text of a result; None for None. The column holds 16 MiB.

    Raises
    ------
    SerializationError, PayloadTooLargeError
    """
    return None if value is None else check_result_text(validate.json_text(value, "result"))


def check_result_text(text: str) -> str:
    """Return a JSON text that fits into the column."""
    # Four bytes a character at most: counting is needed for large texts only.
    if len(text) > MAX_RESULT_BYTES // 4 and (size := len(text.encode("utf-8", "surrogatepass"))) > MAX_RESULT_BYTES:
        raise PayloadTooLargeError(
            f"the result has {size} bytes as JSON, more than the {MAX_RESULT_BYTES} that are kept",
            size=size,
            limit=MAX_RESULT_BYTES,
            parameter="result",
        )
    return text


@dataclass(slots=True)
class Item:
    """One task to settle: its id, the receipt if it is to be checked, and what goes with it."""

    id: UUID
    handle: str | None
    receipt: tuple[int, int, int] | None
    outcome: Outcome | None = None
    requeue: bool = True


def check_items(pairs: Sequence[tuple[Any, Any]]) -> list[Item]:
    """Check ids and handles; a task named twice is handled once."""
    items: dict[int, Item] = {}  # by numbers: a UUID is hashed by Python code
    for task_id, handle in pairs:
        key = validate.task_id(task_id)
        if handle is not None and not isinstance(handle, str):
            raise ValidationError(
                f"receipt_handle must be text or None, not {type(handle).__name__}", parameter="receipt_handle"
            )
        if key.int not in items:
            items[key.int] = Item(key, handle, None if handle is None else parse_receipt(handle))
    return list(items.values())


def problem(item: Item, task: Locked | None, to_state: str) -> CelersError | None:
    """Say why a locked task cannot be settled with this receipt; None when it can."""
    if task is None:
        return TaskNotFoundError(f"the task {item.id} is not in this queue", task_id=item.id)
    state = task.state.value
    if item.handle is not None and item.receipt != (task.seq, task.consumer_no, task.deliveries):
        if task.state.is_terminal:
            return InvalidStateTransitionError(
                f"the task {item.id} is {state} already", from_state=state, to_state=to_state
            )
        return StaleReceiptError(
            f"the receipt for task {item.id} belongs to an older delivery; the task is {state} now",
            from_state=state,
            to_state=to_state,
        )
    if task.state is not DbTaskState.PROCESSING:
        return InvalidStateTransitionError(
            f"the task {item.id} is {state}, not processing", from_state=state, to_state=to_state
        )
    return None


def acknowledged_before(item: Item, task: Locked | None) -> bool:
    """Is this the repetition of an acknowledgement that succeeded with the same receipt?"""
    return (
        task is not None
        and task.state is DbTaskState.COMPLETED
        and item.receipt == (task.seq, task.consumer_no, task.deliveries)
    )


def ack_items(component: Component[Any], items: Sequence[Item], *, all_or_nothing: bool) -> Steps[list[Item]]:
    """Complete tasks and store their results; returns those of the items that are completed by their receipts.

    Two items may be deliveries of one task: a claim of several packets gets a task again that was taken back meanwhile.

    Parameters
    ----------
    all_or_nothing : bool
        Raise the first problem instead of skipping.
    """
    core = component.core
    done: list[Item] = []
    rest: list[Item] = []
    hooked = core.hooks.any(TaskHook.BEFORE_ACK, TaskHook.AFTER_ACK)
    if component.inside or core.record_history or hooked or (all_or_nothing and len(items) > 1):
        rest = list(items)
    else:
        own: dict[tuple[int, int], list[Item]] = {}
        for item in items:
            receipt = item.receipt
            slot = core.slots.owner(receipt[1]) if receipt is not None else None
            if receipt is not None and slot is not None and slot.held.get(receipt[0]) == (item.id, receipt[2]):
                own.setdefault((receipt[1], receipt[2]), []).append(item)
            else:
                rest.append(item)
        for (consumer_no, deliveries), group in own.items():
            if (yield from _ack_own(component, consumer_no, deliveries, group)):
                done += group
                core.slots.settled(group)
            else:
                rest += group
    if rest:
        done += yield from _ack_locked(component, rest, all_or_nothing)
    return done


def own_statements(
    component: Component[Any], consumer_no: int, deliveries: int, items: Sequence[Item], count: bytes = b""
) -> list[bytes]:
    """Acknowledge tasks of one consumer of this process.

    The first statement changes as many rows as there are items, unless some of them need a closer look.

    Parameters
    ----------
    count : bytes
        The statement that counts what was changed, where the consumer's row is locked already. Without it the packet
        is stopped by error 1690 when nothing was.
    """
    core = component.core
    seqs = [item.receipt[0] for item in items if item.receipt is not None]
    return [
        core.sql(
            "consumer",
            "ack_many",
            seqs=seqs,
            consumer_no=consumer_no,
            deliveries=deliveries,
            queue_id=core.queue_id,
        ),
        count or core.sql("consumer", "count_acked", consumer_no=consumer_no, queue_id=core.queue_id),
        *result_statements(component, [item for item in items if item.outcome is not None]),
    ]


def _ack_own(component: Component[Any], consumer_no: int, deliveries: int, items: list[Item]) -> Steps[bool]:
    """Acknowledge tasks of one consumer of this process in one packet; False when some need a closer look."""
    behind = sample(component, len(items))
    try:
        statements = own_statements(component, consumer_no, deliveries, items)
        results = yield from _send(component, statements, behind)
    except BrokerError as error:
        if not error.outcome_unknown and error.errno != OUT_OF_RANGE:
            raise
        # The lost session is gone by now. The closer look finds what it has completed, and completes the rest.
        return False
    sampled(component.core, behind)
    return results[0].affected == len(items)


def result_statements(component: Component[Any], items: Sequence[Item]) -> list[bytes]:
    """Store results of tasks that these receipts have completed in this transaction, and of no others.

    Raises
    ------
    PayloadTooLargeError
        One result is larger than its column or than the server accepts in one packet.
    """
    if not items:
        return []
    core = component.core
    rows = [
        [*item.receipt, out.status, out.task_name, out.result, out.error, out.traceback, out.runtime_ms]
        for item in items
        if item.receipt is not None and (out := item.outcome) is not None
    ]
    # JSON inside JSON always has backslashes, so the literal is mostly hexadecimal and large results have to be split.
    values = json.dumps(rows, ensure_ascii=False)
    text = core.sql("results", "store_acked", values=values, queue_name=core.queue_name)
    most = core.packet_bytes - FRAME_BYTES
    if len(text) > most:
        if len(items) == 1:
            raise PayloadTooLargeError(
                f"the result of task {items[0].id} needs {len(text)} bytes in a statement, but the server's"
                f" max_allowed_packet leaves {most}: store a smaller result",
                size=len(text),
                limit=most,
                parameter="result",
            )
        half = len(items) // 2
        return result_statements(component, items[:half]) + result_statements(component, items[half:])
    return [text]


def _send(component: Component[Any], statements: Sequence[bytes], behind: Sequence[bytes]) -> Steps[list[Result]]:
    """Send statements that end their transaction: in one packet, unless the server takes only smaller ones."""
    most = component.core.packet_bytes - FRAME_BYTES
    results: list[Result] = []
    part: list[bytes] = []
    size = 0
    for text in statements:
        if part and size + len(text) + 1 > most:
            results += yield Packet(*part)
            part, size = [], 0
        part.append(text)
        size += len(text) + 1
    results += yield Packet(*part, commit=True, after=behind)
    return results


def _ack_locked(component: Component[Any], items: Sequence[Item], all_or_nothing: bool) -> Steps[list[Item]]:
    core = component.core
    locked = {task.id: task for task in (yield from lock_by_id(component, [item.id for item in items]))}
    done: list[Item] = []
    taken: set[tuple[int, int, int]] = set()
    completed: list[Locked] = []
    with_result: list[Item] = []
    for item in items:
        task = locked.get(item.id)
        if item.receipt in taken or acknowledged_before(item, task):
            done.append(item)
            continue
        reason = problem(item, task, "completed")
        if reason is not None:
            if all_or_nothing:
                if not component.inside:
                    core.slots.settled([item])
                raise reason
            continue
        assert task is not None
        completed.append(task)
        taken.add(task.receipt)
        done.append(item)
        if item.outcome is not None:
            item.receipt = (task.seq, task.consumer_no, task.deliveries)
            with_result.append(item)
    if completed:
        before(core, TaskHook.BEFORE_ACK, [task.about() for task in completed])
        tally = Tally(completed=len(completed), completions=len(completed))
        yield from end_dependants(component, completed, [], tally)
        owner = completed[0].consumer_no
        yield from _commit(
            component,
            completed,
            [
                *finish_statements(component, completed, DbTaskState.COMPLETED),
                *result_statements(component, with_result),
                *tally.statements(component, owner),
            ],
        )
    if not component.inside:
        # Settled just now or before, or lost: the slots, if they are ours, hold none of these deliveries any more.
        core.slots.settled(completed)
        core.slots.settled(items)
    later(component, TaskHook.AFTER_ACK, [task.about() for task in completed])
    return done


def _commit(component: Component[Any], tasks: Sequence[Locked], statements: list[bytes]) -> Steps[None]:
    """Send the last packet; an acknowledgement without a receipt could not be told from a repetition afterwards."""

    def applied(now: Locked | None, then: Locked) -> bool:
        return now is None or (now.state is DbTaskState.COMPLETED and same_delivery(now, then))

    behind = sample(component, len(tasks))
    yield from certain(component, _send(component, statements, behind), tasks, applied)
    sampled(component.core, behind)


def results_of(items: Sequence[tuple[Any, Any, BatchResultInput]]) -> list[Item]:
    """Check the input of `ack_batch_with_results`."""
    checked: dict[UUID, Item] = {}
    for task_id, handle, result in items:
        if not isinstance(result, BatchResultInput):
            raise ValidationError(
                f"items must hold a BatchResultInput each, not {type(result).__name__}", parameter="items"
            )
        item = check_items([(task_id, handle)])[0]
        if item.id != validate.task_id(result.task_id):
            raise ValidationError(
                f"the task {item.id} and the result of task {result.task_id} do not belong together",
                parameter="items",
            )
        item.outcome = Outcome(
            status=result.status.value,
            result=result_text(result.result),
            error=validate.error_text(result.error),
            traceback=validate.error_text(result.traceback, "traceback", max_bytes=MAX_TRACEBACK_BYTES),
            runtime_ms=result.runtime_ms,
            task_name=result.task_name,
        )
        checked.setdefault(item.id, item)
    return list(checked.values())
