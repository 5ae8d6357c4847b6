"""Searching and changing the metadata of tasks, and their progress (spec 05)."""

from __future__ import annotations

import json
import math
import threading
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celers import DbTaskState, SerializationError, SerializedTask, TaskProgress, ValidationError
from celers.jsonpath import render
from tests.fixtures.waiting import INNODB_EVERY, until


def put(broker, **extra):
    return broker.enqueue(SerializedTask.new("job", extra=extra))


# Searching

VALUES = {
    "text": "12345",
    "number": 12345,
    "float": 12345.0,
    "true": True,
    "word": "true",
    "null": None,
    "nothing": "null",
    "blank": "x ",
    "x": "x",
    "capital": "X",
    "empty": "",
    "zero": 0,
    "big": 2**53 + 1,
    "next": 2**53,
    "huge": 10**16 * 1.0,
    "tiny": 1e-7,
    "largest": 2**64 - 1,
    "smallest": -(2**63),
    "object": {"a": 12345},
    "array": [12345],
    "odd": 'q"\\\n\0\u2028é\U0001f40c',
}


@pytest.mark.spec("INSP-09", "DEF-28", "DATA-11")
@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("12345", {"text", "number"}),
        (12345, {"number", "float"}),
        (12345.0, {"number", "float"}),
        ("12345.0", {"float"}),
        (True, {"true"}),
        (False, set()),
        ("true", {"true", "word"}),
        ("True", set()),
        (1, set()),
        (None, {"null"}),
        ("null", {"null", "nothing"}),
        ("x ", {"blank"}),
        ("x", {"x"}),
        ("X", {"capital"}),
        ("", {"empty"}),
        (0, {"zero"}),
        (-0.0, {"zero"}),
        (2**53 + 1, {"big"}),
        (2**53, {"next"}),
        (1e16, {"huge"}),
        (10**16, {"huge"}),
        ("1e+16", {"huge"}),
        ("10000000000000000", set()),
        (1e-7, {"tiny"}),
        ("1e-07", {"tiny"}),
        (2**64 - 1, {"largest"}),
        (str(2**64 - 1), {"largest"}),
        (-(2**63), {"smallest"}),
        (VALUES["odd"], {"odd"}),
        ("[12345]", set()),
        ("' OR 1=1 -- ", set()),
        (10**400, set()),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),
)
def test_a_value_is_found(broker, value, names):
    ids = {put(broker, v=stored): name for name, stored in VALUES.items()}
    put(broker, w=value if not isinstance(value, int) or abs(value) < 2**64 else 0)
    put(broker)
    found = broker.query_tasks_by_metadata("$.v", value)
    assert {ids[info.id] for info in found} == names
    assert [info.id for info in found] == sorted((info.id for info in found), key=list(ids).index, reverse=True)


@pytest.mark.spec("INSP-09")
def test_paths_lead_where_they_say(broker):
    task_id = put(
        broker,
        **{
            "customer": {"id": 7, "tags": ["a", ["b"], {"c": 1}]},
            "any text": 1,
            'a"b\\c\n': 2,
            "ü.x[0]": 3,
            "*": 4,
            "": 5,
            "scalar": 6,
            "-": {"-a%_|": [8]},
        },
    )
    for path, value in (
        ("$.customer.id", 7),
        ("$.customer.tags[0]", "a"),
        ("$.customer.tags[1][0]", "b"),
        ("$.customer.tags[2].c", 1),
        ('$."customer"."id"', 7),
        ('$."any text"', 1),
        ('$."a\\"b\\\\c\\n"', 2),
        ('$."ü.x[0]"', 3),
        ('$."\\u00fc.x[0]"', 3),
        ('$."*"', 4),
        ('$.""', 5),
        ('$."-"."-a%_|"[0]', 8),  # MariaDB's own paths find no name that begins like that
    ):
        assert [info.id for info in broker.query_tasks_by_metadata(path, value)] == [task_id], path
    for path, value in (
        ('$."-"."-axx|"[0]', 8),
        ('$."-"."-A%_|"[0]', 8),
        ('$.scalar."-"', 6),
        ('$.customer.tags."-"', "a"),
        ("$.customer", 7),
        ("$.customer.tags[0][0]", "a"),  # an element of text: both servers would take it for an array of one
        ("$.scalar[0]", 6),
        ("$.customer[0].id", 7),
        ("$[0].scalar", 6),
        ("$.customer.tags[4294967296]", "a"),
        ("$.Customer.id", 7),
        ("$", 7),
        ("$" + ".a" * 100, 7),
    ):
        assert broker.query_tasks_by_metadata(path, value) == [], path


