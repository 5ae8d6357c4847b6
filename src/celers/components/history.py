"""History: one row for each change of a task's state, in the transaction that makes it; off by default.

Rows about stored tasks are written before the change, because the change clears the worker and a dead letter's task
goes. New tasks are written before they are inserted, because what follows an INSERT asks for its LAST_INSERT_ID().
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from celers.model.enums import DbTaskState
from celers.model.task import SerializedTask
from celers.sql import Raw
from celers.states import DEAD_LETTER
from celers_fast.params import build_values

if TYPE_CHECKING:
    from celers.components.settling import Locked
    from celers.core import Core

__all__ = ["created_statements", "record_statements", "started_statements"]

IDS_PER_STATEMENT = 1000


def record_statements(core: Core, tasks: Sequence[Locked], state: str, message: str | None = None) -> list[bytes]:
    """Write down that locked tasks leave their state for another; the statements come before the change."""
    if not core.record_history:
        return []
    by_state: dict[DbTaskState, list[int]] = {}
    for task in tasks:
        by_state.setdefault(task.state, []).append(task.seq)
    return [
        core.sql(
            "history",
            "record",
            queue_name=core.queue_name,
            from_state=before.value,
            state=state,
            message=message,
            with_error=state == DEAD_LETTER,
            seqs=seqs[at : at + IDS_PER_STATEMENT],
        )
        for before, seqs in by_state.items()
        for at in range(0, len(seqs), IDS_PER_STATEMENT)
    ]


def created_statements(core: Core, tasks: Sequence[SerializedTask]) -> list[bytes]:
    """Write down that tasks are new."""
    if not core.record_history:
        return []
    prefix = (
        f"INSERT INTO {core.sql.table('task_history')} (queue_name, task_id, task_name, state, `timestamp`) VALUES "
    ).encode()
    now = Raw(b"UTC_TIMESTAMP(6)")
    pending = DbTaskState.PENDING.value
    rows = [(core.queue_name, task.metadata.id, task.metadata.name, pending, now) for task in tasks]
    return [text for text, _ in build_values(prefix, rows, max_bytes=core.packet_bytes)]


def started_statements(core: Core, form: str, consumer_no: int) -> list[bytes]:
    """Write down what a claim has started; `form` is that of the claim's statements."""
    if not core.record_history:
        return []
    text = "started_one" if form == "one" else "started_many"
    return [core.sql("history", text, queue_name=core.queue_name, consumer_no=consumer_no)]
