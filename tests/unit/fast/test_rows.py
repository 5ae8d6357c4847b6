"""Decoding of claimed rows by both twins."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import pickle
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celers.errors import DeserializationError, ValidationError
from celers.model.task import RESERVED_METADATA_KEYS, BrokerMessage, SerializedTask, TaskMetadata
from celers_fast import _rows_py
from celers_fast.compression import compress_payload
from celers_fast.rows import CLAIM_COLUMNS

parity = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TYPES = (TaskMetadata, SerializedTask, BrokerMessage, DeserializationError)
IDS = [UUID(int=(0x01890A5D << 96) + n) for n in range(10)]

GOOD = {
    "seq": b"5",
    "id": IDS[0].bytes,
    "task_name": "send_é".encode(),
    "payload": b"\x00'\xff",
    "payload_encoding": b"raw",
    "priority": b"-7",
    "retry_count": b"2",
    "max_retries": b"3",
    "timeout_secs": b"30",
    "created_at": b"2026-01-02 03:04:05.123456",
    "started_at": b"2026-01-02 03:04:06",
    "deliveries": b"9",
    "group_id": b"g",
    "chord_id": IDS[1].bytes,
    "parent_task_id": IDS[2].bytes,
    "metadata": b'{"customer": {"id": [1, null]}, "queue": "x", "progress": 5}',
    "isolated": b"1",
}


def row(**changes: object) -> tuple[bytes | None, ...]:
    assert set(changes) <= set(CLAIM_COLUMNS)
    return tuple({**GOOD, **changes}[column] for column in CLAIM_COLUMNS)


def test_fields_are_those_of_the_model():
    for cls, names in zip(
        TYPES, (_rows_py.METADATA_FIELDS, _rows_py.TASK_FIELDS, _rows_py.MESSAGE_FIELDS), strict=False
    ):
        assert {field.name for field in dataclasses.fields(cls)} == set(names)


@pytest.mark.spec("TYPE-01", "TYPE-02", "TYPE-03", "DATA-11")
def test_a_full_row(rows):
    messages, bad = rows.decode_claims([row()], 77, TYPES)
    assert bad == []
    started = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
    expected = BrokerMessage(
        SerializedTask(
            TaskMetadata(
                id=IDS[0],
                name="send_é",
                created_at=datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC),
                updated_at=started,
                max_retries=3,
                timeout_secs=30,
                priority=-7,
                group_id="g",
                chord_id=IDS[1],
                parent_task_id=IDS[2],
                extra={"customer": {"id": [1, None]}},
            ),
            b"\x00'\xff",
        ),
        "00000000000000050000004d00000009",
        2,
        started,
        True,
    )
    assert messages == [expected]
    assert repr(messages) == repr([expected])
    assert messages[0].to_dict() == expected.to_dict()
    assert messages[0].task_id == IDS[0]


def test_a_row_of_nulls_and_defaults(rows):
    [message], bad = rows.decode_claims(
        [
            row(
                timeout_secs=None,
                group_id=None,
                chord_id=None,
                parent_task_id=None,
                metadata=None,
                isolated=b"0",
            )
        ],
        1,
        TYPES,
    )
    assert bad == []
    metadata = message.task.metadata
    assert (metadata.timeout_secs, metadata.group_id, metadata.chord_id, metadata.parent_task_id) == (None,) * 4
    assert metadata.extra == {}
    assert metadata.dependencies == frozenset()
    assert message.isolated is False


def test_empty_metadata_is_not_shared(rows):
    messages, _ = rows.decode_claims([row(metadata=None, seq=b"1"), row(metadata=None, seq=b"2")], 1, TYPES)
    messages[0].task.metadata.extra["a"] = 1
    assert messages[1].task.metadata.extra == {}


def test_messages_are_ordinary_objects(rows):
    [message], _ = rows.decode_claims([row()], 1, TYPES)
    assert pickle.loads(pickle.dumps(message)) == message
    assert copy.deepcopy(message) == message
    assert dataclasses.replace(message, retry_count=4).retry_count == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.retry_count = 3
    assert hash(message) == hash(copy.copy(message))
    assert gc.is_tracked(message)


def test_delivery_order(rows):
    shuffled = [
        (b"3", b"1"),
        (b"2", b"5"),
        (b"9", b"1"),
        (b"1", b"-2147483648"),
        (b"4", b"2147483647"),
        (b"10", b"5"),
    ]
    messages, _ = rows.decode_claims([row(seq=s, priority=p) for s, p in shuffled], 1, TYPES)
    order = [(message.priority, int(message.receipt_handle[:16], 16)) for message in messages]
    assert order == [(2147483647, 4), (5, 2), (5, 10), (1, 3), (1, 9), (-2147483648, 1)]


def test_what_is_held_is_what_the_receipts_say(rows):
    held = {5: "of another claim"}
    claimed = [
        row(seq=b"18446744073709551615", deliveries=b"4294967295"),
        row(seq=b"2", payload_encoding=b"none"),
        row(seq=b"3", priority=b"9"),
    ]
    messages, bad = rows.decode_claims(claimed, 7, TYPES, held)
    assert [seq for seq, _ in bad] == [2]
    assert held.pop(5) == "of another claim"
    receipts = [(message, rows.parse_receipt(message.receipt_handle)) for message in messages]
    assert held == {seq: (message.task_id, deliveries) for message, (seq, _, deliveries) in receipts}
    assert all(held[seq][0] is message.task_id for message, (seq, _, _) in receipts)


@pytest.mark.spec("IMPEX-06")
def test_compressed_payloads(rows):
    data = b"celers" * 1000
    messages, bad = rows.decode_claims(
        [
            row(payload=compress_payload(data), payload_encoding=b"deflate", seq=b"1"),
            row(payload=compress_payload(b"short"), payload_encoding=b"deflate", seq=b"2"),
            row(payload=b"", seq=b"3"),
            row(payload=b"\x01\xff", payload_encoding=b"deflate", seq=b"4"),
            row(payload=compress_payload(bytes(17_000_000)), payload_encoding=b"deflate", seq=b"5"),
            row(payload_encoding=b"zstd", seq=b"6"),
        ],
        1,
        TYPES,
    )
    assert [message.task.payload for message in messages] == [data, b"short", b""]
    assert [seq for seq, _ in bad] == [4, 5, 6]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", [None, b"", b"x" * 15, b"x" * 17]),
        ("task_name", [None, b"\xff"]),
        ("payload", [None, "text"]),
        ("payload_encoding", [None, b"", b"RAW"]),
        ("priority", [None, b"", b"-", b"1.5", b"+1", b" 1", b"9223372036854775808", b"1" * 21]),
        ("retry_count", [None, b"x"]),
        ("max_retries", [None, b"x"]),
        ("timeout_secs", [b"", b"x"]),
        ("created_at", [None, b"", b"2026-13-01 00:00:00", b"0000-00-00 00:00:00", b"2026-01-02T03:04:05"]),
        ("started_at", [None, b"2026-01-02 24:00:00"]),
        ("deliveries", [None, b"-1", b"4294967296"]),
        ("group_id", [b"\xc3"]),
        ("chord_id", [b"x"]),
        ("parent_task_id", [b"x"]),
        (
            "metadata",
            [b"", b"[]", b"null", b"{", b'{"a": "\xff"}', b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"],
        ),
        ("isolated", [None, b""]),
    ],
)
def test_rows_that_cannot_be_decoded_are_named(rows, column, values):
    for value in values:
        messages, bad = rows.decode_claims(
            [row(seq=b"1"), row(**{"seq": b"2", column: value}), row(seq=b"3")], 1, TYPES
        )
        assert [int(message.receipt_handle[:16], 16) for message in messages] == [1, 3]
        [(seq, reason)] = bad
        assert seq == 2
        assert column in reason


@pytest.mark.parametrize(
    "wrong",
    [(), (b"1",), row()[:-1], (*row(), b""), None, b"text", row(seq=None), row(seq=b"-1"), row(seq=b"x")],
)
def test_rows_without_a_seq_are_an_error(rows, wrong):
    with pytest.raises(DeserializationError):
        rows.decode_claims([row(), wrong], 1, TYPES)


@pytest.mark.parametrize("consumer_no", [-1, 2**32, True, "1", None])
def test_refused_consumer_numbers(rows, consumer_no):
    with pytest.raises(ValidationError, match="consumer_no"):
        rows.decode_claims([], consumer_no, TYPES)


def test_no_rows(rows):
    assert rows.decode_claims((), 1, TYPES) == ([], [])


def test_receipts(rows):
    text = rows.make_receipt(2**64 - 1, 0, 2**32 - 1)
    assert text == "ffffffffffffffff00000000ffffffff"
    assert rows.parse_receipt(text) == (2**64 - 1, 0, 2**32 - 1)
    assert rows.make_receipt(1, 2, 3) == "00000000000000010000000200000003"
    bad = [
        "",
        text[:-1],
        text + "0",
        text.upper(),
        "g" + text[1:],
        "é" + text[1:],
        "٣" * 32,
        text[:-1] + "\n",
    ]
    for wrong in (*bad, None, text.encode(), 5):
        assert rows.parse_receipt(wrong) is None
    for parts in (
        (-1, 0, 0),
        (2**64, 0, 0),
        (0, 2**32, 0),
        (0, 0, 2**32),
        (True, 0, 0),
        (0, 1.0, 0),
        ("1", 0, 0),
    ):
        with pytest.raises(ValidationError):
            rows.make_receipt(*parts)


def test_times(rows):
    assert rows.parse_datetime(b"2026-01-02 03:04:05.123456") == datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)
    assert rows.parse_datetime(b"2026-01-02 03:04:05") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert rows.parse_datetime(b"9999-12-31 23:59:59.5").microsecond == 500_000
    assert rows.parse_datetime(b"2026-01-02 03:04:05").tzinfo is UTC
    for wrong in (
        b"",
        b"2026-01-02 03:04:05.",
        b"2026-01-02 03:04:05.1234567",
        b"2026-02-30 00:00:00",
        "text",
        None,
    ):
        with pytest.raises(DeserializationError):
            rows.parse_datetime(wrong)


@parity
@given(st.datetimes())
def test_twins_agree_on_times(both, value):
    text = value.isoformat(" ").encode()
    assert both("rows", "parse_datetime", text) == ("value", value.replace(tzinfo=UTC))


@parity
@given(st.one_of(st.binary(max_size=30), st.text(alphabet="0123456789-: .", max_size=27).map(str.encode)))
def test_twins_agree_on_what_is_no_time(both, text):
    both("rows", "parse_datetime", text)


@parity
@given(st.integers(-1, 2**65), st.integers(-1, 2**33), st.integers(-1, 2**33))
def test_twins_agree_on_receipts(both, seq, consumer_no, deliveries):
    kind, value, *_ = both("rows", "make_receipt", seq, consumer_no, deliveries)
    if kind == "value":
        assert both("rows", "parse_receipt", value) == ("value", (seq, consumer_no, deliveries))


@parity
@given(st.one_of(st.text(), st.text(alphabet="0123456789abcdefABCDEFg", min_size=31, max_size=33), st.binary()))
def test_twins_agree_on_what_is_no_receipt(both, text):
    both("rows", "parse_receipt", text)


def texts(values: st.SearchStrategy[object]) -> st.SearchStrategy[bytes]:
    return values.map(lambda value: str(value).encode())


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)
documents = st.dictionaries(
    st.one_of(st.sampled_from(sorted(RESERVED_METADATA_KEYS)), st.text(max_size=5)), json_values
)
junk = st.one_of(st.none(), st.binary(max_size=20))
usually = {
    "seq": texts(st.integers(0, 2**64 - 1)),
    "id": st.binary(min_size=16, max_size=16),
    "task_name": st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode),
    "payload": st.binary(),
    "payload_encoding": st.sampled_from([b"raw", b"deflate", b"other"]),
    "priority": texts(st.integers(-(2**31), 2**31 - 1)),
    "retry_count": texts(st.integers(0, 5)),
    "max_retries": texts(st.integers(0, 1000)),
    "timeout_secs": st.one_of(st.none(), texts(st.integers(1, 100))),
    "created_at": st.datetimes().map(lambda value: value.isoformat(" ").encode()),
    "started_at": st.datetimes().map(lambda value: value.isoformat(" ").encode()),
    "deliveries": texts(st.integers(0, 2**32)),
    "group_id": st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=5).map(str.encode)),
    "chord_id": st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
    "parent_task_id": st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
    "metadata": st.one_of(st.none(), documents.map(lambda value: json.dumps(value).encode())),
    "isolated": st.sampled_from([b"0", b"1"]),
}
good_rows = st.tuples(*[usually[column] for column in CLAIM_COLUMNS])


@parity
@given(st.lists(good_rows, max_size=6), st.integers(0, 2**32 - 1))
def test_twins_agree_on_rows(both, claimed, consumer_no):
    both("rows", "decode_claims", claimed, consumer_no, TYPES)


@parity
@given(good_rows, st.integers(0, len(CLAIM_COLUMNS) - 1), junk)
def test_twins_agree_on_broken_rows(both, claimed, index, value):
    broken = (*claimed[:index], value, *claimed[index + 1 :])
    both("rows", "decode_claims", [claimed, broken], 3, TYPES)
