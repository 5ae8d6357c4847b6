"""Numbers about tasks (spec 05)."""

from __future__ import annotations

import time

import pytest

from celers import (
    DbTaskState,
    MysqlBroker,
    RetryStatistics,
    SerializedTask,
    TaskAgeDistribution,
    TaskNameCount,
    ValidationError,
)

LABELS = ["< 1 min", "1-5 min", "5-15 min", "15-60 min", "> 60 min"]


def fill(broker):
    """Tasks in all states: of a one pending, one processing, two completed; of b and A some others."""
    broker.enqueue_batch([SerializedTask.new("a", priority=9 - number) for number in range(4)])
    for _ in range(2):
        broker.ack(broker.dequeue().task_id)
    broker.dequeue()
    b = broker.enqueue_batch([SerializedTask.new("b", priority=99) for _ in range(2)])
    broker.cancel(b[1])
    broker.reject(broker.dequeue().task_id, requeue=False)
    broker.enqueue_after(SerializedTask.new("A"), 60)
    broker.enqueue(SerializedTask.new("A", dependencies=[broker.list_tasks(DbTaskState.PENDING, 9, 1)[0].id]))


@pytest.mark.spec("INSP-04", "TYPE-15", "DEF-100", "CONF-06")
@pytest.mark.parametrize("indexes", [False, True], ids=["plain", "reporting indexes"])
def test_tasks_are_counted_by_name(make_broker, empty_database_url, indexes):
    broker = make_broker(url=empty_database_url)
    broker.migrate(reporting_indexes=indexes)
    assert broker.count_by_task_name() == []
    fill(broker)
    broker.for_queue("other").enqueue(SerializedTask.new("a"))
    assert broker.count_by_task_name() == [
        TaskNameCount("a", pending=1, processing=1, completed=2, total=4),
        TaskNameCount("A", pending=2, total=2),
        TaskNameCount("b", failed=1, cancelled=1, total=2),
    ]


@pytest.mark.spec("INSP-04", "SCHEMA-01")
def test_names_are_counted_in_an_index_where_there_is_one(empty_database_url, packets):
    with MysqlBroker(empty_database_url) as broker:
        broker.migrate()
        broker.enqueue_batch([SerializedTask.new(f"job{number % 3}") for number in range(300)])
        assert packets.count(broker.count_by_task_name) == 2
        broker.migrate(reporting_indexes=True)
        assert packets.count(broker.count_by_task_name) == 1
        explain = "EXPLAIN" if broker.core.server.is_mariadb else "EXPLAIN FORMAT=TRADITIONAL"
        with broker.with_transaction() as transaction:
            text = broker.core.sql("analytics", "names_indexed", queue_id=broker.core.queue_id).decode()
            plan = [" ".join(str(value) for value in row) for row in transaction.fetch_all(f"{explain} {text}")]
    read = [row for row in plan if "idx_tasks_task_name_state" in row]
    assert len(read) == 2, plan
    # Skipped through for the names, and each range counted without a look at the tasks.
    assert sum("Using index for group-by" in row for row in read) == 1, plan
    assert all("Using index" in row for row in read), plan


@pytest.mark.spec("INSP-04", "DATA-05")
def test_names_that_look_alike_are_counted_apart(broker):
    """Without an index names are told apart by checksums; these share all bytes, or one of the sums."""
    names = ["ab", "ba", "plumless", "buckeroo", "\u00e9", "e\u0301", "x" * 255, "x" * 254, "a\u4e2d", "\u4e2da"]
    broker.enqueue_batch([SerializedTask.new(name) for number, name in enumerate(names) for _ in range(number + 1)])
    assert {one.task_name: one.total for one in broker.count_by_task_name()} == {
        name: number + 1 for number, name in enumerate(names)
    }


@pytest.mark.spec("INSP-07", "CONF-06")
def test_one_state_is_counted(broker, tables):
    assert [broker.count_by_state_quick(state) for state in DbTaskState] == [0] * 5
    fill(broker)
    other = broker.for_queue("other")
    other.enqueue(SerializedTask.new("a"))
    expected = {
        DbTaskState.PENDING: 3,
        DbTaskState.PROCESSING: 1,
        DbTaskState.COMPLETED: 2,
        DbTaskState.FAILED: 1,
        DbTaskState.CANCELLED: 1,
    }
    assert {state: broker.count_by_state_quick(state) for state in DbTaskState} == expected
    statistics = broker.get_statistics()
    assert {state: getattr(statistics, state.value) for state in DbTaskState} == expected
    assert [other.count_by_state_quick(state) for state in DbTaskState] == [1, 0, 0, 0, 0]
    for bad in ("pending", None, 1):
        with pytest.raises(ValidationError, match="state"):
            broker.count_by_state_quick(bad)


@pytest.mark.spec("INSP-16", "TYPE-19", "CONF-06")
def test_pending_tasks_by_age(broker, tables):
    empty = [TaskAgeDistribution(label, 0, 0) for label in LABELS]
    assert broker.get_task_age_distribution() == empty
    ids = broker.enqueue_batch([SerializedTask.new("job") for _ in range(6)])
    broker.for_queue("other").enqueue(SerializedTask.new("job"))
    assert broker.dequeue().task_id == ids[0]
    ages = dict(zip(ids[1:], (59, 60, 299, 300, 3600), strict=True))
    cases = " ".join(f"WHEN X'{task_id.hex}' THEN {age}" for task_id, age in ages.items())
    for _ in range(5):
        started = time.monotonic()
        tables.rows(
            f"UPDATE celers_tasks SET created_at = UTC_TIMESTAMP(6) - INTERVAL CASE id {cases} ELSE 0 END SECOND"
        )
        found = broker.get_task_age_distribution()
        if time.monotonic() - started < 0.9:
            break
    assert [bucket.bucket_label for bucket in found] == LABELS
    assert [bucket.task_count for bucket in found] == [1, 2, 1, 0, 1]
    assert [bucket.oldest_task_age_secs for bucket in found] == [59, 299, 300, 0, 3600]


@pytest.mark.spec("INSP-16")
def test_scheduled_and_blocked_tasks_have_an_age(broker):
    parent = broker.enqueue_after(SerializedTask.new("job"), 60)
    broker.enqueue(SerializedTask.new("job", dependencies=[parent]))
    assert [bucket.task_count for bucket in broker.get_task_age_distribution()] == [2, 0, 0, 0, 0]


@pytest.mark.spec("INSP-17", "TYPE-20", "DEF-13", "CONF-06")
def test_retries_by_name(broker, tables):
    assert broker.get_retry_statistics() == []
    broker.enqueue_batch([SerializedTask.new(name, max_retries=9) for name in ("a", "a", "b", "c", "never", "d")])
    for _ in range(3):
        for message in broker.dequeue_batch(10):
            done = {"a": 1, "b": 2, "c": 1, "never": 0, "d": 2}[message.task_name]
            if message.retry_count < done:
                broker.reject(message.task_id, message.receipt_handle)
            elif message.task_name != "d":
                broker.ack(message.task_id, message.receipt_handle)
        tables.pass_time(10)
    broker.for_queue("other").enqueue(SerializedTask.new("x"))
    assert broker.get_retry_statistics() == [
        RetryStatistics("a", 2, 2, 1.0, 1),
        RetryStatistics("b", 2, 1, 2.0, 2),
        RetryStatistics("d", 2, 1, 2.0, 2),
        RetryStatistics("c", 1, 1, 1.0, 1),
    ]
