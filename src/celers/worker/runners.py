"""Where tasks run: plain functions in threads, coroutines in one event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from celers import payload
from celers.errors import DeserializationError
from celers.worker.board import Board
from celers.worker.delivery import (
    Delivery,
    Failure,
    Outcome,
    Success,
    failure_of,
    result_text,
    run_sync,
    timed_out,
)

__all__ = ["AsyncRunner", "ThreadRunner"]

Report = Callable[[Outcome], None]

# A coroutine is cancelled at its timeout. One that does not let itself be cancelled ends with its process.
CANCEL_SECS = 5.0


def _start(board: Board, slot: int, delivery: Delivery, extra_secs: float = 0.0) -> None:
    metadata = delivery.message.task.metadata
    timeout = metadata.timeout_secs
    seq, consumer_no, deliveries = delivery.receipt
    if timeout is None:
        board.start(slot, seq)
        return
    board.start_timed(
        slot,
        seq,
        time.monotonic() + timeout + extra_secs,
        consumer_no,
        deliveries,
        delivery.queue,
        delivery.keeps_result,
        timeout,
        metadata.id.bytes,
    )


class _TaskThread(threading.Thread):
    """One thread that takes deliveries and runs them."""

    def __init__(self, owner: ThreadRunner, slot: int) -> None:
        super().__init__(name=f"celers-task-{slot}", daemon=True)
        self.owner = owner
        self.slot = slot
        self.current: Delivery | None = None
        self.abandoned = False
        self.lock = threading.Lock()

    def run(self) -> None:
        take, board, slot, report = self.owner.waiting.get, self.owner.board, self.slot, self.owner.report
        while True:
            delivery = take()
            if delivery is None:
                return
            self.current = delivery
            _start(board, slot, delivery)
            outcome = run_sync(delivery)
            with self.lock:
                if self.abandoned:
                    return  # another thread has this slot by now
                board.end(slot)
                self.current = None
            report(outcome)


class ThreadRunner:
    """A fixed number of threads for plain functions.

    Parameters
    ----------
    threads : int
    board : Board
        Gets the running tasks, in the slots 0 to `threads` - 1.
    report : callable
        Called in the task's thread with each outcome.
    """

    def __init__(self, threads: int, board: Board, report: Report) -> None:
        self.waiting: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self.board = board
        self.report = report
        self._threads = [_TaskThread(self, slot) for slot in range(threads)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def take_back(self) -> list[Delivery]:
        """Remove and return the deliveries that no thread has taken yet."""
        found: list[Delivery] = []
        with suppress(queue.Empty):
            while True:
                delivery = self.waiting.get_nowait()
                if delivery is not None:
                    found.append(delivery)
        return found

    def abandon_overdue(self, now: float) -> list[Delivery]:
        """Give up threads whose task is past its deadline, and put new ones in their place.

        A thread cannot be ended from outside. Only a worker without child processes does this; the others end the
        process.
        """
        overdue = {task.seq for task in self.board.overdue(now)}
        found: list[Delivery] = []
        for index, thread in enumerate(self._threads):
            with thread.lock:
                delivery = thread.current
                if delivery is None or delivery.receipt[0] not in overdue:
                    continue  # it came to its end in the meantime
                thread.abandoned = True
                self.board.end(thread.slot)
            found.append(delivery)
            self._threads[index] = replacement = _TaskThread(self, thread.slot)
            replacement.start()
        return found

    def stop(self) -> None:
        """Let the threads end after their current task."""
        for _ in self._threads:
            self.waiting.put(None)


class AsyncRunner:
    """An event loop on its own thread for coroutine functions; started by the first of them.

    Parameters
    ----------
    limit : int
        Coroutines at a time; more wait in order.
    board : Board
        Gets the running tasks, in `limit` slots from `first_slot` on.
    report : callable
        Called in the loop's thread with each outcome.
    """

    def __init__(self, limit: int, board: Board, first_slot: int, report: Report) -> None:
        self.limit = limit
        self._board = board
        self._report = report
        self._free = list(range(first_slot + limit - 1, first_slot - 1, -1))
        self._waiting: deque[Delivery] = deque()
        self._running: set[asyncio.Task[None]] = set()
        # Each counter is written by one thread only.
        self._handed_in = 0
        self._taken_back = 0
        self._over = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def in_flight(self) -> int:
        """Deliveries handed in whose outcome was not reported yet."""
        return self._handed_in - self._taken_back - self._over

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Run these when there is room."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._serve, args=(loop,), name="celers-async", daemon=True)
            self._thread.start()
        self._handed_in += len(deliveries)
        loop.call_soon_threadsafe(self._accept, list(deliveries))

    def take_back(self) -> list[Delivery]:
        """Remove and return the deliveries that were not started yet."""
        found: list[Delivery] = []
        # The loop's thread takes from the other end; both ends of a deque are safe.
        with suppress(IndexError):
            while True:
                found.append(self._waiting.pop())
        self._taken_back += len(found)
        return found

    def stop(self, timeout: float = 2.0) -> None:
        """Cancel what still runs and end the thread."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or loop.is_closed():
            return
        loop.call_soon_threadsafe(self._cancel_all)
        thread.join(timeout)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            with suppress(Exception):
                loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def _accept(self, deliveries: list[Delivery]) -> None:
        self._waiting.extend(deliveries)
        self._fill()

    def _fill(self) -> None:
        assert self._loop is not None
        while self._free:
            try:
                delivery = self._waiting.popleft()
            except IndexError:
                return
            running = self._loop.create_task(self._run(delivery, self._free.pop()))
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def _run(self, delivery: Delivery, slot: int) -> None:
        _start(self._board, slot, delivery, CANCEL_SECS)
        outcome: Outcome | None = None
        try:
            outcome = await _run_coroutine(delivery)
        finally:
            self._board.end(slot)
            self._free.append(slot)
            self._over += 1
            if outcome is not None:
                self._report(outcome)
            self._fill()

    def _cancel_all(self) -> None:
        assert self._loop is not None
        for running in self._running:
            running.cancel()
        self._waiting.clear()
        self._loop.create_task(self._stop_when_empty())

    async def _stop_when_empty(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=1.0)
        asyncio.get_running_loop().stop()


async def _run_coroutine(delivery: Delivery) -> Outcome:
    """Run a delivery's coroutine function; its timeout cancels it.

    Only the cancellation by `AsyncRunner.stop` comes through: the delivery is given back then.
    """
    task = delivery.task
    assert task is not None
    try:
        args, kwargs = payload.decode(delivery.message.task.payload)
    except DeserializationError as error:
        return Failure(delivery, str(error), verdict="dead_letter")
    limit = delivery.message.task.metadata.timeout_secs
    started = time.monotonic()
    scope = asyncio.timeout(limit)
    try:
        async with scope:
            value = await task.fn(*args, **kwargs)
        text = None if value is None or task.ignore_result else result_text(value)
    except asyncio.CancelledError as error:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        return failure_of(delivery, error, time.monotonic() - started)
    except BaseException as error:  # noqa: BLE001 - whatever a task raises is its failure
        runtime = time.monotonic() - started
        if limit is not None and scope.expired() and isinstance(error, TimeoutError):
            return Failure(delivery, timed_out(limit), runtime_secs=runtime)
        return failure_of(delivery, error, runtime)
    finished = time.monotonic()
    return Success(delivery, text, finished - started, finished)
