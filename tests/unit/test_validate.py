"""The parameter rules, row by row."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers import validate
from celers.errors import DeserializationError, PayloadTooLargeError, SerializationError, ValidationError

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
NAN, INF = math.nan, math.inf
HUGE = 10**5000  # has no repr: more digits than Python writes
HUGE_CASE = pytest.param(HUGE, id="huge")
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - refused everywhere


def refused(function: Any, value: object, *arguments: Any, name: str, **options: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        function(value, *arguments, **options)
    assert caught.value.parameter == name
    assert name in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value


@pytest.mark.spec("DATA-01")
class TestTaskId:
    def test_accepts_uuid_and_canonical_text(self) -> None:
        assert validate.task_id(ID) is ID
        assert validate.task_id(str(ID)) == ID
        assert validate.task_id(str(ID).upper()) == ID

    @pytest.mark.parametrize(
        "value",
        [
            None,
            "",
            ID.hex,
            f"{{{ID}}}",
            f"urn:uuid:{ID}",
            f" {ID}",
            f"{ID}\n",
            ID.bytes,
            ID.int,
            str(ID)[:-1],
            [ID],
        ],
    )
    def test_refuses_anything_else(self, value: object) -> None:
        refused(validate.task_id, value, name="task_id")
        refused(validate.task_id, value, "chord_id", name="chord_id")

    def test_many(self) -> None:
        other = uuid4()
        assert validate.task_ids(iter([ID, str(other), str(ID)])) == [ID, other]
        assert validate.task_ids([]) == []

    @pytest.mark.parametrize("value", [None, str(ID), ID, 3, [ID, None]])
    def test_many_refuses(self, value: object) -> None:
        refused(validate.task_ids, value, name="task_ids")


@pytest.mark.spec("DATA-02")
class TestDuration:
    @given(st.floats(min_value=0, allow_infinity=False) | st.integers(0, 2**1000))
    def test_seconds(self, value: float) -> None:
        result = validate.duration(value, "delay")
        assert type(result) is float
        assert result == float(value)
        assert math.copysign(1, result) == 1

    @given(st.timedeltas(min_value=timedelta()))
    def test_timedelta(self, value: timedelta) -> None:
        assert validate.duration(value, "delay") == value.total_seconds()

    @pytest.mark.parametrize("value", [-1, -1e-9, timedelta(-1), NAN, INF, -INF, True, False, "1", None, HUGE_CASE, 1j])
    def test_refuses(self, value: object) -> None:
        refused(validate.duration, value, "delay_secs", name="delay_secs")

    def test_bounds(self) -> None:
        refused(validate.duration, 0, "timeout", positive=True, name="timeout")
        refused(validate.duration, timedelta(), "timeout", positive=True, name="timeout")
        refused(validate.duration, 11, "timeout", maximum=10, name="timeout")
        refused(validate.duration, 0.5, "ttl", minimum=1, name="ttl")
        assert validate.duration(10, "timeout", positive=True, maximum=10) == 10

    def test_task_timeout_is_rounded_up_to_whole_seconds(self) -> None:
        assert validate.timeout_secs(None) is None
        for value, expected in (
            (1, 1),
            (0.001, 1),
            (1.5, 2),
            (timedelta(minutes=1), 60),
            (2**32 - 1, 2**32 - 1),
        ):
            result = validate.timeout_secs(value)
            assert result == expected
            assert type(result) is int
        for bad in (0, -1, True, NAN, 2**32, "3"):
            refused(validate.timeout_secs, bad, name="timeout")


@pytest.mark.spec("DATA-03")
class TestInstant:
    @given(
        st.datetimes(
            min_value=NAIVE.replace(year=1970, day=2),
            max_value=NAIVE.replace(year=9999, month=12),
            timezones=st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
        )
    )
    def test_aware_datetimes_become_utc(self, value: datetime) -> None:
        result = validate.instant(value, "timestamp")
        assert result == value
        assert result.tzinfo is UTC

    @given(st.integers(1, 253_402_300_799))
    def test_unix_seconds(self, value: int) -> None:
        assert validate.instant(value, "timestamp").timestamp() == value

    def test_microseconds_are_kept(self) -> None:
        assert validate.instant(1.25, "t") == datetime(1970, 1, 1, 0, 0, 1, 250_000, tzinfo=UTC)
        assert validate.instant(1_700_000_000.123456, "t").microsecond == 123_456

    def test_the_ends_of_the_range(self) -> None:
        first, last = "1970-01-01T00:00:01+00:00", "9999-12-31T23:59:59.999999+00:00"
        for text in (first, last):
            assert validate.instant(datetime.fromisoformat(text), "t").isoformat() == text
        assert validate.instant(1, "t").isoformat() == first

    @pytest.mark.parametrize(
        "value",
        [
            NAIVE,
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
            0,
            0.999,
            -1,
            253_402_300_800,
            1e300,
            HUGE_CASE,
            NAN,
            INF,
            -INF,
            True,
            None,
            "2026-01-01T00:00:00Z",
            timedelta(1),
            NAIVE.date(),
        ],
    )
    def test_refuses(self, value: object) -> None:
        refused(validate.instant, value, "timestamp", name="timestamp")


@pytest.mark.spec("DATA-04")
class TestPagination:
    @given(st.integers())
    def test_limit(self, value: int) -> None:
        if 0 <= value <= 10_000:
            assert validate.limit(value) == value
        else:
            refused(validate.limit, value, name="limit")

    @given(st.integers())
    def test_offset(self, value: int) -> None:
        if 0 <= value < 2**63:
            assert validate.offset(value) == value
        else:
            refused(validate.offset, value, name="offset")

    @pytest.mark.parametrize("value", [None, 1.0, "1", True, False, HUGE_CASE])
    def test_refuses_other_types(self, value: object) -> None:
        refused(validate.limit, value, name="limit")
        refused(validate.offset, value, name="offset")


@pytest.mark.spec("DATA-05")
class TestName:
    @pytest.mark.parametrize(
        "value",
        [
            "a",
            "a b",
            "a.b:c/d",
            "x" * 255,
            "ünï",
            "名前",
            "🐘",
            "🐘" * 255,
            "it's",
            'a"\\b',
            "-",
            "%",
            "a\u00a0b",
        ],
    )
    def test_accepts(self, value: str) -> None:
        assert validate.name(value, "queue_name") == value

    @pytest.mark.parametrize(
        "value",
        [
            "",
            " ",
            " a",
            "a ",
            "\ta",
            "a\u00a0",
            "\u3000a",
            "a\nb",
            "a\0b",
            "a\x7fb",
            "a\x85b",
            "a\u2028b",
            "a\u2029b",
            "a\ud800b",
            "x" * 256,
            None,
            b"a",
            1,
            True,
            ["a"],
        ],
    )
    def test_refuses(self, value: object) -> None:
        refused(validate.name, value, "worker_id", name="worker_id")

    @given(st.text(max_size=300))
    def test_what_is_accepted_is_unchanged_and_clean(self, value: str) -> None:
        try:
            result = validate.name(value, "name")
        except ValidationError:
            return
        assert result == value == value.strip()
        assert 1 <= len(value) <= 255
        assert len(value.splitlines()) == 1
        value.encode()

    def test_optional(self) -> None:
        assert validate.optional_name(None, "group_id") is None
        assert validate.optional_name("g", "group_id") == "g"
        refused(validate.optional_name, "", "group_id", name="group_id")


CYCLIC: list[Any] = []
CYCLIC.append(CYCLIC)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@pytest.mark.spec("DATA-06")
class TestJson:
    @given(json_values)
    def test_round_trip(self, value: Any) -> None:
        text = validate.json_text(value)
        assert validate.json_value(text) == value
        assert validate.json_value(text.encode()) == value

    def test_integers_of_any_usual_size(self) -> None:
        for value in (2**64, 2**70, -(2**200), 10**1000):
            assert validate.json_value(validate.json_text(value)) == value

    @pytest.mark.parametrize(
        "value",
        [
            NAN,
            INF,
            [-INF],
            {"a": NAN},
            {NAN: 1},
            b"x",
            {1, 2},
            object(),
            datetime(2026, 1, 1, tzinfo=UTC),
            ID,
            1j,
            "\ud800",
            {"\udfff": 1},
            ["a\udc80b"],
            {(1, 2): 3},
            CYCLIC,
            nested(100_000),
            HUGE_CASE,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_refuses(self, value: object) -> None:
        with pytest.raises(SerializationError, match="result"):
            validate.json_text(value, "result")

    @pytest.mark.parametrize("text", ["", "{", "nope", b"\xff", "[" * 100_000, "1 2", "9" * 5000])
    def test_unreadable_text(self, text: str | bytes) -> None:
        with pytest.raises(DeserializationError, match="metadata"):
            validate.json_value(text, "metadata")

    def test_text_is_compact_and_readable(self) -> None:
        assert validate.json_text({"a": [1, "ü"]}) == '{"a":[1,"ü"]}'
        assert json.loads(validate.json_text("\0")) == "\0"

    @pytest.mark.parametrize("case", ["none", "odd", "refuses"])
    def test_without_the_part_of_json_that_is_not_public(self, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
        """None of it, one that answers something else, one that is called otherwise."""
        real = getattr(json.encoder, "c_make_encoder", None)

        def other(markers: object, *arguments: object) -> object:
            if markers is not None:
                return real(markers, *arguments)  # for the public encoder
            if case == "refuses":
                raise TypeError
            return lambda value, level: ("odd",)

        found = None if case == "none" or real is None else other
        sample = {"a": [1, 'ü"\\\n', None, 2.5]}
        wanted = validate.json_text(sample)
        monkeypatch.setattr(json.encoder, "c_make_encoder", found)
        monkeypatch.setattr(validate, "_write_json", validate._json_writer())
        assert validate.json_text(sample) == wanted
        with pytest.raises(SerializationError):
            validate.json_text(CYCLIC)


@pytest.mark.spec("DATA-07")
class TestPriority:
    @given(st.integers())
    def test_range(self, value: int) -> None:
        if -2147483648 <= value <= 2147483647:
            assert validate.priority(value) == value
        else:
            refused(validate.priority, value, name="priority")

    @pytest.mark.parametrize("value", [None, 1.0, "1", True, HUGE_CASE])
    def test_refuses_other_types(self, value: object) -> None:
        refused(validate.priority, value, name="priority")


@pytest.mark.spec("DATA-08")
class TestPayload:
    @given(st.binary())
    def test_kinds(self, value: bytes) -> None:
        assert validate.payload(value) is value
        for other in (bytearray(value), memoryview(value)):
            result = validate.payload(other)
            assert type(result) is bytes
            assert result == value

    def test_views_of_wide_items_count_bytes(self) -> None:
        view = memoryview(bytes(range(16))).cast("I")
        assert validate.payload(view, 16) == bytes(range(16))
        with pytest.raises(PayloadTooLargeError):
            validate.payload(view, 15)
        assert validate.payload(memoryview(b"abcdef")[::2]) == b"ace"

    def test_the_limit(self) -> None:
        assert validate.payload(b"x" * 10, 10) == b"x" * 10
        with pytest.raises(PayloadTooLargeError, match="11 bytes") as caught:
            validate.payload(bytearray(11), 10)
        assert (caught.value.size, caught.value.limit, caught.value.parameter) == (11, 10, "payload")
        assert validate.DEFAULT_MAX_PAYLOAD_BYTES == 16_777_215
        with pytest.raises(PayloadTooLargeError):
            validate.payload(bytes(16_777_216))

    @pytest.mark.parametrize("value", [None, "secret", 5, [1, 2], True])
    def test_refuses_other_types_without_showing_them(self, value: object) -> None:
        error = refused(validate.payload, value, name="payload")
        assert "secret" not in str(error)


@pytest.mark.spec("DATA-09")
class TestErrorText:
    @given(st.text(max_size=200), st.integers(10, 100))
    def test_cut_on_a_character_border(self, value: str, limit: int) -> None:
        result = validate.error_text(value, max_bytes=limit)
        assert result is not None
        encoded = result.encode()
        assert len(encoded) <= limit
        if len(value.encode("utf-8", "backslashreplace")) <= limit:
            assert encoded == value.encode("utf-8", "backslashreplace")
        else:
            assert result.endswith("…")
            assert value.encode("utf-8", "backslashreplace").startswith(result[:-1].encode())
            assert len(encoded) > limit - 4, "no more is lost than one character"

    @pytest.mark.parametrize("character", ["a", "ü", "…", "🐘"])
    def test_the_column(self, character: str) -> None:
        fits = character * (65_535 // len(character.encode()))
        assert validate.error_text(fits) == fits
        cut = validate.error_text(fits + character)
        assert cut is not None
        assert cut.endswith("…")
        assert 65_535 - 4 < len(cut.encode()) <= 65_535

    def test_none_and_lone_surrogates(self) -> None:
        assert validate.error_text(None) is None
        assert validate.error_text("") == ""
        assert validate.error_text("a\udc80b") == "a\\udc80b"

    @pytest.mark.parametrize("value", [b"x", 1, ValueError("x")])
    def test_refuses_other_types(self, value: object) -> None:
        refused(validate.error_text, value, name="error")


@pytest.mark.spec("DATA-10")
class TestGeneral:
    def test_integer(self) -> None:
        assert validate.integer(5, "n") == 5
        for value in (None, 5.0, "5", True):
            refused(validate.integer, value, "n", name="n")
        assert "at least 1" in str(refused(validate.integer, 0, "n", 1, name="n"))
        assert "from 1 to 3" in str(refused(validate.integer, 4, "n", 1, 3, name="n"))
        assert "at most 3" in str(refused(validate.integer, 4, "n", None, 3, name="n"))

    def test_number(self) -> None:
        assert validate.number(5, "n") == 5.0
        assert type(validate.number(5, "n")) is float
        for value in (None, NAN, INF, "5", True, HUGE):
            refused(validate.number, value, "n", name="n")
        error = refused(validate.number, 100.5, "percent", 0, 100, name="percent")
        assert "at least 0 and at most 100" in str(error)
        assert "100.5" in str(error)
        assert "of at most 3," in str(refused(validate.number, 4, "n", None, 3, name="n"))

    def test_boolean(self) -> None:
        assert validate.boolean(False, "flag") is False
        for value in (0, 1, None, "true"):
            refused(validate.boolean, value, "flag", name="flag")

    def test_max_retries(self) -> None:
        assert validate.max_retries(0) == 0
        assert validate.max_retries(1000) == 1000
        for value in (-1, 1001, 1.0, True, None):
            refused(validate.max_retries, value, name="max_retries")

    def test_errors_show_values_briefly(self) -> None:
        class Broken:
            def __repr__(self) -> str:
                raise RuntimeError

        assert validate.shown(Broken()) == "<Broken>"
        assert validate.shown(HUGE) == "<int>"
        assert len(validate.shown("x" * 10**6)) < 140
        assert validate.shown("a") == "'a'"


@pytest.mark.spec("ARCH-08")
class TestTablePrefix:
    @pytest.mark.parametrize("value", ["celers_", "A", "0", "_" * 32])
    def test_accepts(self, value: str) -> None:
        assert validate.table_prefix(value) == value

    @pytest.mark.parametrize("value", ["", "a" * 33, "a-b", "a b", "a`b", "ü", "a\n", "²", None, b"a", 1])
    def test_refuses(self, value: object) -> None:
        refused(validate.table_prefix, value, name="table_prefix")
