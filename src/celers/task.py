"""Tasks of an application: functions that can be called here or enqueued to run elsewhere."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar
from uuid import UUID

from celers import validate
from celers.errors import ConfigurationError, ValidationError
from celers.lane import OnStored, send_parts, send_parts_async, told
from celers.model.base import Duration, Instant, TaskIdLike
from celers.model.like import LikeTasks
from celers.model.task import SerializedTask
from celers.retry import RetryPolicy, RetryStrategy

if TYPE_CHECKING:
    from celers.app import App
    from celers.buffer import AsyncBuffer, Buffer

__all__ = ["Submission", "Task", "task_name"]

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B", "Buffer", "AsyncBuffer")

DEFAULT_MAX_RETRIES = 3
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


class Task(Submission[P, R]):
    """A function registered with an application by `App.task`.

    Calling it runs the function here and now. `enqueue` and its kin store the call for the workers.

    Attributes
    ----------
    app : App
    name : str
        Name under which workers find it.
    fn : callable
        The function itself.
    queue : str
    priority, max_retries : int
    retry_policy : RetryPolicy or None
    timeout_secs : int or None
    ignore_result : bool
    is_async : bool
        Whether the function is a coroutine function.
    """

    def __init__(
        self,
        app: App,
        fn: Callable[P, R],
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        max_retries: int | None = None,
        retry: RetryPolicy | RetryStrategy | None = None,
        timeout: Duration | None = None,
        ignore_result: bool = False,
    ) -> None:
        if not callable(fn):
            raise ConfigurationError(f"a task must be a function, not {type(fn).__name__}")
        # First, because it copies the function's attributes, which may have any names.
        functools.update_wrapper(self, fn)
        super().__init__(self, CallOptions())
        self.app = app
        self.fn = fn
        self.name = validate.name(task_name(fn) if name is None else name, "name")
        self.queue = app.default_queue if queue is None else validate.name(queue, "queue")
        self.priority = validate.priority(priority)
        self.retry_policy = _policy(retry, max_retries)
        self.max_retries = (
            self.retry_policy.max_retries
            if self.retry_policy is not None
            else validate.max_retries(DEFAULT_MAX_RETRIES if max_retries is None else max_retries)
        )
        self.timeout_secs = validate.timeout_secs(timeout)
        self.ignore_result = validate.boolean(ignore_result, "ignore_result")
        self.is_async = inspect.iscoroutinefunction(fn)
        self._signature, self._plain = _signature(fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        """Name the task."""
        return f"<Task {self.name}>"

    def __reduce__(self) -> str:
        """Pickle by name, as functions do."""
        return self.fn.__qualname__

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise the `TypeError` that a call with these arguments would raise: here, not in the worker."""
        plain = self._plain
        if plain is not None and not kwargs and plain[0] <= len(args) <= plain[1]:
            return
        if self._signature is not None:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self.name}: {error}") from None


def _policy(retry: object, max_retries: int | None) -> RetryPolicy | None:
    if retry is None:
        return None
    if isinstance(retry, RetryStrategy):
        return RetryPolicy(DEFAULT_MAX_RETRIES if max_retries is None else max_retries, retry)
    if isinstance(retry, RetryPolicy):
        if max_retries is not None and max_retries != retry.max_retries:
            raise ValidationError(
                f"max_retries={max_retries} contradicts the retry policy, which says {retry.max_retries}",
                parameter="max_retries",
            )
        return retry
    raise ValidationError(
        f"retry must be a RetryPolicy or a RetryStrategy, not {type(retry).__name__}", parameter="retry"
    )


def _signature(fn: Callable[..., Any]) -> tuple[inspect.Signature | None, tuple[int, int] | None]:
    """Return the signature, and for functions of plain parameters how many values they take by position."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some functions written in C tell nothing
        return None, None
    least = most = 0
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            return signature, None
        most += 1
        least += parameter.default is parameter.empty
    return signature, (least, most)


def task_name(fn: Callable[..., Any]) -> str:
    """Return the name of a function as other processes know it: ``module.qualname``.

    In a program's main module the name under which it can be imported takes the place of ``__main__``.
    """
    module = getattr(fn, "__module__", None) or "__main__"
    if module == "__main__":
        main = sys.modules.get("__main__")
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        if spec is not None and spec.name:
            module = spec.name
        elif file:
            module = Path(file).stem
    return f"{module}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
