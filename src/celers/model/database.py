"""What the server says about itself: tables, indexes, statements, plans, connections."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from celers.model.base import Record

__all__ = [
    "ConnectionDiagnostics",
    "IndexStats",
    "PerformanceMetrics",
    "QueryPerformanceProfile",
    "QueryPlan",
    "QueryStats",
    "SlowQueryInfo",
    "TableSizeInfo",
]


@dataclass(frozen=True, slots=True)
class TableSizeInfo(Record):
    """Size of one table; `row_count` is the server's estimate, `free_bytes` what OPTIMIZE could give back."""

    table_name: str
    row_count: int
    data_size_bytes: int
    index_size_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class QueryStats(Record):
    """All executions of statements of one form; `query_name` is the form, with ``?`` in place of values."""

    query_name: str
    execution_count: int
    total_time_ms: float
    avg_time_ms: float
    min_time_ms: float
    max_time_ms: float


@dataclass(frozen=True, slots=True)
class SlowQueryInfo(Record):
    """A form of statements that is slow on average."""

    query_text: str
    execution_count: int
    avg_time_ms: float
    max_time_ms: float
    total_time_ms: float


@dataclass(frozen=True, slots=True)
class QueryPerformanceProfile(Record):
    """How much a form of statements reads for what it returns.

    `needs_optimization` is True when the server counted executions without an index, or without a good one.
    """

    query_digest: str
    execution_count: int
    avg_execution_time_ms: float
    total_rows_examined: int
    total_rows_sent: int
    no_index_used_count: int
    no_good_index_used_count: int
    needs_optimization: bool


@dataclass(frozen=True, slots=True)
class IndexStats(Record):
    """One index; `cardinality` is the estimated number of different values of its whole key."""

    table_name: str
    index_name: str
    columns: tuple[str, ...]
    cardinality: int
    unique_values: bool


@dataclass(frozen=True, slots=True)
class QueryPlan(Record):
    """One line of a plan, as EXPLAIN in its traditional form gives it.

    Parameters
    ----------
    id : int or None
        Number of the SELECT inside the statement; None for the result of a UNION.
    query_type : str or None
        How the table is read: ``const``, ``ref``, ``range``, ``index``, ``ALL``, ...
    rows_examined : int or None
        The estimate.
    filtered : float or None
        Percentage of these rows that is kept; MySQL only.
    extra : str or None
        What the server adds, such as ``Using filesort``.
    """

    id: int | None
    select_type: str | None
    table: str | None
    query_type: str | None
    possible_keys: str | None
    key_used: str | None
    key_length: str | None
    rows_examined: int | None
    filtered: float | None
    extra: str | None


@dataclass(frozen=True, slots=True)
class ConnectionDiagnostics(Record):
    """The connection pool of this process.

    Parameters
    ----------
    total_connections, idle_connections, active_connections : int
        Open ones, and those of them that are free and in use.
    max_connections : int
        Upper limit of the total.
    connection_wait_time_ms : float or None
        Mean time that the last 1000 acquisitions took; None before the first.
    pool_utilization_percent : float
        Share of the limit that is open.
    """

    total_connections: int
    idle_connections: int
    active_connections: int
    max_connections: int
    connection_wait_time_ms: float | None
    pool_utilization_percent: float


@dataclass(frozen=True, slots=True)
class PerformanceMetrics(Record):
    """A look at queue, process and pool at one time.

    Parameters
    ----------
    timestamp : datetime
        By the database's clock.
    tasks_per_second : float
        Tasks completed in the last 60 s, divided by 60.
    avg_dequeue_time_ms, avg_enqueue_time_ms : float
        Mean duration of the last 1000 calls in this process; 0.0 before the first.
    queue_depth, processing_tasks, dlq_size : int
        Pending and processing tasks, and dead letters.
    connection_pool : ConnectionDiagnostics
    """

    timestamp: datetime
    tasks_per_second: float
    avg_dequeue_time_ms: float
    avg_enqueue_time_ms: float
    queue_depth: int
    processing_tasks: int
    dlq_size: int
    connection_pool: ConnectionDiagnostics
