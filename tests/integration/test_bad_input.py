"""Bad input is refused by name and value before anything is sent (spec 00, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from celers import (
    AsyncMysqlBroker,
    BrokerConnectionError,
    ConfigurationError,
    DbTaskState,
    MysqlBroker,
    PoolConfig,
    SerializationError,
    SerializedTask,
    TaskResultStatus,
    ValidationError,
)
from celers.errors import PoolTimeoutError
from celers.model.result import BatchResultInput
from celers.retry import Fixed, RetryPolicy
from tests.fixtures.brokers import Blocking, Loop

TASK = SerializedTask.new("a")
ID = TASK.metadata.id
SURROGATE = "\ud800"

IDS = [None, 1, 1.0, b"x" * 16, "", "x", str(ID)[:-1], "{" + str(ID) + "}", ID.hex, [ID]]
DURATIONS = [-1, -0.001, math.nan, math.inf, -math.inf, True, "1", None, timedelta(microseconds=-1), 10**400]
INSTANTS = [
    True, "2026-01-01", None, datetime(2026, 1, 1), math.nan, math.inf, 0, 0.5, -1, 253402300800, 1e300,  # noqa: DTZ001
    datetime(1970, 1, 1, tzinfo=UTC),
]  # fmt: skip
LIMITS = [-1, 10_001, True, 1.0, "1", None]
OFFSETS = [-1, True, 1.0, "1", None, 2**64]
NAMES = ["", " a", "a ", "a\n", "a\x00b", "\u2028", "a" * 256, SURROGATE, None, 1, b"a"]
STATES = ["pending", None, TaskResultStatus.PENDING, 1]
TASKS = [None, "a", b"a", {"name": "a"}, TASK.metadata]
ITERABLES = [None, 1, "abc", b"abc"]

Call = Callable[[Any, Any], Any]

CASES: list[tuple[str, str, Call, list[Any]]] = [
    ("enqueue", "task", lambda b, x: b.enqueue(x), TASKS),
    ("enqueue_at", "task", lambda b, x: b.enqueue_at(x, 1), TASKS),
    ("enqueue_at", "timestamp", lambda b, x: b.enqueue_at(TASK, x), INSTANTS),
    ("enqueue_after", "task", lambda b, x: b.enqueue_after(x, 1), TASKS),
    ("enqueue_after", "delay_secs", lambda b, x: b.enqueue_after(TASK, x), [*DURATIONS, 1e12, timedelta.max]),
    ("enqueue_batch", "task", lambda b, x: b.enqueue_batch([TASK, x]), TASKS),
    ("enqueue_batch", "tasks", lambda b, x: b.enqueue_batch(x), ITERABLES),
    ("submit", "delay_secs", lambda b, x: b.producer.submit([TASK], delay_secs=x), [*DURATIONS, 1e12]),
    ("submit", "tasks", lambda b, x: b.producer.submit(x), ITERABLES),
    ("with policy", "task", lambda b, x: b.enqueue_with_retry_policy(x, RetryPolicy(3, Fixed(1))), TASKS),
    ("with policy", "retry_policy", lambda b, x: b.enqueue_with_retry_policy(TASK, x), [None, {}, Fixed(1)]),
    ("capacity", "task", lambda b, x: b.enqueue_with_capacity(x, 5), TASKS),
    ("capacity", "max_size", lambda b, x: b.enqueue_with_capacity(TASK, x), [-1, True, 1.5, "1", None]),
    ("has_capacity", "max_size", lambda b, x: b.has_capacity(x), [-1, True, 1.5, "1", None]),
    ("dequeue_batch", "count", lambda b, x: b.dequeue_batch(x), [-1, 10_001, True, 1.0, "1", None]),
    ("dequeue_batch", "worker_id", lambda b, x: b.dequeue_batch(1, worker_id=x), [n for n in NAMES if n is not None]),
    ("dequeue worker", "worker_id", lambda b, x: b.dequeue_with_worker_id(x), NAMES),
    ("ack", "task_id", lambda b, x: b.ack(x), IDS),
    ("ack", "receipt_handle", lambda b, x: b.ack(ID, x), [1, b"", True, [""]]),
    ("ack_batch", "task_id", lambda b, x: b.ack_batch([(x, None)]), IDS),
    ("ack_batch", "receipt_handle", lambda b, x: b.ack_batch([(ID, x)]), [1, b"", True]),
    ("ack_batch", "tasks", lambda b, x: b.ack_batch(x), [*ITERABLES, [ID], [(ID,)], [(ID, None, None)]]),
    ("ack results", "items", lambda b, x: b.ack_batch_with_results(x), [*ITERABLES, [(ID, None)], [(ID, None, 1)]]),
    ("reject", "task_id", lambda b, x: b.reject(x), IDS),
    ("reject", "receipt_handle", lambda b, x: b.reject(ID, x), [1, b"", True]),
    ("reject", "requeue", lambda b, x: b.reject(ID, None, x), [None, 1, "yes"]),
    ("reject", "error", lambda b, x: b.reject(ID, error=x), [1, b"x", ValueError("x")]),
    ("reject_batch", "task_id", lambda b, x: b.reject_batch([(x, None, True)]), IDS),
    ("reject_batch", "requeue", lambda b, x: b.reject_batch([(ID, None, x)]), [None, 1, "yes"]),
    ("reject_batch", "tasks", lambda b, x: b.reject_batch(x), [*ITERABLES, [ID], [(ID, None)]]),
    ("reject policy", "task_id", lambda b, x: b.reject_with_retry_policy(x), IDS),
    ("reject policy", "error", lambda b, x: b.reject_with_retry_policy(ID, x), [1, b"x"]),
    ("reject policy", "requeue", lambda b, x: b.reject_with_retry_policy(ID, None, x), [None, 1]),
    ("give_back", "message", lambda b, x: b.consumer.give_back([x]), [None, ID, (ID, "")]),
    ("complete", "done", lambda b, x: b.consumer.complete(x), [None, 1, [None], [ID]]),
    ("get_task", "task_id", lambda b, x: b.get_task(x), IDS),
    ("cancel", "task_id", lambda b, x: b.cancel(x), IDS),
    ("cancel_batch", "task_ids", lambda b, x: b.cancel_batch(x), ITERABLES),
    ("cancel_batch", "task_ids", lambda b, x: b.cancel_batch([x]), IDS),
    ("update", "task_ids", lambda b, x: b.update_batch_state(x, DbTaskState.FAILED), ITERABLES),
    ("update", "task_ids", lambda b, x: b.update_batch_state([x], DbTaskState.FAILED), IDS),
    ("update", "new_state", lambda b, x: b.update_batch_state([ID], x), STATES),
    ("list_tasks", "state", lambda b, x: b.list_tasks(x, 1, 0), ["pending", 1]),
    ("list_tasks", "limit", lambda b, x: b.list_tasks(None, x, 0), LIMITS),
    ("list_tasks", "offset", lambda b, x: b.list_tasks(None, 1, x), OFFSETS),
    ("scheduled", "limit", lambda b, x: b.list_scheduled_tasks(x, 0), LIMITS),
    ("scheduled", "offset", lambda b, x: b.list_scheduled_tasks(1, x), OFFSETS),
    ("list_dlq", "limit", lambda b, x: b.list_dlq(x, 0), LIMITS),
    ("list_dlq", "offset", lambda b, x: b.list_dlq(0, x), OFFSETS),
    ("expire", "ttl", lambda b, x: b.expire_pending_tasks(x), [*DURATIONS, 0, timedelta()]),
    ("recover", "stuck_threshold", lambda b, x: b.recover_stuck_tasks(x), [*DURATIONS, 0]),
    ("by worker", "worker_id", lambda b, x: b.requeue_stuck_tasks_by_worker(x), NAMES),
]  # fmt: skip


def refused(broker: Any) -> None:
    """Every case raises `ValidationError` with the parameter's name."""
    wrong = []
    for operation, parameter, call, values in CASES:
        for value in values:
            try:
                answer: Any = call(broker, value)
            except Exception as error:  # noqa: BLE001 - the report names the case
                answer = error
            if isinstance(answer, ValidationError) and answer.parameter == parameter and parameter in str(answer):
                continue
            wrong.append(f"{operation}({parameter}={value!r:.60}): {answer!r:.120}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def unreachable() -> Iterator[Any]:
    """An asyncio broker of a server that does not exist: whatever is sent fails."""
    loop = Loop()
    broker = Blocking(AsyncMysqlBroker("mysql://root@localhost/none?unix_socket=/nonexistent/socket"), loop)
    yield broker
    broker.close()
    loop.close()


@pytest.mark.spec(
    "DATA-01", "DATA-02", "DATA-03", "DATA-04", "DATA-05", "DATA-07", "DATA-08", "DATA-10",
    "ERR-01", "CORE-03", "BATCH-02", "SCHED-01", "SCHED-02", "SCHED-06", "CTRL-07", "DEF-12", "DEF-23",
)  # fmt: skip
def test_bad_input_is_refused_without_a_server(unreachable):
    with pytest.raises(BrokerConnectionError):
        unreachable.enqueue(TASK)
    refused(unreachable)


@pytest.mark.spec("DATA-10", "ERR-01", "ERR-07")
def test_bad_input_is_refused_without_a_connection(make_sync):
    config = PoolConfig(max_connections=1, min_connections=0, acquire_timeout_secs=0.01)
    broker = make_sync(pool_config=config)
    fresh = broker.for_queue("never used before")
    with broker.with_transaction():
        for target in (broker, fresh):
            with pytest.raises(PoolTimeoutError):
                target.enqueue(TASK)
            waits = broker.pool().waits
            refused(target)
            assert broker.pool().waits == waits


@pytest.mark.spec("BATCH-01", "BATCH-02", "BATCH-03", "BATCH-04", "BATCH-05", "BATCH-06", "BATCH-07", "DATA-04")
def test_an_empty_input_sends_nothing(unreachable):
    for call in (unreachable.ack_batch, unreachable.reject_batch, unreachable.cancel_batch):
        assert call([]) == call(iter(())) == 0
    assert unreachable.enqueue_batch([]) == unreachable.producer.submit([]) == []
    assert unreachable.dequeue_batch(0) == []
    assert unreachable.update_batch_state([], DbTaskState.PENDING) == 0
    assert unreachable.ack_batch_with_results([]) == 0
    assert unreachable.list_tasks(None, 0, 5) == []
    assert unreachable.list_scheduled_tasks(0, 5) == unreachable.list_dlq(0, 5) == []


@pytest.mark.spec("DATA-01", "DATA-05", "DATA-07", "DATA-08", "TYPE-01", "TYPE-02", "ERR-01")
@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        ("name", NAMES),
        ("payload", [None, "text", 1, [1]]),
        ("id", IDS[1:]),
        ("priority", [-(2**31) - 1, 2**31, True, 1.0, "1", None]),
        ("max_retries", [-1, 1001, True, 1.0, None]),
        ("timeout", [0, -1, True, "1", math.nan, math.inf]),
        ("group_id", [name for name in NAMES if name is not None]),
        ("dependencies", [None, 1, "abc", [1], ["x"], [None]]),
        ("extra", [1, "x", [1], {1: 2}]),
    ],
)
def test_a_task_of_bad_values_is_not_made(parameter, values):
    for value in values:
        arguments = {"name": "a", parameter: value}
        with pytest.raises(ValidationError) as caught:
            SerializedTask.new(**arguments)
        assert caught.value.parameter == parameter
        assert isinstance(caught.value, ValueError)


