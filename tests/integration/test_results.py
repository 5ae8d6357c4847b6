"""Stored results (spec 06), and every kind of JSON value on its way into the database and back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from celers import (
    BatchResultInput,
    DbTaskState,
    DeserializationError,
    PayloadTooLargeError,
    SerializationError,
    SerializedTask,
    TaskResult,
    TaskResultStatus,
    ValidationError,
)
from celers.components.consumer import Completion
from tests.fixtures.filling import numbers

FINAL = [TaskResultStatus.SUCCESS, TaskResultStatus.FAILURE, TaskResultStatus.REVOKED]


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


# None of these survives a JSON column of both servers, or all of the layers in between, by itself.
VALUES = {
    "null": None,
    "false": False,
    "zero": 0,
    "empty text": "",
    "empty list": [],
    "empty object": {},
    "text null": "null",
    "beyond 64 bits": 2**70,
    "far below": -(2**70),
    "edge of a double": 2**53 + 1,
    "float": 0.1,
    "small float": 5e-324,
    "large float": 1.7976931348623157e308,
    "negative zero": -0.0,
    "order of keys": {"b": 1, "a": 2, "aa": 3, "B": 4},
    "NUL": "a\0b",
    "NUL in a key": {"\0": "\0\0"},
    "control characters": "".join(map(chr, range(32))) + "\x7f",
    "quotes and backslashes": "'\"\\\\'\\n\\u0041\\0%_;-- /*!50000 */ :result ?",
    "four bytes": "\U0001f40c\U0010ffff",
    "separators": "\u2028\u2029\ufeff\xa0",
    "not characters": "\ufffe\uffff",
    "deep": nested(150),
    "text in a list": ["\\", '"', "'", "\\'", '\\"', "\n\r\t\x1a"],
    "mixed": {"a": [1, 2.5, None, True, {"ü": "é"}]},
    "long": "x\\\"'\U0001f40c\0" * 20_000,
}


def same(value: object, other: object) -> bool:
    """Equal, with the same types and in the same order."""
    return repr(value) == repr(other)


@pytest.mark.spec("RES-01", "RES-03", "RES-04", "DATA-06", "TYPE-09")
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_value_comes_back_as_it_was_stored(sync_broker, value):
    task_id = uuid4()
    sync_broker.store_result(task_id, "job", TaskResultStatus.SUCCESS, result=value)
    stored = sync_broker.get_result(task_id)
    assert isinstance(stored, TaskResult)
    assert same(stored.result, value)
    batched = uuid4()
    sync_broker.store_result_batch([BatchResultInput(batched, "job", TaskResultStatus.SUCCESS, value)])
    assert same(sync_broker.get_result(batched).result, value)


@pytest.mark.spec("RES-03", "DATA-06", "BATCH-07")
def test_every_value_comes_back_that_is_stored_with_an_acknowledgement(broker):
    values = list(VALUES.values())
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(2 * len(values))])
    messages = broker.dequeue_batch(len(values))
    done = [
        Completion(message, json.dumps(value, ensure_ascii=index % 2 == 0), runtime_ms=index)
        for index, (message, value) in enumerate(zip(messages, values, strict=True))
    ]
    assert broker.consumer.complete(done) == [True] * len(values)
    others = broker.dequeue_batch(len(values))
    with_results = [
        (
            message.task_id,
            message.receipt_handle,
            BatchResultInput(message.task_id, "job", TaskResultStatus.SUCCESS, value),
        )
        for message, value in zip(others, values, strict=True)
    ]
    assert broker.ack_batch_with_results(with_results) == len(values)
    for index, (first, second, value) in enumerate(zip(messages, others, values, strict=True)):
        one, two = broker.get_result_batch([first.task_id, second.task_id])
        assert same(one.result, value)
        assert same(two.result, value)
        assert one.status is two.status is TaskResultStatus.SUCCESS
        assert one.runtime_ms == index
        assert one.task_name == two.task_name == "job"
        assert one.completed_at is not None
        assert two.completed_at is not None


@pytest.mark.spec("RES-03", "DATA-06", "ERR-04")
@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        b"bytes",
        object(),
        float("nan"),
        [float("inf")],
        "\ud800",
        {"\udfff": 1},
        ["a\ud83d"],
        nested(100_000),
        datetime.now(UTC),
    ],
    ids=["set", "bytes", "object", "nan", "inf", "surrogate", "surrogate key", "half pair", "too deep", "datetime"],
)
def test_what_json_cannot_hold_is_refused_and_the_older_result_stays(sync_broker, value):
    task_id = uuid4()
    sync_broker.store_result(task_id, "job", TaskResultStatus.SUCCESS, result={"older": True})
    before = sync_broker.get_result(task_id)
    with pytest.raises(SerializationError):
        sync_broker.store_result(task_id, "job", TaskResultStatus.SUCCESS, result=value)
    with pytest.raises(SerializationError):
        sync_broker.store_result_batch(
            [
                BatchResultInput(uuid4(), "job", TaskResultStatus.SUCCESS, 1),
                BatchResultInput(task_id, "job", TaskResultStatus.SUCCESS, value),
            ]
        )
    assert sync_broker.get_result(task_id) == before


@pytest.mark.spec("RES-03", "BATCH-07")
def test_an_acknowledgement_whose_result_cannot_be_written_leaves_the_task_as_it_was(broker):
    broker.enqueue(SerializedTask.new("job"))
    message = broker.dequeue()
    with pytest.raises(SerializationError):
        broker.consumer.complete([Completion(message, '"\ud800"')])
    bad = BatchResultInput(message.task_id, "job", TaskResultStatus.SUCCESS, {1, 2})
    with pytest.raises(SerializationError):
        broker.ack_batch_with_results([(message.task_id, message.receipt_handle, bad)])
    assert broker.get_task(message.task_id).state is DbTaskState.PROCESSING
    assert broker.get_result(message.task_id) is None
    assert broker.consumer.complete([Completion(message, "1")]) == [True]


@pytest.mark.spec("RES-03", "ERR-02", "DATA-08")
def test_results_larger_than_a_packet_are_refused_and_large_ones_travel_apart(sync_broker, packets):
    """As if the server took no more than 2 MB at a time."""
    core = sync_broker.core
    core.server = replace(core.server, max_allowed_packet=2_000_000)
    text = "y" * 300_000
    sync_broker.enqueue_batch([SerializedTask.new("job") for _ in range(20)])
    messages = sync_broker.dequeue_batch(20)
    sent = len(packets.sent)
    assert sync_broker.consumer.complete([Completion(m, json.dumps(text)) for m in messages]) == [True] * 20
    assert 5 < len(packets.sent) - sent < 15
    assert max(map(len, packets.sent)) <= 2_000_000
    for message in messages:
        assert sync_broker.get_result(message.task_id).result == text
    assert sync_broker.get_statistics().completed == 20

    sync_broker.enqueue(SerializedTask.new("job"))
    message = sync_broker.dequeue()
    for size in (2_000_001, 16_777_215):
        with pytest.raises(PayloadTooLargeError):
            sync_broker.consumer.complete([Completion(message, json.dumps("z" * size))])
        with pytest.raises(PayloadTooLargeError):
            sync_broker.store_result(message.task_id, "job", TaskResultStatus.SUCCESS, result="z" * size)
    assert max(map(len, packets.sent)) <= 2_000_000
    assert sync_broker.get_task(message.task_id).state is DbTaskState.PROCESSING
    assert sync_broker.get_result(message.task_id) is None
    sync_broker.ack(message.task_id, message.receipt_handle)


@pytest.mark.spec("RES-03")
def test_a_result_of_some_megabytes_comes_back(sync_broker):
    sync_broker.enqueue_batch([SerializedTask.new("job") for _ in range(2)])
    one, two = sync_broker.dequeue_batch(2)
    text = "🐌'\\\"\n" * 300_000
    assert sync_broker.consumer.complete([Completion(one, json.dumps(text)), Completion(two, None)]) == [True, True]
    assert [result.result for result in sync_broker.get_result_batch([one.task_id, two.task_id])] == [text, None]


@pytest.mark.spec("RES-01", "ENUM-02")
@pytest.mark.parametrize("status", list(TaskResultStatus))
@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_every_status_is_kept_and_final_ones_are_completed(sync_broker, status, batch):
    task_id = uuid4()
    if batch:
        sync_broker.store_result_batch([BatchResultInput(task_id, "job", status)])
    else:
        sync_broker.store_result(task_id, "job", status)
    stored = sync_broker.get_result(task_id)
    assert stored.status is status
    assert (stored.completed_at is not None) == (status in FINAL)
    assert stored.result is None
    assert stored.error is None
    assert stored.traceback is None
    assert stored.runtime_ms is None


@pytest.mark.spec("RES-01")
def test_the_last_write_wins_and_the_time_of_the_first_stays(broker):
    task_id = uuid4()
    broker.store_result(task_id, "first", TaskResultStatus.STARTED, error="e", traceback="t", runtime_ms=1)
    first = broker.get_result(task_id)
    broker.store_result(task_id, "second", TaskResultStatus.SUCCESS, result=[1], runtime_ms=2)
    second = broker.get_result(task_id)
    assert second.created_at == first.created_at
    assert second.completed_at >= first.created_at
    assert (second.task_name, second.result, second.error, second.traceback, second.runtime_ms) == (
        "second",
        [1],
        None,
        None,
        2,
    )
    assert broker.store_result_batch([BatchResultInput(task_id, "third", TaskResultStatus.RETRY, error="again")]) == 1
    third = broker.get_result(task_id)
    assert third.created_at == first.created_at
    assert third.completed_at is None
    assert (third.task_name, third.status, third.result, third.error) == (
        "third",
        TaskResultStatus.RETRY,
        None,
        "again",
    )


@pytest.mark.spec("RES-02", "RES-08")
def test_no_result_is_null_and_json_null_reads_as_none(tables, broker):
    ids = [uuid4(), uuid4()]
    for task_id in ids:
        broker.store_result(task_id, "job", TaskResultStatus.SUCCESS, result=None)
    tables.rows("UPDATE celers_task_results SET result='null' WHERE task_id=%s", (ids[1].bytes,))
    assert tables.rows("SELECT COUNT(*) FROM celers_task_results WHERE result IS NULL") == [(1,)]
    assert [result.result for result in broker.get_result_batch(ids)] == [None, None]


@pytest.mark.spec("RES-03")
@pytest.mark.parametrize("runtime", [-1, True, 1.5, "1", 2**63])
def test_a_run_time_that_is_none_is_refused(sync_broker, runtime):
    with pytest.raises(ValidationError, match="runtime_ms"):
        sync_broker.store_result(uuid4(), "job", TaskResultStatus.SUCCESS, runtime_ms=runtime)


@pytest.mark.spec("RES-03", "DATA-01", "DATA-05", "DATA-10")
def test_bad_arguments_are_refused(sync_broker):
    for task_id in ("x", 1, None, b"0" * 16):
        with pytest.raises(ValidationError, match="task_id"):
            sync_broker.store_result(task_id, "job", TaskResultStatus.SUCCESS)
    for name in ("", " a", "a\0", "n" * 256, None):
        with pytest.raises(ValidationError, match="task_name"):
            sync_broker.store_result(uuid4(), name, TaskResultStatus.SUCCESS)
    with pytest.raises(ValidationError, match="status"):
        sync_broker.store_result(uuid4(), "job", 1)
    with pytest.raises(ValidationError):
        sync_broker.store_result_batch([(uuid4(), "job", TaskResultStatus.SUCCESS)])


@pytest.mark.spec("RES-03", "DATA-09")
def test_error_texts_are_kept_and_cut(broker):
    task_id = uuid4()
    error = "ä\0'\\\U0001f40c" * 10
    broker.store_result(task_id, "job", TaskResultStatus.FAILURE, error=error, traceback=error * 1000)
    stored = broker.get_result(task_id)
    assert stored.error == error
    assert stored.traceback == error * 1000
    broker.store_result(task_id, "job", TaskResultStatus.FAILURE, error="ä" * 65_535, traceback="\U0001f40c" * 300_000)
    stored = broker.get_result(task_id)
    assert len(stored.error.encode()) <= 65_535
    assert stored.error.endswith("…")
    assert stored.error.startswith("ä" * 32_000)
    assert stored.traceback.endswith("…")
    assert stored.traceback.startswith("\U0001f40c" * 200_000)


@pytest.mark.spec("RES-01", "DATA-09", "BATCH-07")
def test_error_texts_that_come_with_an_acknowledgement_are_kept(broker):
    error = "ä\0'\"\\\U0001f40c\n" * 10
    broker.enqueue(SerializedTask.new("job"))
    message = broker.dequeue()
    result = BatchResultInput(
        message.task_id, "other", TaskResultStatus.FAILURE, error=error, traceback=error * 5000, runtime_ms=7
    )
    assert broker.ack_batch_with_results([(message.task_id, message.receipt_handle, result)]) == 1
    stored = broker.get_result(message.task_id)
    assert (stored.error, stored.traceback, stored.runtime_ms) == (error, error * 5000, 7)
    assert stored.task_name == "other"
    broker.enqueue(SerializedTask.new("job", max_retries=0))
    message = broker.dequeue()
    assert broker.consumer.fail(message, error=error, traceback=error * 100) == "dead_letter"
    stored = broker.get_result(message.task_id)
    assert (stored.status, stored.error, stored.traceback) == (TaskResultStatus.FAILURE, error, error * 100)


@pytest.mark.spec("RES-01")
@pytest.mark.parametrize("status", list(TaskResultStatus))
def test_results_that_come_with_an_acknowledgement_follow_the_same_rule(sync_broker, status):
    sync_broker.enqueue(SerializedTask.new("job"))
    message = sync_broker.dequeue()
    sync_broker.store_result(message.task_id, "job", TaskResultStatus.STARTED, error="older")
    first = sync_broker.get_result(message.task_id)
    result = BatchResultInput(message.task_id, "job", status, 5)
    assert sync_broker.ack_batch_with_results([(message.task_id, message.receipt_handle, result)]) == 1
    stored = sync_broker.get_result(message.task_id)
    assert stored.status is status
    assert (stored.completed_at is not None) == (status in FINAL)
    assert stored.created_at == first.created_at
    assert (stored.result, stored.error) == (5, None)


@pytest.mark.spec("CORE-15", "BATCH-07")
def test_a_lost_delivery_stores_no_result(broker):
    broker.enqueue(SerializedTask.new("job"))
    message = broker.dequeue()
    assert broker.cancel(message.task_id)
    assert broker.consumer.complete([Completion(message, "1")]) == [False]
    assert broker.get_result(message.task_id) is None


@pytest.mark.spec("RES-04")
def test_nothing_is_found_where_nothing_is_stored(broker):
    assert broker.get_result(uuid4()) is None
    assert broker.get_result(str(uuid4())) is None
    assert broker.get_result_batch([]) == []
    assert broker.get_result_batch([uuid4()]) == []


@pytest.mark.spec("RES-04", "ERR-04")
def test_a_stored_value_that_is_no_json_is_an_error(tables, broker):
    task_id = uuid4()
    broker.store_result(task_id, "job", TaskResultStatus.SUCCESS, result=1)
    tables.rows("UPDATE celers_task_results SET result='{' WHERE task_id=%s", (task_id.bytes,))
    with pytest.raises(DeserializationError):
        broker.get_result(task_id)
    with pytest.raises(DeserializationError):
        broker.get_result_batch([uuid4(), task_id])


@pytest.mark.spec("RES-05")
def test_a_result_is_deleted_and_the_task_stays(broker):
    broker.enqueue(SerializedTask.new("job"))
    message = broker.dequeue()
    assert broker.consumer.complete([Completion(message, "1")]) == [True]
    assert broker.delete_result(message.task_id) is True
    assert broker.delete_result(message.task_id) is False
    assert broker.get_result(message.task_id) is None
    assert broker.get_task(message.task_id).state is DbTaskState.COMPLETED


@pytest.mark.spec("RES-06")
def test_old_results_are_archived_and_unfinished_ones_stay(tables, broker):
    ids = [uuid4() for _ in range(4)]
    for task_id, status in zip(
        ids,
        [TaskResultStatus.SUCCESS, TaskResultStatus.FAILURE, TaskResultStatus.STARTED, TaskResultStatus.SUCCESS],
        strict=True,
    ):
        broker.store_result(task_id, "job", status)
    for task_id in ids[:3]:
        tables.rows(
            "UPDATE celers_task_results SET created_at = created_at - INTERVAL 2 DAY,"
            " completed_at = completed_at - INTERVAL 2 DAY WHERE task_id=%s",
            (task_id.bytes,),
        )
    assert broker.archive_results(timedelta(days=3)) == 0
    assert broker.archive_results(86_400) == 2
    assert [result.task_id for result in broker.get_result_batch(ids)] == ids[2:]
    assert broker.archive_results(0) == 1
    for bad in (-1, float("nan"), True, "1"):
        with pytest.raises(ValidationError, match="older_than"):
            broker.archive_results(bad)


@pytest.mark.spec("RES-06")
def test_more_than_a_chunk_is_archived(tables, sync_broker):
    tables.rows(
        "INSERT INTO celers_task_results (task_id, queue_name, task_name, status, created_at, completed_at)"
        " SELECT UNHEX(LPAD(HEX(a.n + 1), 32, '0')), IF(a.n < 20500, 'default', 'other'), 'job', 'SUCCESS',"
        " UTC_TIMESTAMP(6) - INTERVAL 1 DAY, UTC_TIMESTAMP(6) - INTERVAL 1 DAY"
        f" FROM ({numbers(5)}) a WHERE a.n < 21000",
    )
    assert sync_broker.archive_results(1) == 20_500
    assert tables.rows("SELECT queue_name, COUNT(*) FROM celers_task_results GROUP BY queue_name") == [("other", 500)]


@pytest.mark.spec("RES-07")
def test_a_batch_counts_tasks_and_the_last_of_several_wins(broker):
    one, two = uuid4(), uuid4()
    broker.store_result(two, "job", TaskResultStatus.STARTED)
    inputs = [
        BatchResultInput(one, "job", TaskResultStatus.SUCCESS, 1),
        BatchResultInput(two, "job", TaskResultStatus.SUCCESS, 2),
        BatchResultInput(one, "job", TaskResultStatus.SUCCESS, 3),
    ]
    assert broker.store_result_batch(iter(inputs)) == 2
    assert [result.result for result in broker.get_result_batch([one, two])] == [3, 2]
    assert broker.store_result_batch([]) == 0


@pytest.mark.spec("RES-07", "RES-08")
def test_a_batch_of_thousands_is_stored_in_one_transaction(sync_broker):
    ids = [uuid4() for _ in range(2500)]
    inputs = [BatchResultInput(key, "job", TaskResultStatus.SUCCESS, number) for number, key in enumerate(ids)]
    assert sync_broker.store_result_batch(inputs) == 2500
    assert [result.result for result in sync_broker.get_result_batch(ids)] == list(range(2500))


@pytest.mark.spec("RES-08")
def test_a_batch_is_read_in_the_order_asked(broker):
    ids = [uuid4() for _ in range(5)]
    for number, task_id in enumerate(ids):
        broker.store_result(task_id, "job", TaskResultStatus.SUCCESS, result=number or None)
    asked: list[UUID | str] = [ids[3], uuid4(), str(ids[0]), ids[3], ids[4]]
    found = broker.get_result_batch(asked)
    assert [result.task_id for result in found] == [ids[3], ids[0], ids[4]]
    assert [result.result for result in found] == [3, None, 4]


@pytest.mark.spec("CONF-06", "RES-04", "RES-05", "RES-06", "RES-08")
def test_results_of_other_queues_are_not_seen(make_broker):
    mine, other = make_broker("a"), make_broker("b")
    task_id = uuid4()
    mine.store_result(task_id, "job", TaskResultStatus.SUCCESS, result=1)
    assert other.get_result(task_id) is None
    assert other.get_result_batch([task_id]) == []
    assert other.delete_result(task_id) is False
    assert other.archive_results(0) == 0
    assert mine.get_result(task_id).result == 1


@pytest.mark.spec("CONF-06", "RES-01", "RES-05", "RES-07", "RES-08")
def test_each_queue_has_a_result_of_its_own_for_the_same_id(tables, broker, make_broker):
    other = make_broker("other")
    task_id = broker.enqueue(SerializedTask.new("a"))
    message = broker.dequeue()
    broker.store_result(task_id, "mine", TaskResultStatus.SUCCESS, result=1)
    other.store_result(task_id, "theirs", TaskResultStatus.FAILURE, error="x")
    assert other.store_result_batch([BatchResultInput(task_id, "theirs", TaskResultStatus.FAILURE, error="y")]) == 1
    assert broker.get_result(task_id).result == 1
    # An acknowledgement replaces the result of its own queue.
    broker.ack_batch_with_results(
        [(task_id, message.receipt_handle, BatchResultInput(task_id, "mine", TaskResultStatus.SUCCESS, result=2))]
    )
    assert [(r.task_name, r.result) for r in broker.get_result_batch([task_id])] == [("mine", 2)]
    assert [(r.task_name, r.error) for r in other.get_result_batch([task_id])] == [("theirs", "y")]
    assert tables.rows("SELECT queue_name FROM celers_results_view ORDER BY queue_name") == [("default",), ("other",)]
    assert broker.delete_result(task_id) is True
    assert broker.get_result(task_id) is None
    assert other.get_result(task_id).error == "y"


@pytest.mark.spec("RES-04", "DATA-10", "ENUM-02")
def test_a_stored_status_that_is_none_is_an_error(tables, broker):
    task_id = uuid4()
    broker.store_result(task_id, "job", TaskResultStatus.SUCCESS)
    tables.rows("UPDATE celers_task_results SET status='ODD'")
    with pytest.raises(DeserializationError, match="ODD"):
        broker.get_result(task_id)


@pytest.mark.spec("RES-04", "CONF-06")
def test_results_are_listed_with_the_last_completed_on_top(broker):
    ids = [uuid4() for _ in range(6)]
    statuses = [
        TaskResultStatus.SUCCESS,
        TaskResultStatus.FAILURE,
        TaskResultStatus.SUCCESS,
        TaskResultStatus.STARTED,
        TaskResultStatus.FAILURE,
        TaskResultStatus.SUCCESS,
    ]
    for number, (task_id, status) in enumerate(zip(ids, statuses, strict=True)):
        broker.store_result(task_id, "even" if number % 2 == 0 else "odd", status, result={"n": number})
    broker.for_queue("other").store_result(uuid4(), "even", TaskResultStatus.SUCCESS)

    def numbers(*page, **some):
        return [found.result["n"] for found in broker.list_results(*page, **some)]

    assert numbers(10, 0) == [5, 4, 2, 1, 0, 3]
    assert (numbers(2, 1), numbers(0, 0), numbers(10, 6)) == ([4, 2], [], [])
    assert numbers(10, 0, status=TaskResultStatus.SUCCESS) == [5, 2, 0]
    assert numbers(10, 0, task_name="odd") == [5, 1, 3]
    assert numbers(1, 1, status=TaskResultStatus.FAILURE) == [1]
    assert numbers(10, 0, status=TaskResultStatus.FAILURE, task_name="even") == [4]
    assert broker.list_results(10, 0)[0] == broker.get_result(ids[5])
    for arguments in ({"status": "SUCCESS"}, {"task_name": ""}):
        with pytest.raises(ValidationError):
            broker.list_results(1, 0, **arguments)
    with pytest.raises(ValidationError):
        broker.list_results(-1, 0)
