"""Listings of tasks, their transitions, and small changes by hand (spec 05)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest

from celers import DbTaskState, SerializedTask, TaskStateTransition, ValidationError
from tests.fixtures.tables import Tables

START = datetime(2026, 1, 1, tzinfo=UTC)


def put(broker, name="job", **options):
    return broker.enqueue(SerializedTask.new(name, **options))


def ids(infos):
    return [info.id for info in infos]


@pytest.mark.spec("INSP-05", "DATA-04", "CONF-06")
def test_tasks_in_work_the_oldest_first(broker, tables):
    assert broker.get_processing_tasks(10, 0) == []
    tasks = broker.enqueue_batch([SerializedTask.new("job") for _ in range(6)])
    put(broker.for_queue("other"))
    broker.for_queue("other").dequeue()
    messages = broker.dequeue_batch(5)
    broker.ack(messages[4].task_id, messages[4].receipt_handle)
    for number, task_id in enumerate(tasks[:4]):
        tables.rows(
            "UPDATE celers_tasks SET started_at = '2026-01-01' - INTERVAL %s SECOND WHERE id = %s",
            (number, task_id.bytes),
        )
    longest = [tasks[3], tasks[2], tasks[1], tasks[0]]
    found = broker.get_processing_tasks(10, 0)
    assert ids(found) == longest
    assert {info.state for info in found} == {DbTaskState.PROCESSING}
    assert ids(broker.get_processing_tasks(2, 1)) == longest[1:3]
    assert broker.get_processing_tasks(0, 0) == broker.get_processing_tasks(10, 4) == []
    tables.rows("UPDATE celers_tasks SET started_at = '2026-01-01' WHERE state = 'processing'")
    assert ids(broker.get_processing_tasks(10, 0)) == tasks[:4]
    for arguments, name in (((-1, 0), "limit"), ((10_001, 0), "limit"), ((1, -1), "offset")):
        with pytest.raises(ValidationError, match=name):
            broker.get_processing_tasks(*arguments)


@pytest.mark.spec("INSP-05")
def test_a_task_started_by_hand_is_in_work(broker):
    task_id = put(broker)
    assert broker.update_batch_state([task_id], DbTaskState.PROCESSING) == 1
    assert ids(broker.get_processing_tasks(10, 0)) == [task_id]


@pytest.mark.spec("INSP-06", "CONF-06")
@pytest.mark.parametrize("indexes", [False, True], ids=["plain", "reporting indexes"])
def test_tasks_of_a_worker(make_broker, empty_database_url, indexes):
    broker = make_broker(url=empty_database_url)
    broker.migrate(reporting_indexes=indexes)
    for _ in range(4):
        put(broker)
    for worker in ("one", "two", "one", "One"):
        last = broker.dequeue_with_worker_id(worker)
    assert last.task_name == "job"
    infos = {info.id: info for info in broker.list_tasks(None, 10, 0)}
    first, second, third, fourth = sorted(infos, key=lambda key: infos[key].started_at)
    broker.ack(first)
    put(broker.for_queue("other"))
    broker.for_queue("other").dequeue_with_worker_id("one")
    found = broker.get_tasks_by_worker("one")
    assert ids(found) == [third, first]
    assert [info.state for info in found] == [DbTaskState.PROCESSING, DbTaskState.COMPLETED]
    assert {info.worker_id for info in found} == {"one"}
    assert ids(broker.get_tasks_by_worker("two")) == [second]
    assert ids(broker.get_tasks_by_worker("One")) == [fourth]
    assert broker.get_tasks_by_worker("nobody") == []
    with pytest.raises(ValidationError, match="worker_id"):
        broker.get_tasks_by_worker(" ")


@pytest.mark.spec("INSP-08", "CONF-06", "DATA-03")
@pytest.mark.parametrize("indexes", [False, True], ids=["plain", "reporting indexes"])
def test_tasks_of_a_span_of_time(make_broker, server, empty_database_url, indexes):
    broker = make_broker(url=empty_database_url)
    broker.migrate(reporting_indexes=indexes)
    tasks = broker.enqueue_batch([SerializedTask.new("job") for _ in range(10)])
    put(broker.for_queue("other"))
    Tables(server, empty_database_url).rows(
        "UPDATE celers_tasks SET created_at = '2026-01-01' + INTERVAL (seq - 1) * 1000001 MICROSECOND"
    )

    def at(number, micros=0):
        return START + timedelta(microseconds=number * 1_000_001 + micros)

    assert ids(broker.search_tasks_by_date_range(at(2), at(5))) == tasks[2:6][::-1]
    assert ids(broker.search_tasks_by_date_range(at(2, 1), at(5, -1))) == tasks[3:5][::-1]
    assert ids(broker.search_tasks_by_date_range(at(3), at(3))) == [tasks[3]]
    assert ids(broker.search_tasks_by_date_range(at(0), at(9), limit=3, offset=2)) == tasks[5:8][::-1]
    assert broker.search_tasks_by_date_range(at(0), at(9), limit=0) == []
    broker.ack(broker.dequeue().task_id)
    assert ids(broker.search_tasks_by_date_range(at(0), at(9), DbTaskState.COMPLETED)) == [tasks[0]]
    assert ids(broker.search_tasks_by_date_range(1, 2**33, DbTaskState.PENDING)) == tasks[:0:-1]
    zoned = at(2).astimezone(timezone(timedelta(hours=5.5)))
    assert ids(broker.search_tasks_by_date_range(zoned, zoned)) == [tasks[2]]
    for arguments, name in (
        ((at(1), at(0)), "from_time"),
        ((datetime(2026, 1, 1), at(0)), "from_time"),  # noqa: DTZ001 - naive by intent
        ((at(0), "x"), "to_time"),
        ((at(0), at(1), "pending"), "state"),
        ((at(0), at(1), None, -1), "limit"),
        ((at(0), at(1), None, 1, -1), "offset"),
    ):
        with pytest.raises(ValidationError, match=name):
            broker.search_tasks_by_date_range(*arguments)


@pytest.mark.spec("INSP-10", "DATA-09", "CONF-06")
def test_the_error_text_is_replaced(broker, tables):
    later = broker.enqueue_after(SerializedTask.new("job"), 60)
    parent = put(broker)
    child = put(broker, dependencies=[parent])
    broker.dequeue()
    for task_id in (later, parent, child):
        assert broker.update_error_message(task_id, "ü" * 40_000) is True
        text = broker.get_task(task_id).error_message
        assert (len(text.encode()), text[-1]) == (65_535, "…")
        assert broker.update_error_message(str(task_id), "same") is True
        assert broker.update_error_message(task_id, "same") is True
        assert broker.get_task(task_id).error_message == "same"
    broker.ack(parent)
    assert broker.update_error_message(parent, "") is True
    assert broker.get_task(parent).error_message == ""
    assert broker.update_error_message(uuid4(), "x") is False
    assert broker.for_queue("other").update_error_message(parent, "x") is False
    with pytest.raises(ValidationError, match="error_message"):
        broker.update_error_message(parent, 1)
    tables.check(broker)


@pytest.mark.spec("INSP-11", "CONF-06")
def test_the_worker_is_set_while_a_task_is_in_work(broker, tables):
    task_id = put(broker)
    assert broker.set_worker_id(task_id, "one") is False
    message = broker.dequeue_with_worker_id("zero")
    assert broker.set_worker_id(str(task_id), "one") is True
    assert broker.set_worker_id(task_id, "one") is True
    assert broker.get_task(task_id).worker_id == "one"
    assert broker.list_active_workers() == ["one"]
    assert broker.for_queue("other").set_worker_id(task_id, "two") is False
    broker.ack(task_id, message.receipt_handle)
    assert broker.set_worker_id(task_id, "two") is False
    assert broker.set_worker_id(uuid4(), "two") is False
    assert broker.get_task(task_id).worker_id == "one"
    for bad in ("", " x", None, 1):
        with pytest.raises(ValidationError, match="worker_id"):
            broker.set_worker_id(task_id, bad)
    tables.check(broker)


# Transitions


@pytest.mark.spec("INSP-15", "TYPE-07", "DEF-09")
def test_transitions_that_the_times_tell(broker):
    assert broker.get_task_state_transitions(uuid4()) == []
    task_id = put(broker)
    created = TaskStateTransition(task_id, None, DbTaskState.PENDING, broker.get_task(task_id).created_at)
    assert broker.get_task_state_transitions(str(task_id)) == [created]
    message = broker.dequeue_with_worker_id("one")
    started = TaskStateTransition(
        task_id, DbTaskState.PENDING, DbTaskState.PROCESSING, broker.get_task(task_id).started_at, "one"
    )
    assert broker.get_task_state_transitions(task_id) == [created, started]
    broker.reject(task_id, message.receipt_handle, requeue=False, error="boom")
    failed = TaskStateTransition(
        task_id,
        DbTaskState.PROCESSING,
        DbTaskState.FAILED,
        broker.get_task(task_id).completed_at,
        "one",
        "boom",
    )
    assert broker.get_task_state_transitions(task_id) == [created, started, failed]
    assert broker.for_queue("other").get_task_state_transitions(task_id) == []


@pytest.mark.spec("INSP-15", "DEF-09")
def test_a_task_cancelled_while_pending_comes_from_pending(broker):
    task_id = put(broker)
    broker.cancel(task_id)
    _, cancelled = broker.get_task_state_transitions(task_id)
    assert (cancelled.from_state, cancelled.to_state) == (DbTaskState.PENDING, DbTaskState.CANCELLED)
    assert cancelled.worker_id is None
    assert cancelled.to_dict()["to_state"] == "cancelled"


@pytest.mark.spec("INSP-15")
def test_a_dead_letter_tells_its_end(broker):
    task_id = put(broker, max_retries=0)
    broker.reject(task_id, broker.dequeue().receipt_handle, error="boom")
    created, dead = broker.get_task_state_transitions(task_id)
    assert (created.from_state, created.to_state) == (None, DbTaskState.PENDING)
    assert (dead.to_state, dead.message) == ("dead_letter", "boom")
    assert dead.transitioned_at == broker.list_dlq(1, 0)[0].failed_at > created.transitioned_at


@pytest.mark.spec("INSP-15")
def test_recorded_transitions_come_first(broker, tables):
    task_id = put(broker)
    rows = [
        (None, "pending", 0, None, None),
        ("pending", "processing", 1, "one", None),
        ("processing", "pending", 2, "one", "retry"),
        ("pending", "processing", 3, "two", None),
        ("processing", "dead_letter", 4, "two", "boom"),
    ]
    for queue in ("default", "other"):
        for before, after, second, worker, message in rows[: 5 if queue == "default" else 1]:
            tables.rows(
                "INSERT INTO celers_task_history (queue_name, task_id, task_name, from_state, state, `timestamp`,"
                " worker_id, message) VALUES (%s, %s, 'job', %s, %s, '2026-01-01' + INTERVAL %s SECOND, %s, %s)",
                (queue, task_id.bytes, before, after, second, worker, message),
            )
    found = broker.get_task_state_transitions(task_id)
    assert found == [
        TaskStateTransition(
            task_id,
            None if before is None else DbTaskState(before),
            after if after == "dead_letter" else DbTaskState(after),
            START + timedelta(seconds=second),
            worker,
            message,
        )
        for before, after, second, worker, message in rows
    ]
    broker.purge_all()
    assert broker.get_task_state_transitions(task_id) == found
