"""`MysqlBroker`: the blocking broker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from celers import validate
from celers.brokerbase import BrokerBase
from celers.buffer import Buffer
from celers.db.pool import Pool
from celers.db.runner import BlockingRunner
from celers.errors import CelersError
from celers.heartbeat import Leadership, try_lead
from celers.operation import Sync
from celers.transaction import Transaction
from celers.waiting import Patience, WaitingRoom

if TYPE_CHECKING:
    from celers.core import Core
    from celers.db.url import ConnectOptions
    from celers.model.base import Duration
    from celers.model.config import CircuitBreakerConfig, PoolConfig
    from celers.model.task import BrokerMessage

__all__ = ["MysqlBroker"]

T = TypeVar("T")


class MysqlBroker(BrokerBase[Sync, Pool, BlockingRunner]):
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

    def _make_pool(self, options: ConnectOptions, config: PoolConfig) -> Pool:
        return Pool(options, config)

    def _make_runner(self, core: Core, pool: Pool) -> BlockingRunner:
        return BlockingRunner(core, pool)

    def _begin(self) -> None:
        connection = self._pool.acquire()
        self.core.server = connection.server
        self._pool.release(connection)

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
        return self._relate(MysqlBroker.__new__(MysqlBroker), queue_name)

    @property
    def options(self) -> ConnectOptions:
        """How to connect to the broker's server."""
        return self._pool.options

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
        patience = Patience(self.core, timeout_secs, poll_interval_secs)
        worker = validate.optional_name(worker_id, "worker_id")
        with self._waiting_room() as room:
            while True:
                found = self.consumer.dequeue_batch(1, worker_id=worker)
                if found:
                    return found[0]
                while True:
                    resting = room.prepare()
                    wait = patience.wait(resting=resting)
                    if wait is None:
                        return None
                    if room.wait(wait) or not resting or self.core.promotion_is_due():
                        break
                patience.grow()

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
