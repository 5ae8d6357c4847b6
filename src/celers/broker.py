"""`MysqlBroker`: the blocking broker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self, TypeVar, overload

from celers import validate
from celers.buffer import Buffer
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
from celers.db.pool import ConnectionPool, Pool
from celers.db.runner import BlockingRunner
from celers.db.url import ConnectOptions, parse_url
from celers.errors import CelersError, ConfigurationError, ValidationError
from celers.flat import FlatNames
from celers.heartbeat import Heartbeat, Leadership, try_lead
from celers.hooks import HookFn
from celers.model.base import Duration
from celers.model.config import CircuitBreakerConfig, IdempotencyConfig, PoolConfig
from celers.model.enums import TaskHook
from celers.model.task import BrokerMessage
from celers.operation import Sync
from celers.transaction import Transaction
from celers.waiting import WaitingRoom

__all__ = ["MysqlBroker"]

T = TypeVar("T")

MAX_PAYLOAD_BYTES = 16_777_215
LONGEST_POLL_SECS = 1.0
RESTING_SECS = 5.0


def refuse_later_features(
    circuit_breaker_config: CircuitBreakerConfig | None,
    idempotency_config: IdempotencyConfig | None,
    metrics_registry: object | None,
) -> None:
    """Refuse what the constructor will take once it exists, instead of ignoring it."""
    for name, given in (
        ("circuit_breaker_config", circuit_breaker_config is not None),
        ("idempotency_config", idempotency_config is not None),
        ("metrics_registry", metrics_registry is not None),
    ):
        if given:
            raise ConfigurationError(f"{name} is not available in this version of celers: leave it out")


def make_core(
    queue_name: str,
    table_prefix: str,
    max_payload_bytes: int,
    compress_payloads: bool,
    lease_secs: int,
    record_history: bool,
    *,
    database: str,
    wake_up: bool,
) -> Core:
    """Check the settings that both brokers share."""
    return Core(
        validate.name(queue_name, "queue_name"),
        validate.table_prefix(table_prefix),
        max_payload_bytes=validate.integer(max_payload_bytes, "max_payload_bytes", 0, MAX_PAYLOAD_BYTES),
        compress=validate.boolean(compress_payloads, "compress_payloads"),
        lease_secs=validate.integer(lease_secs, "lease_secs", 1, 2**31 - 1),
        database=database,
        wake_up=wake_up,
        record_history=validate.boolean(record_history, "record_history"),
    )


def core_for_queue(mine: Core, queue_name: str) -> Core:
    """Make the core of another queue with the settings of this one."""
    core = make_core(
        queue_name,
        mine.prefix,
        mine.max_payload_bytes,
        mine.compress,
        mine.lease_secs,
        mine.record_history,
        database=mine.database,
        wake_up=mine.wake_up,
    )
    core.server = mine.server
    core.hooks = mine.hooks
    return core


def adopt(child: Any, family: set[Any]) -> None:
    """Have a broker of another queue closed with the one that it came from, once it has a consumer."""
    child._children = family  # noqa: SLF001 - of the same class
    slots = child.core.slots
    beat = slots.on_open

    def opened() -> None:
        family.add(child)
        if beat is not None:
            beat()

    slots.on_open = opened


def check_pool_config(pool_config: PoolConfig | None) -> PoolConfig:
    """Return the pool's limits, the defaults for None."""
    if pool_config is not None and not isinstance(pool_config, PoolConfig):
        raise ValidationError(
            f"pool_config must be a PoolConfig, not {type(pool_config).__name__}", parameter="pool_config"
        )
    return pool_config if pool_config is not None else PoolConfig()


