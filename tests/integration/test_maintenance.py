"""Purging, archiving and deleting tasks and history, and taking back what is overdue (spec 07)."""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import uuid4

import pytest

from celers import DbTaskState, QueueStatistics, SerializedTask, TaskNotFoundError, ValidationError
from celers.components.consumer import Completion


def fill(broker, count: int, name: str = "job", **options) -> list:
    return broker.enqueue_batch([SerializedTask.new(name, **options) for _ in range(count)])


def one_of_each(broker) -> dict:
    """Make a task in each state."""
    fill(broker, 4, max_retries=0)
    held, done, failed, cancelled = broker.dequeue_batch(4)
    broker.consumer.complete([Completion(done, "1")])
    broker.reject(failed.task_id, failed.receipt_handle, requeue=False)
    broker.cancel(cancelled.task_id)
    (waiting,) = fill(broker, 1)
    return {
        DbTaskState.PENDING: waiting,
        DbTaskState.PROCESSING: held.task_id,
        DbTaskState.COMPLETED: done.task_id,
        DbTaskState.FAILED: failed.task_id,
        DbTaskState.CANCELLED: cancelled.task_id,
    }


def ended(tables, secs: float, *ids) -> None:
    """Let finished tasks look as if they had ended so long ago."""
    for task_id in ids:
        tables.rows(
            "UPDATE celers_tasks SET completed_at = completed_at - INTERVAL %s SECOND WHERE id = %s",
            (secs, task_id.bytes),
        )


def left(broker, ids) -> list:
    return [task_id for task_id in ids if broker.get_task(task_id) is not None]


@pytest.mark.spec("MAINT-09", "CONF-06", "DEF-114")
@pytest.mark.parametrize("state", list(DbTaskState))
def test_a_purge_of_one_state_leaves_the_others(broker, make_broker, tables, state, caplog):
    ids = one_of_each(broker)
    held = broker.get_processing_tasks(1, 0)[0].id
    other = make_broker("other")
    one_of_each(other)
    with caplog.at_level(logging.WARNING, "celers"):
        assert broker.purge_by_state(state) == 1
    assert "purged 1" in caplog.text
    assert left(broker, ids.values()) == [task_id for each, task_id in ids.items() if each is not state]
    assert getattr(broker.get_statistics(), state.value) == 0
    assert broker.get_statistics().total == other.get_statistics().total - 1 == 4
    assert other.purge_all() == 5
    tables.check(broker)
    if state is DbTaskState.PROCESSING:
        with pytest.raises(TaskNotFoundError):
            broker.ack(held, None)
    assert broker.purge_by_state(state) == 0


@pytest.mark.spec("MAINT-09")
def test_purges_by_their_own_names(broker, tables):
    ids = one_of_each(broker)
    assert broker.purge_completed() == broker.purge_failed() == broker.purge_cancelled() == 1
    assert left(broker, ids.values()) == [ids[DbTaskState.PENDING], ids[DbTaskState.PROCESSING]]
    assert broker.get_statistics() == QueueStatistics(pending=1, processing=1, total=2)
    tables.check(broker)
    for bad in ("completed", None, 1):
        with pytest.raises(ValidationError, match="state"):
            broker.purge_by_state(bad)


@pytest.mark.spec("MAINT-09", "DATA-05")
def test_a_purge_by_name_is_exact(broker, tables, caplog):
    for name in ("job", "Job", "jobs", "jo%"):
        fill(broker, 2, name)
    broker.dequeue()
    with caplog.at_level(logging.WARNING, "celers"):
        assert broker.purge_by_task_name("job") == 2
    assert "job" in caplog.text
    assert broker.purge_by_task_name("jo%") == 2
    assert broker.purge_by_task_name("unknown") == 0
    assert sorted(task.task_name for task in broker.list_tasks(None, 10, 0)) == ["Job", "Job", "jobs", "jobs"]
    tables.check(broker)
    for bad in ("", " x", 3, None):
        with pytest.raises(ValidationError):
            broker.purge_by_task_name(bad)


@pytest.mark.spec("MAINT-09", "MAINT-08", "CHAIN-04")
def test_what_waits_for_a_purged_task_is_cancelled_first(broker, tables):
    parent = broker.enqueue(SerializedTask.new("parent"))
    child = broker.enqueue(SerializedTask.new("child", dependencies=[parent]))
    grandchild = broker.enqueue(SerializedTask.new("child", dependencies=[child]))
    assert broker.purge_by_task_name("parent") == 1
    for task_id in (child, grandchild):
        task = broker.get_task(task_id)
        assert task.state is DbTaskState.CANCELLED
        assert str(parent) in task.error_message
    assert broker.get_statistics() == QueueStatistics(cancelled=2, total=2)
    tables.check(broker)


