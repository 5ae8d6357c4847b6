"""Paths into the metadata: their grammar, their form for the servers, and what setting a value does."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.components.metadata import condition
from celers.errors import SerializationError, ValidationError
from celers.jsonpath import LARGEST_INDEX, parse, put, render

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
STEPS = st.lists(st.one_of(TEXT, st.integers(0, LARGEST_INDEX)), max_size=20).map(tuple)


@pytest.mark.spec("INSP-09")
@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("$", ()),
        ("$.a", ("a",)),
        ("$._A1.b[0][12].c", ("_A1", "b", 0, 12, "c")),
        ('$."any text"', ("any text",)),
        ('$.""', ("",)),
        ('$."a\\"b\\\\c\\u00fc\\n"."d"', ('a"b\\cü\n', "d")),
        ('$."*"."a.b[1]"', ("*", "a.b[1]")),
        ('$."\U0001f40c\\ud83d\\ude00"', ("\U0001f40c\U0001f600",)),
        ('$."\n\0"', ("\n\0",)),
        ("$[007]", (7,)),
        ("$[99999999999999999999999]", (LARGEST_INDEX,)),
    ],
)
def test_paths(text, steps):
    assert parse(text) == steps
    assert parse(render(steps)) == steps


@pytest.mark.spec("INSP-09", "DEF-28", "DATA-10")
@pytest.mark.parametrize(
    "path",
    [
        *("", "a", ".a", "$a", "$.", "$..a", "$.*", "$.a.*", "$**.a", "$[*]", "$[last]", "$[0 to 1]", "$[-1]", "$[]"),
        *("$.1a", "$.a-b", "$.a b", "$ .a", "$.a ", " $.a", "$.a\n", "$.ü", '$."a', '$.a"', '$."\\x"', '$."\\ud800"'),
        *('$."\ud800"', "$.a' OR 1=1 -- ", "$[1", "$[1.5]", "$['a']", "lax $.a", "$.a[0].", "$[\u0661]", "$.a?(@)"),
        *("$" + ".a" * 101, "$." + "a" * 10_000, None, 1, b"$.a", ["$"], True),
    ],
)
def test_everything_else_is_refused(path):
    with pytest.raises(ValidationError, match="json_path"):
        parse(path)


@pytest.mark.spec("INSP-09")
@given(STEPS)
def test_a_rendered_path_reads_back(steps):
    assert parse(render(steps)) == steps


@pytest.mark.spec("INSP-09", "ARCH-08")
@given(st.text() | st.text(alphabet="$.[\"]\\u0a1*- '").map(lambda text: "$" + text))
def test_any_text_is_a_path_or_refused(text):
    try:
        steps = parse(text)
    except ValidationError:
        return
    assert parse(render(steps)) == steps


LITERAL = re.compile(rb"(?:_utf8mb4 )?X'[0-9a-f]*'|'[ -&(-\[\]-~]*'|-?[0-9][0-9.]*(?:e[+-]?[0-9]+)?")
WORDS = re.compile(
    rb"JSON_EXTRACT|JSON_SEARCH|JSON_KEYS|JSON_TYPE|JSON_UNQUOTE|CAST|AS BINARY|metadata"
    rb"|IN|AND|OR|REGEXP|FALSE|[ (),=+]|0e0"
)


@pytest.mark.spec("INSP-09", "ARCH-08")
@given(
    STEPS.filter(lambda steps: sum(str(step).startswith("-") for step in steps) <= 3),
    st.one_of(TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()),
)
def test_a_condition_is_our_words_and_literals(steps, value):
    rest = WORDS.sub(b"", LITERAL.sub(b"", condition(steps, value)))
    assert rest == b""


@pytest.mark.spec("INSP-09", "DATA-10")
@pytest.mark.parametrize("value", [[], {}, (), b"x", object(), float("nan"), float("inf"), 1j])
def test_only_scalars_are_looked_for(value):
    with pytest.raises(ValidationError, match="value"):
        condition(("a",), value)


@pytest.mark.spec("INSP-09")
def test_names_that_begin_with_a_minus_sign():
    assert condition(("-", "-", "a", "-"), 1)
    with pytest.raises(ValidationError, match="json_path"):
        condition(("-",) * 4, 1)


@pytest.mark.spec("INSP-09")
def test_text_that_no_metadata_can_hold():
    with pytest.raises(SerializationError):
        condition(("a",), "\ud800")


@pytest.mark.spec("INSP-12")
@pytest.mark.parametrize(
    ("before", "path", "after"),
    [
        ({}, "$.a", {"a": 9}),
        ({"a": 1, "b": 2}, "$.a", {"a": 9, "b": 2}),
        ({}, "$.a.b.c", {"a": {"b": {"c": 9}}}),
        ({"a": {"x": 1}}, "$.a.b", {"a": {"x": 1, "b": 9}}),
        ({}, "$.a[0]", {"a": [9]}),
        ({}, "$.a[0].b", {"a": [{"b": 9}]}),
        ({"a": [1, 2]}, "$.a[2]", {"a": [1, 2, 9]}),
        ({"a": [1, 2]}, "$.a[0]", {"a": [9, 2]}),
        ({"a": [[1]]}, "$.a[0][1]", {"a": [[1, 9]]}),
        ({"a": {"b": 1}}, "$.a", {"a": 9}),
        ({"a": None}, "$.a", {"a": 9}),
        ({}, '$."a.b"', {"a.b": 9}),
        ({}, '$.""', {"": 9}),
    ],
)
def test_setting_a_value(before, path, after):
    put(before, parse(path), 9)
    assert before == after


@pytest.mark.spec("INSP-12")
@pytest.mark.parametrize(
    ("before", "path"),
    [
        ({"a": 1}, "$.a.b"),
        ({"a": "text"}, "$.a[0]"),
        ({"a": None}, "$.a.b"),
        ({"a": True}, "$.a.b.c"),
        ({"a": [1]}, "$.a[2]"),
        ({}, "$.a[1]"),
        ({"a": [1]}, "$.a.b"),
        ({"a": {}}, "$.a[0]"),
        ({}, "$[0]"),
        ({"a": [1]}, "$.a[99999999999]"),
    ],
)
def test_paths_that_lead_nowhere(before, path):
    with pytest.raises(ValidationError, match="json_path"):
        put(before, parse(path), 9)


@pytest.mark.spec("INSP-12")
@given(st.lists(TEXT, min_size=1, max_size=10), st.integers())
def test_a_value_is_found_where_it_was_put(names, value):
    document: dict = {}
    put(document, tuple(names), value)
    found: object = json.loads(json.dumps(document))
    for name in names:
        found = found[name]
    assert found == value
