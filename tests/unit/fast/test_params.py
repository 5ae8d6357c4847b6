"""SQL literals and multi-row statements of both twins."""

from __future__ import annotations

import enum
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celers.errors import PayloadTooLargeError, SerializationError, ValidationError
from celers_fast.params import Raw

parity = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


class Text(enum.StrEnum):
    A = "pending"


class Number(enum.IntEnum):
    A = 5


class MyId(UUID):
    pass


class MyBytes(bytes):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, b"NULL"),
        (True, b"1"),
        (False, b"0"),
        (0, b"0"),
        (-1, b"-1"),
        (2**63 - 1, b"9223372036854775807"),
        (-(2**63), b"-9223372036854775808"),
        (2**64 - 1, b"18446744073709551615"),
        (Number.A, b"5"),
        (0.5, b"0.5"),
        (-0.0, b"-0.0"),
        (1e22, b"1e+22"),
        (3.0, b"3.0"),
        (b"", b"X''"),
        (b"\x00'\\\xff", b"X'00275cff'"),
        (MyBytes(b"a"), b"X'61'"),
        (bytearray(b"ab"), b"X'6162'"),
        (memoryview(b"abcd")[1:3], b"X'6263'"),
        (memoryview(b"abcd")[::2], b"X'6163'"),
        ("", b"''"),
        ("plain text 1~", b"'plain text 1~'"),
        ('{"a": 1}', b"'{\"a\": 1}'"),
        ("it's", b"_utf8mb4 X'69742773'"),
        ("a\\b", b"_utf8mb4 X'615c62'"),
        ("a\nb", b"_utf8mb4 X'610a62'"),
        ("\x00", b"_utf8mb4 X'00'"),
        ("\x7f", b"_utf8mb4 X'7f'"),
        ("é", b"_utf8mb4 X'c3a9'"),
        ("😀", b"_utf8mb4 X'f09f9880'"),
        (Text.A, b"'pending'"),
        (ID, b"X'01890a5dac96774bbcceb302099a8057'"),
        (MyId(int=1), b"X'00000000000000000000000000000001'"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), b"'2026-01-02 03:04:05.000000'"),
        (
            datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=5))),
            b"'2026-01-01 22:04:05.000678'",
        ),
        (datetime(1, 1, 1, tzinfo=UTC), b"'0001-01-01 00:00:00.000000'"),
        (datetime.max.replace(tzinfo=UTC), b"'9999-12-31 23:59:59.999999'"),
        (Raw(b"UTC_TIMESTAMP(6)"), b"UTC_TIMESTAMP(6)"),
    ],
)
def test_literals(params, value, expected):
    assert params.literal(value) == expected
    assert params.literals([value, value]) == expected + b"," + expected
    assert params.build_values(b"p ", [(value,)], b" s", max_bytes=1000) == [(b"p (" + expected + b") s", 1)]


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**64,
        -(2**63) - 1,
        10**5000,
        datetime(2026, 1, 1),  # noqa: DTZ001 - naive on purpose
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
        date(2026, 1, 1),
        timedelta(1),
        Decimal(1),
        [1],
        object(),
        Raw,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_without_a_literal(params, value):
    with pytest.raises(ValidationError):
        params.literal(value)
    with pytest.raises(ValidationError):
        params.build_values(b"", [(1, value)], max_bytes=10_000)


def test_lone_surrogates(params):
    with pytest.raises(SerializationError):
        params.literal("a\ud800")


def test_raw_takes_bytes_only():
    with pytest.raises(ValidationError):
        Raw("text")
    assert repr(Raw(b"x")) == "Raw(b'x')"


def test_every_byte_value_escaped(params):
    data = bytes(range(256))

    def body(**mode):
        [(statement, _)] = params.build_values(b"", [(data,)], max_bytes=10_000, escaped=True, **mode)
        assert statement.startswith(b"(_binary'")
        return statement[9:-2]

    assert body() == data.replace(b"\\", b"\\\\").replace(b"'", b"''")
    assert body(no_backslash_escapes=True) == data.replace(b"'", b"''")
    short = params.build_values(b"", [(data[:63], data[:64])], max_bytes=10_000, escaped=True)[0][0]
    assert short.startswith(b"(X'")
    assert b",_binary'" in short
    text = "é" * 40
    [(statement, _)] = params.build_values(b"", [(text,)], max_bytes=10_000, escaped=True)
    assert statement == b"(_utf8mb4'" + text.encode() + b"')"


def test_splitting(params):
    rows = [(i, "x" * i) for i in range(30)]
    whole = params.build_values(b"INSERT INTO t VALUES ", iter(rows), b" END", max_bytes=10_000)
    assert len(whole) == 1
    assert whole[0][1] == 30
    parts = params.build_values(b"INSERT INTO t VALUES ", rows, b" END", max_bytes=100)
    assert sum(count for _, count in parts) == 30
    assert all(len(text) <= 100 for text, _ in parts)
    assert all(text.startswith(b"INSERT INTO t VALUES (") and text.endswith(b") END") for text, _ in parts)
    joined = b",".join(text[len(b"INSERT INTO t VALUES ") : -len(b" END")] for text, _ in parts)
    assert joined == whole[0][0][len(b"INSERT INTO t VALUES ") : -len(b" END")]
    at = 0
    for text, count in parts[:-1]:
        at += count
        assert len(text) + len(b",(%d,'%s')" % (at, b"x" * at)) > 100, "the next row would have fitted"