@pytest.mark.spec("MAINT-08", "MAINT-09")
def test_a_family_is_purged_in_one_chunk(broker, tables):
    parent = broker.enqueue(SerializedTask.new("parent"))
    child = broker.enqueue(SerializedTask.new("child", dependencies=[parent]))
    broker.enqueue(SerializedTask.new("child", dependencies=[child]))
    assert broker.purge_by_state(DbTaskState.PENDING) == 3
    assert broker.get_statistics() == QueueStatistics()
    tables.check(broker)


@pytest.mark.spec("MAINT-10", "DEF-38")
def test_criteria_without_a_state_spare_what_is_in_flight(broker, tables):
    ids = one_of_each(broker)
    assert broker.delete_tasks_by_criteria(None, 3600) == 0
    tables.rows("UPDATE celers_tasks SET created_at = created_at - INTERVAL 7200 SECOND")
    (young,) = fill(broker, 1)
    assert broker.delete_tasks_by_criteria(DbTaskState.FAILED, timedelta(hours=1)) == 1
    assert broker.delete_tasks_by_criteria(None, timedelta(hours=1)) == 3
    assert left(broker, [*ids.values(), young]) == [ids[DbTaskState.PROCESSING], young]
    assert broker.delete_tasks_by_criteria(DbTaskState.PROCESSING, 0) == 1
    assert broker.delete_tasks_by_criteria(None, 0) == 1
    assert broker.get_statistics() == QueueStatistics()
    tables.check(broker)
    for state, age in (("failed", 1), (None, -1), (None, None), (None, True), (None, float("nan"))):
        with pytest.raises(ValidationError):
            broker.delete_tasks_by_criteria(state, age)


@pytest.mark.spec("MAINT-04", "CONF-06")
def test_archiving_goes_by_the_time_of_the_end(broker, make_broker, tables):
    ids = one_of_each(broker)
    other = make_broker("other")
    one_of_each(other)
    tables.rows("UPDATE celers_tasks SET created_at = created_at - INTERVAL 9999 SECOND")
    assert broker.archive_completed_tasks(3600) == 0
    done, failed = ids[DbTaskState.COMPLETED], ids[DbTaskState.FAILED]
    tables.rows(
        "INSERT INTO celers_task_idempotency (id, queue_name, idempotency_key, task_name, task_id, created_at,"
        " expires_at) VALUES (%s, 'default', 'k', 'job', %s, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
        (uuid4().bytes, done.bytes),
    )
    ended(tables, 7200, done, failed)
    assert broker.archive_completed_tasks(timedelta(hours=1)) == 2
    assert left(broker, [done, failed]) == []
    assert broker.get_result(done) is not None, "results stay"
    assert tables.value("SELECT COUNT(*) FROM celers_task_idempotency") == 1
    assert broker.get_statistics() == QueueStatistics(pending=1, processing=1, cancelled=1, total=3)
    assert broker.archive_completed_tasks(0) == 1
    assert other.purge_all() == 5
    tables.check(broker)
    with pytest.raises(ValidationError, match="older_than"):
        broker.archive_completed_tasks(-1)


@pytest.mark.spec("MAINT-04")
def test_archiving_keeps_what_an_unfinished_dependant_needs(broker, tables):
    first, second = fill(broker, 2)
    child = broker.enqueue(SerializedTask.new("child", dependencies=[first, second]))
    message = broker.dequeue()
    broker.ack(message.task_id, message.receipt_handle)
    ended(tables, 100, message.task_id)
    assert broker.archive_completed_tasks(10) == 0
    for _ in range(2):
        message = broker.dequeue()
        broker.ack(message.task_id, message.receipt_handle)
    assert message.task_id == child
    ended(tables, 100, second, child)
    assert broker.archive_completed_tasks(10) == 3
    assert tables.value("SELECT COUNT(*) FROM celers_task_dependencies") == 0
    tables.check(broker)


@pytest.mark.spec("MAINT-04")
@pytest.mark.parametrize("column", ["task_id", "parent_task_id"])
def test_archiving_keeps_what_an_unfinished_workflow_needs(broker, tables, column):
    parent = broker.enqueue(SerializedTask.new("parent"))
    child = broker.enqueue(SerializedTask.new("child", dependencies=[parent]))
    for _ in range(2):
        message = broker.dequeue()
        broker.ack(message.task_id, message.receipt_handle)
    flow = uuid4().bytes
    tables.rows("UPDATE celers_task_dependencies SET workflow_id = %s", (flow,))
    tables.rows(
        "INSERT INTO celers_workflows (id, queue_name, workflow_name, state, created_at)"
        " VALUES (%s, 'default', 'flow', 'running', UTC_TIMESTAMP(6))",
        (flow,),
    )
    wanted = child if column == "task_id" else parent
    ended(tables, 100, wanted)
    assert broker.archive_completed_tasks(10) == 0
    tables.rows("UPDATE celers_workflows SET state = 'completed'")
    assert broker.archive_completed_tasks(10) == 1
    tables.check(broker)


