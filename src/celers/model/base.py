"""What all data classes share: the JSON form of their values, and names for common parameter types."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeAlias
from uuid import UUID

__all__ = ["JSON", "Duration", "Instant", "Record", "TaskIdLike", "to_json"]

JSON: TypeAlias = Any
"""A value that `json` can write: None, bool, int, float, str, and lists and objects of them."""

Duration: TypeAlias = timedelta | int | float
"""A length of time: `timedelta` or seconds."""

Instant: TypeAlias = datetime | int | float
"""A point in time: timezone-aware `datetime` or Unix seconds."""

TaskIdLike: TypeAlias = UUID | str
"""A task id: `UUID` or its canonical text."""


def to_json(value: Any) -> JSON:
    """Turn a field's value into its JSON-ready form.

    UUIDs become text, datetimes RFC 3339 text in UTC with microseconds and ``Z``, durations float seconds,
    enumerations their value, binary values base64 text, sets and tuples lists (sets in the order of their
    text, so that the result does not depend on hashing).
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Enum):
        return to_json(value.value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((to_json(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


class Record:
    """Base of the data classes: frozen, slotted, and able to write themselves as JSON-ready values."""

    __slots__ = ()

    def to_dict(self) -> dict[str, JSON]:
        """Return the fields in their order, each JSON-ready."""
        # Every subclass is a dataclass; the base is not, which is why the type checker has to be told.
        return {field.name: to_json(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]
