"""Looking at tasks, queues and statistics (spec 05), and what the database keeps of a task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from celers import (
    DbTaskState,
    QueueStatistics,
    SerializationError,
    SerializedTask,
    TaskInfo,
    ValidationError,
)
from tests.fixtures.filling import silence

TEXTS = {
    "quotes": "a'b\"c\\d",
    "unicode": "größe \U0001f40c e\u0301",
    "patterns": "100%_?:id @x",
    "comment": "-- /*! x */ # ;",
    "longest": "\U0001f40c" * 255,
}


@pytest.mark.spec("INSP-01", "TYPE-01", "TYPE-02", "TYPE-03", "TYPE-04", "CORE-01", "DATA-05")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_task_comes_back_with_all_that_it_was_given(broker, text):
    parent, chord = uuid4(), uuid4()
    extra = {text: [text, {"n": 2**40, "f": 1.5, "t": True, "z": None, "s": "\0\u2028\ud7ff"}]}
    task = SerializedTask.new(
        text,
        bytes(range(256)),
        priority=-(2**31),
        max_retries=1000,
        timeout=timedelta(seconds=90),
        group_id=text,
        chord_id=chord,
        parent_task_id=parent,
        extra=extra,
    )
    before = datetime.now(UTC) - timedelta(seconds=30)
    broker.enqueue(task)
    info = broker.get_task(task.metadata.id)
    assert isinstance(info, TaskInfo)
    assert info.id == task.metadata.id
    assert info.task_name == text
    assert info.state is DbTaskState.PENDING
    assert (info.priority, info.retry_count, info.max_retries) == (-(2**31), 0, 1000)
    assert before < info.created_at < before + timedelta(seconds=90)
    assert info.created_at == info.scheduled_at
    assert info.started_at is None
    assert info.completed_at is None
    assert info.worker_id is None
    assert info.error_message is None
    assert info.queue_name == "default"
    assert info.group_id == text
    assert info.parent_task_id == parent
    assert info.unmet_dependencies == 0
    assert info.metadata[text] == extra[text]
    assert info.metadata["queue"] == "default"
    assert info.metadata["chord_id"] == str(chord)
    assert broker.get_task(str(task.metadata.id)) == info
    assert broker.list_tasks(None, 1, 0) == [info]

    message = broker.dequeue()
    given, got = task.metadata, message.task.metadata
    assert (got.id, got.name, got.priority, got.max_retries, got.timeout_secs) == (
        given.id,
        given.name,
        given.priority,
        given.max_retries,
        given.timeout_secs,
    )
    assert (got.group_id, got.chord_id, got.parent_task_id, got.extra) == (text, chord, parent, extra)
    assert got.created_at == info.created_at
    assert message.task.payload == bytes(range(256))
    assert message.delivered_at >= info.created_at
    assert message.retry_count == 0
    assert (message.task_id, message.task_name, message.priority) == (given.id, text, -(2**31))


@pytest.mark.spec("ENUM-01", "INSP-01", "INSP-02", "INSP-03", "TYPE-14")
def test_every_state_comes_back_and_is_counted(broker, tables):
    tasks = [SerializedTask.new("job", max_retries=0) for _ in range(6)]
    broker.enqueue_batch(tasks)
    assert broker.get_statistics() == QueueStatistics(pending=6, total=6)
    completed, failed, cancelled, dead, processing = broker.dequeue_batch(5)
    broker.ack(completed.task_id, completed.receipt_handle)
    broker.reject(failed.task_id, failed.receipt_handle, requeue=False, error="bad")
    broker.cancel(cancelled.task_id)
    broker.reject(dead.task_id, dead.receipt_handle, error="worse")
    states = {
        DbTaskState.COMPLETED: completed.task_id,
        DbTaskState.FAILED: failed.task_id,
        DbTaskState.CANCELLED: cancelled.task_id,
        DbTaskState.PROCESSING: processing.task_id,
        DbTaskState.PENDING: tasks[5].metadata.id,
    }
    for state, task_id in states.items():
        info = broker.get_task(task_id)
        assert info.state is state
        assert (info.started_at is not None) == (state is not DbTaskState.PENDING)
        assert (info.completed_at is not None) == state.is_terminal
        assert [found.id for found in broker.list_tasks(state, 10, 0)] == [task_id]
    assert broker.get_task(failed.task_id).error_message == "bad"
    assert broker.get_task(dead.task_id) is None
    assert broker.get_statistics() == QueueStatistics(1, 1, 1, 1, 1, 1, 5)
    tables.check(broker)


@pytest.mark.spec("INSP-01", "DATA-01")
def test_an_unknown_task_is_none_and_a_bad_id_an_error(broker):
    assert broker.get_task(uuid4()) is None
    for bad in ("x", "", 1, None, b"0" * 16, uuid4().hex):
        with pytest.raises(ValidationError, match="task_id"):
            broker.get_task(bad)


@pytest.mark.spec("INSP-02", "DATA-04")
def test_pages_are_stable_and_newest_first(broker):
    tasks = [SerializedTask.new("job", priority=number % 3) for number in range(25)]
    broker.enqueue_batch(tasks)
    newest = [task.metadata.id for task in reversed(tasks)]
    pages = [[info.id for info in broker.list_tasks(None, 7, offset)] for offset in range(0, 28, 7)]
    assert [task_id for page in pages for task_id in page] == newest
    assert [info.id for info in broker.list_tasks(None, 10_000, 0)] == newest
    done = broker.dequeue_batch(10)
    broker.ack_batch([(message.task_id, message.receipt_handle) for message in done])
    completed = {message.task_id for message in done}
    expected = [task_id for task_id in newest if task_id in completed]
    assert [info.id for info in broker.list_tasks(DbTaskState.COMPLETED, 4, 0)] == expected[:4]
    assert [info.id for info in broker.list_tasks(DbTaskState.COMPLETED, 10, 4)] == expected[4:]
    assert broker.list_tasks(DbTaskState.COMPLETED, 10, 10) == []
    assert broker.list_tasks(None, 0, 0) == []
    assert broker.list_tasks(None, 10, 2**40) == []


@pytest.mark.spec("INSP-02", "DATA-04", "DATA-10")
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((None, -1, 0), "limit"),
        ((None, 10_001, 0), "limit"),
        ((None, 1.0, 0), "limit"),
        ((None, True, 0), "limit"),
        ((None, 1, -1), "offset"),
        ((None, 1, "0"), "offset"),
        (("pending", 1, 0), "state"),
        ((0, 1, 0), "state"),
    ],
)
def test_bad_pages_are_refused(sync_broker, arguments, name):
    with pytest.raises(ValidationError, match=name):
        sync_broker.list_tasks(*arguments)


@pytest.mark.spec("INSP-03")
def test_an_empty_queue_is_all_zeros(broker):
    assert broker.get_statistics() == QueueStatistics(0, 0, 0, 0, 0, 0, 0)


@pytest.mark.spec("INSP-03", "CORE-11")
def test_scheduled_and_blocked_tasks_are_pending(broker, tables):
    parent = SerializedTask.new("parent")
    broker.enqueue(parent)
    broker.enqueue_after(SerializedTask.new("later"), 3600)
    broker.enqueue(SerializedTask.new("child", dependencies=[parent.metadata.id]))
    assert broker.get_statistics() == QueueStatistics(pending=3, total=3)
    message = broker.dequeue()
    assert broker.get_statistics() == QueueStatistics(pending=2, processing=1, total=3)
    broker.ack(message.task_id, message.receipt_handle)
    assert broker.get_statistics() == QueueStatistics(pending=2, completed=1, total=3)
    tables.check(broker)


@pytest.mark.spec("INSP-03", "CONF-06")
def test_statistics_are_those_of_the_queue(make_broker):
    one, two = make_broker("one"), make_broker("two")
    for broker, count in ((one, 5), (two, 3)):
        broker.enqueue_batch([SerializedTask.new("job", max_retries=0) for _ in range(count)])
        first, second, _ = broker.dequeue_batch(3)
        broker.ack(first.task_id, first.receipt_handle)
        broker.reject(second.task_id, second.receipt_handle)
    assert one.get_statistics() == QueueStatistics(pending=2, processing=1, completed=1, dlq=1, total=4)
    assert two.get_statistics() == QueueStatistics(pending=0, processing=1, completed=1, dlq=1, total=2)
    assert make_broker("three").get_statistics() == QueueStatistics()


@pytest.mark.spec("INSP-03")
def test_a_lease_that_holds_more_than_is_processing_counts_only_what_is(make_broker, tables):
    first, second = make_broker(), make_broker()
    first.enqueue_batch([SerializedTask.new("job") for _ in range(4)])
    messages = first.dequeue_batch(4)
    second.ack(messages[0].task_id, messages[0].receipt_handle)
    second.cancel(messages[1].task_id)
    second.reject(messages[2].task_id, messages[2].receipt_handle)
    assert first.get_statistics() == QueueStatistics(pending=1, processing=1, completed=1, cancelled=1, total=4)
    silence(tables)
    assert second.maintenance.rescue_dead() == 1
    assert first.get_statistics() == QueueStatistics(pending=2, completed=1, cancelled=1, total=4)


@pytest.mark.spec("CONF-06", "INSP-01", "INSP-02", "CORE-09", "CORE-12", "MAINT-05", "MAINT-08")
def test_a_task_of_another_queue_counts_as_not_found(make_broker):
    from celers import DuplicateTaskError, TaskNotFoundError

    one, two = make_broker("one"), make_broker("ONE")
    task = SerializedTask.new("job")
    one.enqueue(task)
    task_id = task.metadata.id
    assert two.get_task(task_id) is None
    assert two.list_tasks(None, 10, 0) == []
    assert two.dequeue() is None
    assert two.queue_size() == 0
    assert two.cancel(task_id) is False
    assert two.update_batch_state([task_id], DbTaskState.FAILED) == 0
    assert two.purge_all() == 0
    with pytest.raises(DuplicateTaskError):
        two.enqueue(task)
    message = one.dequeue()
    for handle in (message.receipt_handle, None):
        with pytest.raises(TaskNotFoundError):
            two.ack(task_id, handle)
        with pytest.raises(TaskNotFoundError):
            two.reject(task_id, handle)
    assert two.ack_batch([(task_id, message.receipt_handle)]) == 0
    assert two.reject_batch([(task_id, message.receipt_handle, True)]) == 0
    assert two.consumer.give_back([message]) == 0
    assert two.consumer.fail(message, error="x") == "lost"
    assert two.recover_stuck_tasks(0.000001) == 0
    assert one.get_task(task_id).state is DbTaskState.PROCESSING
    one.ack(task_id, message.receipt_handle)


@pytest.mark.spec("DATA-06", "ERR-04", "CORE-01")
def test_metadata_that_a_json_column_cannot_hold_is_refused(broker):
    deep: list = []
    for _ in range(150):
        deep = [deep]
    for value in (deep, {1, 2}, float("inf"), "\ud800"):
        with pytest.raises(SerializationError):
            broker.enqueue(SerializedTask.new("job", extra={"key": value}))
    assert broker.queue_size() == 0


@pytest.mark.spec("CONF-03")
def test_a_table_prefix_keeps_two_sets_of_tables_apart(make_broker, empty_database_url, server):
    plain = make_broker(url=empty_database_url)
    other = make_broker(url=empty_database_url, table_prefix="Other_1_")
    plain.migrate()
    other.migrate()
    task = SerializedTask.new("celers_job", b"celers_tasks", extra={"celers_": "celers_ready"}, max_retries=0)
    plain.enqueue(task)
    assert other.get_task(task.metadata.id) is None
    other.enqueue(task)
    other.enqueue(SerializedTask.new("child", dependencies=[task.metadata.id]))
    other.enqueue_after(SerializedTask.new("later"), 3600)
    message = other.dequeue_with_worker_id("celers_worker")
    assert message.task.metadata.extra == {"celers_": "celers_ready"}
    assert message.task.payload == b"celers_tasks"
    assert other.get_task(message.task_id).worker_id == "celers_worker"
    assert other.list_active_workers() == ["celers_worker"]
    other.register_worker("celers_worker", _idle())
    other.update_worker_heartbeat("celers_worker", _idle())
    assert other.recover_stuck_tasks(0.000001) == 1
    assert [letter.task_id for letter in other.list_dlq(10, 0)] == [task.metadata.id]
    assert other.get_statistics() == QueueStatistics(pending=1, cancelled=1, dlq=1, total=2)
    assert len(other.list_scheduled_tasks(10, 0)) == 1
    assert other.consumers.rescue(other.consumers.numbers(), None) == 0
    assert other.maintenance.rescue_dead() == 0
    assert other.maintenance.promote_due() == 0
    assert other.purge_all() == 2
    assert plain.get_statistics() == QueueStatistics(pending=1, total=1)
    assert plain.dequeue().task_id == task.metadata.id


def _idle():
    from celers import WorkerStatus

    return WorkerStatus.IDLE
