"""Buffered producers: single enqueues of many callers, stored together.

A commit costs the same for one task and for a hundred, so callers that enqueue at the same time are served by one
packet. Each is answered when its task is committed, never before. While a packet is on its way the tasks of later
callers gather, and they make the next one: under load groups form by themselves and nobody waits for a clock.

`enqueue_batch` stores all of a group or nothing of it. When a group is refused because of one of its tasks, it is
halved and each half sent again, down to the task concerned, so that its neighbours do not hear of it. What concerns
everybody (no connection, a queue that drains) is told to everybody at once.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID

from celers import forks, validate
from celers.errors import (
    BrokerError,
    DuplicateTaskError,
    InvalidStateTransitionError,
    PayloadTooLargeError,
    SerializationError,
    TaskNotFoundError,
    ValidationError,
)
from celers.model.base import Duration
from celers.model.task import SerializedTask

if TYPE_CHECKING:
    from celers.components.producer import Producer
    from celers.operation import Async, Sync

__all__ = ["AsyncBuffer", "Buffer"]

OF_ONE_TASK = (
    DuplicateTaskError,
    InvalidStateTransitionError,
    PayloadTooLargeError,
    SerializationError,
    TaskNotFoundError,
    ValidationError,
)
"""Errors that one task of a group may have caused alone."""

IDLE_SECS = 1.0
"""How long the thread of a buffer waits for tasks before it ends; the next task starts another."""


def _limits(max_delay: Duration, max_items: int) -> tuple[float, int]:
    return validate.duration(max_delay, "max_delay"), validate.integer(max_items, "max_items", 1, 100_000)


def _checked(task: SerializedTask) -> SerializedTask:
    if not isinstance(task, SerializedTask):
        raise ValidationError(f"a task must be a SerializedTask, not {type(task).__name__}", parameter="task")
    return task


def _closed() -> BrokerError:
    return BrokerError("the buffer is closed: enqueue within its with statement")


def _halves(size: int, error: BaseException) -> int:
    """Return where to cut a group that met an error; 0 when all of it are concerned."""
    return size // 2 if size > 1 and isinstance(error, OF_ONE_TASK) else 0


class _Entry:
    """A caller of a `Buffer`, who waits for the lock to be released."""

    __slots__ = ("at", "done", "error", "task")

    def __init__(self, task: SerializedTask) -> None:
        self.task = task
        self.at = time.monotonic()
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


class Buffer:
    """Groups the enqueues of many threads; made by `MysqlBroker.buffer`.

    Notes
    -----
    A thread of its own sends the groups, one after the other, each by `enqueue_batch`: one round trip and one commit.
    It ends when nothing has come for a second. In the child of a fork the buffer is empty and works on.
    """

    def __init__(self, producer: Producer[Sync], *, max_delay: Duration = 0.0, max_items: int = 1000) -> None:
        self._delay, self._most = _limits(max_delay, max_items)
        self._store = producer.enqueue_batch
        self._hooks = producer.core.hooks
        self._alone = producer.enqueue
        self.queue_name = producer.core.queue_name
        self._closed = False
        self.forked()
        forks.watch(self)

    def forked(self) -> None:
        """Begin anew in a child process: what waits here is the parent's, who sends it."""
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[_Entry] = deque()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Use the buffer until the end of the `with` statement."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the buffer."""
        self.close()

    def enqueue(self, task: SerializedTask) -> UUID:
        """Store one task that may run at once, in one commit with those of other threads; wait for the commit.

        Parameters
        ----------
        task : SerializedTask

        Returns
        -------
        UUID
            The id of the task, which is stored now.

        Raises
        ------
        BrokerError
            The buffer or the broker is closed, or the server refused the group.
        CelersError
            As for `MysqlBroker.enqueue`, concerning this task.

        Notes
        -----
        A caller interrupted while waiting takes its task back unless it is on its way already, in which case it is
        stored or not as if the interrupt had come after the call.
        """
        _checked(task)
        if not self._hooks.is_empty and not self._closed:
            return self._alone(task)  # on this caller's thread, who gets what a hook raises
        entry = _Entry(task)
        with self._changed:
            if self._closed:
                raise _closed()
            self._waiting.append(entry)
            if self._thread is None:
                thread = self._thread = threading.Thread(target=self._serve, name="celers-buffer", daemon=True)
                try:
                    thread.start()
                except BaseException:
                    self._thread = None
                    self._waiting.remove(entry)
                    raise
            elif len(self._waiting) in (1, self._most):
                self._changed.notify_all()
        try:
            entry.done.acquire()
        except BaseException:
            with self._changed:
                if entry in self._waiting:
                    self._waiting.remove(entry)
            raise
        if entry.error is not None:
            raise entry.error
        return task.metadata.id

    def close(self) -> None:
        """Send what waits and refuse more; closing twice is harmless. Callers who wait get their answers."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _serve(self) -> None:
        while True:
            group = self._next_group()
            if group is None:
                return
            self._send(group)
            del group  # nothing of it is kept while waiting for the next

    def _next_group(self) -> list[_Entry] | None:
        waiting, changed = self._waiting, self._changed
        with changed:
            while not waiting:
                if self._closed or (not changed.wait(IDLE_SECS) and not waiting):
                    self._thread = None
                    return None
            while self._delay and not self._closed and 0 < len(waiting) < self._most:
                left = waiting[0].at + self._delay - time.monotonic()
                if left <= 0 or not changed.wait(left):
                    break
            return [waiting.popleft() for _ in range(min(len(waiting), self._most))]

    def _send(self, group: list[_Entry]) -> None:
        if not group:  # all were withdrawn
            return
        try:
            self._store([entry.task for entry in group])
        except BaseException as error:  # noqa: BLE001 - it belongs to the callers
            middle = _halves(len(group), error)
            if not middle:
                for entry in group:
                    entry.error = error
                    entry.done.release()
                return
        else:
            for entry in group:
                entry.done.release()
            return
        self._send(group[:middle])
        self._send(group[middle:])


class AsyncBuffer:
    """Groups the enqueues of many coroutines; made by `AsyncMysqlBroker.buffer`. Belongs to one event loop."""

    def __init__(self, producer: Producer[Async], *, max_delay: Duration = 0.0, max_items: int = 1000) -> None:
        self._delay, self._most = _limits(max_delay, max_items)
        self._store = producer.enqueue_batch
        self._hooks = producer.core.hooks
        self._alone = producer.enqueue
        self.queue_name = producer.core.queue_name
        self._closed = False
        self._waiting: dict[asyncio.Future[None], SerializedTask] = {}
        self._sender: asyncio.Task[None] | None = None
        self._full: asyncio.Event | None = None
        self._pid = os.getpid()

    async def __aenter__(self) -> Self:
        """Use the buffer until the end of the `async with` statement."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the buffer."""
        await self.close()

    async def enqueue(self, task: SerializedTask) -> UUID:
        """Store one task that may run at once, in one commit with those of other coroutines; wait for the commit.

        Parameters
        ----------
        task : SerializedTask

        Returns
        -------
        UUID
            The id of the task, which is stored now.

        Raises
        ------
        BrokerError
            The buffer or the broker is closed, or the server refused the group.
        CelersError
            As for `AsyncMysqlBroker.enqueue`, concerning this task.

        Notes
        -----
        A cancelled caller takes its task back unless it is on its way already; the group goes on without it.
        """
        _checked(task)
        if self._pid != os.getpid():
            # The child of a fork: what waits is the parent's, and so is the loop that it waits on.
            self._pid, self._waiting, self._sender = os.getpid(), {}, None
        if self._closed:
            raise _closed()
        if not self._hooks.is_empty:
            return await self._alone(task)  # its caller gets what a hook raises
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[done] = task
        if self._sender is None:
            self._sender = asyncio.create_task(self._serve(), name="celers-buffer")
        elif self._full is not None and len(self._waiting) >= self._most:
            self._full.set()
        try:
            await done
        except asyncio.CancelledError:
            self._waiting.pop(done, None)
            raise
        return task.metadata.id

    async def close(self) -> None:
        """Send what waits and refuse more; closing twice is harmless. Callers who wait get their answers."""
        self._closed = True
        if self._full is not None:
            self._full.set()
        sender = self._sender
        if sender is not None and self._pid == os.getpid():
            # Shielded: a close that is cancelled leaves the tasks on their way.
            await asyncio.shield(sender)

    async def _serve(self) -> None:
        """Send groups until nothing waits."""
        try:
            while self._waiting:
                # Whoever is ready to run, be it because the last group has been answered, may join this one.
                await asyncio.sleep(0)
                if self._delay and not self._closed and len(self._waiting) < self._most:
                    self._full = asyncio.Event()
                    try:
                        async with asyncio.timeout(self._delay):
                            await self._full.wait()
                    except TimeoutError:
                        pass
                    finally:
                        self._full = None
                taken = list(self._waiting.items())[: self._most]
                for done, _ in taken:
                    del self._waiting[done]
                await self._send(taken)
        finally:
            self._sender = None
            # Only when this task was cancelled, which a loop does that ends: nothing of theirs was sent.
            for done in self._waiting:
                done.cancel()
            self._waiting.clear()

    async def _send(self, group: Sequence[tuple[asyncio.Future[None], SerializedTask]]) -> None:
        if not group:  # all were withdrawn
            return
        try:
            await self._store([task for _, task in group])
        except BaseException as error:
            middle = _halves(len(group), error)
            if not middle:
                _tell(group, _failing(error))
                if not isinstance(error, Exception):
                    raise
                return
        else:
            _tell(group, lambda done: done.set_result(None))
            return
        await self._send(group[:middle])
        await self._send(group[middle:])


def _failing(error: BaseException) -> Callable[[asyncio.Future[None]], object]:
    if isinstance(error, asyncio.CancelledError):
        return lambda done: done.cancel()
    return lambda done: done.set_exception(error)


def _tell(
    group: Sequence[tuple[asyncio.Future[None], SerializedTask]], answer: Callable[[asyncio.Future[None]], object]
) -> None:
    for done, _ in group:
        if not done.done():
            answer(done)
