"""Carries operations out for asyncio, with one thread for each connection (`celers.db.lines`).

A caller may be cancelled at any time. A packet that is still queued is then not sent. A packet that was sent runs to
its end, and so does its operation, on a task of its own, before the connection is used again; what a cancelled claim
brought is given back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from celers.db.aiopool import AsyncPool
from celers.db.outcome import DriverError, map_error
from celers.db.pool import closed_error
from celers.db.requests import Acquire, Discard, Request, Send, Session, Sleep, advance
from celers.db.session import drive, drive_once
from celers.errors import ValidationError
from celers.operation import QueueUnknown, repeatable

if TYPE_CHECKING:
    from celers.components.base import Component
    from celers.core import Core
    from celers.db.lines import Job, Single, ThreadConnection
    from celers.operation import Once, Operation, Steps, Stream

__all__ = ["AsyncPool", "AsyncRunner"]

R = TypeVar("R")

logger = logging.getLogger("celers.asyncio")


class AsyncRunner:
    """Runs operations on connections of an `AsyncPool`."""

    foreign = False
    is_async = True

    def __init__(self, core: Core, pool: AsyncPool) -> None:
        self.core = core
        self.pool = pool
        self.closed = False

    def bind(self, operation: Operation[..., R], component: Component[Any]) -> Callable[..., Coroutine[Any, Any, R]]:
        """Make the coroutine function that users see for one operation of one component."""
        steps, kind, repeat = operation.steps, operation.kind, operation.repeat_unknown
        undo, slow, single = operation.give_back, operation.slow, operation.single
        prepare: Callable[..., Once[R] | None] | None = None
        if operation.once is not None:
            prepare = getattr(component, operation.once)

        async def call(*args: Any, **kwargs: Any) -> R:
            if self.closed:
                raise closed_error()
            if prepare is not None and (once := prepare(*args, **kwargs)) is not None:
                return await self.run_once(once)
            if kwargs.get("connection") is not None:
                raise ValidationError(
                    "connection= takes a blocking MySQLdb connection: use MysqlBroker on the thread that owns it",
                    parameter="connection",
                )
            args, kwargs = repeatable(args, kwargs)
            return_ = getattr(component, undo) if undo is not None else None
            make = lambda: steps(component, *args, **kwargs)  # noqa: E731 - typed by its use
            try:
                return await self.run(make, kind, repeat, return_, slow=slow, single=single)
            except QueueUnknown:
                await self.intern_queue()
            return await self.run(make, kind, repeat, return_, slow=slow, single=single)

        if operation.meter is None:
            return call
        times = self.core.meters[operation.meter]

        async def metered(*args: Any, **kwargs: Any) -> R:
            started = time.perf_counter()
            result = await call(*args, **kwargs)
            times.append(time.perf_counter() - started)
            return result

        return metered

    def bind_stream(self, stream: Stream[..., R], component: Component[Any]) -> Callable[..., AsyncIterator[R]]:
        """Make the asyncio generator function that users see for one stream of one component."""

        async def values(*args: Any, **kwargs: Any) -> AsyncIterator[R]:
            if self.closed:
                raise closed_error()
            steps = stream.steps(component, *args, **kwargs)
            try:
                request = next(steps, None)  # bad parameters are refused before anything is opened
            except QueueUnknown:
                await self.intern_queue()
                steps = stream.steps(component, *args, **kwargs)
                request = next(steps, None)
            connection: ThreadConnection | None = None
            try:
                while request is not None:
                    if isinstance(request, list):
                        for value in request:
                            yield value
                        request = next(steps, None)
                        continue
                    if self.closed:
                        raise closed_error()
                    if connection is None:
                        connection = await self.pool.open_slow()
                    job = connection.send(b";".join(request.statements), len(request.statements))
                    reply = await job
                    request = advance(steps, reply)
            except DriverError as error:
                raise map_error(error) from error
            finally:
                steps.close()
                if connection is not None:
                    self.pool.discard(connection, lost=False)

        return values

    async def intern_queue(self) -> None:
        """Find or make the queue's number, in a transaction of its own."""
        from celers.components.queues import Queues

        await self.run(lambda: Queues.intern.steps(Queues(self.core, self)), "plain", True)

    async def run(
        self,
        make: Callable[[], Steps[R]],
        kind: Any,
        repeat_unknown: bool,
        undo: Callable[[R], Coroutine[Any, Any, object]] | None = None,
        *,
        slow: bool = False,
        single: bool = False,
    ) -> R:
        """Run one operation to its end, which may come after this caller was cancelled."""
        session = Session(slow=slow, single=single)
        requests = drive(make, kind, session, repeat_unknown=repeat_unknown, ring=self.core.ring)
        return await self._loop(requests, session, undo)

    async def run_once(self, once: Once[R]) -> R:
        """Have an operation's only packet sent; when it fails, all goes on as if `drive` had sent it."""
        single = self.pool.single(once, self.core.ring)
        if single is None:
            session = Session()
            return await self._loop(drive_once(once, session, self.core.ring), session, None)
        try:
            if await single:
                self.pool.note(single)
                return once.result
        except asyncio.CancelledError:
            if single.take():
                pass  # it never left; whoever finds it in the line passes it over
            elif single.is_over and single.answer is False:
                if single.error is None:
                    self.pool.yield_place()
            else:
                self._outlive(self._after(once, single))
            raise
        except DriverError:
            pass
        return await self._after(once, single)

    async def _after(self, once: Once[R], single: Single) -> R:
        """Go on where a single has failed, or was not sent."""
        session = Session()
        try:
            if await single:
                return once.result
            session.connection = await self.pool.acquire(has_place=True)
            requests = drive_once(once, session, self.core.ring)
        except DriverError as error:
            session.connection, single.connection = single.connection, None
            rest = drive(once.again, "transaction", session, ring=self.core.ring, failed=error)
            await self._loop(rest, session, None, sent=True)
            return once.result
        return await self._loop(requests, session, None)

    async def _loop(
        self,
        requests: Generator[Request, Any, R],
        session: Session,
        undo: Callable[[R], Coroutine[Any, Any, object]] | None,
        request: Request | None = None,
        pending: Job | None = None,
        *,
        sent: bool = False,
    ) -> R:
        """Fulfil the requests of one operation.

        Parameters
        ----------
        request, pending
            Of an operation whose caller was cancelled: where to go on. It is not given up any more.
        sent
            A packet of it was sent already, so that it runs to its end.
        """
        adopted = request is not None
        handed_over = False
        answer: Any = None
        failure: BaseException | None = None
        try:
            while True:
                if request is None:
                    request = requests.throw(failure) if failure is not None else requests.send(answer)
                    failure = None
                job: Job | None = None
                try:
                    if type(request) is Send:
                        if pending is None:
                            session.in_flight = True
                            pending = job = request.connection.send(request.text, request.count, request.needed)
                        answer = await pending
                    elif type(request) is Acquire:
                        answer = await (
                            self.pool.open_slow(single=session.single) if session.slow else self.pool.acquire()
                        )
                        session.connection = answer
                    elif type(request) is Discard:
                        self.pool.discard(request.connection)
                    elif type(request) is Sleep:
                        await asyncio.sleep(request.secs)
                except asyncio.CancelledError:
                    if adopted:
                        raise  # the loop itself is ending
                    if job is not None and job.take():
                        session.in_flight, pending = False, None  # it never left
                    if pending is None and not sent:
                        raise
                    handed_over = True
                    self._adopt(requests, session, undo, request, pending)
                    raise
                except Exception as error:  # noqa: BLE001 - it is thrown into the operation
                    failure = error
                sent = sent or job is not None
                request = pending = None
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            failure = None  # its traceback holds this frame
            if not handed_over:
                self._clean(requests, session)

    def _clean(self, requests: Generator[Request, Any, Any], session: Session) -> None:
        connection = session.connection
        if connection is not None:
            if session.slow or session.in_transaction or session.in_flight:
                self.pool.discard(connection, lost=connection.broken)
            else:
                self.pool.release(connection)
        requests.close()

    def _adopt(
        self,
        requests: Generator[Request, Any, R],
        session: Session,
        undo: Callable[[R], Coroutine[Any, Any, object]] | None,
        request: Request,
        pending: Job | None,
    ) -> None:
        """Let an operation whose caller was cancelled run to its end, and give back what it brought."""

        async def finish() -> None:
            result = await self._loop(requests, session, undo, request, pending)
            if undo is not None and result:
                await undo(result)

        self._outlive(finish())

    def _outlive(self, rest: Coroutine[Any, Any, Any]) -> None:
        """Run the rest of an operation whose caller was cancelled."""
        task = asyncio.get_running_loop().create_task(rest, name="celers-cancelled-operation")
        self.pool.tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self.pool.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The caller is gone; the operation has rolled back what it could not finish.
            logger.warning("an operation whose caller was cancelled failed: %s", error)
