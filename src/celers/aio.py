"""`AsyncMysqlBroker`: the broker for asyncio, with the same operations as coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Self

from celers import validate
from celers.brokerbase import BrokerBase
from celers.buffer import AsyncBuffer
from celers.db.aio import AsyncPool, AsyncRunner
from celers.errors import CelersError
from celers.leading import AsyncLeadership, try_lead_async
from celers.operation import Async
from celers.waiting import Patience, WaitingRoom

if TYPE_CHECKING:
    from celers.core import Core
    from celers.db.url import ConnectOptions
    from celers.heartbeat import Heartbeat
    from celers.model.base import Duration
    from celers.model.config import PoolConfig
    from celers.model.task import BrokerMessage

__all__ = ["AsyncMysqlBroker"]


class AsyncMysqlBroker(BrokerBase[Async, AsyncPool, AsyncRunner]):
    """A task queue in a MySQL or MariaDB database, for asyncio.

    The parameters are those of `MysqlBroker`. The constructor does no I/O: `await broker.open()`, ``async with``, or
    the first operation connects. A broker belongs to the event loop that uses it first.

    Notes
    -----
    An operation whose caller is cancelled before its packet was sent does nothing. Once it was sent it runs to its
    end; tasks that a cancelled claim brought are given back.
    """

    def _make_pool(self, options: ConnectOptions, config: PoolConfig) -> AsyncPool:
        return AsyncPool(options, config)

    def _make_runner(self, core: Core, pool: AsyncPool) -> AsyncRunner:
        return AsyncRunner(core, pool)

    def _bind(self, core: Core, pool: AsyncPool, beats: Heartbeat | None, *, owns_pool: bool) -> None:
        super()._bind(core, pool, beats, owns_pool=owns_pool)
        self._rung: set[asyncio.Event] = set()
        pool.on_connect(core)

    def for_queue(self, queue_name: str) -> AsyncMysqlBroker:
        """Return a broker for another queue that shares this one's connections."""
        return self._relate(AsyncMysqlBroker.__new__(AsyncMysqlBroker), queue_name)

    async def open(self) -> Self:
        """Connect and check the server; optional, since the first operation does it too."""
        connection = await self._pool.acquire()
        self._pool.release(connection)
        return self

    def buffer(self, *, max_delay: Duration = 0.0, max_items: int = 1000) -> AsyncBuffer:
        """Make an asynchronous context manager that groups the enqueues of coroutines; see `MysqlBroker.buffer`."""
        return AsyncBuffer(self.producer, max_delay=max_delay, max_items=max_items)

    async def try_lead(self) -> AsyncLeadership | None:
        """Become the maintenance leader of the database; None while another process is.

        The leadership has a connection of its own, outside the pool, on a thread of its own.
        """
        return await try_lead_async(self._pool.options, self.core.prefix)

    async def ring(self, *queues: str) -> None:
        """Wake an idle consumer of each queue; see `MysqlBroker.ring`."""
        for name in queues or (self.queue_name,):
            target = self if name == self.queue_name else self.for_queue(name)
            await target.queue.ring()

    async def dequeue_wait(
        self,
        timeout_secs: float | None,
        *,
        worker_id: str | None = None,
        poll_interval_secs: float = 0.1,
    ) -> BrokerMessage | None:
        """Claim the first due task, waiting for one; see `MysqlBroker.dequeue_wait`."""
        patience = Patience(self.core, timeout_secs, poll_interval_secs)
        worker = validate.optional_name(worker_id, "worker_id")
        rung = asyncio.Event()
        self._rung.add(rung)
        try:
            with await self._waiting_room() as room:
                while True:
                    rung.clear()
                    room.note()
                    found = await self.consumer.dequeue_batch(1, worker_id=worker)
                    if found:
                        return found[0]
                    while True:
                        resting = room.prepare()
                        wait = patience.wait(resting=resting)
                        if wait is None:
                            return None
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(wait):
                                await rung.wait()
                        if rung.is_set() or not resting or self.core.promotion_is_due():
                            break
                    patience.grow()
        finally:
            self._rung.discard(rung)

    async def _waiting_room(self) -> WaitingRoom:
        """Where callers of `dequeue_wait` wait for a ring; made on first use."""
        if self._room is None:
            if not self.core.has_queue_id:
                await self._runner.intern_queue()
            loop = asyncio.get_running_loop()

            def wake() -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._wake_all)

            self._room = self._room or WaitingRoom(self._pool.options, self.core, wake)
        return self._room

    def _wake_all(self) -> None:
        for rung in self._rung:
            rung.set()

    async def close(self) -> None:
        """Close all connections; closing twice is harmless. Later calls raise `BrokerError`.

        Operations under way are waited for, up to 5 s. A broker made by `for_queue` leaves the shared connections open;
        it is closed with the broker that it came from.
        """
        if self._closed:
            return
        self._closed = True
        if self._room is not None:
            self._wake_all()
            closing = threading.Thread(target=self._room.close, name="celers-closing", daemon=True)
            closing.start()
            while closing.is_alive():
                await asyncio.sleep(0.002)
        self._children.discard(self)
        if self._owns_pool:
            await self._pool.finish()
            for child in list(self._children):
                await child.close()
        try:
            if not self._pool.closed and self.core.slots.numbers():
                await self.consumers.end()
        except CelersError:
            pass  # the server or the tables are gone; the consumers end with their leases
        finally:
            self._runner.closed = True
            if self._owns_pool:
                if self._beats is not None:
                    self._beats.stop()
                await self._pool.close()
                if self._beats is not None:
                    await asyncio.sleep(0)
                    self._beats.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
