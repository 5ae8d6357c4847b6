"""Import and export (spec 17): what goes out comes back, and nothing comes in by halves."""

from __future__ import annotations

import base64
import json
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from celers import (
    BrokerError,
    CelersError,
    CyclicDependencyError,
    DbTaskState,
    DeserializationError,
    DuplicateTaskError,
    MysqlBroker,
    PayloadTooLargeError,
    SerializationError,
    SerializedTask,
    ValidationError,
)
from celers.components import importing, transfer
from celers.retry import Fixed, RetryPolicy
from tests.integration.test_bad_input import unreachable  # noqa: F401 - the fixture
from tests.integration.test_dlq_operations import bury

PAST = "2020-01-02T03:04:05.000007Z"


def item(name="job", **values):
    """An object as exports have it, of a pending task."""
    wanted = {"id": str(uuid4()), "task_name": name, "payload": "AP8=", "state": "pending"}
    return {**wanted, "created_at": PAST, "scheduled_at": PAST, **values}


def ended(state="completed", **values):
    return item(**{"state": state, "started_at": PAST, "completed_at": PAST, **values})


def stored(tables):
    return tables.value("SELECT COUNT(*) FROM celers_tasks")


@pytest.fixture
def filled(broker, tables):
    """A queue with tasks in all states but processing, with everything that a task can have."""
    full = SerializedTask.new(
        "ünï'c\\de",
        bytes(range(256)),
        priority=-7,
        timeout=30,
        group_id="grüppe",
        chord_id=uuid4(),
        parent_task_id=uuid4(),
        extra={"customer": {"id": 7}, "x": [1.5, None, True, "é\u2028"], "big": 2**63},
    )
    broker.enqueue_with_retry_policy(full, RetryPolicy(4, Fixed(2.5)))
    names = ("done", "bad", "gone", "again")
    broker.enqueue_batch([SerializedTask.new(name, b"{}", priority=5) for name in names])
    messages = {message.task_name: message for message in broker.dequeue_batch(4, worker_id="w1")}
    broker.ack(messages["done"].task_id, messages["done"].receipt_handle)
    broker.update_task_progress(messages["bad"].task_id, 40, "half")
    broker.reject(messages["bad"].task_id, messages["bad"].receipt_handle, requeue=False, error="boom\nline")
    broker.cancel(messages["gone"].task_id)
    broker.reject(messages["again"].task_id, messages["again"].receipt_handle, error="once more")
    broker.enqueue_at(SerializedTask.new("later"), datetime(2100, 1, 1, 0, 0, 0, 5, tzinfo=UTC))
    parent = SerializedTask.new("parent")
    child = SerializedTask.new("child", dependencies=[parent.metadata.id, messages["done"].task_id])
    broker.enqueue_batch([child, parent, SerializedTask.new("last", dependencies=[child.metadata.id])])
    tables.rows("UPDATE celers_tasks SET dedup_key = 'ü key' WHERE id = %s", (parent.metadata.id.bytes,))
    tables.check(broker)
    return broker


