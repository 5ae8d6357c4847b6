"""Stored tasks: look at them and change them."""

from __future__ import annotations

from collections.abc import Iterable

from celers import rows as read
from celers import validate
from celers.components import inspection, metadata
from celers.components.administration import cancel, change_state
from celers.components.base import Component, M
from celers.components.inspection import task_info, task_infos, task_state
from celers.components.parts import parts
from celers.model.base import JSON, Duration, Instant, TaskIdLike
from celers.model.enums import DbTaskState
from celers.model.inspection import TaskProgress, TaskStateTransition
from celers.model.task import ScheduledTaskInfo, TaskInfo
from celers.operation import Packet, Steps, operation

__all__ = ["Tasks"]

EXPIRE_CHUNK = 1000


class Tasks(Component[M]):
    """Look at stored tasks and change them by hand."""

    attribute = "tasks"

    @operation("read")
    def get(self, task_id: TaskIdLike) -> Steps[TaskInfo | None]:
        """Return one task of this queue; None when it is not there. Dead letters are not tasks.

        Statements: two indexed reads in one round trip.
        """
        key = validate.task_id(task_id)
        core = self.core
        found, parents = yield Packet(
            core.sql("tasks", "get", id=key, queue_id=core.queue_id), core.sql("tasks", "dependencies_of", id=key)
        )
        if not found.rows:
            return None
        return task_info(found.rows[0], core.queue_name, [read.uuid(row[0]) for row in parents.rows])

    @operation("read")
    def page(self, state: DbTaskState | None, limit: int, offset: int) -> Steps[list[TaskInfo]]:
        """Return tasks, newest first.

        Parameters
        ----------
        state : DbTaskState or None
            Only tasks in this state; None for all.
        limit : int
            0 to 10000.
        offset : int
            Not negative.

        Notes
        -----
        Walks the primary key from its high end, so the first pages are cheap however many tasks are stored. With a
        state it walks until the page is full: to the low end, half a second per million tasks, when too few are in it.
        """
        count, skip = validate.limit(limit), validate.offset(offset)
        wanted = None if state is None else task_state(state, "state")
        core = self.core
        if not count:
            return []
        if wanted is None:
            text = core.sql("tasks", "page", queue_id=core.queue_id, count=count, skip=skip)
        else:
            text = core.sql(
                "tasks", "page_of_state", queue_id=core.queue_id, state=wanted.value, count=count, skip=skip
            )
        return (yield from task_infos(self, text))

    @operation("read")
    def scheduled_page(self, limit: int, offset: int) -> Steps[list[ScheduledTaskInfo]]:
        """Return tasks whose time has not come, the next one first; retries that wait for their backoff too."""
        count, skip = validate.limit(limit), validate.offset(offset)
        if not count:
            return []
        core = self.core
        results = yield Packet(core.sql("tasks", "scheduled_page", queue_id=core.queue_id, count=count, skip=skip))
        return [
            ScheduledTaskInfo(
                id=read.uuid(row[0]),
                task_name=read.text(row[1]),
                priority=read.integer(row[2]),
                scheduled_at=read.instant(row[3]),
                created_at=read.instant(row[4]),
                delay_remaining_secs=-(-read.integer(row[5]) // 1_000_000),
            )
            for row in results[0].rows
        ]

    @operation("read")
    def count_scheduled(self) -> Steps[int]:
        """Return the number of tasks whose time has not come."""
        results = yield Packet(self.core.sql("tasks", "count_scheduled", queue_id=self.core.queue_id))
        return read.integer(results[0].rows[0][0])

    @operation(repeat_unknown=True)
    def cancel(self, task_id: TaskIdLike) -> Steps[bool]:
        """Cancel a pending or processing task and, transitively, the tasks that depend on it.

        Returns
        -------
        bool
            Whether the task was cancelled; False for an unknown id and for a task that has ended. A worker that
            holds the task learns it when it acknowledges or rejects.
        """
        return bool((yield from cancel(self, [validate.task_id(task_id)], None)))

    @operation(repeat_unknown=True)
    def cancel_batch(self, task_ids: Iterable[TaskIdLike]) -> Steps[int]:
        """Cancel many tasks, in one transaction; return how many of them changed."""
        ids = validate.task_ids(task_ids)
        return (yield from cancel(self, ids, None)) if ids else 0

    @operation()
    def expire_pending(self, ttl: Duration) -> Steps[int]:
        """Cancel tasks that have been due for longer than `ttl`; return how many.

        Tasks whose time has not come, and blocked ones, never expire. In chunks, each in its own transaction.
        """
        age = validate.age(ttl, "ttl", positive=True)
        core = self.core
        find = core.sql("tasks", "overdue", queue_id=core.queue_id, age=age, count=EXPIRE_CHUNK)

        def part() -> Steps[tuple[int, bool]]:
            results = yield Packet(find)
            waits = {read.uuid(row[0]): read.integer(row[1]) for row in results[0].rows}
            return ((yield from cancel(self, list(waits), waits)) if waits else 0), bool(waits)

        return (yield from parts(part))

    @operation()
    def update_state(self, task_ids: Iterable[TaskIdLike], new_state: DbTaskState) -> Steps[int]:
        """Change the state of tasks by hand; return how many changed.

        Allowed: to PENDING from processing, failed and cancelled; to PROCESSING from pending; to COMPLETED, FAILED
        and CANCELLED from pending and processing. Others are skipped. Dependants are released or cancelled.

        A task that comes back to PENDING waits for those of its dependencies that are stored and not completed. One
        that is set to PROCESSING waits for none any more.
        """
        target = task_state(new_state, "new_state")
        ids = validate.task_ids(task_ids)
        return (yield from change_state(self, ids, target)) if ids else 0

    # Further looks

    @operation("read")
    def processing_page(self, limit: int, offset: int) -> Steps[list[TaskInfo]]:
        """Return tasks in work, the one that was started first on top: what is stuck shows itself.

        Read from the leases: costs what is in work, however many tasks are stored.
        """
        return (yield from inspection.processing(self, limit, offset))

    @operation("read", slow=True)
    def of_worker(self, worker_id: str) -> Steps[list[TaskInfo]]:
        """Return all tasks that a worker held last, in any state, the last started first.

        Reads the tasks of the queue, up to 6 s per million of them; with the reporting indexes only those of
        the worker.
        """
        return (yield from inspection.of_worker(self, worker_id))

    @operation("read")
    def created_between(
        self,
        from_time: Instant,
        to_time: Instant,
        state: DbTaskState | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> Steps[list[TaskInfo]]:
        """Return tasks that were enqueued in a span of time, newest first.

        Parameters
        ----------
        from_time, to_time : aware datetime, int or float
            Both included; the first not later than the second.
        state : DbTaskState or None
            Only tasks in this state; None for all.
        limit : int
            0 to 10000.
        offset : int
            Not negative.

        Notes
        -----
        Walks the primary key from its high end until the page is full, over everything that is newer: about a second
        per million tasks. With the reporting indexes only the span is read.
        """
        return (yield from inspection.created_between(self, from_time, to_time, state, limit, offset))

    @operation("read")
    def find_by_metadata(
        self, json_path: str, value: str | float | bool | None, limit: int = 100, offset: int = 0
    ) -> Steps[list[TaskInfo]]:
        """Return tasks with a value in their metadata, newest first.

        Parameters
        ----------
        json_path : str
            ``$`` and steps ``.name``, ``."any text"``, ``[number]``; nothing else of JSON path languages.
        value : str, int, float, bool or None
            Text equals the scalar's own text, so "12345" finds the number, too; numbers are compared as numbers;
            True and False find JSON's true and false, None a null that is there.
        limit : int
            0 to 10000.
        offset : int
            Not negative.

        Notes
        -----
        Walks the primary key from its high end and looks into every metadata object until the page is full: when few
        match, 2 to 12 s per million tasks. No index helps.
        """
        return (yield from metadata.find(self, json_path, value, limit, offset))

    @operation("read")
    def transitions(self, task_id: TaskIdLike) -> Steps[list[TaskStateTransition]]:
        """Return the state changes of a task in the order of time; empty for an unknown id.

        Recorded ones where history is kept, also of tasks that are archived or dead letters. Otherwise those that the
        task's times tell: created, started, finished. Three indexed reads in one round trip.
        """
        return (yield from inspection.transitions(self, validate.task_id(task_id)))

    # Further changes

    @operation(repeat_unknown=True)
    def update_error(self, task_id: TaskIdLike, error_message: str | None) -> Steps[bool]:
        """Replace the error text of a task in any state; return whether the task is there. Two or three round trips."""
        return (yield from metadata.set_error(self, validate.task_id(task_id), error_message))

    @operation(repeat_unknown=True)
    def set_worker(self, task_id: TaskIdLike, worker_id: str) -> Steps[bool]:
        """Note a worker with a task in work; False when it is not in work. One round trip once the worker is known."""
        return (yield from metadata.set_worker(self, validate.task_id(task_id), worker_id))

    @operation(repeat_unknown=True)
    def update_metadata(self, task_id: TaskIdLike, json_path: str, value: JSON) -> Steps[bool]:
        """Set a value in the metadata of a task, with its type; return whether the task is there.

        Parameters
        ----------
        json_path : str
            As for `find_by_metadata`. Missing parents are made. An index may be one past the end of its array.
            ``$`` replaces all keys of the user by those of an object.
        value : JSON value

        Raises
        ------
        ValidationError
            The path is malformed, begins with a reserved key, leads below a scalar, or goes more than one past the
            end of an array; nothing changes.
        SerializationError
            JSON, or the server's JSON column, cannot hold the value.

        Notes
        -----
        Three or four round trips in one transaction, which locks the task; a claim passes it over meanwhile.
        """
        return (yield from metadata.change(self, validate.task_id(task_id), json_path, value))

    @operation(repeat_unknown=True)
    def update_progress(
        self,
        task_id: TaskIdLike,
        progress_percent: float,
        current_step: str | None = None,
        *,
        total_steps: int | None = None,
    ) -> Steps[bool]:
        """Store how far a task in work is; False when it is not in work. One round trip.

        Parameters
        ----------
        progress_percent : float
            0 to 100, both included.
        current_step : str or None
            What it is doing.
        total_steps : int or None
            Above 0.
        """
        key = validate.task_id(task_id)
        return (yield from metadata.set_progress(self, key, progress_percent, current_step, total_steps))

    @operation("read")
    def get_progress(self, task_id: TaskIdLike) -> Steps[TaskProgress | None]:
        """Return the progress that a task stored last; None without any. It is kept until the task runs again.

        One indexed read.
        """
        return (yield from metadata.progress_of(self, validate.task_id(task_id)))
