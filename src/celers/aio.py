"""`AsyncMysqlBroker`: the broker for asyncio, with the same operations as coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from functools import cached_property
from typing import Self

from celers import validate
from celers.broker import (
    LONGEST_POLL_SECS,
    MAX_PAYLOAD_BYTES,
    adopt,
    check_pool_config,
    core_for_queue,
    make_core,
    poll_wait,
    refuse_later_features,
)
from celers.buffer import AsyncBuffer
from celers.components.analytics import Analytics
from celers.components.consumer import Consumer
from celers.components.consumers import Consumers
from celers.components.database import Database
from celers.components.dlq import DeadLetters
from celers.components.health import Health
from celers.components.loads import Loads
from celers.components.maintenance import Maintenance
from celers.components.migrations import Migrations
from celers.components.producer import Producer
from celers.components.queues import Queues
from celers.components.results import Results
from celers.components.tasks import Tasks
from celers.components.transfer import Transfer
from celers.components.workers import Workers
from celers.core import Core
from celers.db.aio import AsyncPool, AsyncRunner
from celers.db.pool import ConnectionPool
from celers.db.url import parse_url
from celers.errors import CelersError
from celers.flat import FlatNames
from celers.heartbeat import Heartbeat
from celers.hooks import HookFn
from celers.leading import AsyncLeadership, try_lead_async
from celers.model.base import Duration
from celers.model.config import CircuitBreakerConfig, IdempotencyConfig, PoolConfig
from celers.model.enums import TaskHook
from celers.model.task import BrokerMessage
from celers.operation import Async
from celers.waiting import WaitingRoom

__all__ = ["AsyncMysqlBroker"]


class AsyncMysqlBroker(FlatNames[Async]):
    """A task queue in a MySQL or MariaDB database, for asyncio.

    The parameters are those of `MysqlBroker`. The constructor does no I/O: `await broker.open()`, ``async with``, or
    the first operation connects. A broker belongs to the event loop that uses it first.

    Notes
    -----
    An operation whose caller is cancelled before its packet was sent does nothing. Once it was sent it runs to its
    end; tasks that a cancelled claim brought are given back.
    """

    def __init__(
        self,
        database_url: str,
        queue_name: str = "default",
        *,
        pool_config: PoolConfig | None = None,
        circuit_breaker_config: CircuitBreakerConfig | None = None,
        idempotency_config: IdempotencyConfig | None = None,
        table_prefix: str = "celers_",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        compress_payloads: bool = False,
        record_history: bool = False,
        metrics_registry: object | None = None,
        lease_secs: int = 300,
        heartbeat: bool = True,
        wake_up: bool = True,
    ) -> None:
        refuse_later_features(circuit_breaker_config, idempotency_config, metrics_registry)
        options = parse_url(database_url)
        core = make_core(
            queue_name,
            table_prefix,
            max_payload_bytes,
            compress_payloads,
            lease_secs,
            record_history,
            database=options.database or "",
            wake_up=validate.boolean(wake_up, "wake_up"),
        )
        pool = AsyncPool(options, check_pool_config(pool_config))
        beats = Heartbeat(options, core.prefix, core.lease_secs) if heartbeat else None
        self._bind(core, pool, beats, owns_pool=True)

    def _bind(self, core: Core, pool: AsyncPool, beats: Heartbeat | None, *, owns_pool: bool) -> None:
        self.core = core
        self._pool = pool
        self._beats = beats
        self._owns_pool = owns_pool
        self._closed = False
        self._children: set[AsyncMysqlBroker] = set()
        self._room: WaitingRoom | None = None
        self._rung: set[asyncio.Event] = set()
        self._runner = AsyncRunner(core, pool)
        pool.on_connect(core)
        if beats is not None:
            beats.watch(core)

    def for_queue(self, queue_name: str) -> AsyncMysqlBroker:
        """Return a broker for another queue that shares this one's connections."""
        core = core_for_queue(self.core, queue_name)
        other = AsyncMysqlBroker.__new__(AsyncMysqlBroker)
        other._bind(core, self._pool, self._beats, owns_pool=False)  # noqa: SLF001 - of the same class
        adopt(other, self._children)
        return other

    async def open(self) -> Self:
        """Connect and check the server; optional, since the first operation does it too."""
        connection = await self._pool.acquire()
        self._pool.release(connection)
        return self

    # Components

    @cached_property
    def producer(self) -> Producer[Async]:
        """Put work in."""
        return Producer(self.core, self._runner)

    @cached_property
    def consumer(self) -> Consumer[Async]:
        """Take work out and settle it."""
        return Consumer(self.core, self._runner)

    @cached_property
    def consumers(self) -> Consumers[Async]:
        """The consumers of this process."""
        return Consumers(self.core, self._runner)

    @cached_property
    def tasks(self) -> Tasks[Async]:
        """Stored tasks."""
        return Tasks(self.core, self._runner)

    @cached_property
    def analytics(self) -> Analytics[Async]:
        """Numbers about tasks."""
        return Analytics(self.core, self._runner)

    @cached_property
    def results(self) -> Results[Async]:
        """Stored results."""
        return Results(self.core, self._runner)

    @cached_property
    def queue(self) -> Queues[Async]:
        """The queue as a whole."""
        return Queues(self.core, self._runner)

    @cached_property
    def dlq(self) -> DeadLetters[Async]:
        """Dead letters."""
        return DeadLetters(self.core, self._runner)

    @cached_property
    def workers(self) -> Workers[Async]:
        """Registered workers."""
        return Workers(self.core, self._runner)

    @cached_property
    def maintenance(self) -> Maintenance[Async]:
        """Upkeep."""
        return Maintenance(self.core, self._runner)

    @cached_property
    def loads(self) -> Loads[Async]:
        """Tasks for load tests."""
        return Loads(self.core, self._runner)

    @cached_property
    def transfer(self) -> Transfer[Async]:
        """Tasks and dead letters as JSON."""
        return Transfer(self.core, self._runner)

    @cached_property
    def database(self) -> Database[Async]:
        """The database behind the queue."""
        return Database(self.core, self._runner)

    @cached_property
    def health(self) -> Health[Async]:
        """Can this broker work now?"""
        return Health(self.core, self._runner)

    @cached_property
    def migrations(self) -> Migrations[Async]:
        """Schema version."""
        return Migrations(self.core, self._runner)

    # The broker itself

    @property
    def queue_name(self) -> str:
        """Name of the queue."""
        return self.core.queue_name

    @property
    def server_version(self) -> str:
        """Version text of the server; empty before the first connection."""
        server = self.core.server
        return server.version if server is not None else ""

    def pool(self) -> ConnectionPool:
        """Return the counters of the connection pool."""
        return self._pool

    def buffer(self, *, max_delay: Duration = 0.0, max_items: int = 1000) -> AsyncBuffer:
        """Make an asynchronous context manager that groups the enqueues of coroutines; see `MysqlBroker.buffer`."""
        return AsyncBuffer(self.producer, max_delay=max_delay, max_items=max_items)

    async def try_lead(self) -> AsyncLeadership | None:
        """Become the maintenance leader of the database; None while another process is.

        The leadership has a connection of its own, outside the pool, on a thread of its own.
        """
        return await try_lead_async(self._pool.options, self.core.prefix)

    def add_hook(self, hook: TaskHook, fn: HookFn) -> None:
        """Have a function called at a point of a task's life, in the event loop; see `MysqlBroker.add_hook`."""
        self.core.hooks.add(hook, fn)

    def clear_hooks(self) -> None:
        """Forget all hooks."""
        self.core.hooks.clear()

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
        timeout = None if timeout_secs is None else validate.duration(timeout_secs, "timeout_secs")
        pause = validate.duration(poll_interval_secs, "poll_interval_secs", positive=True)
        worker = validate.optional_name(worker_id, "worker_id")
        deadline = None if timeout is None else time.monotonic() + timeout
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
                        wait = poll_wait(pause, deadline, self.core.next_due_secs, resting=resting)
                        if wait is None:
                            return None
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(wait):
                                await rung.wait()
                        if rung.is_set() or not resting or self.core.promotion_is_due():
                            break
                    pause = min(pause * 2, max(pause, LONGEST_POLL_SECS))
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
