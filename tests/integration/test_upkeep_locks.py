"""Retention keeps nobody waiting: whatever a step has locked, workers and producers go on."""

from __future__ import annotations

import threading

import pytest

from celers import DbTaskState, SerializedTask
from tests.fixtures.waiting import until


def finish(broker, count):
    messages = broker.dequeue_batch(count)
    assert broker.ack_batch([(message.task_id, message.receipt_handle) for message in messages]) == count


def running(tables):
    """What the other connections to the database are busy with."""
    return [
        row[0].encode() if isinstance(row[0], str) else row[0]
        for row in tables.rows(
            "SELECT info FROM information_schema.processlist"
            " WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info IS NOT NULL"
        )
    ]


@pytest.mark.spec("MAINT-04", "DEF-106")
def test_a_step_of_retention_locks_nothing_that_others_need(sync_broker, make_broker, tables):
    """It is stopped with all of its locks held; nobody who waits for one of them could pass before it goes on."""
    broker = sync_broker
    other = make_broker(broker.queue_name)
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(500)])
    finish(broker, 300)
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(100)])
    tables.rows(
        "UPDATE celers_tasks SET created_at = created_at - INTERVAL 1 DAY, completed_at = completed_at - INTERVAL 1 DAY"
        " WHERE state = 'completed'"
    )
    tables.rows("INSERT IGNORE INTO celers_queue_totals (queue_id) SELECT queue_id FROM celers_queues")
    # The step counts what it has deleted last of all, on a row that is held here.
    holder = tables.connect(autocommit=False)
    holder.query("SELECT * FROM celers_queue_totals FOR UPDATE")
    assert holder.store_result().fetch_row(0)
    deleted: list[object] = []
    step = threading.Thread(target=lambda: deleted.append(broker.maintenance.archive_step(3600)))
    step.start()
    try:
        until(lambda: any(b"INSERT INTO celers_queue_totals" in text for text in running(tables)) or deleted)
        assert not deleted
        finish(other, 100)
        message = other.dequeue()
        other.reject(message.task_id, message.receipt_handle)
        other.enqueue_batch([SerializedTask.new("job") for _ in range(100)])
        other.enqueue(SerializedTask.new("job"))
        assert len(other.list_tasks(DbTaskState.COMPLETED, 1000, 0)) == 400
    finally:
        holder.rollback()
        step.join()
        holder.close()
    assert deleted[0][0] == 200  # one step
    tables.check(broker)
