"""Results, dead letters, workers, counters, migrations and configuration."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pickle
import pkgutil
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from celers import model, retry
from celers.errors import ValidationError
from celers.model.base import Record, to_json
from celers.model.config import CircuitBreakerConfig, IdempotencyConfig, PoolConfig
from celers.model.database import (
    ConnectionDiagnostics,
    IndexStats,
    PerformanceMetrics,
    QueryPerformanceProfile,
    QueryPlan,
    QueryStats,
    SlowQueryInfo,
    TableSizeInfo,
)
from celers.model.dlq import DlqStatistics, DlqTaskInfo, DlqTaskStats
from celers.model.enums import DbTaskState, TaskHook, TaskResultStatus, WorkerStatus
from celers.model.hooks import HookContext
from celers.model.inspection import (
    RetryStatistics,
    TaskAgeDistribution,
    TaskNameCount,
    TaskProgress,
    TaskStateTransition,
)
from celers.model.limits import RateLimit, RateLimitStatus
from celers.model.migration import MigrationInfo, MigrationVerification
from celers.model.result import BatchResultInput, TaskResult, result_status
from celers.model.stats import HealthStatus, QueueHealth, QueueStatistics, TaskThroughput
from celers.model.worker import WorkerHeartbeat, WorkerStatistics

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

FIELDS = [
    (
        "TYPE-09",
        TaskResult,
        "task_id task_name status result error traceback created_at completed_at runtime_ms",
    ),
    ("TYPE-10", BatchResultInput, "task_id task_name status result error traceback runtime_ms"),
    (
        "TYPE-11",
        DlqTaskInfo,
        "id task_id task_name retry_count max_retries priority error_message failed_at metadata",
    ),
    ("TYPE-06", TaskProgress, "task_id progress_percent current_step total_steps updated_at"),
    ("TYPE-07", TaskStateTransition, "task_id from_state to_state transitioned_at worker_id message"),
    ("TYPE-12", DlqStatistics, "total_tasks by_task_name"),
    ("TYPE-13", DlqTaskStats, "task_name count avg_retries max_retries"),
    ("TYPE-15", TaskNameCount, "task_name pending processing completed failed cancelled total"),
    ("TYPE-19", TaskAgeDistribution, "bucket_label task_count oldest_task_age_secs"),
    (
        "TYPE-20",
        RetryStatistics,
        "task_name total_retries unique_tasks avg_retries_per_task max_retries_observed",
    ),
    ("TYPE-14", QueueStatistics, "pending processing completed failed cancelled dlq total"),
    (
        "TYPE-17",
        QueueHealth,
        "overall_status pending_tasks processing_tasks oldest_pending_age_secs active_workers queue_backlog_minutes",
    ),
    (
        "TYPE-18",
        TaskThroughput,
        "completed_last_minute completed_last_hour failed_last_minute failed_last_hour tasks_per_second",
    ),
    (
        "TYPE-16",
        HealthStatus,
        """healthy connection_pool_size idle_connections pending_tasks processing_tasks dlq_tasks
        database_version error""",
    ),
    (
        "TYPE-21",
        WorkerStatistics,
        "worker_id active_tasks completed_tasks failed_tasks last_seen avg_task_duration_secs",
    ),
    ("TYPE-22", WorkerHeartbeat, "worker_id last_heartbeat status task_count capabilities"),
    ("TYPE-23", RateLimit, "task_name max_per_second max_per_minute max_per_hour"),
    ("TYPE-24", RateLimitStatus, "task_name current_per_second current_per_minute current_per_hour limit_exceeded"),
    ("TYPE-32", TableSizeInfo, "table_name row_count data_size_bytes index_size_bytes free_bytes"),
    ("TYPE-33", QueryStats, "query_name execution_count total_time_ms avg_time_ms min_time_ms max_time_ms"),
    ("TYPE-34", SlowQueryInfo, "query_text execution_count avg_time_ms max_time_ms total_time_ms"),
    (
        "TYPE-35",
        QueryPerformanceProfile,
        """query_digest execution_count avg_execution_time_ms total_rows_examined total_rows_sent no_index_used_count
        no_good_index_used_count needs_optimization""",
    ),
    ("TYPE-36", IndexStats, "table_name index_name columns cardinality unique_values"),
    (
        "TYPE-37",
        QueryPlan,
        "id select_type table query_type possible_keys key_used key_length rows_examined filtered extra",
    ),
    (
        "TYPE-38",
        ConnectionDiagnostics,
        """total_connections idle_connections active_connections max_connections connection_wait_time_ms
        pool_utilization_percent""",
    ),
    (
        "TYPE-39",
        PerformanceMetrics,
        """timestamp tasks_per_second avg_dequeue_time_ms avg_enqueue_time_ms queue_depth processing_tasks dlq_size
        connection_pool""",
    ),
    ("TYPE-61", HookContext, "hook queue_name task_id timestamp metadata"),
    ("TYPE-40", MigrationInfo, "version name applied_at checksum"),
    (
        "TYPE-41",
        MigrationVerification,
        "is_complete applied_count missing_count applied_migrations missing_migrations schema_valid problems",
    ),
    (
        "TYPE-42",
        PoolConfig,
        "max_connections min_connections acquire_timeout_secs max_lifetime_secs idle_timeout_secs",
    ),
    ("TYPE-43", CircuitBreakerConfig, "failure_threshold timeout_secs success_threshold half_open_max_calls"),
    ("TYPE-45", IdempotencyConfig, "default_ttl_secs auto_cleanup"),
    ("TYPE-48", retry.RetryPolicy, "max_retries strategy"),
    ("TYPE-49", retry.Fixed, "delay_secs"),
    ("TYPE-50", retry.Linear, "base_delay_secs"),
    ("TYPE-51", retry.Exponential, "base_delay_secs multiplier max_delay_secs"),
    ("TYPE-52", retry.ExponentialWithJitter, "base_delay_secs multiplier max_delay_secs"),
]

SAMPLES = [
    TaskResult(ID, "a", TaskResultStatus.SUCCESS, {"a": [1]}, None, None, NOW, NOW, 5),
    BatchResultInput(ID, "a", TaskResultStatus.FAILURE, error="x", traceback="y", runtime_ms=1),
    HookContext(TaskHook.AFTER_ACK, "default", ID, NOW, {"task_name": "a"}),
    RateLimit("a", 0.5, 10, 100),
    RateLimitStatus("a", 0.5, 30, 40, True),
    DlqTaskInfo(ID, ID, "a", 3, 3, 0, "boom", NOW, {"k": 1}),
    DlqStatistics(1, (DlqTaskStats("a", 1, 2.5, 3),)),
    DlqTaskStats("a", 1, 2.5, 3),
    TaskProgress(ID, 12.5, "step", 8, NOW),
    TaskStateTransition(ID, DbTaskState.PROCESSING, "dead_letter", NOW, "w", "boom"),
    TaskNameCount("a", 1, 2, 3, 4, 5, 15),
    TaskAgeDistribution("< 1 min", 1, 59),
    RetryStatistics("a", 3, 2, 1.5, 2),
    QueueStatistics(1, 2, 3, 4, 5, 6, 15),
    QueueHealth("degraded", 120, 3, 45, 2, 1.5),
    TaskThroughput(60, 600, 1, 2, 1.0),
    HealthStatus(True, 2, 1, 3, 4, 5, "11.8"),
    TableSizeInfo("celers_tasks", 1, 2, 3, 4),
    QueryStats("SELECT ?", 2, 3.0, 1.5, 1.0, 2.0),
    SlowQueryInfo("SELECT ?", 2, 1.5, 2.0, 3.0),
    QueryPerformanceProfile("SELECT ?", 2, 1.5, 10, 1, 2, 0, True),
    IndexStats("celers_tasks", "PRIMARY", ("seq",), 10, True),
    QueryPlan(1, "SIMPLE", "t", "ref", "PRIMARY", "PRIMARY", "4", 1, 100.0, None),
    ConnectionDiagnostics(2, 1, 1, 20, 0.5, 10.0),
    PerformanceMetrics(NOW, 0.5, 1.0, 2.0, 3, 4, 5, ConnectionDiagnostics(2, 1, 1, 20, None, 10.0)),
    WorkerStatistics("w", 1, 2, 3, NOW, 0.5),
    WorkerHeartbeat("w", NOW, WorkerStatus.BUSY, 1, {"gpu": True}),
    MigrationInfo("001", "init", NOW, "0" * 64),
    MigrationVerification(True, 1, 0, ("001",), (), True, ()),
    PoolConfig(),
    CircuitBreakerConfig(),
    IdempotencyConfig(),
    retry.RetryPolicy(),
    retry.Fixed(1),
    retry.Linear(1),
    retry.Exponential(1, 2, 3),
    retry.ExponentialWithJitter(1, 2, 3),
]


@pytest.mark.parametrize(
    ("record", "names"),
    [pytest.param(record, names, marks=pytest.mark.spec(spec), id=record.__name__) for spec, record, names in FIELDS],
)
def test_fields_in_their_order(record: type[Any], names: str) -> None:
    assert [field.name for field in dataclasses.fields(record)] == names.split()


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
def test_every_record(value: Any) -> None:
    assert isinstance(value, Record)
    assert not hasattr(value, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, 5)
    assert pickle.loads(pickle.dumps(value)) == value
    assert hash(value) == hash(pickle.loads(pickle.dumps(value)))
    written = value.to_dict()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    names = [field.name for field in dataclasses.fields(value)]
    assert [name for name in written if name != "type"] == names


def test_every_record_of_the_package_is_sampled() -> None:
    modules = [
        importlib.import_module(f"celers.model.{module.name}") for module in pkgutil.iter_modules(model.__path__)
    ]
    found = {
        value
        for module in modules
        if module.__name__ not in ("celers.model.task", "celers.model.base")
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Record) and value.__module__ == module.__name__
    }
    assert found <= {type(sample) for sample in SAMPLES}


class TestToJson:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, None),
            (True, True),
            (2**70, 2**70),
            (1.5, 1.5),
            ("ü", "ü"),
            (ID, str(ID)),
            (NOW, "2026-01-02T03:04:05.000000Z"),
            (NOW.astimezone(), "2026-01-02T03:04:05.000000Z"),
            (timedelta(minutes=1, microseconds=1), 60.000001),
            (DbTaskState.PENDING, "pending"),
            (b"\0\xff", "AP8="),
            (bytearray(b"a"), "YQ=="),
            ((1, ID), [1, str(ID)]),
            ([NOW], ["2026-01-02T03:04:05.000000Z"]),
            (frozenset({3, 1, 2}), [1, 2, 3]),
            ({"a": {"b": (DbTaskState.FAILED,)}}, {"a": {"b": ["failed"]}}),
            (MigrationVerification(False, 0, 0), MigrationVerification(False, 0, 0).to_dict()),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_forms(self, value: object, expected: object) -> None:
        result = to_json(value)
        assert result == expected
        assert type(result) is type(expected)


@pytest.mark.spec("TYPE-09", "RES-03")
class TestResults:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("task_id", "x"),
            ("task_name", ""),
            ("status", "done"),
            ("status", None),
            ("error", 5),
            ("traceback", b"x"),
            ("runtime_ms", -1),
            ("runtime_ms", 1.0),
            ("runtime_ms", True),
            ("runtime_ms", 2**63),
        ],
    )
    @pytest.mark.spec("TYPE-10")
    def test_input_refuses(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError):
            BatchResultInput(**{"task_id": ID, "task_name": "a", "status": TaskResultStatus.SUCCESS, field: value})

    @pytest.mark.spec("TYPE-10")
    def test_input_forms(self) -> None:
        made = BatchResultInput(str(ID), "a", "success")  # type: ignore[arg-type]
        assert made == BatchResultInput(ID, "a", TaskResultStatus.SUCCESS, None, None, None, None)
        assert made.status is TaskResultStatus.SUCCESS

    def test_status(self) -> None:
        assert result_status("retry") is TaskResultStatus.RETRY
        with pytest.raises(ValidationError, match="status"):
            result_status(1)

    def test_optional_fields(self) -> None:
        result = TaskResult(ID, "a", TaskResultStatus.PENDING, None, None, None, NOW)
        assert (result.completed_at, result.runtime_ms) == (None, None)


@pytest.mark.spec("TYPE-42")
class TestPoolConfig:
    def test_defaults(self) -> None:
        assert dataclasses.astuple(PoolConfig()) == (20, 2, 5, 1800, 600)

    def test_durations(self) -> None:
        config = PoolConfig(acquire_timeout_secs=timedelta(seconds=1.5), max_lifetime_secs=None, idle_timeout_secs=None)  # type: ignore[arg-type]
        assert config.acquire_timeout_secs == 1.5
        assert config.max_lifetime_secs is config.idle_timeout_secs is None
        assert PoolConfig(1, 0).max_connections == 1

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("max_connections", 0),
            ("max_connections", 1.0),
            ("max_connections", True),
            ("min_connections", -1),
            ("min_connections", 21),
            ("acquire_timeout_secs", 0),
            ("acquire_timeout_secs", None),
            ("acquire_timeout_secs", float("nan")),
            ("max_lifetime_secs", 0),
            ("idle_timeout_secs", -1),
            ("idle_timeout_secs", "5"),
        ],
    )
    def test_refuses(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError):
            PoolConfig(**{field: value})


@pytest.mark.spec("TYPE-43")
class TestCircuitBreakerConfig:
    def test_defaults(self) -> None:
        assert dataclasses.astuple(CircuitBreakerConfig()) == (5, 60, 2, 1)
        assert CircuitBreakerConfig(timeout_secs=timedelta(minutes=2)).timeout_secs == 120  # type: ignore[arg-type]

    @pytest.mark.parametrize("field", ["failure_threshold", "timeout_secs", "success_threshold", "half_open_max_calls"])
    @pytest.mark.parametrize("value", [0, -1, True, None, "1"])
    def test_refuses(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError, match=field):
            CircuitBreakerConfig(**{field: value})


@pytest.mark.spec("TYPE-45")
class TestIdempotencyConfig:
    def test_defaults(self) -> None:
        assert dataclasses.astuple(IdempotencyConfig()) == (86_400, True)
        assert IdempotencyConfig(timedelta(hours=1)).default_ttl_secs == 3600  # type: ignore[arg-type]
        assert IdempotencyConfig(1).default_ttl_secs == 1

    @pytest.mark.parametrize(
        ("field", "value"), [("default_ttl_secs", 0.5), ("default_ttl_secs", None), ("auto_cleanup", 1)]
    )
    def test_refuses(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError, match=field):
            IdempotencyConfig(**{field: value})
