"""What a migration's statements create, read from their text.

`verify_migrations` compares the database with the packaged files themselves, so that there is no second list
of tables and columns to keep in step. Only the forms that the files use are understood.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from celers.errors import ValidationError
from celers.sql.splitter import Kind, Token, tokens

__all__ = ["DropProcedure", "Index", "Procedure", "SchemaObject", "Table", "View", "describe"]


@dataclass(frozen=True, slots=True)
class Table:
    """``CREATE TABLE``: columns in order, indexes by name (the primary key is ``PRIMARY``)."""

    name: str
    columns: tuple[str, ...]
    indexes: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Index:
    """``CREATE INDEX``."""

    name: str
    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class View:
    """``CREATE VIEW``."""

    name: str


@dataclass(frozen=True, slots=True)
class Procedure:
    """``CREATE PROCEDURE``."""

    name: str


@dataclass(frozen=True, slots=True)
class DropProcedure:
    """``DROP PROCEDURE IF EXISTS``."""

    name: str


SchemaObject: TypeAlias = Table | Index | View | Procedure | DropProcedure

_CONSTRAINTS = frozenset({"PRIMARY", "UNIQUE", "KEY", "INDEX", "CONSTRAINT", "CHECK", "FULLTEXT", "SPATIAL", "FOREIGN"})


def describe(statement: str) -> SchemaObject | None:
    """Tell what a statement creates (or drops, to create it anew); None for other statements.

    Raises
    ------
    ValidationError
        A ``CREATE`` statement that this module does not know.
    """
    parts = [token for token in tokens(statement) if token.kind not in (Kind.SPACE, Kind.COMMENT)]
    words = [_word(token) for token in parts]
    if words[:4] == ["DROP", "PROCEDURE", "IF", "EXISTS"]:
        return DropProcedure(_name(parts[4]))
    if not words or words[0] != "CREATE":
        return None
    for position, word in enumerate(words):
        if word == "TABLE":
            after = position + (4 if words[position + 1 : position + 4] == ["IF", "NOT", "EXISTS"] else 1)
            return _table(_name(parts[after]), parts[after + 1 :])
        if word == "INDEX":
            if words[position + 2 : position + 3] != ["ON"]:
                break
            columns = _columns(parts[position + 4 :])
            return Index(_name(parts[position + 1]), _name(parts[position + 3]), columns)
        if word == "VIEW":
            return View(_name(parts[position + 1]))
        if word == "PROCEDURE":
            return Procedure(_name(parts[position + 1]))
    raise ValidationError(f"a CREATE statement of unknown form: {statement[:60]!r}")


def _word(token: Token) -> str:
    return token.text.upper() if token.kind is Kind.WORD else token.text


def _name(token: Token) -> str:
    return token.text.strip("`")


def _table(name: str, rest: list[Token]) -> Table:
    columns: list[str] = []
    indexes: dict[str, tuple[str, ...]] = {}
    for item in _items(rest):
        word = _word(item[0])
        if word not in _CONSTRAINTS:
            columns.append(_name(item[0]))
        elif word == "PRIMARY":
            indexes["PRIMARY"] = _columns(item)
        elif word in ("UNIQUE", "KEY", "INDEX"):
            at = 2 if word == "UNIQUE" else 1
            indexes[_name(item[at])] = _columns(item)
    return Table(name, tuple(columns), indexes)


def _items(rest: Iterable[Token]) -> Iterator[list[Token]]:
    """The parts of the first parenthesis, separated by commas."""
    depth = 0
    item: list[Token] = []
    for token in rest:
        if token.text == "(":
            depth += 1
            if depth == 1:
                continue
        elif token.text == ")":
            depth -= 1
            if depth == 0:
                break
        elif token.text == "," and depth == 1:
            yield item
            item = []
            continue
        if depth:
            item.append(token)
    if item:
        yield item


def _columns(rest: Iterable[Token]) -> tuple[str, ...]:
    """Names in the first parenthesis."""
    return tuple(_name(item[0]) for item in _items(rest))
