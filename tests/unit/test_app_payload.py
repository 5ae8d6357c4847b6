"""Arguments of tasks as bytes."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.errors import DeserializationError, SerializationError, ValidationError
from celers.payload import accepted_formats, decode, encode, format_of

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
arguments = st.tuples(st.lists(json_values, max_size=4), st.dictionaries(st.text(max_size=8), json_values, max_size=3))


@given(arguments)
@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
def test_what_is_written_is_read_again(serializer, call):
    try:
        payload = encode(*call, serializer)
    except SerializationError:
        # surrogates never come from the strategies, so only a key may be at fault
        assert any("\ud800" <= c <= "\udfff" for c in json.dumps(call, ensure_ascii=False))
        return
    assert format_of(payload) == serializer
    args, kwargs = decode(payload)
    assert (list(args), dict(kwargs)) == (list(call[0]), call[1])


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("around", ["", " ", "\n"])
@pytest.mark.parametrize("call", [[["\u00e9\U0001f600", 1.5], {"a": None}], [[], {}]])
def test_arguments_of_other_producers_are_read_in_each_encoding_of_json(call, around, codec):
    text = json.dumps(call, ensure_ascii=False)
    for payload in ((text + around).encode(codec), (around + text).encode(codec)):
        assert decode(payload) == tuple(json.loads(payload)) == tuple(call)


@given(
    st.lists(
        st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"1", b",", b":", b" ", b"\0", b"\xc3\xa9", b"\xed\xa0\x80"])
    )
)
def test_arguments_are_read_as_json_reads_them(parts):
    payload = b"[[" + b"".join(parts)
    try:
        expected = json.loads(payload)
    except ValueError:
        expected = None
    if isinstance(expected, list) and len(expected) == 2 and isinstance(expected[1], dict):
        assert decode(payload) == tuple(expected)
    else:
        with pytest.raises(DeserializationError):
            decode(payload)


@given(st.binary(max_size=64))
def test_foreign_bytes_are_read_or_refused_but_nothing_else(payload):
    if format_of(payload) == "pickle":
        return  # a worker reads pickle only by choice
    try:
        args, kwargs = decode(payload)
    except DeserializationError:
        return
    assert isinstance(kwargs, dict)
    assert isinstance(args, list | tuple)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80",
        b"\x92",
        b"\x92\xc0\xc0",
        b"[]",
        b"[[],{},1]",
        b"[{},[]]",
        b"nonsense",
        b"\xff\xfe",
        b"[" * 100_000,
        pickle.dumps([[], {1: 2}]),
        msgpack.packb([[], {b"a": 2}]),
    ],
)
def test_what_is_no_call_is_refused(payload):
    with pytest.raises(DeserializationError):
        decode(payload)


@pytest.mark.parametrize("value", [b"bytes", float("nan"), object(), {1, 2}, "\ud800"])
def test_json_refuses_what_it_cannot_hold(value):
    with pytest.raises(SerializationError):
        encode([value], {}, "json")


def test_msgpack_and_pickle_hold_more():
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    assert decode(encode([b"\x00", moment], {}, "msgpack"))[0] == [b"\x00", moment]
    assert decode(encode([{1, 2}, moment], {}, "pickle"))[0] == [{1, 2}, moment]
    with pytest.raises(SerializationError):
        encode([lambda: 1], {}, "pickle")
    with pytest.raises(SerializationError):
        encode([object()], {}, "msgpack")


@pytest.mark.parametrize("names", ["json", ["yaml"], [None]])
def test_accepted_formats_are_checked(names):
    with pytest.raises(ValidationError):
        accepted_formats(names)