class MysqlBroker(FlatNames[Sync]):
    """A task queue in a MySQL or MariaDB database, for blocking code; safe to share between threads.

    Parameters
    ----------
    database_url : str
        ``mysql://user:password@host:port/database?option=value``, or ``mysql+embedded:///directory``.
    queue_name : str
        The queue; other queues of the same database are not seen.
    pool_config : PoolConfig, optional
    table_prefix : str
        Replaces ``celers_`` in the names of tables.
    max_payload_bytes : int
        Limit of the stored payload.
    compress_payloads : bool
        Store new payloads compressed; every reader understands both forms.
    record_history : bool
        Write one row into `celers_task_history` for each change of a task's state, in the same transaction. Costs a
        statement in each claim, a round trip in each enqueue, and the quick way of acknowledging.
    lease_secs : int
        A process that is silent for longer counts as dead, and its deliveries are taken back.
    heartbeat : bool
        Beat in the background for this process's deliveries while it lives.
    wake_up : bool
        Wake idle consumers when tasks are placed, and be woken while waiting, by `celers.wakeup`; costs two
        connections of a process that waits. Without it, and where the server does not allow it, consumers poll.

    Raises
    ------
    ConfigurationError
        The URL, or a server that is too old.
    BrokerConnectionError
        The server cannot be reached.

    Notes
    -----
    The constructor opens one connection. After a fork the child opens connections and consumers of its own.
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
        pool = Pool(options, check_pool_config(pool_config))
        beats = Heartbeat(options, core.prefix, core.lease_secs) if heartbeat else None
        self._bind(core, pool, beats, owns_pool=True)
        connection = pool.acquire()
        core.server = connection.server
        pool.release(connection)

    def _bind(self, core: Core, pool: Pool, beats: Heartbeat | None, *, owns_pool: bool) -> None:
        self.core = core
        self._pool = pool
        self._beats = beats
        self._owns_pool = owns_pool
        self._closed = False
        self._children: set[MysqlBroker] = set()
        self._room: WaitingRoom | None = None
        self._runner = BlockingRunner(core, pool)
        if beats is not None:
            beats.watch(core)

    @classmethod
    def with_queue(cls, database_url: str, queue_name: str) -> Self:
        """Make a broker for a queue."""
        return cls(database_url, queue_name)

    @classmethod
    def with_config(cls, database_url: str, queue_name: str, config: PoolConfig) -> Self:
        """Make a broker with a pool of other limits."""
        return cls(database_url, queue_name, pool_config=config)

    @classmethod
    def with_circuit_breaker_config(
        cls,
        database_url: str,
        queue_name: str,
        pool_config: PoolConfig,
        circuit_breaker_config: CircuitBreakerConfig,
    ) -> Self:
        """Make a broker with a circuit breaker."""
        return cls(database_url, queue_name, pool_config=pool_config, circuit_breaker_config=circuit_breaker_config)

    def for_queue(self, queue_name: str) -> MysqlBroker:
        """Return a broker for another queue that shares this one's connections."""
        core = core_for_queue(self.core, queue_name)
        other = MysqlBroker.__new__(MysqlBroker)
        other._bind(core, self._pool, self._beats, owns_pool=False)  # noqa: SLF001 - of the same class
        adopt(other, self._children)
        return other

    # Components

    @cached_property
    def producer(self) -> Producer[Sync]:
        """Put work in."""
        return Producer(self.core, self._runner)

    @cached_property
    def consumer(self) -> Consumer[Sync]:
        """Take work out and settle it."""
        return Consumer(self.core, self._runner)

    @cached_property
    def consumers(self) -> Consumers[Sync]:
        """The consumers of this process."""
        return Consumers(self.core, self._runner)

    @cached_property
    def tasks(self) -> Tasks[Sync]:
        """Stored tasks."""
        return Tasks(self.core, self._runner)

    @cached_property
    def analytics(self) -> Analytics[Sync]:
        """Numbers about tasks."""
        return Analytics(self.core, self._runner)

    @cached_property
    def results(self) -> Results[Sync]:
        """Stored results."""
        return Results(self.core, self._runner)

    @cached_property
    def queue(self) -> Queues[Sync]:
        """The queue as a whole."""
        return Queues(self.core, self._runner)

    @cached_property
    def dlq(self) -> DeadLetters[Sync]:
        """Dead letters."""
        return DeadLetters(self.core, self._runner)

    @cached_property
    def workers(self) -> Workers[Sync]:
        """Registered workers."""
        return Workers(self.core, self._runner)

    @cached_property
    def maintenance(self) -> Maintenance[Sync]:
        """Upkeep."""
        return Maintenance(self.core, self._runner)

    @cached_property
    def loads(self) -> Loads[Sync]:
        """Tasks for load tests."""
        return Loads(self.core, self._runner)

    @cached_property
    def transfer(self) -> Transfer[Sync]:
        """Tasks and dead letters as JSON."""
        return Transfer(self.core, self._runner)

    @cached_property
    def database(self) -> Database[Sync]:
        """The database behind the queue."""
        return Database(self.core, self._runner)

    @cached_property
    def health(self) -> Health[Sync]:
        """Can this broker work now?"""
        return Health(self.core, self._runner)

    @cached_property
    def migrations(self) -> Migrations[Sync]:
        """Schema version."""
        return Migrations(self.core, self._runner)

    # The broker itself

    @property
    def queue_name(self) -> str:
        """Name of the queue."""
        return self.core.queue_name

    @property
    def server_version(self) -> str:
        """Version text of the server."""
        server = self.core.server
        return server.version if server is not None else ""

    @property
    def options(self) -> ConnectOptions:
        """How to connect to the broker's server."""
        return self._pool.options

    def pool(self) -> ConnectionPool:
        """Return the counters of the connection pool."""
        return self._pool

    def buffer(self, *, max_delay: Duration = 0.0, max_items: int = 1000) -> Buffer:
        """Make a context manager whose `enqueue` stores the tasks of many threads with one commit for a group.

        Parameters
        ----------
        max_delay : timedelta, int or float
            Seconds that the first task of a group waits for others. With 0, a group is what came while the one
            before was being stored.
        max_items : int
            Most tasks of a group, 1 to 100,000.
        """
        return Buffer(self.producer, max_delay=max_delay, max_items=max_items)

    def add_hook(self, hook: TaskHook, fn: HookFn) -> None:
        """Have a function called at a point of a task's life; brokers made by `for_queue` share their hooks.

        Parameters
        ----------
        hook : TaskHook
        fn : callable
            Called with a `HookContext` and the task, None where there is none; see `celers.hooks`. Several of one point
            run in the order of their registration.

        Raises
        ------
        ValidationError
            `fn` cannot be called, or is a coroutine function.

        Notes
        -----
        Hooks at BEFORE_ACK and AFTER_ACK take the quick way of acknowledging away: two round trips instead of one.
        """
        self.core.hooks.add(hook, fn)

    def clear_hooks(self) -> None:
        """Forget all hooks."""
        self.core.hooks.clear()

    def ring(self, *queues: str) -> None:
        """Wake an idle consumer of each queue, of this broker's own when none is named.

        Behind its own commits the broker does that by itself. Call it after committing on a connection of your own on
        which tasks were stored.
        """
        for name in queues or (self.queue_name,):
            target = self if name == self.queue_name else self.for_queue(name)
            target.queue.ring()

    def try_lead(self) -> Leadership | None:
        """Become the maintenance leader of the database; None while another process is."""
        return try_lead(self._pool.options, self.core.prefix)

    def dequeue_wait(
        self,
        timeout_secs: float | None,
        *,
        worker_id: str | None = None,
        poll_interval_secs: float = 0.1,
    ) -> BrokerMessage | None:
        """Claim the first due task, waiting for one.

        Parameters
        ----------
        timeout_secs : timedelta, int, float or None
            None waits without end.
        poll_interval_secs : timedelta, int or float
            First pause between two looks; doubles up to 1 s.

        Returns
        -------
        BrokerMessage or None
            None when the time is over.
        """
        timeout = None if timeout_secs is None else validate.duration(timeout_secs, "timeout_secs")
        pause = validate.duration(poll_interval_secs, "poll_interval_secs", positive=True)
        worker = validate.optional_name(worker_id, "worker_id")
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._waiting_room() as room:
            while True:
                found = self.consumer.dequeue_batch(1, worker_id=worker)
                if found:
                    return found[0]
                while True:
                    resting = room.prepare()
                    wait = poll_wait(pause, deadline, self.core.next_due_secs, resting=resting)
                    if wait is None:
                        return None
                    if room.wait(wait) or not resting or self.core.promotion_is_due():
                        break
                pause = min(pause * 2, max(pause, LONGEST_POLL_SECS))

    def _waiting_room(self) -> WaitingRoom:
        """Where callers of `dequeue_wait` wait for a ring; made on first use, and anew after a fork."""
        room = self._room
        if room is None or room.pid != os.getpid():
            if not self.core.has_queue_id:
                self._runner.intern_queue()
            room = self._room = WaitingRoom(self._pool.options, self.core)
        return room

    @overload
    def with_transaction(self, fn: None = None) -> Any: ...
    @overload
    def with_transaction(self, fn: Callable[[Transaction], T]) -> T: ...
    def with_transaction(self, fn: Callable[[Transaction], T] | None = None) -> Any:
        """Run broker operations and own statements in one transaction.

        Parameters
        ----------
        fn : callable, optional
            Called with the `Transaction`; its result is returned. Without it a context manager is returned.

        Notes
        -----
        Commits at the normal end, rolls back on any exception and raises it again.
        """
        if fn is None:
            return self._transaction()
        with self._transaction() as transaction:
            return fn(transaction)

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        if not self.core.has_queue_id:
            self._runner.intern_queue()
        transaction = Transaction(self.core, self._runner, self._pool)
        with transaction:
            yield transaction

    def close(self) -> None:
        """Close all connections; closing twice is harmless. Later calls raise `BrokerError`.

        A broker made by `for_queue` leaves the shared connections open; it is closed with the broker that it came from.
        """
        if self._closed:
            return
        self._closed = True
        self._children.discard(self)
        if self._owns_pool:
            for child in list(self._children):
                child.close()
        if self._room is not None:
            self._room.close()
        try:
            if not self._pool.closed and self.core.slots.numbers():
                self.consumers.end()
        except CelersError:
            pass  # the server or the tables are gone; the consumers end with their leases
        finally:
            self._runner.closed = True
            if self._owns_pool:
                if self._beats is not None:
                    self._beats.close()
                self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def poll_wait(pause: float, deadline: float | None, next_due: float | None, *, resting: bool = False) -> float | None:
    """How long to sleep before the next look; None when the deadline has come.

    `resting`: a ring is sure to be heard.
    """
    if resting:
        pause = RESTING_SECS
    # What was due already and did not come is locked by somebody.
    wait = min(pause, max(next_due, 0.001)) if next_due else pause
    if deadline is None:
        return wait
    left = deadline - time.monotonic()
    return None if left <= 0 else min(wait, left)
