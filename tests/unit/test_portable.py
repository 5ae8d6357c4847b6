"""The form of exported tasks: what is read back, and what is refused (spec 17)."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.errors import CyclicDependencyError, DeserializationError, DuplicateTaskError, PayloadTooLargeError
from celers.jsonlines import Lines, end_line, head_line
from celers.portable import (
    LETTER_COLUMNS,
    TASK_COLUMNS,
    check_task,
    letter_object,
    object_text,
    read_array,
    task_object,
)
from celers.retry import Fixed, RetryPolicy

ID = UUID("018f2b1c-0000-7000-8000-000000000001")
GOOD = {
    "id": str(ID),
    "queue_name": "other",
    "task_name": "mail.send",
    "payload": "AP8=",
    "payload_encoding": "base64",
    "state": "pending",
    "priority": 3,
    "retry_count": 1,
    "max_retries": 5,
    "timeout_secs": 60,
    "created_at": "2026-01-02T03:04:05.678901Z",
    "scheduled_at": "2026-01-02T04:04:05.678901+01:00",
    "started_at": None,
    "completed_at": None,
    "worker_id": None,
    "error_message": "boom",
    "metadata": {"customer": {"id": 7}},
    "retry_policy": RetryPolicy(5, Fixed(1)).to_dict(),
    "dedup_key": "key",
    "group_id": "group",
    "chord_id": str(uuid4()),
    "parent_task_id": str(uuid4()),
    "dependencies": [str(uuid4())],
}


def check(value, *, most=1000, compress=False):
    return check_task(value, 4, max_payload_bytes=most, compress=compress)


@pytest.mark.spec("IMPEX-02")
def test_a_good_task():
    task = check(GOOD)
    assert (task.id, task.task_name, task.payload, task.payload_encoding) == (ID, "mail.send", b"\x00\xff", "raw")
    assert task.created_at == task.scheduled_at == "2026-01-02 03:04:05.678901"
    assert (task.state, task.priority, task.retry_count, task.max_retries) == ("pending", 3, 1, 5)
    assert json.loads(task.metadata) == {"customer": {"id": 7}}
    assert task.dependencies == (UUID(GOOD["dependencies"][0]),)
    few = {"id": str(ID), "task_name": "a", "payload": "", "state": "pending"}
    times = {"created_at": GOOD["created_at"], "scheduled_at": GOOD["scheduled_at"]}
    least = check({**few, **times})
    assert (least.payload, least.priority, least.retry_count, least.max_retries) == (b"", 0, 0, 3)
    assert (least.metadata, least.retry_policy, least.timeout_secs, least.dependencies) == (None, None, None, ())


@pytest.mark.spec("IMPEX-02")
def test_other_forms_of_the_same():
    other = {**GOOD, "payload": [0, 255], "metadata": json.dumps(GOOD["metadata"])}
    del other["payload_encoding"]
    other["retry_policy"] = json.dumps(GOOD["retry_policy"])
    one, two = check(GOOD), check(other)
    assert (json.loads(one.retry_policy), one.payload, one.metadata) == (
        json.loads(two.retry_policy),
        two.payload,
        two.metadata,
    )


@pytest.mark.spec("IMPEX-02")
def test_a_task_in_work_becomes_pending():
    busy = {**GOOD, "state": "processing", "started_at": GOOD["created_at"], "worker_id": "w1"}
    task = check(busy)
    assert (task.state, task.started_at, task.worker_id, task.retry_count) == ("pending", None, None, 1)


@pytest.mark.spec("IMPEX-02", "DATA-11")
def test_keys_with_columns_of_their_own_are_not_kept_in_the_metadata():
    given_ = {"queue": "x", "enqueued_at": "y", "group_id": "z", "progress": {"a": 1}, "mine": 1}
    assert json.loads(check({**GOOD, "metadata": given_}).metadata) == {"progress": {"a": 1}, "mine": 1}
    assert check({**GOOD, "metadata": {"queue": "x"}}).metadata is None
    assert check({**GOOD, "metadata": {}}).metadata is None


@pytest.mark.spec("IMPEX-02", "IMPEX-06", "DATA-08")
def test_payloads_are_stored_compressed_where_that_is_set():
    big = {**GOOD, "payload": base64.b64encode(b"x" * 5000).decode()}
    assert check(big, compress=True).payload_encoding == "deflate"
    assert len(check(big, compress=True).payload) < 1000
    with pytest.raises(PayloadTooLargeError, match="item 4"):
        check(big)


BAD = {
    "id": [None, 1, "", "x", ID.hex, [str(ID)], True],
    "queue_name": [1, "", " a", ["a"]],
    "task_name": [None, 1, "", " a", "a" * 256, "a\x00", "\ud800", ["a"]],
    "payload": [None, 1, True, {}, "AP8", "A P8=", "AP8=\n", "é", [256], [-1], [True], [1.0], ["1"], [None], [[1]]],
    "payload_encoding": ["raw", "deflate", "Base64", 1, []],
    "state": [None, 1, "", "PENDING", "Pending", "dead_letter", "done", [], {}],
    "priority": [None, 2**31, -(2**31) - 1, 1.0, True, "1"],
    "retry_count": [None, -1, 2**32, 1.5, True, "1"],
    "max_retries": [None, -1, 1001, 1.5, True, "1"],
    "timeout_secs": [0, -1, 2**32, 1.5, True, "1"],
    "created_at": [
        *(None, 1, 1.5, True, "", "2026-01-02", "2026-01-02T03:04:05", "2026-13-01T00:00:00Z", "20260102T030405Z"),
        *("1969-01-01T00:00:00Z", "2026-01-02T03:04:05.1234567Z", "2026-01-02T25:04:05Z", "２026-01-02T03:04:05Z"),
        "9999-12-31T23:59:59-23:00",
    ],
    "scheduled_at": [None, "now"],
    "started_at": ["", 1, "x", False],
    "completed_at": ["", 1, "2026-01-02T03:04:05Z"],
    "worker_id": [1, "", " w", []],
    "error_message": [1, [], {}, True],
    "metadata": [1, True, [], [1], "x", "[1]", "1", "{", {"a": float("nan")}, {"a": "\ud800"}, '{"a": NaN}'],
    "retry_policy": [1, [], "x", {}, {"max_retries": 1}, {"max_retries": -1, "strategy": {}}, "[]"],
    "dedup_key": [1, "", []],
    "group_id": [1, "", []],
    "chord_id": [1, "", "x", []],
    "parent_task_id": [1, "", "x", []],
    "dependencies": [1, "x", str(ID), {}, [1], ["x"], [None], [str(ID)]],
    "unknown": [None, 1],
    "payloads": ["AP8="],
}


@pytest.mark.spec("IMPEX-02", "DEF-80", "ERR-04")
@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused_with_their_place(name):
    for value in BAD[name]:
        with pytest.raises(DeserializationError, match=r"^item 4: ") as caught:
            check({**GOOD, name: value})
        assert name in str(caught.value) or name in ("id", "payload", "dependencies", "metadata", "retry_policy"), value
        if isinstance(value, str) and len(value) > 3 and name == "payload":
            assert value not in str(caught.value)
    if name in ("id", "task_name", "state", "payload", "created_at", "scheduled_at"):
        with pytest.raises(DeserializationError, match=f"{name} is missing"):
            check({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.spec("IMPEX-02")
@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_ended_tasks_have_an_end(state):
    with pytest.raises(DeserializationError, match="completed_at"):
        check({**GOOD, "state": state})
    assert check({**GOOD, "state": state, "completed_at": GOOD["created_at"], "worker_id": "w"}).worker_id == "w"


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62, max_value=2**80)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["pending", "processing", "completed", str(ID), "2026-01-02T03:04:05Z", "base64", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*GOOD, "a", "x"]), inner, max_size=5),
    max_leaves=12,
)


@pytest.mark.spec("IMPEX-02", "TEST-01")
@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), anything, max_size=4), anything)
def test_whatever_comes_is_taken_or_refused(changes, other):
    for value in ({**GOOD, **changes}, changes, other):
        try:
            task = check(value, most=100)
        except (DeserializationError, PayloadTooLargeError) as error:
            assert str(error).startswith("item 4: ")  # noqa: PT017 - it may be good as well
        else:
            assert task.state in ("pending", "completed", "failed", "cancelled")
            assert len(task.payload) <= 100
            assert task.metadata is None or isinstance(json.loads(task.metadata), dict)


@pytest.mark.spec("IMPEX-02", "TEST-01")
@given(st.text() | anything.map(json.dumps))
def test_whatever_text_comes_is_an_array_or_refused(text):
    with contextlib.suppress(DeserializationError):
        assert isinstance(read_array(text), list)


@pytest.mark.spec("IMPEX-02")
@pytest.mark.parametrize(
    "text", ["", "{}", "1", "null", '"x"', "[", "[1,]", "[" * 100_000, "[" + "1" * 5000 + "]", "\ud800"]
)
def test_texts_that_are_no_array(text):
    with pytest.raises(DeserializationError):
        read_array(text)


# What a database gives


def row_of(columns, **values):
    defaults = {
        **dict.fromkeys(columns),
        "id": ID.bytes,
        "task_id": ID.bytes,
        "task_name": b"a",
        "payload": b"",
        "payload_encoding": b"raw",
        "state": b"pending",
        "created_at": b"2026-01-02 03:04:05.000001",
        "scheduled_at": b"2026-01-02 03:04:05.000001",
        "failed_at": b"2026-01-02 03:04:05.000001",
        **dict.fromkeys(("priority", "retry_count", "max_retries"), b"0"),
    }
    return tuple({**defaults, **values}[name] for name in columns)


@pytest.mark.spec("IMPEX-01", "IMPEX-04", "DEF-79")
def test_an_exported_object_has_the_fields_of_the_spec():
    found = task_object(row_of(TASK_COLUMNS), "default")
    assert list(found) == [
        *("id", "queue_name", "task_name", "payload", "payload_encoding", "state", "priority", "retry_count"),
        *("max_retries", "timeout_secs", "created_at", "scheduled_at", "started_at", "completed_at", "worker_id"),
        *("error_message", "metadata", "retry_policy", "dedup_key", "group_id", "chord_id", "parent_task_id"),
        "dependencies",
    ]
    assert (found["metadata"], found["created_at"]) == ({}, "2026-01-02T03:04:05.000001Z")
    letter = letter_object(row_of(LETTER_COLUMNS, metadata=b'{"a": 1}', payload=b"\xff"), "default")
    assert (letter["payload"], letter["metadata"], letter["task_id"]) == ("/w==", {"a": 1}, str(ID))


@pytest.mark.spec("IMPEX-01", "DATA-10")
@pytest.mark.parametrize(
    "stored",
    [
        {"payload_encoding": b"zip"},
        {"payload_encoding": b"deflate", "payload": b"\x07"},
        {"metadata": b"{"},
        {"metadata": b"[1]"},
    ],
)
def test_what_cannot_be_read_is_named(stored):
    for make, columns in ((task_object, TASK_COLUMNS), (letter_object, LETTER_COLUMNS)):
        with pytest.raises(DeserializationError, match=str(ID)):
            make(row_of(columns, **stored), "default")


@pytest.mark.spec("IMPEX-03")
@given(st.binary(max_size=200), st.dictionaries(st.sampled_from(["a", "ü", "\u2028"]), st.text("aé\U0001f600\n")))
def test_what_goes_out_comes_back(payload, metadata):
    row = row_of(TASK_COLUMNS, payload=payload, metadata=json.dumps(metadata).encode() if metadata else None)
    (line,) = Lines(io.BytesIO(object_text(task_object(row, "q")).encode() + b"\n"))
    task = check(line)
    assert task.payload == payload
    assert json.loads(task.metadata or "{}") == metadata
    assert task.created_at.encode() == b"2026-01-02 03:04:05.000001"


# Files


def read(*lines: str | bytes) -> list:
    return list(Lines(io.BytesIO(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))))


@pytest.mark.spec("IMPEX-02")
def test_files():
    head = head_line("tasks", "default")
    assert read(head, '{"a": 1}', "", '{"b": 2}', end_line(2)) == [{"a": 1}, {"b": 2}]
    assert read(head, end_line(0)) == read("") == []
    assert read('{"a": 1}', "  ", '{"b": 2}') == [{"a": 1}, {"b": 2}]  # without the first line nothing is announced
    assert read('[{"a": 1},', ' {"b": 2}]') == read("", '[{"a": 1}, {"b": 2}]') == [{"a": 1}, {"b": 2}]
    lines = Lines(io.BytesIO(b'{"a": 1}\n{"b": 2}\n'))
    assert [lines.line for _ in lines] == [1, 2]
    assert lines.bytes_read == 18


@pytest.mark.spec("IMPEX-02", "DEF-80")
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([head_line("tasks", "q"), '{"a": 1}'], "not complete"),
        ([head_line("tasks", "q")], "not complete"),
        ([head_line("tasks", "q"), '{"a": 1}', end_line(2)], "line 3"),
        ([head_line("tasks", "q"), end_line(0), '{"a": 1}'], "line 3"),
        ([head_line("dlq", "q"), end_line(0)], "dlq"),
        (['{"celers_export": 1}'], "not tasks"),
        (['{"celers_export": {"what": "tasks", "version": 2}}'], "version"),
        (['{"a": 1}', "{"], "line 2"),
        (['{"a": 1}', "[]"], "line 2"),
        (["null"], "line 1"),
        ([b"\xff\xfe"], "line 1"),
        ([b"[\xff]"], "UTF-8"),
        (["[1"], "JSON"),
        (['{"a": ' * 100_000], "line 1"),
    ],
)
def test_files_that_are_refused(lines, says):
    with pytest.raises(DeserializationError, match=says):
        read(*lines)


@pytest.mark.spec("IMPEX-02")
def test_a_line_without_end_is_not_read_into_memory(monkeypatch):
    monkeypatch.setattr("celers.jsonlines.LONGEST_LINE", 100)
    assert read('{"a": "' + "x" * 80 + '"}')
    with pytest.raises(DeserializationError, match="longer"):
        read('{"a": "' + "x" * 100 + '"}')


@given(st.binary(max_size=300))
@pytest.mark.spec("IMPEX-02", "TEST-01")
def test_any_file_is_read_or_refused(data):
    with contextlib.suppress(DeserializationError):
        list(Lines(io.BytesIO(data)))


# The input as a whole


def spool(skip_existing=False):
    from celers.components.importing import Spool
    from celers.core import Core

    return Spool(Core("q", "celers_", max_payload_bytes=1000, compress=False, lease_secs=60), skip_existing)


def numbered(n: int, *parents: int, **values):
    times = {"created_at": GOOD["created_at"], "scheduled_at": GOOD["created_at"]}
    wanted = {"id": str(UUID(int=n)), "task_name": "a", "payload": "", "state": "pending", **times}
    return {**wanted, "dependencies": [str(UUID(int=parent)) for parent in parents], **values}


@pytest.mark.spec("IMPEX-02")
def test_a_spool_gives_what_it_got_as_often_as_asked():
    with spool() as made:
        for n in range(1, 2500):
            made.add(numbered(n, worker_id=None))
        made.finish()
        for _ in range(2):
            chunks = list(made.rows())
            assert [len(chunk) for chunk in chunks] == [1000, 1000, 499]
            assert [row[0] for chunk in chunks for row in chunk] == [UUID(int=n).bytes for n in range(1, 2500)]
            assert sum(entry.pending for entry in made.entries()) == 2499


@pytest.mark.spec("IMPEX-02")
def test_the_same_id_twice():
    with spool() as made:
        made.add(numbered(1))
        with pytest.raises(DuplicateTaskError, match="item 1") as caught:
            made.add(numbered(1))
    assert caught.value.task_id == UUID(int=1)
    with spool(skip_existing=True) as made:
        made.add(numbered(1))
        made.add(numbered(1, task_name="b"))
        assert made.count == 1
        with pytest.raises(DeserializationError, match="item 2"):
            made.add(1)


@pytest.mark.spec("IMPEX-02", "ERR-18")
def test_tasks_that_wait_for_each_other():
    with spool() as made:
        for value in (numbered(1), numbered(2, 1, 3), numbered(3, 1), numbered(4, 2, 99)):
            made.add(value)
        made.finish()
    with spool() as made:
        for value in (numbered(1, 4), numbered(2, 1), numbered(3), numbered(4, 2, 3)):
            made.add(value)
        with pytest.raises(CyclicDependencyError) as caught:
            made.finish()
    assert set(caught.value.cycle) == {str(UUID(int=n)) for n in (1, 2, 4)}
    with spool() as made:  # ended tasks wait for nothing
        ended = {"state": "completed", "completed_at": GOOD["created_at"]}
        made.add(numbered(1, 2, **ended))
        made.add(numbered(2, 1))
        made.finish()