@pytest.mark.spec("IMPEX-01", "DEF-79", "DEF-43", "DATA-11")
def test_everything_of_a_task_is_exported(filled, tables):
    objects = json.loads(filled.export_tasks())
    assert [value["task_name"] for value in objects] == [
        *("ünï'c\\de", "done", "bad", "gone", "again", "later", "child", "parent", "last")
    ]
    by_name = {value["task_name"]: value for value in objects}
    full = by_name["ünï'c\\de"]
    row = tables.task(UUID(full["id"]))
    assert base64.b64decode(full["payload"], validate=True) == bytes(range(256))
    assert (full["queue_name"], full["payload_encoding"], full["priority"]) == ("default", "base64", -7)
    assert (full["timeout_secs"], full["max_retries"], full["retry_count"]) == (30, 4, 0)
    assert full["metadata"] == {"customer": {"id": 7}, "x": [1.5, None, True, "é\u2028"], "big": 2**63}
    assert full["retry_policy"] == RetryPolicy(4, Fixed(2.5)).to_dict()
    assert (full["group_id"], UUID(full["chord_id"]).bytes) == ("grüppe", row["chord_id"])
    assert UUID(full["parent_task_id"]).bytes == row["parent_task_id"]
    assert full["created_at"] == row["created_at"].isoformat(timespec="microseconds") + "Z"
    assert (full["started_at"], full["completed_at"], full["worker_id"]) == (None, None, None)
    assert [by_name[name]["state"] for name in ("done", "bad", "gone", "again")] == [
        *("completed", "failed", "cancelled", "pending")
    ]
    assert (by_name["done"]["worker_id"], by_name["done"]["metadata"]) == ("w1", {})
    assert by_name["done"]["completed_at"] > by_name["done"]["started_at"] > by_name["done"]["created_at"]
    assert (by_name["bad"]["error_message"], by_name["again"]["retry_count"]) == ("boom\nline", 1)
    assert by_name["bad"]["metadata"]["progress"]["progress_percent"] == 40
    assert by_name["later"]["scheduled_at"] == "2100-01-01T00:00:00.000005Z"
    assert by_name["child"]["dependencies"] == sorted([by_name["parent"]["id"], by_name["done"]["id"]])
    assert by_name["parent"]["dedup_key"] == "ü key"
    assert list(filled.iter_export_tasks()) == objects
    assert list(filled.iter_export_tasks(snapshot=False)) == objects


@pytest.mark.spec("IMPEX-01")
def test_some_of_the_tasks(filled):
    everything = json.loads(filled.export_tasks())
    assert json.loads(filled.export_tasks(limit=2)) == everything[:2]
    for state in DbTaskState:
        wanted = [value for value in everything if value["state"] == state.value]
        assert json.loads(filled.export_tasks(state)) == list(filled.iter_export_tasks(state)) == wanted
    assert len(json.loads(filled.export_tasks(DbTaskState.PENDING, limit=1))) == 1
    other = filled.for_queue("other")
    assert other.export_tasks() == "[]"
    assert list(other.iter_export_tasks()) == []


@pytest.mark.spec("IMPEX-03", "IMPEX-02", "INSP-03")
def test_out_and_in_again(filled, tables):
    text, before = filled.export_tasks(), filled.get_statistics()
    assert filled.purge_all() == 9
    assert filled.import_tasks(text, False) == 9
    assert filled.export_tasks() == text
    assert filled.get_statistics() == before
    tables.check(filled)
    # Nothing is left to do, and nothing changes.
    assert filled.import_tasks(text, True) == 0
    assert filled.export_tasks() == text
    tables.check(filled)
    # By way of an iterator that gives everything once.
    objects = list(filled.iter_export_tasks())
    filled.purge_all()
    assert filled.import_tasks_from(iter(objects)) == 9
    assert filled.export_tasks() == text
    tables.check(filled)


@pytest.mark.spec("IMPEX-03", "IMPEX-06", "CORE-06")
def test_imported_tasks_run(filled, tables):
    text = filled.export_tasks()
    filled.purge_all()
    filled.import_tasks(text, False)
    tables.pass_time(10)  # the retry of "again"
    seen = []
    while message := filled.dequeue():
        seen.append(message.task_name)
        if message.task_name == "ünï'c\\de":
            assert message.task.payload == bytes(range(256))
            assert message.task.metadata.extra["customer"] == {"id": 7}
        filled.ack(message.task_id, message.receipt_handle)
        tables.check(filled)
    assert sorted(seen) == sorted(["ünï'c\\de", "again", "parent", "child", "last"])
    assert seen.index("parent") < seen.index("child") < seen.index("last")


@pytest.mark.spec("IMPEX-02")
def test_tasks_in_work_become_pending(broker, tables):
    broker.enqueue(SerializedTask.new("busy"))
    message = broker.dequeue_with_worker_id("w1")
    text = broker.export_tasks()
    assert json.loads(text)[0]["worker_id"] == "w1"
    broker.purge_all()
    assert broker.import_tasks(text, False) == 1
    found = broker.get_task(message.task_id)
    assert (found.state, found.worker_id, found.started_at) == (DbTaskState.PENDING, None, None)
    tables.check(broker)
    with pytest.raises(CelersError):
        broker.ack(message.task_id, message.receipt_handle)
    assert broker.dequeue().task_id == message.task_id


