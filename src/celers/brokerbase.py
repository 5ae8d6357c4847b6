"""What the two brokers have in common: settings, components, the family of brokers on one pool."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celers import validate
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
from celers.db.url import ConnectOptions, parse_url
from celers.errors import ConfigurationError, ValidationError
from celers.flat import FlatNames
from celers.heartbeat import Heartbeat
from celers.hooks import HookFn
from celers.model.config import CircuitBreakerConfig, IdempotencyConfig, PoolConfig
from celers.model.enums import TaskHook
from celers.operation import Async, Sync
from celers.waiting import WaitingRoom

if TYPE_CHECKING:
    from celers.db.aio import AsyncPool, AsyncRunner
    from celers.db.pool import ConnectionPool, Pool
    from celers.db.runner import BlockingRunner

__all__ = ["BrokerBase"]

M = TypeVar("M", Sync, Async)
PoolT = TypeVar("PoolT", bound="Pool | AsyncPool")
RunnerT = TypeVar("RunnerT", bound="BlockingRunner | AsyncRunner")
BrokerT = TypeVar("BrokerT", bound="BrokerBase[Any, Any, Any]")


class BrokerBase(FlatNames[M], Generic[M, PoolT, RunnerT]):
    """A broker without the ways in which threads and asyncio differ: connecting, waiting, transactions, closing."""

    def __init__(
        self,
        database_url: str,
        queue_name: str = "default",
        *,
        pool_config: PoolConfig | None = None,
        circuit_breaker_config: CircuitBreakerConfig | None = None,
        idempotency_config: IdempotencyConfig | None = None,
        table_prefix: str = "celers_",
        max_payload_bytes: int = validate.DEFAULT_MAX_PAYLOAD_BYTES,
        compress_payloads: bool = False,
        record_history: bool = False,
        metrics_registry: object | None = None,
        lease_secs: int = 300,
        heartbeat: bool = True,
        wake_up: bool = True,
    ) -> None:
        refuse_later_features(circuit_breaker_config, idempotency_config, metrics_registry)
        options = parse_url(database_url)
        core = Core(
            validate.name(queue_name, "queue_name"),
            validate.table_prefix(table_prefix),
            max_payload_bytes=validate.integer(
                max_payload_bytes, "max_payload_bytes", 0, validate.DEFAULT_MAX_PAYLOAD_BYTES
            ),
            compress=validate.boolean(compress_payloads, "compress_payloads"),
            lease_secs=validate.integer(lease_secs, "lease_secs", 1, 2**31 - 1),
            record_history=validate.boolean(record_history, "record_history"),
            database=options.database or "",
            wake_up=validate.boolean(wake_up, "wake_up"),
        )
        pool = self._make_pool(options, check_pool_config(pool_config))
        beats = Heartbeat(options, core.prefix, core.lease_secs) if heartbeat else None
        self._bind(core, pool, beats, owns_pool=True)
        self._begin()

    def _make_pool(self, options: ConnectOptions, config: PoolConfig) -> PoolT:
        raise NotImplementedError

    def _make_runner(self, core: Core, pool: PoolT) -> RunnerT:
        raise NotImplementedError

    def _begin(self) -> None:
        """Connect at once where the constructor may wait for that."""

    def _bind(self, core: Core, pool: PoolT, beats: Heartbeat | None, *, owns_pool: bool) -> None:
        self.core = core
        self._pool = pool
        self._beats = beats
        self._owns_pool = owns_pool
        self._closed = False
        self._children: set[Any] = set()
        self._room: WaitingRoom | None = None
        self._runner = self._make_runner(core, pool)
        if beats is not None:
            beats.watch(core)

    def _relate(self, other: BrokerT, queue_name: str) -> BrokerT:
        """Make an unbound broker one of another queue on this one's pool, closed with it once it has a consumer."""
        core = self.core.for_queue(validate.name(queue_name, "queue_name"))
        other._bind(core, self._pool, self._beats, owns_pool=False)  # noqa: SLF001 - of the same class
        family = other._children = self._children  # noqa: SLF001
        beat = core.slots.on_open

        def opened() -> None:
            family.add(other)
            if beat is not None:
                beat()

        core.slots.on_open = opened
        return other

    # Components

    @cached_property
    def producer(self) -> Producer[M]:
        """Put work in."""
        return Producer(self.core, self._runner)

    @cached_property
    def consumer(self) -> Consumer[M]:
        """Take work out and settle it."""
        return Consumer(self.core, self._runner)

    @cached_property
    def consumers(self) -> Consumers[M]:
        """The consumers of this process."""
        return Consumers(self.core, self._runner)

    @cached_property
    def tasks(self) -> Tasks[M]:
        """Stored tasks."""
        return Tasks(self.core, self._runner)

    @cached_property
    def analytics(self) -> Analytics[M]:
        """Numbers about tasks."""
        return Analytics(self.core, self._runner)

    @cached_property
    def results(self) -> Results[M]:
        """Stored results."""
        return Results(self.core, self._runner)

    @cached_property
    def queue(self) -> Queues[M]:
        """The queue as a whole."""
        return Queues(self.core, self._runner)

    @cached_property
    def dlq(self) -> DeadLetters[M]:
        """Dead letters."""
        return DeadLetters(self.core, self._runner)

    @cached_property
    def workers(self) -> Workers[M]:
        """Registered workers."""
        return Workers(self.core, self._runner)

    @cached_property
    def maintenance(self) -> Maintenance[M]:
        """Upkeep."""
        return Maintenance(self.core, self._runner)

    @cached_property
    def loads(self) -> Loads[M]:
        """Tasks for load tests."""
        return Loads(self.core, self._runner)

    @cached_property
    def transfer(self) -> Transfer[M]:
        """Tasks and dead letters as JSON."""
        return Transfer(self.core, self._runner)

    @cached_property
    def database(self) -> Database[M]:
        """The database behind the queue."""
        return Database(self.core, self._runner)

    @cached_property
    def health(self) -> Health[M]:
        """Can this broker work now?"""
        return Health(self.core, self._runner)

    @cached_property
    def migrations(self) -> Migrations[M]:
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

    def add_hook(self, hook: TaskHook, fn: HookFn) -> None:
        """Have a function called at a point of a task's life; brokers made by `for_queue` share their hooks.

        Parameters
        ----------
        hook : TaskHook
        fn : callable
            Called with a `HookContext` and the task, None where there is none; see `celers.hooks`. Several of one point
            run in the order of their registration. An `AsyncMysqlBroker` calls it in the event loop.

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


def check_pool_config(pool_config: PoolConfig | None) -> PoolConfig:
    """Return the pool's limits, the defaults for None."""
    if pool_config is not None and not isinstance(pool_config, PoolConfig):
        raise ValidationError(
            f"pool_config must be a PoolConfig, not {type(pool_config).__name__}", parameter="pool_config"
        )
    return pool_config if pool_config is not None else PoolConfig()
