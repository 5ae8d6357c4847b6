"""Tasks for load tests (spec 18)."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from celers import DbTaskState, QueueDrainingError, SerializedTask, ValidationError
from celers.components import loads
from tests.integration.test_bad_input import unreachable  # noqa: F401 - the fixture


def mark_of(broker, task_id):
    return broker.get_task(task_id).metadata["load_test_id"]


@pytest.mark.spec("OPS-01", "OPS-02", "DEF-82")
def test_a_load_is_made_and_goes(broker, tables):
    own = broker.enqueue(SerializedTask.new("own", priority=-100, extra={"mine": {"synthetic": True}}))
    ids = broker.generate_load(50, "noise", 33, (-2, 3))
    other = broker.generate_load(20, "noise", 0)
    assert len(set(ids)) == 50
    rows = tables.rows("SELECT LENGTH(payload), payload, priority FROM celers_tasks WHERE task_name = 'noise'")
    assert sorted({size for size, _, _ in rows}) == [0, 33]
    assert len({payload for size, payload, _ in rows if size}) == 50
    assert {priority for size, _, priority in rows if size} == {-2, -1, 0, 1, 2, 3}
    assert {priority for size, _, priority in rows if not size} == {0}
    metadata = broker.get_task(ids[7]).metadata
    assert metadata["synthetic"] is True
    assert mark_of(broker, ids[7]) == mark_of(broker, ids[0]) != mark_of(broker, other[0])
    assert str(UUID(mark_of(broker, ids[0]))) == mark_of(broker, ids[0])
    tables.check(broker)
    # In whatever state they are.
    messages = broker.dequeue_batch(30)
    for message in messages[:10]:
        broker.ack(message.task_id, message.receipt_handle)
    broker.cancel_batch(ids[-3:])
    assert broker.delete_load(mark_of(broker, ids[0])) == 50
    tables.check(broker)
    assert broker.delete_load(uuid4()) == 0
    assert broker.delete_load() == 20
    tables.check(broker)
    assert [info.id for info in broker.list_tasks(None, 10, 0)] == [own]
    assert broker.get_task(own).state is DbTaskState.PENDING


@pytest.mark.spec("OPS-01", "OPS-02", "CONF-06")
def test_a_load_is_stored_in_batches_in_this_queue(broker, tables, monkeypatch):
    monkeypatch.setattr(loads, "BATCH_ROWS", 7)
    monkeypatch.setattr(loads, "DELETE_CHUNK", 4)
    ids = broker.generate_load(20, "noise", 10)
    assert [info.id for info in reversed(broker.list_tasks(None, 100, 0))] == ids
    assert broker.for_queue("other").delete_load() == 0
    monkeypatch.setattr(loads, "BATCH_BYTES", 25)
    more = broker.loads.generate(5, "noise", 10, load_test_id=mark_of(broker, ids[0]))
    assert broker.delete_load(mark_of(broker, more[0])) == 25
    tables.check(broker)


@pytest.mark.spec("OPS-01", "DATA-10", "DATA-08", "DEF-82")
def test_bad_arguments(unreachable):  # noqa: F811
    for count in (-1, 1_000_001, True, 1.0, "1", None):
        with pytest.raises(ValidationError, match="task_count"):
            unreachable.generate_load(count, "a", 1)
    for size in (-1, 16_777_216, True, 1.5, None):
        with pytest.raises(ValidationError, match="payload_size_bytes"):
            unreachable.generate_load(1, "a", size)
    for name in ("", " a", None):
        with pytest.raises(ValidationError, match="task_name"):
            unreachable.generate_load(1, name, 1)
    for bounds in ((1, 0), (1,), (1, 2, 3), (0, 2**31), (True, 2), (0.5, 1), 5, "12", ("1", "2")):
        with pytest.raises(ValidationError, match="priority_range"):
            unreachable.generate_load(1, "a", 1, bounds)
    for mark in ("x", 1, b""):
        with pytest.raises(ValidationError, match="load_test_id"):
            unreachable.delete_load(mark)
    assert unreachable.generate_load(0, "a", 1) == []


@pytest.mark.spec("OPS-01", "CORE-04")
def test_a_load_that_is_stopped_tells_what_is_stored(broker, tables, monkeypatch):
    broker.enable_drain_mode()
    with pytest.raises(QueueDrainingError) as caught:
        broker.generate_load(5, "noise", 1)
    assert not getattr(caught.value, "__notes__", [])
    broker.disable_drain_mode()
    monkeypatch.setattr(loads, "BATCH_ROWS", 10)
    made = []
    urandom = loads.os.urandom

    def slow(size: int) -> bytes:
        made.append(size)
        if len(made) == 15:
            tables.rows("UPDATE celers_queues SET draining = TRUE")
        return urandom(size)

    monkeypatch.setattr(loads.os, "urandom", slow)
    with pytest.raises(QueueDrainingError) as caught:
        broker.generate_load(30, "noise", 1)
    (note,) = caught.value.__notes__
    assert note.startswith("10 tasks of the load test ")
    assert broker.delete_load(note.split()[6]) == 10