@pytest.mark.spec("IMPEX-02", "CONF-06", "CORE-04")
def test_tasks_go_to_the_queue_that_imports_them(broker, tables):
    text = json.dumps([item(queue_name="elsewhere"), item(), ended(worker_id="w")])
    mine = broker.for_queue("mine")
    mine.enable_drain_mode()
    assert mine.import_tasks(text, skip_existing=False) == 3
    assert (mine.queue_size(), broker.queue_size()) == (2, 0)
    assert {value["queue_name"] for value in mine.iter_export_tasks()} == {"mine"}
    assert mine.dequeue().task.payload == b"\x00\xff"
    # An id that another queue has is taken.
    with pytest.raises(DuplicateTaskError):
        broker.import_tasks(text, False)
    assert broker.import_tasks(text, True) == 0
    assert broker.get_statistics().total == 0


@pytest.mark.spec("IMPEX-02", "DEF-80", "ARCH-04", "ERR-11")
def test_an_id_that_is_taken(broker, tables, monkeypatch):
    monkeypatch.setattr(importing, "CHUNK_ROWS", 2)
    objects = [item(), item(), ended(), item(), ended("failed")]
    assert broker.import_tasks(json.dumps(objects[3:4]), False) == 1
    with pytest.raises(DuplicateTaskError) as caught:
        broker.import_tasks(json.dumps(objects), False)
    assert caught.value.task_id == UUID(objects[3]["id"])
    assert stored(tables) == 1
    tables.check(broker)
    changed = [{**value, "task_name": "changed"} for value in objects]
    assert broker.import_tasks(json.dumps(changed), True) == 4
    assert broker.get_task(objects[3]["id"]).task_name == "job"
    assert broker.get_task(objects[4]["id"]).state is DbTaskState.FAILED
    tables.check(broker)
    twice = [item(), item()]
    twice.append({**twice[0], "task_name": "second"})
    with pytest.raises(DuplicateTaskError, match="item 2"):
        broker.import_tasks(json.dumps(twice), False)
    assert broker.import_tasks(json.dumps(twice), True) == 2
    assert broker.get_task(twice[0]["id"]).task_name == "job"


@pytest.mark.spec("IMPEX-02", "DEF-80")
def test_several_that_import_the_same_at_once(make_sync, tables, monkeypatch):
    monkeypatch.setattr(importing, "CHUNK_ROWS", 20)
    text = json.dumps([item() for _ in range(100)])
    brokers = [make_sync() for _ in range(4)]
    brokers[0].queue.intern()
    found: list[int] = []
    threads = [threading.Thread(target=lambda b=b: found.append(b.import_tasks(text, True))) for b in brokers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 0, 0, 100]
    assert stored(tables) == 100
    tables.check(brokers[0])


@pytest.mark.spec("IMPEX-02", "CORE-06")
def test_what_imported_tasks_wait_for(broker, tables):
    done, open_parent, failed = SerializedTask.new("done"), SerializedTask.new("open"), SerializedTask.new("failed")
    broker.enqueue_batch([done, failed])
    for message in broker.dequeue_batch(2):
        if message.task_name == "done":
            broker.ack(message.task_id, message.receipt_handle)
        else:
            broker.reject(message.task_id, message.receipt_handle, requeue=False)
    broker.enqueue(open_parent)
    ids = {name: str(task.metadata.id) for name, task in (("d", done), ("o", open_parent), ("f", failed))}
    first = item("first", dependencies=[ids["d"], str(uuid4())])
    second = item("second", dependencies=[first["id"], ids["o"]])
    third = item("third", dependencies=[ids["f"]])
    late = item("late", dependencies=[second["id"], first["id"]])
    old = ended(dependencies=[ids["d"], ids["o"]])
    assert broker.import_tasks(json.dumps([late, second, first, third, old]), False) == 5
    tables.check(broker)
    unmet = {info.task_name: info.unmet_dependencies for info in broker.list_tasks(DbTaskState.PENDING, 10, 0)}
    assert unmet == {"open": 0, "first": 0, "second": 2, "third": 1, "late": 2}
    assert broker.get_task(old["id"]).metadata["dependencies"] == sorted([ids["d"], ids["o"]])
    assert broker.update_batch_state([ids["f"]], DbTaskState.PENDING) == 1
    seen = []
    while message := broker.dequeue():
        seen.append(message.task_name)
        broker.ack(message.task_id, message.receipt_handle)
    assert set(seen) == {"open", "first", "second", "third", "late", "failed"}
    assert seen.index("late") > seen.index("second")
    tables.check(broker)


