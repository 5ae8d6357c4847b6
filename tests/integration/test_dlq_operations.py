"""Requeueing, replaying and deleting dead letters (spec 04)."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from celers import (
    CelersError,
    DbTaskState,
    DlqStatistics,
    DlqTaskStats,
    QueueDrainingError,
    SerializedTask,
    TaskNotFoundError,
    ValidationError,
)
from celers.retry import Fixed, RetryPolicy
from tests.fixtures import contenders
from tests.fixtures.contenders import contest

KEPT = [
    *("task_name", "payload", "payload_encoding", "priority", "max_retries", "timeout_secs", "retry_policy"),
    *("dedup_key", "group_id", "chord_id", "parent_task_id"),
]


def bury(broker, *names, **options):
    """Make a dead letter of a task of each name; returns the ids of the letters in that order."""
    before = {letter.id for letter in broker.list_dlq(10_000, 0)}
    ids = broker.enqueue_batch([SerializedTask.new(name, b"p", max_retries=0, **options) for name in names])
    messages = broker.dequeue_batch(len(names))
    assert {message.task_id for message in messages} == set(ids)
    for message in messages:
        assert broker.consumer.fail(message, error="boom", store_result=False) == "dead_letter"
    letters = {letter.task_id: letter.id for letter in broker.list_dlq(10_000, 0) if letter.id not in before}
    return [letters[task_id] for task_id in ids]


@pytest.mark.spec("DLQ-03", "DEF-26", "INSP-14", "DATA-11")
def test_a_requeued_task_is_the_old_one_with_all_its_retries(broker, tables):
    task = SerializedTask.new(
        "ünï'c\\de",
        bytes(range(256)),
        priority=-7,
        timeout=30,
        group_id="grüppe",
        chord_id=uuid4(),
        parent_task_id=uuid4(),
        extra={"customer": {"id": 7}, "x": [1.5, None]},
    )
    old_id = broker.enqueue_with_retry_policy(task, RetryPolicy(max_retries=1, strategy=Fixed(0)))
    broker.reject(old_id, broker.dequeue().receipt_handle)
    tables.rows("UPDATE celers_tasks SET dedup_key = 'key'")
    message = broker.dequeue()
    assert message.retry_count == 1
    assert broker.update_task_progress(old_id, 40)
    broker.reject(old_id, message.receipt_handle, error="boom")
    letter = tables.letter(old_id)
    (info,) = broker.list_dlq(1, 0)
    assert broker.dlq.get(info.id) == broker.dlq.get(str(info.id)) == info

    new_id = broker.requeue_from_dlq(str(info.id))
    assert isinstance(new_id, UUID)
    assert new_id not in (old_id, info.id)
    row = tables.task(new_id)
    assert {name: row[name] for name in KEPT} == {name: letter[name] for name in KEPT}
    assert (row["state"], row["retry_count"], row["error_message"], row["deliveries"]) == ("pending", 0, None, 0)
    assert row["created_at"] == row["scheduled_at"] > letter["failed_at"]
    found = broker.get_task(new_id)
    assert found.metadata["requeued_from"] == {"task_id": str(old_id), "dlq_id": str(info.id)}
    assert (found.metadata["customer"], found.metadata["x"]) == ({"id": 7}, [1.5, None])
    assert "progress" not in found.metadata
    assert broker.get_task_progress(new_id) is None
    assert broker.list_dlq(10, 0) == []
    assert broker.dlq.get(info.id) is None
    tables.check(broker)

    again = broker.dequeue()
    assert (again.task_id, again.retry_count, again.priority) == (new_id, 0, -7)
    assert again.task.payload == bytes(range(256))
    assert again.task.metadata.extra == {"customer": {"id": 7}, "x": [1.5, None]}
    broker.ack(new_id, again.receipt_handle)
    tables.check(broker)


@pytest.mark.spec("DLQ-03")
def test_a_letter_without_metadata_gets_its_origin(broker):
    (letter,) = bury(broker, "job")
    task_id = broker.list_dlq(1, 0)[0].task_id
    new_id = broker.requeue_from_dlq(letter)
    assert broker.get_task(new_id).metadata["requeued_from"] == {"task_id": str(task_id), "dlq_id": str(letter)}


@pytest.mark.spec("DLQ-03")
def test_what_told_of_a_delay_is_left_out(broker, tables):
    broker.enqueue_after(SerializedTask.new("job", max_retries=0), 60)
    tables.pass_time(61)
    message = broker.dequeue()
    broker.reject(message.task_id, message.receipt_handle)
    new_id = broker.requeue_from_dlq(broker.list_dlq(1, 0)[0].id)
    assert "delay_seconds" not in broker.get_task(new_id).metadata
    assert broker.dequeue().task_id == new_id


@pytest.mark.spec("DLQ-03", "DLQ-04", "CONF-06", "DATA-01")
def test_letters_that_are_not_here(broker):
    (letter,) = bury(broker, "job")
    task_id = broker.list_dlq(1, 0)[0].task_id
    other = broker.for_queue("other")
    for queue, key in ((broker, uuid4()), (broker, task_id), (other, letter)):
        with pytest.raises(TaskNotFoundError, match=str(key)):
            queue.requeue_from_dlq(key)
        assert queue.purge_dlq(key) is False
        assert queue.dlq.get(key) is None
    for bad in ("x", 1, None):
        for method in (broker.requeue_from_dlq, broker.purge_dlq, broker.dlq.get):
            with pytest.raises(ValidationError, match="dlq_id"):
                method(bad)
    assert broker.purge_dlq(letter) is True
    assert broker.purge_dlq(letter) is False
    assert broker.get_statistics().dlq == 0


@pytest.mark.spec("DLQ-03", "DEF-26")
def test_one_of_eight_callers_requeues_a_letter(make_sync, tables):
    brokers = [make_sync() for _ in range(8)]
    for _ in range(5):
        (letter,) = bury(brokers[0], "job")
        gate = threading.Barrier(8)

        def race(broker, letter=letter, gate=gate):
            gate.wait(10)
            try:
                return broker.requeue_from_dlq(letter)
            except TaskNotFoundError:
                return None

        with ThreadPoolExecutor(8) as pool:
            won = [found for found in pool.map(race, brokers) if found is not None]
        assert len(won) == 1
        assert brokers[0].get_task(won[0]).state is DbTaskState.PENDING
        assert brokers[0].dequeue().task_id == won[0]
    assert brokers[0].queue_size() == 0
    tables.check(brokers[0])


@pytest.mark.spec("DLQ-03", "DLQ-08", "DEF-26", "ARCH-04")
def test_eight_processes_requeue_each_letter_once(sync_broker, database_url, tables):
    letters = bury(sync_broker, *["job"] * 90)
    with contest(database_url, *[(contenders.requeue, letters, seed) for seed in range(8)]) as running:
        found = running.end()
    made = [task_id for one in found for task_id in one["made"]]
    tasks = sync_broker.list_tasks(DbTaskState.PENDING, 1000, 0)
    assert len(tasks) == len(made) + sum(one["replayed"] for one in found) == 90
    assert {task.metadata["requeued_from"]["dlq_id"] for task in tasks} == {str(letter) for letter in letters}
    assert {*made} <= {task.id for task in tasks}
    assert len({*made}) == len(made)
    assert sync_broker.get_statistics().dlq == 0
    tables.check(sync_broker)


@pytest.mark.spec("DLQ-03", "DLQ-08", "CTRL-04")
def test_a_draining_queue_takes_no_letters(broker):
    (letter,) = bury(broker, "job")
    broker.enable_drain_mode()
    with pytest.raises(QueueDrainingError):
        broker.requeue_from_dlq(letter)
    with pytest.raises(QueueDrainingError) as raised:
        broker.replay_dlq_batch()
    assert raised.value.replayed == 0
    assert [found.id for found in broker.list_dlq(10, 0)] == [letter]
    assert broker.queue_size() == 0
    broker.disable_drain_mode()
    assert broker.replay_dlq_batch() == 1


@pytest.mark.spec("DLQ-05", "CONF-06")
def test_all_letters_of_a_queue_are_deleted(broker, tables):
    other = broker.for_queue("other")
    bury(other, "job")
    bury(broker, "job")
    columns = [name for name, *_ in tables.rows("SHOW COLUMNS FROM celers_dead_letter_queue WHERE Field <> 'id'")]
    chosen = ", ".join(f"d.{name}" for name in columns)
    for _ in range(11):
        tables.rows(
            f"INSERT INTO celers_dead_letter_queue (id, {', '.join(columns)})"
            f" SELECT UNHEX(REPLACE(UUID(), '-', '')), {chosen} FROM celers_dead_letter_queue d"
            " WHERE queue_name = 'default'"
        )
    assert broker.get_statistics().dlq == 2048
    assert broker.purge_all_dlq() == 2048
    assert broker.purge_all_dlq() == 0
    assert broker.list_dlq(10, 0) == []
    assert other.get_statistics().dlq == 1


@pytest.mark.spec("DLQ-06", "TYPE-12", "TYPE-13")
def test_letters_are_counted_by_name(broker, tables):
    assert broker.get_dlq_statistics() == DlqStatistics(0, ())
    bury(broker, "b", "a", "c", "c", "A")
    bury(broker.for_queue("other"), "c")
    tables.rows("UPDATE celers_dead_letter_queue SET retry_count = 3 WHERE task_name = 'c' LIMIT 1")
    tables.rows("UPDATE celers_dead_letter_queue SET retry_count = 2 WHERE task_name = 'b'")
    found = broker.get_dlq_statistics()
    assert found.total_tasks == 5
    assert found.by_task_name[1:] == (
        DlqTaskStats("A", 1, 0.0, 0),
        DlqTaskStats("a", 1, 0.0, 0),
        DlqTaskStats("b", 1, 2.0, 2),
    )
    first = found.by_task_name[0]
    assert (first.task_name, first.count) == ("c", 2)
    assert (first.avg_retries, first.max_retries) in ((1.5, 3), (0.0, 0))
    assert found.to_dict()["by_task_name"][3] == {"task_name": "b", "count": 1, "avg_retries": 2.0, "max_retries": 2}


@pytest.mark.spec("DLQ-07", "CONF-06")
def test_old_letters_are_deleted(broker, tables, caplog):
    old, young, stranger = *bury(broker, "old", "young"), *bury(broker.for_queue("other"), "x")
    assert stranger
    for name, secs in (("old", 3601), ("young", 3590), ("x", 9999)):
        tables.rows(
            "UPDATE celers_dead_letter_queue SET failed_at = UTC_TIMESTAMP(6) - INTERVAL %s SECOND"
            " WHERE task_name = %s",
            (secs, name),
        )
    with caplog.at_level(logging.WARNING, "celers.dlq"):
        assert broker.apply_dlq_retention(timedelta(hours=24)) == 0
        assert not caplog.records
        assert broker.apply_dlq_retention(timedelta(hours=1)) == 1
        assert len(caplog.records) == 1
    assert [letter.id for letter in broker.list_dlq(10, 0)] == [young]
    assert broker.dlq.get(old) is None
    assert broker.for_queue("other").get_statistics().dlq == 1
    assert broker.apply_dlq_retention(1e300) == 0
    for bad in (3599.999, 0, -1, timedelta(minutes=59), "1h", None, True, float("nan")):
        with pytest.raises(ValidationError, match="retention_period"):
            broker.apply_dlq_retention(bad)


@pytest.mark.spec("DLQ-08", "DEF-27")
@pytest.mark.parametrize(
    ("part", "names"),
    [
        (None, {"mail.send", "mail.SEND", "100%", "a_b", "axb", "a\\b", "ünï"}),
        ("", {"mail.send", "mail.SEND", "100%", "a_b", "axb", "a\\b", "ünï"}),
        ("send", {"mail.send"}),
        ("%", {"100%"}),
        ("_", {"a_b"}),
        ("\\", {"a\\b"}),
        ("a\\b", {"a\\b"}),
        ("ï", {"ünï"}),
        ("u", set()),
        ("' OR 1=1 -- ", set()),
        ("b ", set()),
    ],
)
def test_replay_takes_the_filter_literally(broker, tables, part, names):
    bury(broker, "mail.send", "mail.SEND", "100%", "a_b", "axb", "a\\b", "ünï")
    assert broker.replay_dlq_batch(part) == len(names)
    assert {message.task_name for message in broker.dequeue_batch(10)} == names
    assert broker.get_statistics().dlq == 7 - len(names)
    tables.check(broker)


@pytest.mark.spec("DLQ-08")
def test_replay_takes_the_oldest_that_were_retried_enough(broker, tables):
    bury(broker, *(f"job{number}" for number in range(6)))
    tables.rows(
        "UPDATE celers_dead_letter_queue SET retry_count = SUBSTR(task_name, 4), failed_at ="
        " '2026-01-01' - INTERVAL SUBSTR(task_name, 4) DAY"
    )
    assert broker.replay_dlq_batch(min_retry_count=2, limit=2) == 2
    assert [message.task_name for message in broker.dequeue_batch(10)] == ["job5", "job4"]
    assert broker.replay_dlq_batch("job", 4) == 0
    assert broker.replay_dlq_batch("job", 3, 10_000) == 1
    assert broker.replay_dlq_batch() == 3
    assert [message.task_name for message in broker.dequeue_batch(10)] == ["job3", "job2", "job1", "job0"]
    assert broker.replay_dlq_batch() == 0
    tables.check(broker)


@pytest.mark.spec("DLQ-08", "DATA-10")
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"task_name_filter": 1}, "task_name_filter"),
        ({"task_name_filter": b"x"}, "task_name_filter"),
        ({"task_name_filter": "\ud800"}, "task_name_filter"),
        ({"min_retry_count": -1}, "min_retry_count"),
        ({"min_retry_count": 1.0}, "min_retry_count"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"limit": None}, "limit"),
    ],
)
def test_bad_replays_are_refused(sync_broker, arguments, name):
    with pytest.raises(ValidationError, match=name):
        sync_broker.replay_dlq_batch(**arguments)


@pytest.mark.spec("DLQ-08", "DEF-27")
def test_replay_tells_how_many_stay_replayed_when_it_fails(broker, tables):
    bury(broker, *["job"] * 250)
    tables.rows(
        "UPDATE celers_dead_letter_queue SET failed_at = UTC_TIMESTAMP(6) + INTERVAL 1 DAY, priority = 9"
        " ORDER BY id DESC LIMIT 1"
    )
    # What stops the last chunk: the id that the last letter's task would get cannot be told beforehand, but the
    # small table can be closed to its rank.
    tables.rows("ALTER TABLE celers_ready ADD CONSTRAINT no_nine CHECK (sort_rank <> -9)")
    try:
        with pytest.raises(CelersError) as raised:
            broker.replay_dlq_batch(limit=1000)
        assert raised.value.replayed == 200
        assert broker.get_statistics().dlq == 50
        tables.check(broker)
    finally:
        tables.rows("ALTER TABLE celers_ready DROP CONSTRAINT no_nine")
    assert broker.replay_dlq_batch(limit=1000) == 50
    tables.check(broker)


@pytest.mark.spec("DLQ-08", "DLQ-03")
def test_callers_that_replay_at_once_share_the_letters(make_sync, tables):
    brokers = [make_sync() for _ in range(4)]
    bury(brokers[0], *["job"] * 600)
    gate = threading.Barrier(4)

    def replay(broker):
        gate.wait(10)
        found, total = 1, 0
        while found:
            found = broker.replay_dlq_batch(limit=150)
            total += found
        return total

    with ThreadPoolExecutor(4) as pool:
        totals = list(pool.map(replay, brokers))
    left = brokers[0].replay_dlq_batch(limit=1000)
    assert sum(totals) + left == 600
    origins = [
        brokers[0].get_task(m.task_id).metadata["requeued_from"]["dlq_id"] for m in brokers[0].dequeue_batch(700)
    ]
    assert len(origins) == len(set(origins)) == 600
    tables.check(brokers[0])


@pytest.mark.spec("DLQ-08")
def test_a_letter_that_is_being_requeued_is_passed_over(sync_broker, tables):
    first, second = bury(sync_broker, "a", "b")
    connection = tables.connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM celers_dead_letter_queue WHERE id = %s FOR UPDATE", (first.bytes,))
    try:
        assert sync_broker.replay_dlq_batch() == 1
        assert [letter.id for letter in sync_broker.list_dlq(10, 0)] == [first]
        assert second
    finally:
        connection.rollback()
        connection.close()
