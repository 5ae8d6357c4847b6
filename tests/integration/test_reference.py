"""What the reference says about operations: round trips and tables, measured; both brokers offer the same."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from celers import (
    AsyncMysqlBroker,
    BatchResultInput,
    DbTaskState,
    Fixed,
    MysqlBroker,
    RetryPolicy,
    SerializedTask,
    TaskResultStatus,
    WorkerStatus,
)
from celers.flat import FlatNames
from tests.reference.operations import TABLES, measured, rows, tables_in, write_measured

UPDATE = "CELERS_UPDATE_REFERENCE"
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "age_threshold_secs": lambda given: 60,
    "count": lambda given: 10,
    "delay_secs": lambda given: 60,
    "dlq_id": lambda given: given.letter,
    "error_message": lambda given: "text",
    "from_time": lambda given: LONG_AGO,
    "items": lambda given: [
        (one.task_id, one.receipt_handle, BatchResultInput(one.task_id, "job", TaskResultStatus.SUCCESS))
        for one in given.held
    ],
    "json_data": lambda given: given.exported,
    "json_path": lambda given: "$.key",
    "limit": lambda given: 10,
    "max_per_minute": lambda given: 10,
    "max_size": lambda given: 100,
    "min_execution_time_ms": lambda given: 1,
    "new_state": lambda given: DbTaskState.CANCELLED,
    "offset": lambda given: 0,
    "older_than": lambda given: 0,
    "payload_size_bytes": lambda given: 10,
    "priority_boost": lambda given: 10,
    "progress_percent": lambda given: 50.0,
    "query": lambda given: "SELECT 1",
    "results": lambda given: [BatchResultInput(given.pending[0], "job", TaskResultStatus.SUCCESS)],
    "retention_period": lambda given: 3600,
    "retry_policy": lambda given: RetryPolicy(3, Fixed(1)),
    "skip_existing": lambda given: True,
    "stale_threshold_secs": lambda given: 60,
    "state": lambda given: DbTaskState.COMPLETED,
    "status": lambda given: TaskResultStatus.SUCCESS,
    "stuck_threshold": lambda given: 3600,
    "task": lambda given: SerializedTask.new("job", b"x"),
    "task_count": lambda given: 10,
    "task_id": lambda given: given.pending[0],
    "task_ids": lambda given: given.pending,
    "task_name": lambda given: "job",
    "tasks": lambda given: [SerializedTask.new("job", b"x") for _ in range(10)],
    "timeout": lambda given: 3600,
    "timestamp": lambda given: LONG_AGO,
    "to_time": lambda given: datetime.now(UTC),
    "ttl": lambda given: 3600,
    "value": lambda given: "text",
    "worker_id": lambda given: "worker",
}
"""What an operation is given, by the name of its parameter; a new operation needs a line only for a new name."""

SPECIAL: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "ack": lambda given: (given.held[0].task_id, given.held[0].receipt_handle),
    "ack_batch": lambda given: ([(one.task_id, one.receipt_handle) for one in given.held],),
    "reject": lambda given: (given.held[0].task_id, given.held[0].receipt_handle),
    "reject_batch": lambda given: ([(one.task_id, one.receipt_handle, True) for one in given.held],),
    "reject_with_retry_policy": lambda given: (given.held[0].task_id,),
    "set_worker_id": lambda given: (given.held[0].task_id, "other"),
    "update_task_progress": lambda given: (given.held[0].task_id, 50.0),
    "get_task_progress": lambda given: (given.held[0].task_id,),
    "get_result": lambda given: (given.done,),
    "get_result_batch": lambda given: ([given.done],),
    "delete_result": lambda given: (given.done,),
    "get_task_state_transitions": lambda given: (given.done,),
    "register_worker": lambda given: ("worker", WorkerStatus.IDLE),
    "update_worker_heartbeat": lambda given: ("worker", WorkerStatus.IDLE),
    "import_tasks_from": lambda given: (iter(given.objects), True),
    "purge_by_state": lambda given: (DbTaskState.PENDING,),
    "delete_tasks_by_criteria": lambda given: (DbTaskState.PENDING, 0),
}
"""Operations that need something else than what the names of their parameters say."""

ROWS = {row.flat: row for row in rows()}


def arguments(flat: str, given: Any) -> tuple[Any, ...]:
    if flat in SPECIAL:
        return SPECIAL[flat](given)
    needed = [one for one in ROWS[flat].parameters if one.default is inspect.Parameter.empty]
    return tuple(PARAMETERS[one.name](given) for one in needed)


@pytest.fixture
def queue(sync_broker: MysqlBroker) -> Callable[[str], SimpleNamespace]:
    """A function that makes a queue with a few tasks of each kind, and tells what is in it."""

    def make(name: str) -> SimpleNamespace:
        broker = sync_broker.for_queue(name)
        broker.register_worker("worker", WorkerStatus.ACTIVE)
        broker.enqueue_batch([SerializedTask.new("job", b"x", max_retries=0) for _ in range(7)])
        done, dead, failed, cancelled, *held = broker.dequeue_batch(7, worker_id="worker")
        item = BatchResultInput(done.task_id, "job", TaskResultStatus.SUCCESS, result=1)
        broker.ack_batch_with_results([(done.task_id, done.receipt_handle, item)])
        broker.reject(dead.task_id, dead.receipt_handle, error="text")
        broker.reject(failed.task_id, failed.receipt_handle, requeue=False)
        broker.cancel(cancelled.task_id)
        broker.update_task_progress(held[0].task_id, 10.0)
        pending = broker.enqueue_batch([SerializedTask.new("job", b"x", extra={"key": "text"}) for _ in range(3)])
        broker.enqueue_after(SerializedTask.new("job", b"x"), 3600)
        return SimpleNamespace(
            broker=broker,
            held=held,
            done=done.task_id,
            pending=pending,
            letter=broker.list_dlq(1, 0)[0].id,
            objects=list(broker.iter_export_tasks()),
            exported=broker.export_tasks(),
        )

    return make


def packets_of(call: Callable[[], Any], packets: Any) -> list[bytes]:
    before = len(packets.sent)
    result = call()
    if isinstance(result, Iterator):
        assert list(result) is not None
    return packets.sent[before:]


SERVER_WIDE = ("migrate",)
"""Left out of the measurement: sends one packet for each statement of each missing migration."""


@pytest.mark.spec("ARCH-01", "ARCH-04")
def test_round_trips_and_tables_are_as_the_reference_says(sync_broker, queue, packets, server):
    kind = "mariadb" if server.is_mariadb else "mysql"
    found: dict[str, dict[str, Any]] = {}
    for number, (flat, _) in enumerate(ROWS.items()):
        if flat in SERVER_WIDE:
            continue
        given = queue(f"queue{number}")
        values = arguments(flat, given)
        sent = packets_of(lambda: getattr(given.broker, flat)(*values), packets)  # noqa: B023 - called at once
        tables = sorted(set().union(*(tables_in(text) for text in sent)))
        found[flat] = {"trips": len(sent), "tables": tables}
    known = measured()
    if os.environ.get(UPDATE):
        for flat, new in found.items():
            old = known.get(flat, {})
            known[flat] = {
                "trips": old.get("trips", {}) | {kind: new["trips"]},
                "tables": sorted(set(new["tables"]) | set(old.get("tables", ()))),
            }
        write_measured({flat: value for flat, value in known.items() if flat in ROWS})
    wrong = []
    for flat, new in found.items():
        old = known.get(flat, {})
        own = set(new["tables"]) & TABLES
        if old.get("trips", {}).get(kind) != new["trips"] or own != set(old.get("tables", ())) & TABLES:
            wrong.append(f"{flat}: {new}, in the reference {old}")
    assert not wrong, f"run with {UPDATE}=1 if this is meant, then python -m tests.reference:\n" + "\n".join(wrong)


@pytest.mark.spec("ARCH-01")
def test_both_brokers_offer_the_same():
    """Each flat name leads to the operation of the same component, and is called in the same way."""
    assert issubclass(MysqlBroker, FlatNames)
    assert issubclass(AsyncMysqlBroker, FlatNames)
    for row in rows():
        component, _, name = row.component.partition(".")
        for broker in (MysqlBroker, AsyncMysqlBroker):
            assert getattr(broker, row.flat) is row.target
            assert row.target.owner.attribute == component
            assert hasattr(broker, component), f"{broker.__name__}.{component}"
            assert row.target.name == name


@pytest.mark.spec("ARCH-01")
def test_a_flat_name_is_the_operation_of_its_component(broker):
    for row in rows():
        component, _, name = row.component.partition(".")
        flat, own = getattr(broker, row.flat), getattr(getattr(broker, component), name)
        assert callable(flat)
        assert callable(own)


@pytest.mark.spec("ARCH-01")
def test_the_components_of_both_brokers_have_the_same_operations():
    public = {
        kind: {name for name in dir(kind) if not name.startswith("_")} for kind in (MysqlBroker, AsyncMysqlBroker)
    }
    # The blocking broker is opened by its constructor, in one of several ways; a transaction of several operations
    # belongs to a thread.
    assert public[AsyncMysqlBroker] - public[MysqlBroker] == {"open"}
    blocking = {"options", "with_transaction"}
    constructors = {"with_queue", "with_config", "with_circuit_breaker_config"}
    assert public[MysqlBroker] - public[AsyncMysqlBroker] == blocking | constructors