@pytest.mark.spec("IMPEX-02", "SCHEMA-02", "INSP-15")
def test_history_and_keys(make_broker, tables):
    broker = make_broker(record_history=True)
    later = "2021-01-01T00:00:00.000000Z"
    objects = [
        item(dedup_key="k", created_at=later),
        item(dedup_key="k"),
        ended(dedup_key="other"),
    ]
    assert broker.import_tasks(json.dumps(objects), False) == 3
    (step,) = broker.get_task_state_transitions(objects[2]["id"])
    assert (step.from_state, step.to_state, step.message) == (None, DbTaskState.COMPLETED, "imported")
    keys = dict(tables.rows("SELECT dedup_key, task_id FROM celers_task_dedup"))
    assert keys == {"k": UUID(objects[0]["id"]).bytes, "other": UUID(objects[2]["id"]).bytes}
    assert broker.import_tasks(json.dumps([*objects, item(dedup_key="k")]), True) == 1
    assert tables.value("SELECT task_id FROM celers_task_dedup WHERE dedup_key = 'k'") == UUID(objects[0]["id"]).bytes
    assert tables.value("SELECT COUNT(*) FROM celers_task_history") == 4
    broker.purge_all()
    assert tables.value("SELECT COUNT(*) FROM celers_task_dedup") == 0


@pytest.mark.spec("IMPEX-02", "INSP-15")
def test_without_history_the_times_tell(broker):
    value = ended(worker_id="w1", started_at="2020-01-02T03:04:06Z", completed_at="2020-01-02T03:04:07Z")
    broker.import_tasks(json.dumps([value]), False)
    steps = broker.get_task_state_transitions(value["id"])
    assert [str(step.to_state) for step in steps] == ["pending", "processing", "completed"]
    assert steps[-1].worker_id == "w1"
    assert steps[-1].transitioned_at - steps[0].transitioned_at == timedelta(seconds=2, microseconds=-7)


@pytest.mark.spec("IMPEX-02", "SCHED-01", "CORE-08")
def test_due_times_and_order(broker, tables):
    future = "2999-01-01T00:00:00Z"
    objects = [item(scheduled_at=future), item("b", priority=1), item("a"), item("c", priority=1)]
    broker.dequeue()  # which learns that nothing is due
    broker.import_tasks_from(objects)
    assert broker.count_scheduled_tasks() == 1
    assert [message.task_name for message in broker.dequeue_batch(10)] == ["b", "c", "a"]
    tables.check(broker)


@pytest.mark.spec("IMPEX-06", "IMPEX-01", "IMPEX-02", "IMPEX-03")
def test_compressed_payloads_travel_as_they_were(make_broker, tables):
    plain, packed = make_broker(), make_broker(compress_payloads=True)
    big = SerializedTask.new("big", b"x" * 5000)
    packed.enqueue_batch([big, SerializedTask.new("small", b"y")])
    plain.enqueue(SerializedTask.new("plain", b"z" * 5000))
    text = plain.export_tasks()
    assert [base64.b64decode(value["payload"])[:1] for value in json.loads(text)] == [b"x", b"y", b"z"]
    for broker, encoding in ((plain, "raw"), (packed, "deflate")):
        broker.purge_all()
        assert broker.import_tasks(text, False) == 3
        assert {row[0] for row in tables.rows("SELECT payload_encoding FROM celers_tasks")} == {encoding}
        assert broker.export_tasks() == text
    assert plain.dequeue().task.payload == b"x" * 5000


# Bad input


