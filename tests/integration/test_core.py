"""Enqueue, dequeue, acknowledge and reject (spec 01)."""

from __future__ import annotations

import pytest

from celers import DbTaskState, SerializedTask


@pytest.mark.spec("CORE-07", "CORE-08", "CORE-09", "CORE-11")
def test_a_task_goes_from_enqueue_to_ack(broker):
    task = SerializedTask.new("mail.send", b"\x00payload\xff", priority=3, extra={"customer_id": 7})
    assert broker.enqueue(task) == task.metadata.id
    assert broker.queue_size() == 1
    message = broker.dequeue()
    assert message.task_id == task.metadata.id
    assert message.task.payload == b"\x00payload\xff"
    assert message.task.metadata.extra == {"customer_id": 7}
    broker.ack(message.task_id, message.receipt_handle)
    assert broker.get_task(message.task_id).state is DbTaskState.COMPLETED
    assert broker.dequeue() is None