@pytest.mark.spec("INSP-09", "DATA-04", "CONF-06")
def test_pages_of_what_is_found(broker):
    ids = [put(broker, n=number % 2) for number in range(20)]
    put(broker.for_queue("other"), n=1)
    odd = ids[1::2][::-1]
    assert [info.id for info in broker.query_tasks_by_metadata("$.n", 1)] == odd
    assert [info.id for info in broker.query_tasks_by_metadata("$.n", 1, 3, 2)] == odd[2:5]
    assert [info.id for info in broker.query_tasks_by_metadata("$.n", 1, limit=10, offset=9)] == odd[9:]
    assert broker.query_tasks_by_metadata("$.n", 1, 0) == []
    for arguments, name in ((("$.n", 1, -1), "limit"), (("$.n", 1, 1, -1), "offset"), (("n", 1), "json_path")):
        with pytest.raises(ValidationError, match=name):
            broker.query_tasks_by_metadata(*arguments)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1.0, -0.0, 0.5, 1e22, 1e-300, 5e-324]),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["true", "null", "1", "1.0", "x", "x ", "1e+16", "-0"]),
)
NAMES = st.one_of(
    st.sampled_from(["a", "A", "b", "a b", "$", '"', "\\", "[0]", "*", "-", "-a", "-%_|", "-x'\\\"", "-ü "]),
    st.text(min_size=0, max_size=5),
)
NAMES = NAMES.filter(lambda name: not any("\ud800" <= sign <= "\udfff" for sign in name))


def text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def matches(stored: object, value: object) -> bool:
    """What the search promises, in Python."""
    if isinstance(value, str):
        return stored == value if isinstance(stored, str) else text_of(stored) == value
    if value is None or isinstance(value, bool):
        return stored is value
    return isinstance(stored, int | float) and not isinstance(stored, bool) and stored == value


@pytest.mark.spec("INSP-09", "DEF-28")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, min_size=1, max_size=3), SCALARS, st.one_of(st.none(), SCALARS))
def test_the_server_finds_what_python_finds(sync_broker, names, stored, other):
    inner: object = stored
    for name in reversed(names):
        inner = {"-%": 0, "-A": 1, name: inner, **({} if name == "zz" else {"zz": 2})}
    task_id = sync_broker.enqueue(SerializedTask.new("job", extra={"root": inner}))
    path = render(("root", *names))
    for value in (stored, other, text_of(stored), text_of(other)):
        found = sync_broker.query_tasks_by_metadata(path, value, 1)
        if isinstance(stored, float) and isinstance(value, str) and stored == 0:
            continue  # 0.0 and -0.0 are one number and two texts
        assert (bool(found) and found[0].id == task_id) == matches(stored, value), (path, stored, value)


# Changing


@pytest.mark.spec("INSP-12", "DEF-29")
@pytest.mark.parametrize(
    "value",
    [None, True, 7, 2**63, 1.5, "text", "", "q'\"\\\0\u2028\U0001f40c", [1, [2]], {"a": {"b": None}}, [], {}],
    ids=repr,
)
def test_a_value_keeps_its_type(broker, tables, value):
    task_id = put(broker, a=1)
    assert broker.update_task_metadata(task_id, "$.new.inner", value) is True
    metadata = broker.get_task(task_id).metadata
    assert metadata["new"]["inner"] == value
    assert type(metadata["new"]["inner"]) is type(value)
    assert metadata["a"] == 1
    assert broker.get_task(task_id).state is DbTaskState.PENDING
    tables.check(broker)
    extra = broker.dequeue().task.metadata.extra
    assert extra == {"a": 1, "new": {"inner": value}}


@pytest.mark.spec("INSP-12", "DEF-29")
def test_missing_metadata_is_an_empty_object(broker):
    task_id = put(broker)
    assert broker.update_task_metadata(str(task_id), "$.list[0]", 1)
    assert broker.update_task_metadata(task_id, "$.list[1]", "two")
    assert broker.get_task(task_id).metadata["list"] == [1, "two"]
    assert broker.query_tasks_by_metadata("$.list[1]", "two")[0].id == task_id