BAD_ITEMS = [
    *(None, 1, "x", [], {}, item(id="x"), item(id=None), item(task_name=""), item(state="done")),
    *(item(payload=[256]), item(payload="?"), item(payload=None), item(created_at="now"), item(scheduled_at=None)),
    *(item(completed_at=PAST), item(state="failed"), item(metadata="{"), item(metadata=[1]), item(priority=2**31)),
    *(item(other=1), item(dependencies=["x"]), item(created_at="1960-01-01T00:00:00Z"), item(queue_name=7)),
]


@pytest.mark.spec("IMPEX-02", "DEF-80", "DATA-10", "ERR-04")
def test_bad_input_is_refused_before_anything_is_sent(unreachable):  # noqa: F811
    for bad in BAD_ITEMS:
        objects = [item(), item(), bad]
        for skip in (True, False):
            with pytest.raises(DeserializationError, match="item 2"):
                unreachable.import_tasks(json.dumps(objects), skip)
            with pytest.raises(DeserializationError, match="item 2"):
                unreachable.import_tasks_from(iter(objects), skip)
    for text in ("", "{}", "[", "null", "[" * 100_000):
        with pytest.raises(DeserializationError):
            unreachable.import_tasks(text, False)
    one, two = item(), item()
    with pytest.raises(DuplicateTaskError):
        unreachable.import_tasks(json.dumps([one, two, one]), False)
    one["dependencies"], two["dependencies"] = [two["id"]], [one["id"]]
    with pytest.raises(CyclicDependencyError):
        unreachable.import_tasks(json.dumps([one, two]), False)
    assert unreachable.import_tasks("[]", False) == unreachable.import_tasks_from(iter(())) == 0


@pytest.mark.spec("IMPEX-01", "IMPEX-02", "IMPEX-04", "DLQ-09", "DATA-10", "ERR-01")
def test_bad_arguments(unreachable):  # noqa: F811
    for limit in (0, -1, True, 1.0, "1", 2**63):
        for call in (lambda n: unreachable.export_tasks(None, n), unreachable.export_dlq):
            with pytest.raises(ValidationError, match="limit"):
                call(limit)
    for state in ("pending", 1, True):
        with pytest.raises(ValidationError, match="state"):
            unreachable.export_tasks(state)
        with pytest.raises(ValidationError, match="state"):
            list(unreachable.iter_export_tasks(state))
    for snapshot in (None, 1):
        for stream in (unreachable.iter_export_tasks, unreachable.iter_export_dlq):
            with pytest.raises(ValidationError, match="snapshot"):
                list(stream(snapshot=snapshot))
    for text in (None, b"[]", [], 1):
        with pytest.raises(ValidationError, match="json_data"):
            unreachable.import_tasks(text, False)
    for skip in (None, 0, "no"):
        with pytest.raises(ValidationError, match="skip_existing"):
            unreachable.import_tasks("[]", skip)
        with pytest.raises(ValidationError, match="skip_existing"):
            unreachable.import_tasks_from([], skip)
    for tasks in (None, 1, "[]", b"[]", {}):
        with pytest.raises(ValidationError, match="tasks"):
            unreachable.import_tasks_from(tasks)


@pytest.mark.spec("IMPEX-02", "ERR-02", "DATA-08")
def test_tasks_that_are_too_large(make_broker, tables):
    small = make_broker(max_payload_bytes=10)
    assert small.import_tasks(json.dumps([item(payload=[1] * 10)]), False) == 1
    with pytest.raises(PayloadTooLargeError, match="item 1"):
        small.import_tasks(json.dumps([item(), item(payload=[1] * 11)]), False)
    broker = make_broker()
    most = tables.value("SELECT @@max_allowed_packet")
    if most <= 17_000_000:
        huge = base64.b64encode(bytes(16_777_215)).decode()
        with pytest.raises(PayloadTooLargeError, match="max_allowed_packet"):
            broker.import_tasks_from([item(), item(payload=huge)])
    middle = base64.b64encode(bytes(9_000_000)).decode()  # fits into a packet as escaped text only
    assert broker.import_tasks_from([item(payload=middle), item(payload="")]) == 2
    assert max(len(value["payload"]) for value in broker.iter_export_tasks()) == 12_000_000