@pytest.mark.spec("MAINT-04", "DEF-106")
def test_thousands_are_archived_in_chunks(sync_broker, tables):
    for _ in range(3):
        fill(sync_broker, 1000)
        messages = sync_broker.dequeue_batch(1000)
        sync_broker.ack_batch([(message.task_id, message.receipt_handle) for message in messages])
    fill(sync_broker, 10)
    assert sync_broker.archive_completed_tasks(0) == 3000
    assert sync_broker.get_statistics() == QueueStatistics(pending=10, total=10)
    tables.check(sync_broker)


@pytest.mark.spec("MAINT-11", "CONF-06")
def test_old_history_goes(make_broker, tables):
    broker, other = make_broker(record_history=True), make_broker("other", record_history=True)
    ids = one_of_each(broker)
    one_of_each(other)
    rows = tables.value("SELECT COUNT(*) FROM celers_task_history WHERE queue_name = 'default'")
    assert rows > 5
    assert broker.archive_task_history(3600) == 0
    done = ids[DbTaskState.COMPLETED]
    tables.rows(
        "UPDATE celers_task_history SET `timestamp` = `timestamp` - INTERVAL 7200 SECOND WHERE task_id = %s",
        (done.bytes,),
    )
    old = tables.value("SELECT COUNT(*) FROM celers_task_history WHERE task_id = %s", (done.bytes,))
    assert broker.archive_task_history(timedelta(hours=1)) == old > 0
    assert broker.archive_task_history(0) == rows - old
    assert tables.value("SELECT COUNT(*) FROM celers_task_history") == rows
    with pytest.raises(ValidationError, match="older_than"):
        broker.archive_task_history("1")


@pytest.mark.spec("MAINT-06")
def test_a_task_has_its_own_limit(broker, tables):
    own = SerializedTask.new("own", timeout=5, max_retries=1, priority=9)
    broker.enqueue(own)
    fill(broker, 1, max_retries=0)
    mine, others = broker.dequeue_batch(2)
    broker.update_error_message(mine.task_id, "before")
    assert broker.recover_timed_out_tasks(3) == 0
    tables.rows("UPDATE celers_tasks SET started_at = started_at - INTERVAL 10 SECOND")
    assert broker.recover_timed_out_tasks(60) == 1
    task = broker.get_task(mine.task_id)
    assert (task.state, task.retry_count) == (DbTaskState.PENDING, 1)
    assert task.error_message == "before; timed out: processing for longer than 5 s"
    assert broker.recover_timed_out_tasks(2.5) == 1
    (letter,) = broker.list_dlq(10, 0)
    assert letter.task_id == others.task_id
    assert letter.error_message == "timed out: processing for longer than 2.5 s"
    with pytest.raises(TaskNotFoundError):
        broker.ack(others.task_id, others.receipt_handle)
    tables.check(broker)
    for bad in (0, -1, None, True):
        with pytest.raises(ValidationError, match="timeout"):
            broker.recover_timed_out_tasks(bad)


@pytest.mark.spec("MAINT-06", "DATA-09")
def test_the_note_survives_a_long_error_text(broker, tables):
    fill(broker, 1)
    message = broker.dequeue()
    broker.update_error_message(message.task_id, "é" * 40_000)
    tables.rows("UPDATE celers_tasks SET started_at = started_at - INTERVAL 10 SECOND")
    assert broker.recover_timed_out_tasks(1) == 1
    assert broker.get_task(message.task_id).error_message.endswith("; timed out: processing for longer than 1 s")


@pytest.mark.spec("MAINT-14", "DEF-105")
def test_every_table_is_rebuilt_and_analysed(broker, tables):
    fill(broker, 3)
    names = {row[0] for row in tables.rows("SHOW FULL TABLES LIKE 'celers\\_%'") if row[1] == "BASE TABLE"}
    assert broker.vacuum_analyze() == len(names) > 10
    assert broker.queue_size() == 3


@pytest.mark.spec("MAINT-14", "DEF-105")
def test_without_tables_there_is_nothing_to_rebuild(make_broker, empty_database_url):
    broker = make_broker(url=empty_database_url)
    assert broker.vacuum_analyze() == 0


@pytest.mark.spec("OPS-04")
def test_the_rest_of_the_toolkit_is_at_hand(broker):
    fill(broker, 1, max_retries=0)
    message = broker.dequeue()
    broker.reject(message.task_id, message.receipt_handle)
    assert broker.replay_dlq_batch(None, 0, 10) == 1
    assert broker.check_connection_health() is True
    assert isinstance(broker.profile_query_performance(0, 10), list)
