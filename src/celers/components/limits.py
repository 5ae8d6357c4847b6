"""Priorities that rise with the time of waiting, and limits of how often tasks of a name may start."""

from __future__ import annotations

import json
import logging
from typing import Any

from celers import rows as read
from celers.components.base import Component
from celers.errors import BrokerConnectionError, BrokerError
from celers.model.limits import RateLimitStatus
from celers.operation import Packet, Restart, Steps

__all__ = ["MOST_PRIORITY", "check_rate", "raise_waiting"]

logger = logging.getLogger("celers.queues")

MOST_PRIORITY = 1000
LARGE_BOOST = 100
PAGE = 500
PROMOTE_ROWS = 1000
REPEATS = 20


def raise_waiting(component: Component[Any], age: int, boost: int) -> Steps[int]:
    """Raise the priority of due tasks that have waited for longer than `age` microseconds; return how many.

    From high priorities to low ones and in the order of the ready table: a task that was raised stands before the
    place that was reached, so it is not seen again. Each page is a transaction of its own.
    """
    core = component.core
    if boost > LARGE_BOOST:
        logger.warning("priority_boost=%d is large: tasks that have waited pass nearly all others", boost)
    yield from _promote(component)
    raised = 0
    rank = -MOST_PRIORITY
    while True:
        found = yield Packet(core.sql("limits", "next_rank", queue_id=core.queue_id, rank=rank), commit=True)
        if not found[0].rows:
            return raised
        rank = read.integer(found[0].rows[0][0])
        raised += yield from _raise_rank(component, rank, age, boost)


def _promote(component: Component[Any]) -> Steps[None]:
    """Move what is due to the ready table: nobody may have claimed from this queue for long."""
    core = component.core
    while True:
        moved = yield Packet(
            core.sql("consumer", "due_keys", queue_id=core.queue_id, count=PROMOTE_ROWS),
            core.sql("consumer", "due_insert", queue_id=core.queue_id),
            core.sql("consumer", "due_delete"),
            commit=True,
            repeat=True,
        )
        if moved[1].affected < PROMOTE_ROWS:
            return


def _raise_rank(component: Component[Any], rank: int, age: int, boost: int) -> Steps[int]:
    """Raise those of one priority."""
    core = component.core
    raised = after = repeats = 0
    while True:
        page = core.sql("limits", "waiting", queue_id=core.queue_id, rank=rank, after=after, age=age, count=PAGE)
        rows = (yield Packet(page, commit=True))[0].rows
        waiting = sorted(read.integer(row[0]) for row in rows if read.flag(row[1]))
        try:
            if waiting:
                raised += yield from _raise(component, waiting, rank, boost)
        except Restart:
            # The connection was lost or the server undid the page. Pages before it are committed and must not be
            # raised once more, so this one alone begins anew.
            repeats += 1
            if repeats >= REPEATS:
                raise BrokerError("rows kept changing under the operation: repeat it", retryable=True) from None
            continue
        if len(rows) < PAGE:
            return raised
        after = max(read.integer(row[0]) for row in rows)


def _raise(component: Component[Any], seqs: list[int], rank: int, boost: int) -> Steps[int]:
    """Raise ready tasks of one priority in one transaction; those that were claimed meanwhile are left out."""
    core = component.core
    priority = min(boost - rank, MOST_PRIORITY)
    keys = json.dumps([[rank, seq] for seq in seqs])
    found = yield Packet(core.sql("settle", "lock_ready", keys=keys, queue_id=core.queue_id))
    locked = sorted(read.integer(row[0]) for row in found[0].rows)
    if not locked:
        return 0
    keys = json.dumps([[rank, seq] for seq in locked])
    try:
        yield Packet(
            core.sql("limits", "raise_priority", priority=priority, seqs=locked),
            core.sql("settle", "delete_ready", keys=keys, queue_id=core.queue_id),
            core.sql("limits", "place_ready", seqs=locked),
            commit=True,
        )
    except BrokerConnectionError as error:
        if not error.outcome_unknown:
            raise
        # The lost session is gone by now: all of it is stored or nothing.
        rows = (yield Packet(core.sql("limits", "priority_of", seq=locked[0]), commit=True))[0].rows
        if rows and read.integer(rows[0][0]) == -rank:
            raise Restart from None
    return len(locked)


def check_rate(component: Component[Any], task_name: str, most: int, reserve: bool) -> Steps[RateLimitStatus]:
    """Count reservations and deliveries of a name, and reserve one place when it is free; one packet."""
    core = component.core
    names = {"queue_name": core.queue_name, "task_name": task_name}
    statements = [core.sql("limits", "lock_rate", **names)] if reserve else []
    statements.append(core.sql("limits", "count_reserved", **names))
    if core.record_history:
        statements.append(core.sql("limits", "count_started", **names))
    at = len(statements)
    if reserve:
        statements.append(core.sql("limits", "reserve", **names, most=most))
        statements.append(core.sql("limits", "forget_hits", **names))
    results = yield Packet(*statements, core.sql("limits", "read_rate"), commit=True)
    minute, hour = (int(value or b"0") for value in results[-1].rows[0])
    taken = reserve and results[at].affected == 1
    if taken:
        minute, hour = minute + 1, hour + 1
    return RateLimitStatus(
        task_name=task_name,
        current_per_second=minute / 60.0,
        current_per_minute=minute,
        current_per_hour=hour,
        limit_exceeded=not taken and minute >= most,
    )
