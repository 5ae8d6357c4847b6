"""Workers and their heartbeats (spec 13)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from celers import (
    DbTaskState,
    DeserializationError,
    SerializationError,
    SerializedTask,
    ValidationError,
    WorkerHeartbeat,
    WorkerNotFoundError,
    WorkerStatistics,
    WorkerStatus,
)

NAMES = ["host-1:42", "größe \U0001f40c", "a'b\"c\\d%_", "A", "a", "w" * 255]
BAD_NAMES = ["", " a", "a ", "a\nb", "a\0", "w" * 256, "\ud800", None, 7, b"a"]


def fill(broker, count: int, **options) -> None:
    broker.enqueue_batch([SerializedTask.new("job", **options) for _ in range(count)])


@pytest.mark.spec("WORK-01", "DATA-05", "INSP-01")
@pytest.mark.parametrize("name", NAMES, ids=["host", "unicode", "quotes", "upper", "lower", "long"])
def test_a_claim_notes_the_worker(broker, name):
    fill(broker, 2)
    message = broker.dequeue_with_worker_id(name)
    assert broker.get_task(message.task_id).worker_id == name
    (other,) = broker.dequeue_batch(1, worker_id=name)
    assert broker.get_task(other.task_id).worker_id == name
    assert broker.list_active_workers() == [name]
    broker.ack(message.task_id, message.receipt_handle)
    assert broker.get_task(message.task_id).worker_id == name
    assert broker.dequeue_with_worker_id(name) is None


@pytest.mark.spec("WORK-01", "CORE-08")
def test_a_claim_without_a_name_notes_none_also_after_one_with_a_name(broker):
    fill(broker, 3)
    broker.dequeue_with_worker_id("one")
    plain, named = broker.dequeue(), broker.dequeue_with_worker_id("two")
    assert broker.get_task(plain.task_id).worker_id is None
    assert broker.get_task(named.task_id).worker_id == "two"


@pytest.mark.spec("WORK-01", "CORE-10", "MAINT-05")
def test_a_rejected_task_has_no_worker_any_more(broker):
    fill(broker, 1)
    message = broker.dequeue_with_worker_id("one")
    broker.reject(message.task_id, message.receipt_handle)
    assert broker.get_task(message.task_id).worker_id is None


@pytest.mark.spec("DATA-05", "DATA-10", "WORK-01", "WORK-02", "WORK-03", "WORK-05", "WORK-06")
@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_bad_names_are_refused(sync_broker, name):
    for call in (
        lambda: sync_broker.dequeue_with_worker_id(name),
        lambda: sync_broker.register_worker(name, WorkerStatus.IDLE),
        lambda: sync_broker.update_worker_heartbeat(name, WorkerStatus.IDLE),
        lambda: sync_broker.unregister_worker(name),
        lambda: sync_broker.get_worker_statistics(name),
        lambda: sync_broker.requeue_stuck_tasks_by_worker(name),
    ):
        with pytest.raises(ValidationError, match="worker_id"):
            call()


@pytest.mark.spec("WORK-02", "WORK-04", "ENUM-03", "TYPE-22")
@pytest.mark.parametrize("status", list(WorkerStatus))
def test_every_status_comes_back(broker, status):
    before = datetime.now(UTC)
    broker.register_worker("one", status, {"cpu": 4})
    (beat,) = broker.get_all_worker_heartbeats(60)
    assert isinstance(beat, WorkerHeartbeat)
    assert (beat.worker_id, beat.status, beat.task_count, beat.capabilities) == ("one", status, 0, {"cpu": 4})
    assert abs(beat.last_heartbeat - before) < timedelta(seconds=30)
    assert beat.last_heartbeat.tzinfo is not None


@pytest.mark.spec("WORK-02", "DATA-06")
@pytest.mark.parametrize(
    "capabilities",
    [{}, [], 0, False, "text", {"a": [1, 2.5, None, True, "ü\U0001f40c\0\"'\\"]}, {"queues": ["a", "b"], "n": 2**40}],
    ids=["object", "list", "zero", "false", "text", "mixed", "nested"],
)
def test_capabilities_come_back_and_stay_when_none_are_given(broker, capabilities):
    broker.register_worker("one", WorkerStatus.IDLE, capabilities)
    assert broker.get_all_worker_heartbeats(60)[0].capabilities == capabilities
    broker.register_worker("one", WorkerStatus.BUSY)
    (beat,) = broker.get_all_worker_heartbeats(60)
    assert (beat.status, beat.capabilities) == (WorkerStatus.BUSY, capabilities)
    broker.register_worker("one", WorkerStatus.BUSY, {"new": 1})
    assert broker.get_all_worker_heartbeats(60)[0].capabilities == {"new": 1}


@pytest.mark.spec("WORK-02", "DATA-06", "ERR-04")
def test_capabilities_that_a_json_column_cannot_hold_are_refused(broker):
    deep: list = []
    for _ in range(150):
        deep = [deep]
    for value in ({1, 2}, float("nan"), "\ud800", deep):
        with pytest.raises(SerializationError):
            broker.register_worker("one", WorkerStatus.IDLE, value)
    assert broker.get_all_worker_heartbeats(60) == []


@pytest.mark.spec("WORK-02", "WORK-03", "DATA-10")
@pytest.mark.parametrize("status", ["idle", None, 1, DbTaskState.PENDING])
def test_a_status_of_another_type_is_refused(sync_broker, status):
    sync_broker.register_worker("one", WorkerStatus.IDLE)
    with pytest.raises(ValidationError, match="status"):
        sync_broker.register_worker("one", status)
    with pytest.raises(ValidationError, match="status"):
        sync_broker.update_worker_heartbeat("one", status)


@pytest.mark.spec("WORK-03")
def test_a_heartbeat_counts_the_tasks_of_the_worker(broker):
    fill(broker, 5)
    broker.register_worker("one", WorkerStatus.IDLE, {"a": 1})
    messages = broker.dequeue_batch(3, worker_id="one")
    broker.dequeue_batch(1, worker_id="two")
    broker.dequeue()
    broker.update_worker_heartbeat("one", WorkerStatus.BUSY)
    (beat,) = broker.get_all_worker_heartbeats(60)
    assert (beat.status, beat.task_count, beat.capabilities) == (WorkerStatus.BUSY, 3, {"a": 1})
    broker.ack(messages[0].task_id, messages[0].receipt_handle)
    broker.update_worker_heartbeat("one", WorkerStatus.BUSY)
    broker.update_worker_heartbeat("one", WorkerStatus.BUSY)
    assert broker.get_all_worker_heartbeats(60)[0].task_count == 2


@pytest.mark.spec("WORK-03", "WORK-01", "ERR-10")
def test_a_worker_that_was_only_named_with_a_claim_is_not_registered(broker):
    fill(broker, 1)
    for _ in range(2):
        with pytest.raises(WorkerNotFoundError, match="one"):
            broker.update_worker_heartbeat("one", WorkerStatus.IDLE)
        assert broker.get_all_worker_heartbeats(60) == []
        assert broker.unregister_worker("one") is False
        broker.dequeue_with_worker_id("one")
    broker.register_worker("one", WorkerStatus.IDLE)
    broker.update_worker_heartbeat("one", WorkerStatus.ACTIVE)
    assert broker.get_all_worker_heartbeats(60)[0].task_count == 1


@pytest.mark.spec("WORK-04")
def test_silent_workers_are_offline_and_the_newest_comes_first(tables, broker):
    for number, name in enumerate(["a", "b", "c"]):
        broker.register_worker(name, WorkerStatus.ACTIVE)
        tables.rows(
            "UPDATE celers_workers SET last_heartbeat = UTC_TIMESTAMP(6) - INTERVAL %s SECOND WHERE worker_id=%s",
            ((100, 1000, 10)[number], name),
        )
    beats = broker.get_all_worker_heartbeats(50)
    assert [(beat.worker_id, beat.status) for beat in beats] == [
        ("c", WorkerStatus.ACTIVE),
        ("a", WorkerStatus.OFFLINE),
        ("b", WorkerStatus.OFFLINE),
    ]
    assert [beat.status.value for beat in broker.get_all_worker_heartbeats(timedelta(days=1))] == ["active"] * 3
    assert tables.rows("SELECT DISTINCT status FROM celers_workers") == [("active",)]
    for bad in (0, -1, float("nan"), True, "1", None):
        with pytest.raises(ValidationError, match="stale_threshold_secs"):
            broker.get_all_worker_heartbeats(bad)


@pytest.mark.spec("WORK-04", "DATA-10")
def test_a_stored_status_that_is_none_is_an_error(tables, broker):
    broker.register_worker("one", WorkerStatus.IDLE)
    tables.rows("UPDATE celers_workers SET status = 'odd'")
    with pytest.raises(DeserializationError, match="odd"):
        broker.get_all_worker_heartbeats(60)


@pytest.mark.spec("WORK-05")
def test_a_worker_is_unregistered_and_its_tasks_keep_its_name(broker):
    fill(broker, 1)
    broker.register_worker("one", WorkerStatus.IDLE, {"a": 1})
    message = broker.dequeue_with_worker_id("one")
    assert broker.unregister_worker("one") is True
    assert broker.unregister_worker("one") is False
    assert broker.get_all_worker_heartbeats(60) == []
    assert broker.get_task(message.task_id).worker_id == "one"
    assert broker.list_active_workers() == ["one"]
    broker.register_worker("one", WorkerStatus.IDLE)
    assert broker.get_all_worker_heartbeats(60)[0].capabilities is None


@pytest.mark.spec("WORK-06", "TYPE-21")
def test_statistics_count_what_a_worker_held_last(tables, broker):
    fill(broker, 6, max_retries=0)
    done = broker.dequeue_batch(2, worker_id="one")
    failed = broker.dequeue_with_worker_id("one")
    dead = broker.dequeue_with_worker_id("one")
    held = broker.dequeue_with_worker_id("one")
    broker.dequeue_with_worker_id("two")
    for message in done:
        broker.ack(message.task_id, message.receipt_handle)
    broker.reject(failed.task_id, failed.receipt_handle, requeue=False)
    broker.reject(dead.task_id, dead.receipt_handle)
    for secs, message in zip((2, 4), done, strict=True):
        tables.rows(
            "UPDATE celers_tasks SET completed_at = started_at + INTERVAL %s SECOND WHERE id=%s",
            (secs, message.task_id.bytes),
        )
    statistics = broker.get_worker_statistics("one")
    assert isinstance(statistics, WorkerStatistics)
    assert (statistics.active_tasks, statistics.completed_tasks, statistics.failed_tasks) == (1, 2, 1)
    assert statistics.avg_task_duration_secs == pytest.approx(3.0)
    assert statistics.last_seen >= broker.get_task(held.task_id).started_at


@pytest.mark.spec("WORK-06")
def test_the_last_sign_of_life_is_the_latest_of_heartbeat_start_and_end(tables, broker):
    fill(broker, 1)
    broker.register_worker("one", WorkerStatus.IDLE)
    message = broker.dequeue_with_worker_id("one")
    broker.ack(message.task_id, message.receipt_handle)
    for late in ("w.last_heartbeat", "t.started_at", "t.completed_at"):
        tables.rows(
            "UPDATE celers_workers w, celers_tasks t SET w.last_heartbeat = '2026-01-01', t.started_at = '2026-01-01',"
            " t.completed_at = '2026-01-01'"
        )
        tables.rows(f"UPDATE celers_workers w, celers_tasks t SET {late} = '2026-01-02 03:04:05.678901'")
        seen = broker.get_worker_statistics("one").last_seen
        assert seen == datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@pytest.mark.spec("WORK-06")
def test_statistics_of_an_unknown_worker_are_empty(broker):
    assert broker.get_worker_statistics("nobody") == WorkerStatistics("nobody", 0, 0, 0, None, 0.0)
    broker.register_worker("idle", WorkerStatus.IDLE)
    statistics = broker.get_worker_statistics("idle")
    assert (statistics.active_tasks, statistics.completed_tasks, statistics.avg_task_duration_secs) == (0, 0, 0.0)
    assert statistics.last_seen == broker.get_all_worker_heartbeats(60)[0].last_heartbeat


@pytest.mark.spec("WORK-07", "WORK-08")
def test_active_workers_are_those_with_a_task_in_processing(broker):
    fill(broker, 6)
    assert broker.list_active_workers() == []
    assert broker.get_all_worker_statistics() == []
    messages = {name: broker.dequeue_batch(count, worker_id=name) for name, count in (("b", 2), ("a", 1), ("B", 1))}
    broker.register_worker("idle", WorkerStatus.IDLE)
    broker.dequeue()
    assert broker.list_active_workers() == ["B", "a", "b"]
    assert [(one.worker_id, one.active_tasks) for one in broker.get_all_worker_statistics()] == [
        ("B", 1),
        ("a", 1),
        ("b", 2),
    ]
    broker.ack_batch([(message.task_id, message.receipt_handle) for message in messages["b"]])
    broker.cancel(messages["a"][0].task_id)
    assert broker.list_active_workers() == ["B"]
    assert [one.worker_id for one in broker.get_all_worker_statistics()] == ["B"]


@pytest.mark.spec("CONF-06", "WORK-02", "WORK-04", "WORK-06", "WORK-08")
def test_queues_do_not_see_each_other_s_workers(make_broker):
    one, two = make_broker("one"), make_broker("two")
    fill(one, 1)
    fill(two, 1)
    one.register_worker("w", WorkerStatus.BUSY, {"q": 1})
    two.register_worker("w", WorkerStatus.IDLE, {"q": 2})
    one.dequeue_with_worker_id("w")
    assert [beat.capabilities for beat in one.get_all_worker_heartbeats(60)] == [{"q": 1}]
    assert [beat.status for beat in two.get_all_worker_heartbeats(60)] == [WorkerStatus.IDLE]
    assert two.list_active_workers() == []
    assert two.get_worker_statistics("w").active_tasks == 0
    assert two.requeue_stuck_tasks_by_worker("w") == 0
    assert two.unregister_worker("w") is True
    assert len(one.get_all_worker_heartbeats(60)) == 1


@pytest.mark.spec("WORK-01", "MAINT-08")
def test_a_worker_number_outlives_the_broker_that_interned_it(make_broker):
    first = make_broker()
    fill(first, 2)
    message = first.dequeue_with_worker_id("one")
    second = make_broker()
    other = second.dequeue_with_worker_id("one")
    assert first.get_task(other.task_id).worker_id == "one"
    assert second.get_worker_statistics("one").active_tasks == 2
    assert first.get_task(message.task_id).worker_id == "one"
    assert second.get_task(uuid4()) is None