@pytest.mark.spec("IMPEX-02", "ERR-04", "ARCH-04")
def test_what_the_server_refuses_leaves_nothing_behind(broker, tables, monkeypatch):
    monkeypatch.setattr(importing, "CHUNK_ROWS", 1)
    deep = 1
    for _ in range(500):
        deep = {"a": deep}
    with pytest.raises(SerializationError):
        broker.import_tasks_from([item(), ended(), item(metadata=deep)])
    assert stored(tables) == 0
    tables.check(broker)


@pytest.mark.spec("IMPEX-02")
def test_an_error_of_the_source_is_its_own(broker, tables):
    def source():
        yield item()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broker.import_tasks_from(source())
    assert stored(tables) == 0


# Large queues


@pytest.mark.spec("IMPEX-01", "IMPEX-04")
def test_pages_are_bounded_by_rows_and_by_bytes(broker, tables, monkeypatch):
    sizes = [10, 600, 10, 10, 3000, 10, 10, 10]
    broker.enqueue_batch([SerializedTask.new("job", bytes(size)) for size in sizes])
    bury(broker.for_queue("dead"), *("job" for _ in range(7)))
    everything = json.loads(broker.export_tasks())
    letters = json.loads(broker.for_queue("dead").export_dlq())
    asked = []
    monkeypatch.setattr(transfer, "task_object", lambda row, name: asked.append(len(row[2])) or {"id": row[0]})
    for rows, size in ((3, 10**9), (100, 500), (1, 1)):
        monkeypatch.setattr(transfer, "PAGE_ROWS", rows)
        monkeypatch.setattr(transfer, "PAGE_BYTES", size)
        asked.clear()
        assert [UUID(bytes=value["id"]) for value in broker.iter_export_tasks()] == [
            UUID(value["id"]) for value in everything
        ]
        assert asked == sizes
        assert list(broker.for_queue("dead").iter_export_dlq()) == letters


@pytest.mark.spec("IMPEX-01", "IMPEX-04", "ARCH-11")
def test_a_stream_shows_one_moment_or_what_is_there(broker, tables, monkeypatch):
    monkeypatch.setattr(transfer, "PAGE_ROWS", 2)
    ids = broker.enqueue_batch([SerializedTask.new("job") for _ in range(6)])
    still, live = broker.iter_export_tasks(), broker.iter_export_tasks(snapshot=False)
    assert next(still)["id"] == next(live)["id"] == str(ids[0])
    broker.cancel(ids[4])
    new = broker.enqueue(SerializedTask.new("new"))
    assert [(value["id"], value["state"]) for value in still] == [(str(key), "pending") for key in ids[1:]]
    seen = {value["id"]: value["state"] for value in live}
    assert seen == {str(key): "cancelled" if key == ids[4] else "pending" for key in ids[1:]}
    assert str(new) not in seen


@pytest.mark.spec("IMPEX-01", "CONF-05")
def test_a_stream_that_is_left_early_leaves_no_connection(broker, tables):
    broker.enqueue_batch([SerializedTask.new("job") for _ in range(5)])
    tables.rows("DO 1")

    def connections() -> int:
        return tables.value("SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()")

    before = connections()
    stream = broker.iter_export_tasks()
    next(stream)
    assert connections() == before + 1
    stream.close()
    for _ in range(200):
        if connections() == before:
            break
        threading.Event().wait(0.01)  # the server notices a closed connection a little later
    assert connections() == before
    # Other operations go on while one is open.
    with_more = broker.iter_export_tasks()
    next(with_more)
    assert broker.queue_size() == 5
    with_more.close()


@pytest.mark.spec("IMPEX-02", "ARCH-12", "TEST-05")
def test_an_import_whose_connection_is_lost_begins_anew(broker, tables, monkeypatch):
    monkeypatch.setattr(importing, "CHUNK_ROWS", 10)
    objects = [item(dependencies=[]) for _ in range(50)]
    objects[7]["dependencies"] = [objects[9]["id"]]
    told = []
    killed = []

    def progress(done, total):
        told.append((done, total))
        if done == 30 and not killed:
            killed.extend(
                row[0]
                for row in tables.rows(
                    "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
                )
            )
            for number in killed:
                tables.rows(f"KILL {number}")

    assert broker.import_tasks_from(iter(objects), progress=progress) == 50
    assert killed
    assert told[0] == (0, 50)
    assert told[-1] == (50, 50)
    assert told.count((30, 50)) == 2
    assert stored(tables) == 50
    tables.check(broker)


