"""celers: the task queue for Python teams whose data lives in MySQL or MariaDB.

The public names are loaded on first use, so that ``import celers`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celers.aio import AsyncMysqlBroker as AsyncMysqlBroker
    from celers.app import App as App
    from celers.broker import MysqlBroker as MysqlBroker
    from celers.components.consumer import Completion as Completion
    from celers.control import Reject as Reject
    from celers.control import Retry as Retry
    from celers.errors import BrokerConnectionError as BrokerConnectionError
    from celers.errors import BrokerError as BrokerError
    from celers.errors import CelersError as CelersError
    from celers.errors import CircuitBreakerOpenError as CircuitBreakerOpenError
    from celers.errors import ConfigurationError as ConfigurationError
    from celers.errors import CyclicDependencyError as CyclicDependencyError
    from celers.errors import DeserializationError as DeserializationError
    from celers.errors import DuplicateGroupError as DuplicateGroupError
    from celers.errors import DuplicateTaskError as DuplicateTaskError
    from celers.errors import GroupNotFoundError as GroupNotFoundError
    from celers.errors import InvalidStateTransitionError as InvalidStateTransitionError
    from celers.errors import MigrationError as MigrationError
    from celers.errors import PayloadTooLargeError as PayloadTooLargeError
    from celers.errors import PoolTimeoutError as PoolTimeoutError
    from celers.errors import QueueDrainingError as QueueDrainingError
    from celers.errors import QueueFullError as QueueFullError
    from celers.errors import SerializationError as SerializationError
    from celers.errors import StaleReceiptError as StaleReceiptError
    from celers.errors import TaskNotFoundError as TaskNotFoundError
    from celers.errors import ValidationError as ValidationError
    from celers.errors import WorkerNotFoundError as WorkerNotFoundError
    from celers.errors import WorkflowNotFoundError as WorkflowNotFoundError
    from celers.hooks import HookFn as HookFn
    from celers.hooks import TaskHooks as TaskHooks
    from celers.model.config import CircuitBreakerConfig as CircuitBreakerConfig
    from celers.model.config import IdempotencyConfig as IdempotencyConfig
    from celers.model.config import PoolConfig as PoolConfig
    from celers.model.database import ConnectionDiagnostics as ConnectionDiagnostics
    from celers.model.database import IndexStats as IndexStats
    from celers.model.database import PerformanceMetrics as PerformanceMetrics
    from celers.model.database import QueryPerformanceProfile as QueryPerformanceProfile
    from celers.model.database import QueryPlan as QueryPlan
    from celers.model.database import QueryStats as QueryStats
    from celers.model.database import SlowQueryInfo as SlowQueryInfo
    from celers.model.database import TableSizeInfo as TableSizeInfo
    from celers.model.dlq import DlqStatistics as DlqStatistics
    from celers.model.dlq import DlqTaskInfo as DlqTaskInfo
    from celers.model.dlq import DlqTaskStats as DlqTaskStats
    from celers.model.enums import CapacityStatus as CapacityStatus
    from celers.model.enums import CircuitBreakerState as CircuitBreakerState
    from celers.model.enums import DbTaskState as DbTaskState
    from celers.model.enums import PoolHealthStatus as PoolHealthStatus
    from celers.model.enums import QueueTrend as QueueTrend
    from celers.model.enums import ReplicaStatus as ReplicaStatus
    from celers.model.enums import ScalingAction as ScalingAction
    from celers.model.enums import SlaStatus as SlaStatus
    from celers.model.enums import StageState as StageState
    from celers.model.enums import TaskHook as TaskHook
    from celers.model.enums import TaskResultStatus as TaskResultStatus
    from celers.model.enums import WorkerStatus as WorkerStatus
    from celers.model.enums import WorkflowState as WorkflowState
    from celers.model.hooks import HookContext as HookContext
    from celers.model.inspection import RetryStatistics as RetryStatistics
    from celers.model.inspection import TaskAgeDistribution as TaskAgeDistribution
    from celers.model.inspection import TaskNameCount as TaskNameCount
    from celers.model.inspection import TaskProgress as TaskProgress
    from celers.model.inspection import TaskStateTransition as TaskStateTransition
    from celers.model.limits import RateLimit as RateLimit
    from celers.model.limits import RateLimitStatus as RateLimitStatus
    from celers.model.migration import MigrationInfo as MigrationInfo
    from celers.model.migration import MigrationVerification as MigrationVerification
    from celers.model.result import BatchResultInput as BatchResultInput
    from celers.model.result import TaskResult as TaskResult
    from celers.model.stats import HealthStatus as HealthStatus
    from celers.model.stats import QueueHealth as QueueHealth
    from celers.model.stats import QueueStatistics as QueueStatistics
    from celers.model.stats import TaskThroughput as TaskThroughput
    from celers.model.task import BrokerMessage as BrokerMessage
    from celers.model.task import ScheduledTaskInfo as ScheduledTaskInfo
    from celers.model.task import SerializedTask as SerializedTask
    from celers.model.task import TaskInfo as TaskInfo
    from celers.model.task import TaskMetadata as TaskMetadata
    from celers.model.worker import WorkerHeartbeat as WorkerHeartbeat
    from celers.model.worker import WorkerStatistics as WorkerStatistics
    from celers.retry import Exponential as Exponential
    from celers.retry import ExponentialWithJitter as ExponentialWithJitter
    from celers.retry import Fixed as Fixed
    from celers.retry import Linear as Linear
    from celers.retry import RetryPolicy as RetryPolicy
    from celers.retry import RetryStrategy as RetryStrategy
    from celers.task import Task as Task
    from celers.worker import Worker as Worker
    from celers.worker.upkeep import Upkeep as Upkeep
    from celers_fast.compression import compress_payload as compress_payload
    from celers_fast.compression import decompress_payload as decompress_payload

__version__ = "0.1.0"

_PLACES = {
    "celers.aio": "AsyncMysqlBroker",
    "celers.app": "App",
    "celers.broker": "MysqlBroker",
    "celers.components.consumer": "Completion",
    "celers.control": "Reject Retry",
    "celers.errors": "BrokerConnectionError BrokerError CelersError CircuitBreakerOpenError ConfigurationError"
    " CyclicDependencyError DeserializationError DuplicateGroupError DuplicateTaskError GroupNotFoundError"
    " InvalidStateTransitionError MigrationError PayloadTooLargeError PoolTimeoutError QueueDrainingError"
    " QueueFullError SerializationError StaleReceiptError TaskNotFoundError ValidationError WorkerNotFoundError"
    " WorkflowNotFoundError",
    "celers.model.config": "CircuitBreakerConfig IdempotencyConfig PoolConfig",
    "celers.model.database": "ConnectionDiagnostics IndexStats PerformanceMetrics QueryPerformanceProfile QueryPlan"
    " QueryStats SlowQueryInfo TableSizeInfo",
    "celers.model.dlq": "DlqStatistics DlqTaskInfo DlqTaskStats",
    "celers.model.enums": "CapacityStatus CircuitBreakerState DbTaskState PoolHealthStatus QueueTrend ReplicaStatus"
    " ScalingAction SlaStatus StageState TaskHook TaskResultStatus WorkerStatus WorkflowState",
    "celers.model.inspection": "RetryStatistics TaskAgeDistribution TaskNameCount TaskProgress TaskStateTransition",
    "celers.hooks": "HookFn TaskHooks",
    "celers.model.hooks": "HookContext",
    "celers.model.limits": "RateLimit RateLimitStatus",
    "celers.model.migration": "MigrationInfo MigrationVerification",
    "celers.model.result": "BatchResultInput TaskResult",
    "celers.model.stats": "HealthStatus QueueHealth QueueStatistics TaskThroughput",
    "celers.model.task": "BrokerMessage ScheduledTaskInfo SerializedTask TaskInfo TaskMetadata",
    "celers.model.worker": "WorkerHeartbeat WorkerStatistics",
    "celers.retry": "Exponential ExponentialWithJitter Fixed Linear RetryPolicy RetryStrategy",
    "celers.task": "Task",
    "celers.worker": "Worker",
    "celers.worker.upkeep": "Upkeep",
    "celers_fast.compression": "compress_payload decompress_payload",
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names.split()}

__all__ = ["acceleration_enabled", *_PLACE_OF]  # noqa: PLE0604 - the table above is the list


def acceleration_enabled() -> bool:
    """Return whether the compiled functions are in use, and not their Python twins."""
    from celers_fast import IMPL

    return IMPL == "c"


def __getattr__(name: str) -> Any:
    place = _PLACE_OF.get(name)
    if place is None:
        raise AttributeError(f"module 'celers' has no attribute {name!r}")
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
