"""Workers: who is alive, and how they do."""

from __future__ import annotations

from celers import rows as read
from celers import validate
from celers.components.base import Component, M
from celers.errors import ValidationError, WorkerNotFoundError
from celers.model.base import JSON, Duration
from celers.model.enums import WorkerStatus
from celers.model.worker import WorkerHeartbeat, WorkerStatistics
from celers.operation import Packet, Steps, operation

__all__ = ["Workers"]


class Workers(Component[M]):
    """Register workers and ask about them."""

    attribute = "workers"

    @operation(repeat_unknown=True)
    def register(self, worker_id: str, status: WorkerStatus, capabilities: JSON = None) -> Steps[None]:
        """Register a worker of this queue, or renew it: heartbeat now.

        Parameters
        ----------
        worker_id : str
        status : WorkerStatus
        capabilities : JSON value
            None keeps what was stored before.
        """
        core = self.core
        text = core.sql(
            "workers",
            "register",
            worker_id=validate.name(worker_id, "worker_id"),
            queue_id=core.queue_id,
            status=_status(status).value,
            capabilities=None if capabilities is None else validate.json_text(capabilities, "capabilities"),
        )
        yield Packet(text, commit=True)

    @operation(repeat_unknown=True)
    def update_heartbeat(self, worker_id: str, status: WorkerStatus) -> Steps[None]:
        """Set heartbeat, status and the number of tasks that the worker has in processing.

        Raises
        ------
        WorkerNotFoundError
            The worker is not registered.
        """
        worker = validate.name(worker_id, "worker_id")
        value = _status(status).value
        core = self.core
        found = yield Packet(core.sql("workers", "find", worker_id=worker, queue_id=core.queue_id))
        if found[0].rows:
            number = read.integer(found[0].rows[0][0])
            count = yield Packet(core.sql("workers", "processing_of", queue_id=core.queue_id, worker_no=number))
            updated = yield Packet(
                core.sql(
                    "workers",
                    "beat",
                    worker_no=number,
                    status=value,
                    task_count=read.integer(count[0].rows[0][0]),
                ),
                commit=True,
            )
            if updated[0].affected:
                return
        raise WorkerNotFoundError(f"the worker {worker!r} is not registered", worker_id=worker)

    @operation("plain", repeat_unknown=True)
    def beat_idle(self, worker_id: str) -> Steps[bool]:
        """Renew the heartbeat of a registered worker that runs nothing; return whether it is registered.

        One statement in one round trip, where `update_heartbeat` also counts the worker's tasks.
        """
        core = self.core
        worker = validate.name(worker_id, "worker_id")
        results = yield Packet(core.sql("workers", "beat_idle", worker_id=worker, queue_id=core.queue_id))
        return results[0].affected > 0

    @operation()
    def unregister(self, worker_id: str) -> Steps[bool]:
        """Remove a worker's registration; return whether there was one."""
        core = self.core
        results = yield Packet(
            core.sql(
                "workers",
                "unregister",
                worker_id=validate.name(worker_id, "worker_id"),
                queue_id=core.queue_id,
            ),
            commit=True,
        )
        return results[0].affected > 0

    @operation("read")
    def heartbeats(self, stale_threshold_secs: Duration) -> Steps[list[WorkerHeartbeat]]:
        """Return all registered workers, the newest heartbeat first.

        Parameters
        ----------
        stale_threshold_secs : timedelta, int or float
            Above 0. A worker silent for longer is reported OFFLINE; what is stored does not change.
        """
        secs = validate.duration(stale_threshold_secs, "stale_threshold_secs", positive=True)
        core = self.core
        results = yield Packet(
            core.sql("workers", "heartbeats", queue_id=core.queue_id, threshold=round(secs * 1_000_000))
        )
        return [
            WorkerHeartbeat(
                worker_id=read.text(row[0]),
                last_heartbeat=read.instant(row[1]),
                status=WorkerStatus.OFFLINE if read.flag(row[5]) else read.member(WorkerStatus, row[2]),
                task_count=read.integer(row[3]),
                capabilities=None if row[4] is None else validate.json_value(row[4], "capabilities"),
            )
            for row in results[0].rows
        ]

    @operation("read")
    def list_active(self) -> Steps[list[str]]:
        """Return the ids of workers with at least one task in processing, sorted."""
        results = yield Packet(self.core.sql("workers", "active", queue_id=self.core.queue_id))
        return [read.text(row[0]) for row in results[0].rows]

    @operation("read", slow=True)
    def get_statistics(self, worker_id: str) -> Steps[WorkerStatistics]:
        """Return the numbers of tasks that a worker held last; zeros and None for an unknown worker.

        Reads the tasks of the queue: one to two seconds per million of them; with the reporting indexes those of the
        worker.
        """
        worker = validate.name(worker_id, "worker_id")
        found = yield from self._statistics([worker])
        return found[0] if found else WorkerStatistics(worker, 0, 0, 0, None, 0.0)

    @operation("read", slow=True)
    def all_statistics(self) -> Steps[list[WorkerStatistics]]:
        """Return the statistics of the workers of `list_active`, by id.

        Reads the tasks of the queue: 2 to 3 s per million of them.
        """
        active = yield Packet(self.core.sql("workers", "active", queue_id=self.core.queue_id))
        names = [read.text(row[0]) for row in active[0].rows]
        return (yield from self._statistics(names, "all_statistics")) if names else []

    def _statistics(self, names: list[str], text: str = "statistics") -> Steps[list[WorkerStatistics]]:
        core = self.core
        results = yield Packet(core.sql("workers", text, queue_id=core.queue_id, worker_ids=names))
        return [
            WorkerStatistics(
                worker_id=read.text(row[0]),
                active_tasks=read.integer(row[1]),
                completed_tasks=read.integer(row[2]),
                failed_tasks=read.integer(row[3]),
                last_seen=None if read.text(row[4]).startswith("1000-") else read.instant(row[4]),
                avg_task_duration_secs=float(row[5] or 0) / 1e6,
            )
            for row in results[0].rows
        ]


def _status(value: object) -> WorkerStatus:
    if not isinstance(value, WorkerStatus):
        raise ValidationError(f"status={value!r} must be a WorkerStatus", parameter="status")
    return value