@pytest.mark.spec("IMPEX-01", "TEST-05")
def test_a_stream_whose_connection_is_lost_says_so(sync_broker, tables, monkeypatch):
    monkeypatch.setattr(transfer, "PAGE_ROWS", 2)
    sync_broker.enqueue_batch([SerializedTask.new("job") for _ in range(6)])
    before = {row[0] for row in tables.rows("SELECT id FROM information_schema.processlist")}
    stream = sync_broker.iter_export_tasks()
    next(stream)
    for (number,) in tables.rows("SELECT id FROM information_schema.processlist WHERE db = DATABASE()"):
        if number not in before:
            tables.rows(f"KILL {number}")
    with pytest.raises(BrokerError):
        list(stream)


@pytest.mark.spec("CONF-04")
def test_after_close(database_url):
    broker = MysqlBroker(database_url)
    broker.close()
    for call in (
        lambda: list(broker.iter_export_tasks()),
        broker.export_tasks,
        lambda: broker.import_tasks_from([item()]),
    ):
        with pytest.raises(BrokerError, match="closed"):
            call()


# Dead letters


@pytest.mark.spec("IMPEX-04", "DLQ-09", "DEF-79")
def test_dead_letters(broker, tables):
    assert broker.export_dlq() == "[]"
    assert list(broker.iter_export_dlq()) == []
    options = {"priority": 3, "timeout": 30, "group_id": "g", "chord_id": uuid4(), "parent_task_id": uuid4()}
    bury(broker, "a", "b", extra={"x": [1]}, **options)
    bury(broker, "c")
    objects = json.loads(broker.export_dlq())
    assert [value["task_name"] for value in objects] == [letter.task_name for letter in broker.list_dlq(10, 0)]
    assert objects[0]["task_name"] == "c"
    assert objects[0]["metadata"] == {}
    found = next(value for value in objects if value["task_name"] == "a")
    letter = broker.dlq.get(found["id"])
    row = tables.letter(letter.task_id)
    assert found == {
        "id": str(letter.id),
        "task_id": str(letter.task_id),
        "queue_name": "default",
        "task_name": "a",
        "payload": base64.b64encode(b"p").decode(),
        "payload_encoding": "base64",
        "priority": 3,
        "retry_count": 0,
        "max_retries": 0,
        "timeout_secs": 30,
        "error_message": "boom",
        "failed_at": letter.to_dict()["failed_at"],
        "created_at": row["created_at"].isoformat(timespec="microseconds") + "Z",
        "metadata": {"x": [1]},
        "retry_policy": None,
        "dedup_key": None,
        "group_id": "g",
        "chord_id": str(options["chord_id"]),
        "parent_task_id": str(options["parent_task_id"]),
    }
    assert json.loads(broker.export_dlq(limit=2)) == objects[:2]
    assert list(broker.iter_export_dlq()) == objects
    assert broker.for_queue("other").export_dlq() == "[]"


@pytest.mark.spec("IMPEX-02", "ARCH-12", "TEST-05")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["before", "during", "after", "middle"])
@pytest.mark.parametrize("skip_existing", [False, True])
def test_an_import_whose_commit_nobody_answers_is_stored_once(
    make_broker, proxy, database_url, tables, how, skip_existing
):
    broker = make_broker(url=proxy.url(database_url))
    broker.queue.intern()
    objects = [item(), ended(), item(scheduled_at="2999-01-01T00:00:00Z")]
    rule = proxy.spoil(how, b"celers_queue_totals", b"COMMIT")
    assert broker.import_tasks(json.dumps(objects), skip_existing) == 3
    assert rule.seen.is_set()
    assert stored(tables) == 3
    tables.check(broker)
