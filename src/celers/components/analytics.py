"""Numbers about the tasks of a queue."""

from __future__ import annotations

from typing import Final

from celers import rows as read
from celers.components.base import Component, M
from celers.errors import CelersError, ValidationError
from celers.model.enums import DbTaskState
from celers.model.inspection import RetryStatistics, TaskAgeDistribution, TaskNameCount
from celers.operation import Packet, Steps, operation

__all__ = ["Analytics"]

NO_SUCH_INDEX: Final = 1176

AGE_BUCKETS: Final = ("< 1 min", "1-5 min", "5-15 min", "15-60 min", "> 60 min")


class _NoIndex(CelersError):
    """The reporting indexes have not been made."""


class Analytics(Component[M]):
    """Count tasks by state, name, age and retries."""

    attribute = "analytics"

    @operation("read")
    def count_state(self, state: DbTaskState) -> Steps[int]:
        """Return the number of tasks in one state.

        Pending ones are counted in the small tables, processing ones in the leases, finished ones come from the
        counters: no read of the tasks, however many are stored.
        """
        if not isinstance(state, DbTaskState):
            raise ValidationError(f"state={state!r} must be a DbTaskState", parameter="state")
        core = self.core
        text = {
            DbTaskState.PENDING: "count_pending",
            DbTaskState.PROCESSING: "count_processing",
            DbTaskState.COMPLETED: "count_completed",
            DbTaskState.FAILED: "count_failed",
            DbTaskState.CANCELLED: "count_cancelled",
        }[state]
        results = yield Packet(core.sql("analytics", text, queue_id=core.queue_id))
        return read.integer(results[0].rows[0][0])

    @operation("read")
    def name_counts(self) -> Steps[list[TaskNameCount]]:
        """Return the tasks of each name by state, the most frequent name first, then by name.

        Without the reporting indexes this reads the tasks of the queue, about a second per million of them; with them
        it counts in an index alone, 0.2 to 0.3 s. One round trip with the indexes, two without them.
        """
        core = self.core
        try:
            results = yield Packet(
                core.sql("analytics", "names_indexed", queue_id=core.queue_id), errors={(0, NO_SUCH_INDEX): _NoIndex}
            )
        except _NoIndex:
            results = yield Packet(core.sql("analytics", "names", queue_id=core.queue_id))
        names: dict[str, dict[str, int]] = {}
        for row in results[0].rows:
            names.setdefault(read.text(row[0]), {})[read.text(row[1])] = read.integer(row[2])
        counts = [TaskNameCount(name, **states, total=sum(states.values())) for name, states in names.items()]
        return sorted(counts, key=lambda count: (-count.total, count.task_name))

    @operation("read")
    def age_distribution(self) -> Steps[list[TaskAgeDistribution]]:
        """Return the pending tasks by the time since they were enqueued, in five buckets from young to old.

        The buckets end below 1, 5, 15 and 60 minutes; empty ones are there as well. Scheduled and blocked tasks are
        pending, too. Costs one look-up by primary key for each pending task: about half a second for 100,000.
        """
        results = yield Packet(self.core.sql("analytics", "ages", queue_id=self.core.queue_id))
        found = {read.integer(row[0]): (read.integer(row[1]), read.integer(row[2])) for row in results[0].rows}
        return [TaskAgeDistribution(label, *found.get(number, (0, 0))) for number, label in enumerate(AGE_BUCKETS)]

    @operation("read")
    def retry_statistics(self) -> Steps[list[RetryStatistics]]:
        """Return the retries of stored tasks by name, most retries first, then by name.

        Tasks that were never retried are left out; a first delivery is no retry. Reads the tasks of the queue: 1 to 2 s
        per million of them, with or without the reporting indexes.
        """
        results = yield Packet(self.core.sql("analytics", "retries", queue_id=self.core.queue_id))
        found = []
        for row in results[0].rows:
            total, tasks = read.integer(row[1]), read.integer(row[2])
            found.append(RetryStatistics(read.text(row[0]), total, tasks, total / tasks, read.integer(row[3])))
        return found
