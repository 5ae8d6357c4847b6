"""Reading SQL files: tokens, statements, and another table prefix.

Pure functions on text. The tokens are those that decide where a statement ends on MySQL and MariaDB:
comments, quoted text, quoted identifiers, words; everything else is one character long. The default SQL mode
is assumed, so a backslash escapes the next character in quoted text.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from celers.errors import ValidationError

__all__ = ["DEFAULT_PREFIX", "Kind", "Statement", "Token", "split", "tokens", "with_prefix"]

DEFAULT_PREFIX = "celers_"

# Names without the prefix that another prefix changes all the same: they are global in the schema.
_UNPREFIXED = frozenset({"move_to_dlq"})


class Kind(enum.Enum):
    """What a token is."""

    SPACE = enum.auto()
    COMMENT = enum.auto()
    EXECUTABLE = enum.auto()
    """``/*! ... */`` and ``/*M! ... */``: comments to other servers, SQL to these."""
    STRING = enum.auto()
    QUOTED = enum.auto()
    """An identifier in backticks."""
    WORD = enum.auto()
    """A keyword, name, number, ``@variable``."""
    SYMBOL = enum.auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of SQL text; the texts of all tokens together are the input."""

    kind: Kind
    text: str
    start: int
    """Index of the first character."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a file, without its delimiter and without the comments before and after it."""

    text: str
    number: int
    """Counted from 1."""
    line: int
    """Line of the first character, counted from 1."""


_STRING = r"'(?:[^'\\]|\\.|'')*'" + r'|"(?:[^"\\]|\\.|"")*"'
_QUOTED = r"`(?:[^`]|``)*`"
_TOKEN = re.compile(
    rf"""
      (?P<SPACE>      [ \t\r\n\f\v]+ )
    | (?P<EXECUTABLE> /\*M?! (?: {_STRING} | {_QUOTED} | (?!\*/)[^'"`] )* \*/ )
    | (?P<COMMENT>    --(?=[\x00-\x20\x7f]|\Z)[^\n]* | \#[^\n]* | /\*(?!M?!) .*? \*/ )
    | (?P<STRING>     {_STRING} )
    | (?P<QUOTED>     {_QUOTED} )
    | (?P<WORD>       [\w$@]+ )
    | (?P<SYMBOL>     . )
    """,
    re.VERBOSE | re.DOTALL,
)
_UNFINISHED = {"'": "quoted text", '"': "quoted text", "`": "quoted identifier", "/*": "comment"}
_DELIMITER_LINE = re.compile(r"DELIMITER(?:[ \t]+(\S+))?[^\r\n]*", re.IGNORECASE)


def _line(text: str, index: int) -> int:
    return text.count("\n", 0, index) + 1


def _token_at(text: str, index: int) -> Token:
    match = _TOKEN.match(text, index)
    assert match is not None, "SYMBOL matches any character"
    name = match.lastgroup
    assert name is not None
    kind = Kind[name]
    found = match.group()
    if kind is Kind.SYMBOL:
        # These begin a longer token; alone they mean that its end is missing.
        opening = text[index : index + 2] if found == "/" else found
        what = _UNFINISHED.get(opening)
        if what is not None:
            raise ValidationError(
                f"SQL text, line {_line(text, index)}: {what} has no end: {text[index : index + 40]!r}"
            )
    return Token(kind, found, index)


def tokens(text: str) -> Iterator[Token]:
    """Take SQL text apart; joined again, the tokens are the text.

    Raises
    ------
    ValidationError
        Quoted text, a quoted identifier or a block comment has no end.
    """
    index = 0
    while index < len(text):
        token = _token_at(text, index)
        yield token
        index += len(token.text)


def split(text: str) -> list[Statement]:
    """Split the text of an SQL file into its statements.

    Understands ``--``, ``#`` and block comments, quoted text and identifiers, and ``DELIMITER`` lines (which
    are for the client and are never part of a statement). Comments inside a statement stay, executable
    comments are statements or parts of them, empty statements are left out.

    Raises
    ------
    ValidationError
        Something quoted or a block comment has no end, or a ``DELIMITER`` line names none.
    """
    statements: list[Statement] = []
    delimiter = ";"
    first = last = -1  # where the current statement's first token begins and its last one ends
    index = 1 if text.startswith("\ufeff") else 0

    def finish() -> None:
        nonlocal first
        if first >= 0:
            statements.append(Statement(text[first:last], len(statements) + 1, _line(text, first)))
        first = -1

    while index < len(text):
        if text.startswith(delimiter, index):
            finish()
            index += len(delimiter)
            continue
        token = _token_at(text, index)
        if token.kind is Kind.WORD:
            if first < 0 and token.text.upper() == "DELIMITER":
                match = _DELIMITER_LINE.match(text, index)
                if match is None or match.group(1) is None:
                    raise ValidationError(f"SQL text, line {_line(text, index)}: DELIMITER names no delimiter")
                delimiter = match.group(1)
                index = match.end()
                continue
            # A delimiter such as $$ is made of characters that a word may hold, and ends it all the same.
            cut = token.text.find(delimiter)
            if cut > 0:
                token = Token(token.kind, token.text[:cut], index)
        index += len(token.text)
        if token.kind not in (Kind.SPACE, Kind.COMMENT):
            if first < 0:
                first = token.start
            last = index
    finish()
    return statements


def with_prefix(sql: str, prefix: str) -> str:
    """Put another table prefix in the place of ``celers_``.

    Changes names that begin with ``celers_``, quoted or not, and `move_to_dlq`, which has no prefix by
    default. Text, comments and user variables stay as they are.
    """
    if prefix == DEFAULT_PREFIX:
        return sql
    parts: list[str] = []
    for token in tokens(sql):
        text = token.text
        if token.kind is Kind.WORD or token.kind is Kind.QUOTED:
            quote = "`" if token.kind is Kind.QUOTED else ""
            name = text.strip("`") if quote else text
            if name.startswith(DEFAULT_PREFIX):
                text = f"{quote}{prefix}{name[len(DEFAULT_PREFIX) :]}{quote}"
            elif name in _UNPREFIXED:
                text = f"{quote}{prefix}{name}{quote}"
        parts.append(text)
    return "".join(parts)
