"""Dead letters (spec 04, DLQ-01 and 02)."""

from __future__ import annotations

from datetime import UTC, timedelta
from uuid import uuid4

import pytest

from celers import DbTaskState, SerializedTask
from celers.retry import Fixed, RetryPolicy

COPIED = [
    *("task_name", "payload", "payload_encoding", "priority", "retry_count", "max_retries", "timeout_secs"),
    *("created_at", "metadata", "retry_policy", "dedup_key", "group_id", "chord_id", "parent_task_id"),
]


def full_task(**changes):
    return SerializedTask.new(
        "ünï'c\\de",
        bytes(range(256)),
        **{
            "priority": -7,
            "timeout": 30,
            "group_id": "grüppe",
            "chord_id": uuid4(),
            "parent_task_id": uuid4(),
            "extra": {"customer": {"id": 7}, "queue": "x"},
            **changes,
        },
    )


def kill(broker, task_id, error="boom"):
    """Use up the task's retries, of which there is none."""
    message = broker.dequeue()
    assert message.task_id == task_id
    broker.reject(task_id, message.receipt_handle, error=error)


@pytest.mark.spec("DLQ-01", "CORE-10", "DEF-25", "RETRY-06")
@pytest.mark.parametrize("how", ["reject", "reject_batch", "policy", "recover", "fail", "procedure"])
def test_the_copy_is_complete(broker, tables, how):
    task_id = broker.enqueue_with_retry_policy(full_task(), RetryPolicy(max_retries=0, strategy=Fixed(5)))
    child = broker.enqueue(SerializedTask.new("child", dependencies=[task_id]))
    grandchild = broker.enqueue(SerializedTask.new("grandchild", dependencies=[child]))
    before = tables.task(task_id)
    message = broker.dequeue()
    if how == "reject":
        broker.reject(task_id, message.receipt_handle, error="boom")
    elif how == "reject_batch":
        broker.reject_batch([(task_id, message.receipt_handle, True)])
    elif how == "policy":
        broker.reject_with_retry_policy(task_id, "boom", receipt_handle=message.receipt_handle)
    elif how == "recover":
        assert broker.recover_stuck_tasks(1e-6) == 1
    elif how == "fail":
        assert broker.consumer.fail(message, error="boom") == "dead_letter"
    else:
        tables.rows("UPDATE celers_tasks SET error_message = 'boom' WHERE id = %s", (task_id.bytes,))
        tables.rows("CALL move_to_dlq(%s)", (str(task_id),))
    assert broker.get_task(task_id) is None
    letter = tables.letter(task_id)
    assert {name: letter[name] for name in COPIED} == {name: before[name] for name in COPIED}
    assert letter["queue_name"] == "default"
    assert letter["failed_at"] >= letter["created_at"]
    if how in ("reject", "policy", "fail", "procedure"):
        assert letter["error_message"] == "boom"
    assert letter["id"] != letter["task_id"]
    for key in (child, grandchild):
        info = broker.get_task(key)
        assert (info.state, str(task_id) in info.error_message) == (DbTaskState.CANCELLED, True)
    tables.check(broker)


@pytest.mark.spec("DLQ-01", "DEF-25")
def test_the_procedure_takes_part_in_a_transaction(sync_broker, tables):
    task_id = sync_broker.enqueue(full_task())
    connection = tables.connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("CALL move_to_dlq(%s)", (str(task_id),))
    connection.rollback()
    connection.close()
    assert sync_broker.get_task(task_id).state is DbTaskState.PENDING
    assert sync_broker.list_dlq(10, 0) == []
    tables.check(sync_broker)
    tables.rows("CALL move_to_dlq(%s)", (str(task_id),))
    tables.check(sync_broker)
    assert sync_broker.dequeue() is None


@pytest.mark.spec("DLQ-02", "DATA-04", "TYPE-11", "CONF-06")
def test_dead_letters_are_listed_newest_first(broker, tables):
    ids = []
    for number in range(4):
        ids.append(broker.enqueue(full_task(max_retries=0, priority=number)))
        kill(broker, ids[-1], error=f"e{number}")
    other = broker.for_queue("other")
    stranger = other.enqueue(full_task(max_retries=0))
    kill(other, stranger)
    letters = broker.list_dlq(10, 0)
    assert [letter.task_id for letter in letters] == ids[::-1]
    assert [letter.task_id for letter in other.list_dlq(10, 0)] == [stranger]
    assert broker.list_dlq(2, 1) == letters[1:3]
    assert broker.list_dlq(5, 4) == broker.list_dlq(0, 0) == []
    newest = letters[0]
    assert (newest.task_name, newest.priority, newest.error_message) == ("ünï'c\\de", 3, "e3")
    assert (newest.retry_count, newest.max_retries) == (0, 0)
    assert newest.metadata["customer"] == {"id": 7}
    assert newest.failed_at.utcoffset() == timedelta()
    tables.rows("UPDATE celers_dead_letter_queue SET failed_at = '2026-01-01 00:00:00.000001'")
    same = broker.list_dlq(10, 0)
    assert [letter.id for letter in same] == sorted((letter.id for letter in letters), reverse=True)
    assert same[0].failed_at.replace(tzinfo=UTC).microsecond == 1
    assert broker.get_statistics().dlq == 4