@pytest.mark.spec("DATA-06", "ERR-04")
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {"a": [-math.inf]}, object(), b"x", {1, 2}, SURROGATE, {"k": SURROGATE}, uuid4()]
)
def test_what_json_cannot_hold_is_refused(unreachable, value):
    task = SerializedTask.new("a", extra={"key": value})
    for call in (
        lambda: unreachable.enqueue(task),
        lambda: unreachable.enqueue_batch([TASK, task]),
        lambda: unreachable.store_result(ID, "a", TaskResultStatus.SUCCESS, result=value),
        lambda: unreachable.ack_batch_with_results(
            [(ID, None, BatchResultInput(ID, "a", TaskResultStatus.SUCCESS, result=value))]
        ),
    ):
        with pytest.raises(SerializationError) as caught:
            call()
        assert not isinstance(caught.value, ValidationError)


@pytest.mark.spec("DATA-06", "ERR-04")
def test_json_that_the_server_refuses(broker, tables):
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    with pytest.raises(SerializationError):  # 100 levels on MySQL, 31 on MariaDB
        broker.enqueue(SerializedTask.new("a", extra={"deep": deep}))
    assert tables.value("SELECT COUNT(*) FROM celers_tasks") == 0
    tables.check(broker)


@pytest.mark.spec("DATA-05", "CONF-01", "CONF-03", "ARCH-08", "ERR-01", "ERR-03")
def test_bad_constructor_values(database_url):
    for parameter, values in {
        "queue_name": NAMES,
        "table_prefix": ["", "a-b", "a`b", "é", "a" * 33, "a b", None, 1],
        "max_payload_bytes": [-1, 16_777_216, True, 1.0, None],
        "compress_payloads": [None, 1],
        "lease_secs": [0, -1, True, 1.5, None],
        "pool_config": [{}, 1],
    }.items():
        for value in values:
            for made in (MysqlBroker, AsyncMysqlBroker):
                with pytest.raises(ValidationError) as caught:
                    made(database_url, **{parameter: value})
                assert caught.value.parameter == parameter
    for url in ("", "x", "redis://localhost/0", "mysql://root@localhost", "mysql://root@localhost/d?odd=1"):
        with pytest.raises(ConfigurationError):
            MysqlBroker(url)
