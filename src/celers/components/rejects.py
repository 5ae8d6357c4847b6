"""How tasks are rejected: back to pending with a delay, to failed, or to the dead letters.

The row is locked, so its counters are read and written in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from celers.components.acks import Item, problem
from celers.components.base import Component
from celers.components.dependants import end_dependants
from celers.components.results import store_statements
from celers.components.settling import (
    Locked,
    Tally,
    dead_letter_statements,
    finish_statements,
    lock_by_id,
    lock_by_seq,
    requeue_statements,
)
from celers.components.throughput import sample, sampled
from celers.errors import BrokerConnectionError, CelersError
from celers.hooks import before, later
from celers.model.enums import DbTaskState, TaskHook
from celers.operation import Packet, Steps
from celers.retry import RetryPolicy

__all__ = ["DELAY_WITHOUT_POLICY_SECS", "default_delay", "policy_delay", "reject_items"]

LONGEST_DEFAULT_DELAY_SECS = 3600
DELAY_WITHOUT_POLICY_SECS = 60.0


def default_delay(retry_count: int) -> float:
    """Return the delay in seconds before retry number `retry_count` (from 1) of a task without a policy: 2, 4, 8 ..."""
    return float(min(2 ** min(retry_count, 12), LONGEST_DEFAULT_DELAY_SECS))


def policy_delay(task: Locked, otherwise: Callable[[int], float]) -> float:
    """Return the delay before the next retry of a task, by its stored policy if it has one."""
    if task.retry_policy is None:
        return otherwise(task.retry_count + 1)
    policy = RetryPolicy.from_dict(json.loads(task.retry_policy))
    return policy.strategy.calculate_delay(task.retry_count)


def reject_items(
    component: Component[Any],
    items: Sequence[Item],
    *,
    error: str | None,
    skip: bool,
    otherwise: Callable[[int], float] = default_delay,
    delay_secs: float | None = None,
    dead_letter: bool = False,
) -> Steps[list[tuple[Item, str]]]:
    """Reject tasks; returns each rejected one with what became of it.

    Parameters
    ----------
    error : str or None
        Error text, cut already; None keeps an older one.
    skip : bool
        Leave out tasks that cannot be rejected, instead of raising.
    otherwise : callable
        Delay in seconds of a task without a stored policy, from the number of the retry.
    delay_secs : float or None
        Delay that overrides both.
    dead_letter : bool
        No further run, whatever retries are left.

    Returns
    -------
    list of (Item, {"retried", "failed", "dead_letter"})
    """
    if all(item.receipt is not None for item in items):
        # A valid receipt belongs to a processing task, which stands in no small table.
        found = yield from lock_by_seq(component, [item.receipt[0] for item in items if item.receipt])
    else:
        found = yield from lock_by_id(component, [item.id for item in items])
    by_id = {task.id: task for task in found}
    tally = Tally()
    statements: list[bytes] = []
    ended: list[tuple[Locked, str]] = []
    outcome: list[tuple[Item, str]] = []
    settled: list[Locked] = []
    for item in items:
        task = by_id.get(item.id)
        reason = problem(item, task, "pending" if item.requeue else "failed")
        if reason is None and task is not None:
            if dead_letter:
                task.max_retries = task.retry_count
            word = _reject_one(component, item, task, error, otherwise, delay_secs, statements, ended, tally)
            outcome.append((item, word))
            settled.append(task)
            continue
        if not component.inside:
            component.core.slots.settled([item])  # lost: the slot, if it is ours, holds this delivery no longer
        if not skip and reason is not None:
            if item.receipt is not None and task is None:
                reason = (yield from _by_id(component, item)) or reason
            raise reason
    if not settled:
        return []
    before(component.core, TaskHook.BEFORE_REJECT, [task.about() for task in settled])
    yield from end_dependants(component, [], ended, tally)
    owner = settled[0].consumer_no
    statements += tally.statements(component, owner)
    behind = sample(component, 0, tally.failures) if tally.failures else ()
    try:
        yield Packet(*statements, commit=True, after=behind)
    except BrokerConnectionError as lost:
        if not lost.outcome_unknown:
            raise
        if not (yield from _was_applied(component, settled)):
            return (
                yield from reject_items(
                    component,
                    items,
                    error=error,
                    skip=skip,
                    otherwise=otherwise,
                    delay_secs=delay_secs,
                    dead_letter=dead_letter,
                )
            )
    sampled(component.core, behind)
    if not component.inside:
        component.core.slots.settled(settled)
        if any(word == "retried" for _, word in outcome):
            component.core.due_unknown()
    told = [task.about(outcome=word) for task, (_, word) in zip(settled, outcome, strict=True)]
    later(component, TaskHook.AFTER_REJECT, told)
    return outcome


def _reject_one(
    component: Component[Any],
    item: Item,
    task: Locked,
    error: str | None,
    otherwise: Callable[[int], float],
    delay_secs: float | None,
    statements: list[bytes],
    ended: list[tuple[Locked, str]],
    tally: Tally,
) -> str:
    if not item.requeue:
        statements += finish_statements(component, [task], DbTaskState.FAILED, error)
        ended.append((task, "failed"))
        tally.failed += 1
        tally.failures += 1
        word = "failed"
    elif task.retry_count < task.max_retries:
        delay = policy_delay(task, otherwise) if delay_secs is None else delay_secs
        statements += requeue_statements(component, [task], granted=1, delay_secs=delay, error=error)
        tally.retried += 1
        word = "retried"
    else:
        statements += dead_letter_statements(component, [task], error)
        ended.append((task, "was moved to the dead letters"))
        tally.failures += 1
        word = "dead_letter"
    if item.outcome is not None and word != "retried":
        statements += store_statements(component, [(task.id, task.task_name, item.outcome)])
    return word


def _by_id(component: Component[Any], item: Item) -> Steps[CelersError | None]:
    """A receipt whose number is not in this queue may still come with the id of another task."""
    found = yield from lock_by_id(component, [item.id])
    return problem(item, found[0] if found else None, "pending" if item.requeue else "failed")


def _was_applied(component: Component[Any], tasks: Sequence[Locked]) -> Steps[bool]:
    """After an unknown outcome: has the first task left the state in which it was rejected?

    The lost session is gone, so what is found now is final: either the whole packet was applied or nothing of it.
    """
    task = tasks[0]
    found = yield from lock_by_seq(component, [task.seq])
    if not found:
        core = component.core
        results = yield Packet(core.sql("settle", "find_dead_letter", task_id=task.id, queue_name=core.queue_name))
        return bool(results[0].rows)
    now = found[0]
    same = (now.consumer_no, now.deliveries) == (task.consumer_no, task.deliveries)
    return not (same and now.state is DbTaskState.PROCESSING)
