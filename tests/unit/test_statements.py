"""Every statement is used, every statement used exists, and its values are those that its caller gives."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import celers
from celers.sql import Statements, apply_prefix

ROOT = Path(celers.__file__).parent
TOPICS = sorted(path.stem for path in (ROOT / "sql").glob("*.sql"))
SQL = Statements("celers_")


def placeholders(topic: str, name: str) -> set[str]:
    """The names that a statement wants values for, as the statement itself tells."""
    wanted: set[str] = set()
    while True:
        try:
            SQL(topic, name, **dict.fromkeys(wanted, 1))
        except KeyError as error:
            wanted.add(error.args[0])
        else:
            return wanted


class Use:
    """One place in the code that asks for a statement."""

    def __init__(self, place: str, call: ast.Call) -> None:
        self.place = place
        topic, name = call.args[:2]
        assert isinstance(topic, ast.Constant), place
        self.topic = str(topic.value)
        self.name = name.value if isinstance(name, ast.Constant) else None
        self.start = ""
        if isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
            self.start = str(name.values[0].value)
        self.given = {word.arg for word in call.keywords if word.arg is not None}
        self.open = any(word.arg is None for word in call.keywords)


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent.name != "sql":
            yield path, ast.parse(path.read_text("utf-8"))


def uses() -> Iterator[Use]:
    for path, tree in modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if called in ("sql", "_sql") and isinstance(node.args[0], ast.Constant) and node.args[0].value in TOPICS:
                yield Use(f"{path.relative_to(ROOT)}:{node.lineno}", node)


def words() -> set[str]:
    """All text constants of the code: names of statements that reach `sql` through a variable are among them."""
    return {
        node.value
        for _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


USES = list(uses())
FORMS = ("one", "many")
WORDS = words()
STATEMENTS = [(topic, name) for topic in TOPICS for name in SQL.names(topic)]


@pytest.mark.spec("ARCH-08")
def test_the_code_is_found():
    assert len(USES) > 80
    assert len(STATEMENTS) > 100


@pytest.mark.spec("ARCH-08")
@pytest.mark.parametrize("use", [use for use in USES if use.name], ids=lambda use: f"{use.place}-{use.name}")
def test_a_statement_exists_and_gets_the_values_that_it_wants(use):
    assert use.name in SQL.names(use.topic)
    wanted = placeholders(use.topic, use.name)
    assert use.given <= wanted
    if not use.open:
        assert use.given == wanted


@pytest.mark.spec("ARCH-08")
@pytest.mark.parametrize("use", [use for use in USES if use.start], ids=lambda use: f"{use.place}-{use.start}")
def test_statements_named_by_their_form_get_the_values_that_they_want(use):
    for form in FORMS:
        name = use.start + form
        assert name in SQL.names(use.topic)
        assert placeholders(use.topic, name) <= use.given


@pytest.mark.spec("ARCH-08")
@pytest.mark.parametrize(("topic", "name"), STATEMENTS, ids=lambda value: value)
def test_every_statement_is_used(topic, name):
    named = {use.name for use in USES if use.topic == topic}
    formed = {use.start + form for use in USES if use.topic == topic and use.start for form in FORMS}
    by_variable = any(use.topic == topic and not use.name and not use.start for use in USES)
    assert name in named or name in formed or (by_variable and name in WORDS)


@pytest.mark.spec("ARCH-08", "CONF-03")
@pytest.mark.parametrize("topic", TOPICS)
def test_no_name_stands_twice_and_every_table_takes_the_prefix(topic):
    text = files("celers.sql").joinpath(f"{topic}.sql").read_text("utf-8")
    headers = [line for line in text.splitlines() if line.startswith("-- name:")]
    assert len(headers) == len(SQL.names(topic)) == len(set(headers))
    other = Statements("other_")
    for name in SQL.names(topic):
        values = dict.fromkeys(placeholders(topic, name), 1)
        changed = other(topic, name, **values)
        assert changed == apply_prefix(SQL(topic, name, **values).decode(), "other_").encode()
        assert b"celers_" not in changed.replace(b"@celers_", b"@")


@pytest.mark.spec("ARCH-10")
@pytest.mark.parametrize(("topic", "name"), STATEMENTS, ids=lambda value: value)
def test_the_clock_is_that_of_the_server_in_utc(topic, name):
    text = SQL(topic, name, **dict.fromkeys(placeholders(topic, name), 1)).upper()
    for word in (b"NOW()", b"NOW(6)", b"CURRENT_TIMESTAMP", b"SYSDATE", b"CURDATE", b"LOCALTIME", b"UNIX_TIMESTAMP"):
        assert word not in text.replace(b"@CELERS_NOW", b"")


@pytest.mark.spec("ARCH-07")
@pytest.mark.parametrize(("topic", "name"), STATEMENTS, ids=lambda value: value)
def test_statements_stay_in_the_portable_subset(topic, name):
    text = SQL(topic, name, **dict.fromkeys(placeholders(topic, name), 1)).upper()
    for word in (b" AS JSON)", b"RETURNING", b"UUID_TO_BIN", b"FOR SHARE", b"IF NOT EXISTS", b"NOWAIT"):
        assert word not in text
    if b"LIMIT" in text and b"FOR UPDATE" in text:
        assert text.rindex(b"LIMIT") < text.rindex(b"FOR UPDATE")
