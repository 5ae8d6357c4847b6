"""Numbers about the tasks of a queue."""

from __future__ import annotations

from typing import Final

from celers import rows as read
from celers.components.base import Component, M
from celers.components.throughput import throughput
from celers.errors import CelersError, ValidationError
from celers.model.enums import DbTaskState
from celers.model.inspection import RetryStatistics, TaskAgeDistribution, TaskNameCount
from celers.model.stats import QueueHealth, TaskThroughput
from celers.operation import Packet, Steps, operation

__all__ = ["Analytics", "queue_status"]

NO_SUCH_INDEX: Final = 1176

AGE_BUCKETS: Final = ("< 1 min", "1-5 min", "5-15 min", "15-60 min", "> 60 min")


class _NoIndex(CelersError):
    """The reporting indexes have not been made."""


class Analytics(Component[M]):
    """Count tasks by state, name, age and retries, and say how well the queue is served."""

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

    @operation("read", slow=True)
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

    @operation("read", slow=True)
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

    @operation("read")
    def throughput(self) -> Steps[TaskThroughput]:
        """Return how many tasks were completed, and failed, in the last minute and hour.

        Notes
        -----
        One round trip; reads counters, not tasks, so that it costs the same however many are stored, and what was
        deleted or sent back since is counted all the same. A task that becomes a dead letter is a failure.

        Processes that acknowledge or reject tasks write a sample at most every 5 s. What ended within 5 s of the
        beginning of the window is shared out in proportion, everything else is exact. Tasks that end inside a
        transaction of the caller, or by `update_batch_state`, are counted where others write samples beside them.
        """
        results = yield Packet(self.core.sql("throughput", "read", queue_id=self.core.queue_id))
        return throughput(results[0].rows)

    @operation("read")
    def queue_health(self) -> Steps[QueueHealth]:
        """Rate the queue by the number of due tasks and by how long the oldest has been due.

        Returns
        -------
        QueueHealth
            healthy below 100 due tasks and 300 s, degraded below 1000 and 900 s, otherwise critical.

        Notes
        -----
        One round trip. Costs what is pending and processing, not what is stored: about 30 ms for 100,000 pending tasks.
        The oldest due task is looked for among the first 1000 to be claimed and the first of each priority.
        """
        core = self.core
        numbers, oldest, ended = yield Packet(
            core.sql("analytics", "health", queue_id=core.queue_id),
            core.sql("analytics", "oldest_due", queue_id=core.queue_id),
            core.sql("throughput", "read", queue_id=core.queue_id),
        )
        ready, due, waiting, processing, workers = map(read.integer, numbers.rows[0])
        age = max((read.integer(row[0]) for row in oldest.rows if row[0] is not None), default=0) // 1_000_000
        minute = throughput(ended.rows).completed_last_minute
        return QueueHealth(
            overall_status=queue_status(ready + due, age),
            pending_tasks=ready + waiting,
            processing_tasks=processing,
            oldest_pending_age_secs=max(age, 0),
            active_workers=workers,
            queue_backlog_minutes=(ready + due) / (minute or max(workers, 1)),
        )


def queue_status(due: int, oldest_secs: float) -> str:
    """Rate a queue by its due tasks and the seconds that the oldest has been due."""
    if due < 100 and oldest_secs < 300:
        return "healthy"
    return "degraded" if due < 1000 and oldest_secs < 900 else "critical"
