"""Consumers: take tasks out of the queue and settle them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celers import validate
from celers.components.acks import (
    MAX_TRACEBACK_BYTES,
    Item,
    Outcome,
    ack_items,
    check_items,
    check_result_text,
    results_of,
)
from celers.components.base import Component, M
from celers.components.claims import claim
from celers.components.cycle import cycle
from celers.components.rejects import DELAY_WITHOUT_POLICY_SECS, reject_items
from celers.components.settling import certain, last_packet, lock_by_seq, requeue_statements
from celers.errors import TaskNotFoundError, ValidationError
from celers.model.base import Duration, TaskIdLike
from celers.model.enums import DbTaskState, TaskResultStatus
from celers.model.result import BatchResultInput
from celers.model.task import BrokerMessage
from celers.operation import Steps, operation
from celers_fast.rows import parse_receipt

__all__ = ["Completion", "Consumer"]

MAX_BATCH = 10_000


@dataclass(slots=True)  # not frozen: a worker makes one for each task, and freezing costs more than all else in it
class Completion:
    """A delivery that was processed, and what to store about it.

    Parameters
    ----------
    message : BrokerMessage
    result : str or None
        JSON text of the returned value; None for a task that returned nothing.
    runtime_ms : int or None
    store : bool
        Whether to store a result at all.
    receipt : tuple of int or None
        The message's receipt as `parse_receipt` reads it, from a caller who has done so already.
    """

    message: BrokerMessage
    result: str | None = None
    runtime_ms: int | None = None
    store: bool = True
    receipt: tuple[int, int, int] | None = None


class Consumer(Component[M]):
    """Take tasks out of the queue, acknowledge or reject them."""

    attribute = "consumer"

    # Claims

    @operation(give_back="_give_back_one", meter="dequeue")
    def dequeue(self) -> Steps[BrokerMessage | None]:
        """Claim the first due task, by priority and then by order of enqueue; None when nothing is due.

        Never waits for work nor for rows that others have locked. One round trip, one transaction.
        """
        messages = yield from claim(self, 1, None)
        return messages[0] if messages else None

    @operation(give_back="_give_back_one", meter="dequeue")
    def dequeue_with_worker_id(self, worker_id: str) -> Steps[BrokerMessage | None]:
        """As `dequeue`, and note the worker with the task."""
        messages = yield from claim(self, 1, validate.name(worker_id, "worker_id"))
        return messages[0] if messages else None

    @operation(give_back="give_back", meter="dequeue")
    def dequeue_batch(self, count: int, *, worker_id: str | None = None) -> Steps[list[BrokerMessage]]:
        """Claim up to `count` due tasks in order.

        Parameters
        ----------
        count : int
            0 to 10000.
        worker_id : str, optional
            Noted with the tasks.

        Returns
        -------
        list of BrokerMessage
            May be shorter than asked, also when a claim of large payloads is bounded by bytes. Empty while paused.
        """
        most = validate.integer(count, "count", 0, MAX_BATCH)
        worker = validate.optional_name(worker_id, "worker_id")
        return (yield from claim(self, most, worker)) if most else []

    # Acknowledgements

    @operation()
    def ack(
        self, task_id: TaskIdLike, receipt_handle: str | None = None, *, connection: object | None = None
    ) -> Steps[None]:
        """Complete a task.

        Parameters
        ----------
        receipt_handle : str or None
            Proof of the delivery; None skips only this check.
        connection : MySQLdb connection, optional
            Acknowledge in the caller's open transaction; valid when the caller commits.

        Raises
        ------
        TaskNotFoundError
            The queue has no such task.
        StaleReceiptError
            The task was delivered again or given back since.
        InvalidStateTransitionError
            The task is not processing. Repeating an acknowledgement that succeeded, with its handle, is no error.
        """
        yield from ack_items(self, check_items([(task_id, receipt_handle)]), all_or_nothing=True)

    @operation()
    def ack_batch(
        self, tasks: Iterable[tuple[TaskIdLike, str | None]], *, connection: object | None = None
    ) -> Steps[int]:
        """Complete every task that is processing and whose handle matches; return how many are completed.

        Tasks of this process's own claims take one round trip.
        """
        items = check_items(_tuples(tasks, 2))
        return len((yield from ack_items(self, items, all_or_nothing=False))) if items else 0

    @operation()
    def ack_batch_with_results(self, items: Iterable[tuple[TaskIdLike, str | None, BatchResultInput]]) -> Steps[int]:
        """Complete tasks and store their results, all or nothing; return their number.

        Raises
        ------
        ValidationError
            The id in a tuple and that of its result differ.
        TaskNotFoundError, StaleReceiptError, InvalidStateTransitionError
            The first problem; nothing is completed nor stored then.
        """
        checked = results_of(_tuples(items, 3, "items"))
        return len((yield from ack_items(self, checked, all_or_nothing=True))) if checked else 0

    @operation()
    def complete(self, done: Sequence[Completion]) -> Steps[list[bool]]:
        """Complete deliveries and store their results in one packet; tell for each whether it is completed.

        A result is stored only for a task that this receipt completes.
        """
        items = [_completed_item(completion) for completion in validate.items(done, "done")]
        if not items:
            return []
        completed = yield from ack_items(self, items, all_or_nothing=False)
        if len(completed) == len(items):
            return [True] * len(items)
        handles = {item.handle for item in completed}
        return [item.handle in handles for item in items]

    @operation(give_back="_give_back_cycle")
    def cycle(
        self, done: Sequence[Completion], count: int, *, worker_id: str | None = None
    ) -> Steps[tuple[list[bool | None], list[BrokerMessage]]]:
        """Complete deliveries, as `complete`, and claim up to `count` tasks, as `dequeue_batch`, in one round trip.

        Returns
        -------
        completed : list of bool or None
            For each of `done`; None when the database became unreachable before it was settled: settle it again.
        messages : list of BrokerMessage
        """
        most = validate.integer(count, "count", 1, MAX_BATCH)
        worker = validate.optional_name(worker_id, "worker_id")
        items = [_completed_item(completion) for completion in validate.items(done, "done")]
        settled, unknown, messages = yield from cycle(self, items, most, worker)
        if len(settled) == len(items):
            return [True] * len(items), messages
        done_handles, left = {item.handle for item in settled}, {item.handle for item in unknown}
        return [None if item.handle in left else item.handle in done_handles for item in items], messages

    # Rejections

    @operation()
    def reject(
        self,
        task_id: TaskIdLike,
        receipt_handle: str | None = None,
        requeue: bool = True,
        *,
        error: str | None = None,
        connection: object | None = None,
    ) -> Steps[None]:
        """Send a task back for another run, or end it.

        Parameters
        ----------
        requeue : bool
            With retries left the task is due again after 2, 4, 8 ... 3600 s, or after the delay of its own retry
            policy; without, it moves to the dead letters. False: the task fails at once.
        error : str, optional
            Why; kept with the task. An older text stays when None.
        """
        items = check_items([(task_id, receipt_handle)])
        items[0].requeue = validate.boolean(requeue, "requeue")
        yield from reject_items(self, items, error=validate.error_text(error), skip=False)

    @operation()
    def reject_batch(self, tasks: Iterable[tuple[TaskIdLike, str | None, bool]]) -> Steps[int]:
        """Reject many tasks, each as `reject` does; skip those that cannot be; return how many were."""
        triples = _tuples(tasks, 3)
        items = check_items([(task_id, handle) for task_id, handle, _ in triples])
        requeue: dict[UUID, bool] = {}
        for task_id, _, again in triples:
            requeue.setdefault(validate.task_id(task_id), validate.boolean(again, "requeue"))
        for item in items:
            item.requeue = requeue[item.id]
        if not items:
            return 0
        return len((yield from reject_items(self, items, error=None, skip=True)))

    @operation()
    def reject_with_retry_policy(
        self,
        task_id: TaskIdLike,
        error: str | None = None,
        requeue: bool = True,
        *,
        receipt_handle: str | None = None,
    ) -> Steps[bool]:
        """As `reject`, but 60 s for a task without a policy, and False for an unknown id."""
        items = check_items([(task_id, receipt_handle)])
        items[0].requeue = validate.boolean(requeue, "requeue")
        try:
            yield from reject_items(
                self,
                items,
                error=validate.error_text(error),
                skip=False,
                otherwise=lambda _: DELAY_WITHOUT_POLICY_SECS,
            )
        except TaskNotFoundError:
            return False
        return True

    @operation()
    def fail(
        self,
        message: BrokerMessage,
        *,
        error: str,
        traceback: str | None = None,
        requeue: bool = True,
        delay_secs: Duration | None = None,
        store_result: bool = True,
        runtime_ms: int | None = None,
        dead_letter: bool = False,
    ) -> Steps[str]:
        """Settle a delivery that failed.

        Parameters
        ----------
        requeue : bool
            False: the task fails and stays in the table.
        delay_secs : timedelta, int, float or None
            Delay before the next run; None: by the task's policy.
        dead_letter : bool
            To the dead letters at once, whatever retries are left.

        Returns
        -------
        {"retried", "dead_letter", "failed", "lost"}
            What became of the task; "lost" when this delivery did not own it any more. A FAILURE result is stored,
            in the same transaction, when the task will not run again.
        """
        item = _item(message)
        item.requeue = requeue
        if store_result:
            item.outcome = Outcome(
                TaskResultStatus.FAILURE.value,
                error=validate.error_text(error),
                traceback=validate.error_text(traceback, "traceback", max_bytes=MAX_TRACEBACK_BYTES),
                runtime_ms=runtime_ms,
            )
        delay = None if delay_secs is None else validate.duration(delay_secs, "delay_secs")
        rejected = yield from reject_items(
            self,
            [item],
            error=validate.error_text(error),
            skip=True,
            delay_secs=delay,
            dead_letter=dead_letter,
        )
        return rejected[0][1] if rejected else "lost"

    # Giving back

    @operation(repeat_unknown=True)
    def give_back(self, messages: Sequence[BrokerMessage], *, delay_secs: Duration = 0.0) -> Steps[int]:
        """Return deliveries that were not started: pending again, no attempt counted; return how many were held.

        Parameters
        ----------
        delay_secs : timedelta, int or float
            They are due again after this time.
        """
        delay = validate.duration(delay_secs, "delay_secs")
        items = [_item(message) for message in validate.items(messages, "messages")]
        if not items:
            return 0
        receipts = {item.receipt for item in items}
        locked = yield from lock_by_seq(self, [item.receipt[0] for item in items if item.receipt])
        own = [task for task in locked if task.state is DbTaskState.PROCESSING and task.receipt in receipts]
        if own:
            statements = requeue_statements(self, own, granted=0, delay_secs=delay)
            yield from certain(self, last_packet(statements), own)
        self.core.slots.settled(items)
        if delay:
            self.core.scheduled_here(delay)
        return len(own)

    @operation(repeat_unknown=True)
    def _give_back_cycle(self, answer: tuple[list[bool | None], list[BrokerMessage]]) -> Steps[int]:
        """Undo the claim of a `cycle` whose asyncio caller was cancelled."""
        return (yield from Consumer.give_back.steps(self, answer[1]))

    @operation(repeat_unknown=True)
    def _give_back_one(self, message: BrokerMessage | None) -> Steps[int]:
        """Undo a `dequeue` whose asyncio caller was cancelled."""
        if message is None:
            return 0
        return (yield from Consumer.give_back.steps(self, [message]))


def _completed_item(completion: Completion) -> Item:
    if not isinstance(completion, Completion):
        raise ValidationError(f"done must hold Completions, not {type(completion).__name__}", parameter="done")
    receipt = completion.receipt
    if receipt is None:
        item = _item(completion.message)
    else:
        message = completion.message
        item = Item(message.task.metadata.id, message.receipt_handle, receipt)
    if completion.store:
        text = completion.result
        if text is not None:
            if not isinstance(text, str):
                raise ValidationError(
                    f"result must be JSON text or None, not {type(text).__name__}", parameter="result"
                )
            check_result_text(text)
        item.outcome = Outcome(TaskResultStatus.SUCCESS.value, text, runtime_ms=completion.runtime_ms)
    return item


def _item(message: BrokerMessage) -> Item:
    if not isinstance(message, BrokerMessage):
        raise ValidationError(f"message must be a BrokerMessage, not {type(message).__name__}", parameter="message")
    handle = message.receipt_handle
    receipt = parse_receipt(handle)
    if receipt is None:
        raise ValidationError(f"receipt_handle={handle!r} is not a receipt handle", parameter="message")
    return Item(message.task_id, handle, receipt)


def _tuples(values: Iterable[Any], width: int, parameter: str = "tasks") -> list[Any]:
    """Take the input of a batch operation as a list of tuples of the right width."""
    found = validate.items(values, parameter)
    for value in found:
        if not isinstance(value, tuple | list) or len(value) != width:
            raise ValidationError(
                f"{parameter} must hold tuples of {width} values, not {validate.shown(value)}", parameter=parameter
            )
    return found
