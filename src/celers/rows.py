"""Small readers of the driver's values, which are bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from celers.errors import DeserializationError
from celers_fast.rows import parse_datetime

__all__ = [
    "NOT_YET",
    "flag",
    "instant",
    "instant_or_none",
    "integer",
    "integer_or_none",
    "member",
    "text",
    "text_or_none",
    "uuid",
]

E = TypeVar("E", bound=StrEnum)

Value = bytes | None

NOT_YET = datetime(1970, 1, 1, tzinfo=UTC)
"""What `celers_tasks` holds for a time that has not come; times of tasks begin a second later."""

_NOT_YET_TEXT = b"1970-01-01 00:00:00.000000"


def integer(value: Value) -> int:
    """Read a number that is not NULL."""
    return int(value)  # type: ignore[arg-type]


def integer_or_none(value: Value) -> int | None:
    """Read a number."""
    return None if value is None else int(value)


def flag(value: Value) -> bool:
    """Read a BOOLEAN."""
    return value == b"1"


def text(value: Value) -> str:
    """Read text that is not NULL."""
    return value.decode("utf-8")  # type: ignore[union-attr]


def text_or_none(value: Value) -> str | None:
    """Read text."""
    return None if value is None else value.decode("utf-8")


def uuid(value: Value) -> UUID:
    """Read a BINARY(16) that is not NULL."""
    return UUID(bytes=value)


def uuid_or_none(value: Value) -> UUID | None:
    """Read a BINARY(16)."""
    return None if value is None else UUID(bytes=value)


def instant(value: Value) -> datetime:
    """Read a DATETIME(6) that is not NULL, in UTC."""
    return parse_datetime(value)  # type: ignore[arg-type]


def instant_or_none(value: Value) -> datetime | None:
    """Read a DATETIME(6), in UTC; None for NULL and for a time that has not come."""
    return None if value is None or value == _NOT_YET_TEXT else parse_datetime(value)


def member(enumeration: type[E], value: Value) -> E:
    """Read a word of an enumeration from a column that takes any word."""
    word = text(value)
    try:
        return enumeration(word)
    except ValueError:
        raise DeserializationError(f"the stored {enumeration.__name__} {word[:100]!r} is unknown") from None
