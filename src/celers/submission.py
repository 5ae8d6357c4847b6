"""Ways to enqueue a task of an application, and with what options.

Calls of one function become `LikeTasks` here, be it one or many; the plainest operation of the producer that does what
was asked for stores them, or a buffer stores a single one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar
from uuid import UUID

from celers import validate
from celers.errors import ValidationError
from celers.lane import OnStored, send_parts, send_parts_async, told
from celers.model.base import Duration, Instant, TaskIdLike
from celers.model.like import LikeTasks
from celers.model.task import SerializedTask

if TYPE_CHECKING:
    from celers.buffer import AsyncBuffer, Buffer
    from celers.task import Task

__all__ = ["CallOptions", "Submission"]

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B", "Buffer", "AsyncBuffer")

MAX_BATCH = 100_000
_NO_KEYWORDS: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How one call is enqueued; None and 0 stand for what the task itself says."""

    queue: str | None = None
    priority: int | None = None
    delay_secs: float = 0.0
    id: UUID | None = None
    connection: object | None = None
    buffer: Buffer | AsyncBuffer | None = None


class Submission(Generic[P, R]):
    """Ways to enqueue a task; a `Task` itself, or what `Task.using` returns."""

    _task: Task[P, R]
    _options: CallOptions

    def __init__(self, task: Task[P, R], options: CallOptions) -> None:
        self._task = task
        self._options = options

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> UUID:
        """Store a call with these arguments for the workers and return its id.

        Raises
        ------
        TypeError
            The function does not take these arguments.
        SerializationError
            An argument does not fit into the application's format.
        CelersError
            As for `MysqlBroker.enqueue`.
        """
        return self._send(self._make(args, kwargs))[0]

    def enqueue_at(self, when: Instant, /, *args: P.args, **kwargs: P.kwargs) -> UUID:
        """As `enqueue`, to run at an instant: an aware datetime or Unix seconds."""
        return self._send(self._make(args, kwargs), due_at=when)[0]

    def enqueue_after(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> UUID:
        """As `enqueue`, to run after a delay: a timedelta or seconds."""
        return self._send(self._make(args, kwargs), delay=delay)[0]

    def enqueue_many(
        self,
        calls: Iterable[Sequence[Any]],
        /,
        *,
        batch: int | None = None,
        on_stored: OnStored = None,
    ) -> list[UUID]:
        """Store many calls: in one transaction, all or none, or in batches that are committed one after the other.

        Parameters
        ----------
        calls : iterable of tuple
            The positional arguments of each call; ``[(1,), (2,)]`` calls twice with one argument. With `batch` no
            more than two batches of them are in memory at a time.
        batch : int, optional
            Calls in one commit, 1 to 100,000; 1000 is a good number. While the server stores a batch, the next one is
            made ready. All calls are one transaction when None.
        on_stored : callable, optional
            Called after each commit with the ids that are stored now.

        Returns
        -------
        list of UUID
            Ids in the order of the calls.

        Raises
        ------
        CelersError
            As for `enqueue`. With `batch` the batches before the one that failed are stored, that one is not, and no
            later one was sent: a note on the exception says how many calls are stored. What `calls` itself raises
            comes after the batch on its way has been stored.

        Notes
        -----
        One round trip for each transaction that `max_allowed_packet` holds. With `batch` a thread of this call sends
        them, but on a connection of the caller, where they are part of the caller's transaction.
        """
        if batch is None:
            return told(self._send(self._make_many(calls)), on_stored)
        parts = self._parts(calls, batch)
        if self._options.connection is not None:
            return [task_id for part in parts for task_id in told(self._send(part), on_stored)]
        return send_parts(self._send, parts, on_stored)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> UUID:
        """As `enqueue`, for asyncio."""
        return (await self._asend(self._make(args, kwargs)))[0]

    async def aenqueue_at(self, when: Instant, /, *args: P.args, **kwargs: P.kwargs) -> UUID:
        """As `enqueue_at`, for asyncio."""
        return (await self._asend(self._make(args, kwargs), due_at=when))[0]

    async def aenqueue_after(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> UUID:
        """As `enqueue_after`, for asyncio."""
        return (await self._asend(self._make(args, kwargs), delay=delay))[0]

    async def aenqueue_many(
        self,
        calls: Iterable[Sequence[Any]],
        /,
        *,
        batch: int | None = None,
        on_stored: OnStored = None,
    ) -> list[UUID]:
        """As `enqueue_many`, for asyncio; `on_stored` is called in the event loop."""
        if batch is None:
            return told(await self._asend(self._make_many(calls)), on_stored)
        return await send_parts_async(self._asend, self._parts(calls, batch), on_stored)

    def using(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: Duration | None = None,
        id: TaskIdLike | None = None,  # noqa: A002 - the name of the field
        connection: object | None = None,
        buffer: Buffer | AsyncBuffer | None = None,
    ) -> Submission[P, R]:
        """Return the task with other options for the next call; what is left out stays.

        Parameters
        ----------
        queue : str, optional
            Queue to put it into.
        priority : int, optional
            Higher first.
        delay : timedelta, int, float, optional
            Time until the call is due.
        id : UUID or str, optional
            Id of the task. Repeating an enqueue with the same id cannot store it twice.
        connection : MySQLdb connection, optional
            Store the call in the open transaction of this connection; the caller commits. Not for asyncio.
        buffer : Buffer or AsyncBuffer, optional
            Store the call with those of other callers; for `enqueue` a buffer of a `MysqlBroker` and for `aenqueue`
            one of an `AsyncMysqlBroker`, of the task's queue. Not for delays and tasks with a retry policy.
        """
        changes: dict[str, Any] = {}
        if queue is not None:
            changes["queue"] = validate.name(queue, "queue")
        if priority is not None:
            changes["priority"] = validate.priority(priority)
        if delay is not None:
            changes["delay_secs"] = validate.duration(delay, "delay")
        if id is not None:
            changes["id"] = validate.task_id(id, "id")
        if connection is not None:
            changes["connection"] = connection
        if buffer is not None:
            changes["buffer"] = buffer
        return Submission(self._task, replace(self._options, **changes))

    # How it is done

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LikeTasks:
        task, options = self._task, self._options
        task.check_arguments(args, kwargs)
        return LikeTasks.new(
            task.name,
            [task.app.encode(args, kwargs)],
            priority=task.priority if options.priority is None else options.priority,
            max_retries=task.max_retries,
            timeout_secs=task.timeout_secs,
            id=options.id,
        )

    def _make_many(self, calls: Iterable[Sequence[Any]]) -> Sequence[SerializedTask]:
        if self._options.id is not None:
            raise ValidationError("id is for one call; enqueue_many gives each its own", parameter="id")
        task, options = self._task, self._options
        check, encode = task.check_arguments, task.app.encode
        payloads: list[bytes] = []
        for call in calls:
            if not isinstance(call, tuple | list):
                raise ValidationError(
                    f"calls must hold tuples of positional arguments, not {type(call).__name__};"
                    " write [(1,), (2,)] for two calls with one argument",
                    parameter="calls",
                )
            args = tuple(call)
            check(args, _NO_KEYWORDS)
            payloads.append(encode(args, _NO_KEYWORDS))
        return LikeTasks.new(
            task.name,
            payloads,
            priority=task.priority if options.priority is None else options.priority,
            max_retries=task.max_retries,
            timeout_secs=task.timeout_secs,
        )

    def _parts(self, calls: Iterable[Sequence[Any]], batch: int) -> Iterator[Sequence[SerializedTask]]:
        size = validate.integer(batch, "batch", 1, MAX_BATCH)
        rest = iter(calls)
        while part := self._make_many(islice(rest, size)):
            yield part

    def _send(
        self, tasks: Sequence[SerializedTask], *, due_at: Instant | None = None, delay: Duration | None = None
    ) -> list[UUID]:
        operation, arguments, options = self._request(tasks, due_at, delay)
        if self._options.buffer is not None:
            from celers.buffer import Buffer

            return [self._buffer(Buffer, tasks, operation, options).enqueue(tasks[0])]
        broker = self._task.app.broker_for(self._options.queue or self._task.queue)
        stored = getattr(broker.producer, operation)(*arguments, **options)
        return stored if isinstance(stored, list) else [stored]

    async def _asend(
        self, tasks: Sequence[SerializedTask], *, due_at: Instant | None = None, delay: Duration | None = None
    ) -> list[UUID]:
        if self._options.connection is not None:
            raise ValidationError("connection= is for the blocking methods", parameter="connection")
        operation, arguments, options = self._request(tasks, due_at, delay)
        if self._options.buffer is not None:
            from celers.buffer import AsyncBuffer

            return [await self._buffer(AsyncBuffer, tasks, operation, options).enqueue(tasks[0])]
        broker = await self._task.app.async_broker_for(self._options.queue or self._task.queue)
        stored = await getattr(broker.producer, operation)(*arguments, **options)
        return stored if isinstance(stored, list) else [stored]

    def _buffer(self, kind: type[B], tasks: Sequence[SerializedTask], operation: str, options: dict[str, Any]) -> B:
        """Return the buffer that was asked for, if it can do what was asked for."""
        buffer, queue = self._options.buffer, self._options.queue or self._task.queue
        if not isinstance(buffer, kind):
            raise ValidationError(f"buffer must be of {kind.__name__} here", parameter="buffer")
        if buffer.queue_name != queue:
            raise ValidationError(f"the buffer is of queue {buffer.queue_name!r}, not {queue!r}", parameter="buffer")
        if operation != "submit" or options or len(tasks) != 1:
            raise ValidationError("a buffer takes single calls that may run at once", parameter="buffer")
        return buffer

    def _request(
        self, tasks: Sequence[SerializedTask], due_at: Instant | None, delay: Duration | None
    ) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Choose the producer's operation, the plainest that does it, and its arguments."""
        options: dict[str, Any] = {}
        if self._options.connection is not None:
            options["connection"] = self._options.connection
        wait = self._options.delay_secs if delay is None else validate.duration(delay, "delay")
        if due_at is not None and wait:
            raise ValidationError("a call is due at an instant or after a delay, not both", parameter="delay")
        policy = self._task.retry_policy
        if policy is not None:
            options |= {"due_at": due_at, "delay_secs": wait}
            return "submit_with_retry_policy", (tasks, policy), options
        if due_at is not None:
            return "enqueue_at", (tasks[0], due_at), options
        if wait:
            options["delay_secs"] = wait
        return "submit", (tasks,), options
