"""Load tests: many tasks without meaning, which are told from others by their metadata."""

from __future__ import annotations

import os
import random
from functools import partial
from uuid import UUID

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.components.deleting import purge_picked
from celers.components.inserting import NOW
from celers.components.metadata import condition
from celers.components.parts import one_part, parts
from celers.components.producer import Producer
from celers.errors import CelersError, ValidationError
from celers.hooks import before_enqueue, enqueued, later
from celers.model.base import TaskIdLike
from celers.model.enums import TaskHook
from celers.model.task import SerializedTask
from celers.operation import Packet, QueueUnknown, Steps, operation
from celers.sql import Raw
from celers_fast.ids import uuid7

__all__ = ["Loads"]

MOST_TASKS = 1_000_000
BATCH_ROWS = 1000
BATCH_BYTES = 8 * 1024 * 1024
"""Tasks of one transaction, and bytes of their payloads."""

DELETE_CHUNK = 1000


class Loads(Component[M]):
    """Make tasks for a load test, and delete them again."""

    attribute = "loads"

    @operation()
    def generate(
        self,
        task_count: int,
        task_name: str,
        payload_size_bytes: int,
        priority_range: tuple[int, int] | None = None,
        *,
        load_test_id: TaskIdLike | None = None,
    ) -> Steps[list[UUID]]:
        """Store tasks with random payloads; return their ids.

        Their metadata have `synthetic`, which is true, and `load_test_id`, which is common to all of the call. Workers
        that do not know the name give such tasks back.

        Parameters
        ----------
        task_count : int
            0 to 1,000,000.
        task_name : str
            Name of all of them.
        payload_size_bytes : int
            Exact size of each payload, 0 to the broker's limit.
        priority_range : (int, int) or None
            Smallest and largest priority, both included, each as likely; 0 for all when None.
        load_test_id : UUID or str, optional
            The mark of an earlier call, to add to its tasks.

        Raises
        ------
        QueueDrainingError, BrokerError
            Whatever stops it. Tasks that were stored before stay; a note of the error tells their mark.

        Notes
        -----
        A transaction of one round trip for each 1000 tasks or 8 MiB of payloads. Hooks of an enqueue are called for
        each task; what one of them puts into the metadata does not replace the mark.
        """
        count = validate.integer(task_count, "task_count", 0, MOST_TASKS)
        name = validate.name(task_name, "task_name")
        size = validate.integer(payload_size_bytes, "payload_size_bytes", 0, self.core.max_payload_bytes)
        low, high = _range(priority_range)
        mark = uuid7() if load_test_id is None else validate.task_id(load_test_id, "load_test_id")
        tags = {"synthetic": True, "load_test_id": str(mark)}
        producer: Producer[M] = Producer(self.core, self.runner)
        batch = max(1, min(BATCH_ROWS, BATCH_BYTES // max(size, 1)))
        ids: list[UUID] = []

        if count and not self.core.has_queue_id:
            raise QueueUnknown  # now, and not when hooks have been called
        try:
            while len(ids) < count:
                # Made before their transaction, so that hooks are called once however often it begins anew.
                tasks = [
                    before_enqueue(
                        self.core,
                        SerializedTask.new(name, os.urandom(size), priority=random.randint(low, high)),
                    )
                    for _ in range(min(batch, count - len(ids)))
                ]
                ids += yield from one_part(partial(producer.insert, tasks, NOW, False, tags))
                later(self, TaskHook.AFTER_ENQUEUE, [enqueued(task) for task in tasks])
        except CelersError as error:
            if ids:
                error.add_note(f"{len(ids)} tasks of the load test {mark} are stored")
            raise
        return ids

    @operation()
    def delete(self, load_test_id: TaskIdLike | None = None) -> Steps[int]:
        """Delete tasks of load tests in any state, those of one or of all; return how many.

        Parameters
        ----------
        load_test_id : UUID, str or None
            The mark in the tasks' metadata; None for all load tests.

        Notes
        -----
        Reads the tasks of the queue once and looks into their metadata, 2 to 12 s per million. In chunks of 1000, each
        a transaction of four round trips. Results, history and dead letters stay.
        """
        wanted = condition(("synthetic",), True)
        if load_test_id is not None:
            mark = validate.task_id(load_test_id, "load_test_id")
            wanted += b" AND " + condition(("load_test_id",), str(mark))
        core = self.core
        after = 0

        def part() -> Steps[tuple[int, bool]]:
            nonlocal after
            pick = core.sql(
                "loads", "pick", queue_id=core.queue_id, after=after, condition=Raw(wanted), count=DELETE_CHUNK
            )
            picked = (yield Packet(pick))[0].rows
            if not picked:
                return 0, False
            deleted = yield from purge_picked(self, list(picked))
            after = read.integer(picked[-1][0])
            return deleted, True

        return (yield from parts(part))


def _range(value: object) -> tuple[int, int]:
    if value is None:
        return 0, 0
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValidationError(
            f"priority_range must be two ints or None, not {validate.shown(value)}", parameter="priority_range"
        )
    low, high = (validate.priority(bound, "priority_range") for bound in value)
    if low > high:
        raise ValidationError(f"priority_range=({low}, {high}) must not be reversed", parameter="priority_range")
    return low, high