@pytest.mark.spec("INSP-12", "DATA-11")
def test_the_whole_metadata_is_replaced_but_for_reserved_keys(broker, tables):
    task_id = broker.enqueue_after(SerializedTask.new("job", extra={"a": 1}, group_id="g"), 60)
    assert broker.update_task_metadata(task_id, "$", {"b": 2, "progress": 1, "delay_seconds": 5, "queue": "x"})
    metadata = broker.get_task(task_id).metadata
    assert metadata["b"] == 2
    assert "a" not in metadata
    assert "progress" not in metadata
    assert (metadata["delay_seconds"], metadata["queue"], metadata["group_id"]) == (60, "default", "g")
    plain = put(broker, a=1)
    assert broker.update_task_metadata(plain, "$", {}) is True
    assert tables.task(plain)["metadata"] is None
    for path in ("$.progress", "$.progress.x", "$.queue", '$."trace_context"'):
        with pytest.raises(ValidationError, match="json_path"):
            broker.update_task_metadata(plain, path, 1)
    for value in (1, [], None, "x"):
        with pytest.raises(ValidationError, match="value"):
            broker.update_task_metadata(plain, "$", value)
    assert broker.get_task(plain).metadata.keys() == {"queue", "enqueued_at"}


@pytest.mark.spec("INSP-12", "DATA-06", "CONF-06")
def test_what_cannot_be_changed_stays(broker, tables):
    task_id = put(broker, a=1, b=[1])
    for path in ("$.a.x", "$.a[0]", "$.b[3]", "$.b.x", "$.c[1]"):
        with pytest.raises(ValidationError, match="json_path"):
            broker.update_task_metadata(task_id, path, 1)
    deep: list = []
    for _ in range(120):
        deep = [deep]
    for value in (deep, {1}, math.nan, "\ud800", object()):
        with pytest.raises(SerializationError):
            broker.update_task_metadata(task_id, "$.c", value)
    assert broker.get_task(task_id).metadata.keys() == {"queue", "enqueued_at", "a", "b"}
    assert broker.update_task_metadata(uuid4(), "$.a", 2) is False
    assert broker.for_queue("other").update_task_metadata(task_id, "$.a", 2) is False
    with pytest.raises(ValidationError, match="task_id"):
        broker.update_task_metadata("x", "$.a", 2)
    assert broker.get_task(task_id).metadata["a"] == 1
    tables.check(broker)


@pytest.mark.spec("INSP-12")
@pytest.mark.parametrize("where", ["ready", "scheduled", "blocked", "processing", "completed"])
def test_metadata_of_a_task_in_any_state(broker, tables, where):
    parent = None
    if where == "scheduled":
        task_id = broker.enqueue_after(SerializedTask.new("job"), 60)
    elif where == "blocked":
        parent = put(broker)
        task_id = broker.enqueue(SerializedTask.new("job", dependencies=[parent]))
    else:
        task_id = put(broker)
    if where in ("processing", "completed"):
        message = broker.dequeue()
        if where == "completed":
            broker.ack(task_id, message.receipt_handle)
    before = broker.get_task(task_id)
    assert broker.update_task_metadata(task_id, "$.a", 1)
    after = broker.get_task(task_id)
    assert after.metadata["a"] == 1
    assert (after.state, after.scheduled_at) == (before.state, before.scheduled_at)
    tables.check(broker)


@pytest.mark.spec("INSP-12", "ARCH-04")
def test_changes_at_once_lose_nothing(make_sync):
    brokers = [make_sync() for _ in range(4)]
    task_id = put(brokers[0])

    def change(number):
        for step in range(10):
            assert brokers[number].update_task_metadata(task_id, f"$.n{number}_{step}", step)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(brokers[0].get_task(task_id).metadata) == 42


@pytest.mark.spec("INSP-12", "CORE-08")
def test_a_claim_passes_over_a_task_whose_metadata_changes(sync_broker, tables):
    """The change locks the row of the small table first, so claims do not wait for it."""
    first, second = put(sync_broker), put(sync_broker)
    connection = tables.connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq FROM celers_tasks WHERE id = %s FOR UPDATE", (first.bytes,))
    changed = threading.Event()

    def change():
        assert sync_broker.update_task_metadata(first, "$.a", 1)
        changed.set()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        # It waits for the task's row and holds the ready row by then.
        query = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        until(lambda: tables.value(query), 4, every=INNODB_EVERY)
        assert sync_broker.dequeue().task_id == second
        assert not changed.is_set()
    finally:
        connection.rollback()
        connection.close()
        thread.join(10)
    assert changed.is_set()
    assert sync_broker.dequeue().task_id == first