def test_limits_are_exact(params):
    assert params.build_values(b"p", [(1,), (2,)], b"s", max_bytes=9) == [(b"p(1),(2)s", 2)]
    assert params.build_values(b"p", [(1,), (2,)], b"s", max_bytes=8) == [(b"p(1)s", 1), (b"p(2)s", 1)]
    assert params.build_values(b"p", [(1,), (2,)], b"s", max_bytes=5) == [(b"p(1)s", 1), (b"p(2)s", 1)]
    for limit in (4, 0, -1, -(10**30)):
        with pytest.raises(PayloadTooLargeError) as caught:
            params.build_values(b"p", [(1,), (2,)], b"s", max_bytes=limit)
        assert (caught.value.size, caught.value.limit) == (5, limit)
    assert params.build_values(b"p", [(1,)], max_bytes=10**30) == [(b"p(1)", 1)]
    assert params.build_values(b"p", [], max_bytes=0) == []


def test_large_values(params):
    data = bytes(range(256)) * 4096
    [(statement, _)] = params.build_values(b"", [(data, None)], max_bytes=1 << 24)
    assert statement == b"(X'" + data.hex().encode() + b"',NULL)"


@pytest.mark.parametrize("wrong", [[()], [(1,), (1, 2)], [[]], [5], ["ab"], [b"ab"], [None], [{1: 2}]])
def test_refused_rows(params, wrong):
    with pytest.raises(ValidationError, match="rows"):
        params.build_values(b"", wrong, max_bytes=1000)


def test_refused_arguments(params):
    for wrong in ({"prefix": "x"}, {"prefix": b"", "suffix": None}, {"prefix": b"", "max_bytes": 1.5}):
        with pytest.raises(ValidationError):
            params.build_values(**{"rows": [], "max_bytes": 10, **wrong})


def test_a_list_changed_while_it_is_read(params):
    class Nasty(timezone.__base__):
        def utcoffset(self, when):
            row.clear()
            return timedelta(0)

    row = [datetime(2026, 1, 1, tzinfo=Nasty()), 5]
    outcome = params.build_values(b"", [row], max_bytes=1000)[0][0]
    assert outcome.startswith(b"('2026-01-01")


def test_buffers_are_let_go(params):
    data = bytearray(b"abc")
    params.literal(data)
    data.append(1)
    view = memoryview(data)
    params.literal(view)
    view.release()
    with pytest.raises(ValueError, match="released"):
        params.literal(view)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(st.characters()),
    st.text(st.characters(codec="ascii")),
    st.text(alphabet="'\\ab\ud800é", max_size=80),
    st.binary(max_size=200),
    st.binary().map(bytearray),
    st.binary().map(memoryview),
    st.uuids(),
    st.datetimes(timezones=st.one_of(st.just(UTC), st.timezones(), st.none())),
    st.dates(),
)


@parity
@given(scalars)
def test_twins_agree_on_literals(both, value):
    both("params", "literal", value)


@parity
@given(
    st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[scalars] * width), max_size=12)),
    st.binary(max_size=10),
    st.binary(max_size=10),
    st.integers(0, 600),
    st.booleans(),
    st.booleans(),
)
def test_twins_agree_on_statements(both, rows, prefix, suffix, max_bytes, escaped, no_backslash):
    both(
        "params",
        "build_values",
        prefix,
        rows,
        suffix,
        max_bytes=max_bytes,
        escaped=escaped,
        no_backslash_escapes=no_backslash,
    )


@given(
    st.lists(st.tuples(st.uuids(), st.binary(max_size=40)), max_size=12),
    st.binary(max_size=10),
    st.binary(max_size=10),
    st.binary(max_size=10),
    st.integers(0, 600),
)
@parity
def test_twins_agree_on_like_tasks(both, rows, prefix, middle, ending, max_bytes):
    ids, payloads = [task_id for task_id, _ in rows], [payload for _, payload in rows]
    both("params", "build_tasks", prefix, ids, middle, payloads, ending, max_bytes=max_bytes)


@given(st.lists(st.tuples(st.uuids(), st.binary(max_size=40)), min_size=1, max_size=12), st.integers(200, 600))
@parity
def test_like_tasks_are_written_as_rows_are(params, rows, max_bytes):
    ids, payloads = [task_id for task_id, _ in rows], [payload for _, payload in rows]
    whole = [(task_id, 5, "job", payload, Raw(b"NOW()")) for task_id, payload in rows]
    expected = params.build_values(b"INSERT ", whole, max_bytes=max_bytes)
    assert params.build_tasks(b"INSERT ", ids, b",5,'job',", payloads, b",NOW()", max_bytes=max_bytes) == expected


def test_like_tasks_that_do_not_fit_together(params):
    with pytest.raises(ValidationError, match="1 ids and 0 payloads"):
        params.build_tasks(b"", [ID], b"", [], b"", max_bytes=100)
    with pytest.raises(ValidationError):
        params.build_tasks(b"", [ID], b"", ["text"], b"", max_bytes=100)
    with pytest.raises(PayloadTooLargeError) as caught:
        params.build_tasks(b"", [ID], b",", [b"12345678"], b"", max_bytes=20)
    assert caught.value.size == len(b"(X'',X'')") + 32 + 16