# Progress


@pytest.mark.spec("INSP-13", "INSP-14", "TYPE-06", "DEF-30")
def test_progress_is_stored_and_read(broker, tables):
    task_id = put(broker, a=1)
    assert broker.update_task_progress(task_id, 10) is False
    assert broker.get_task_progress(task_id) is None
    message = broker.dequeue()
    before = datetime.now(UTC) - timedelta(seconds=30)
    assert broker.update_task_progress(task_id, 12.5, "step 'ü\"\\", total_steps=8) is True
    progress = broker.get_task_progress(str(task_id))
    assert progress == TaskProgress(task_id, 12.5, "step 'ü\"\\", 8, progress.updated_at)
    assert type(progress.progress_percent) is float
    assert before < progress.updated_at < before + timedelta(seconds=60)
    stored = broker.get_task(task_id).metadata
    assert stored["a"] == 1
    assert stored["progress"]["progress_percent"] == 12.5
    assert broker.update_task_progress(task_id, 100)
    assert broker.get_task_progress(task_id).current_step is None
    assert broker.get_task_progress(task_id).total_steps is None
    broker.ack(task_id, message.receipt_handle)
    assert broker.update_task_progress(task_id, 50) is False
    kept = broker.get_task_progress(task_id)
    assert kept.progress_percent == 100.0
    assert kept.to_dict()["task_id"] == str(task_id)
    tables.check(broker)


@pytest.mark.spec("INSP-13", "INSP-14", "CONF-06")
def test_progress_of_tasks_that_are_not_here(broker):
    task_id = put(broker)
    broker.dequeue()
    assert broker.update_task_progress(uuid4(), 1) is False
    assert broker.for_queue("other").update_task_progress(task_id, 1) is False
    assert broker.get_task_progress(uuid4()) is None
    assert broker.update_task_progress(task_id, 1)
    assert broker.for_queue("other").get_task_progress(task_id) is None


@pytest.mark.spec("INSP-13", "DATA-10")
@pytest.mark.parametrize(
    ("arguments", "options", "name"),
    [
        ((-0.1,), {}, "progress_percent"),
        ((100.1,), {}, "progress_percent"),
        ((math.nan,), {}, "progress_percent"),
        ((math.inf,), {}, "progress_percent"),
        (("50",), {}, "progress_percent"),
        ((True,), {}, "progress_percent"),
        ((None,), {}, "progress_percent"),
        ((50, 1), {}, "current_step"),
        ((50,), {"total_steps": 0}, "total_steps"),
        ((50,), {"total_steps": 1.0}, "total_steps"),
    ],
)
def test_bad_progress_is_refused(sync_broker, arguments, options, name):
    task_id = put(sync_broker)
    sync_broker.dequeue()
    with pytest.raises(ValidationError, match=name):
        sync_broker.update_task_progress(task_id, *arguments, **options)
    assert sync_broker.get_task_progress(task_id) is None


@pytest.mark.spec("INSP-14")
@pytest.mark.parametrize("how", ["reject", "give back", "recover", "administer", "retry policy"])
@pytest.mark.parametrize("extra", [{}, {"a": 1}], ids=["alone", "with others"])
def test_progress_is_forgotten_when_a_task_is_requeued(broker, tables, how, extra):
    task_id = put(broker, **extra)
    message = broker.dequeue()
    assert broker.update_task_progress(task_id, 99)
    if how == "reject":
        broker.reject(task_id, message.receipt_handle)
    elif how == "give back":
        assert broker.consumer.give_back([message]) == 1
    elif how == "recover":
        assert broker.recover_stuck_tasks(1e-6) == 1
    elif how == "administer":
        broker.reject(task_id, message.receipt_handle, requeue=False)
        assert broker.get_task_progress(task_id).progress_percent == 99
        assert broker.update_batch_state([task_id], DbTaskState.PENDING) == 1
    else:
        broker.reject_with_retry_policy(task_id, "x")
    assert broker.get_task_progress(task_id) is None
    metadata = {key: value for key, value in broker.get_task(task_id).metadata.items() if key == "a"}
    assert metadata == extra
    if not extra:
        assert tables.task(task_id)["metadata"] is None
    tables.check(broker)
