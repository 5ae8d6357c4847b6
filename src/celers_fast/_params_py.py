"""SQL literals and multi-row statements in Python; `_params_c` gives equal bytes faster.

The broker sends its values as literals inside the statement text, because a packet of several statements
cannot carry bound parameters. Everything here is therefore written so that no value, whatever its bytes, can
end its own literal:

- numbers are digits;
- text is quoted only when it is printable ASCII without quote and backslash, so neither the SQL mode nor the
  connection's character set changes its meaning; any other text is ``_utf8mb4 X'..'``;
- binary values are ``X'..'``, or, when asked for because hex doubles the size, ``_binary'..'`` with quotes
  doubled and (unless NO_BACKSLASH_ESCAPES is set) backslashes doubled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from uuid import UUID

from celers.errors import PayloadTooLargeError, SerializationError, ValidationError

__all__ = ["Raw", "build_tasks", "build_values", "literal", "literals"]

ESCAPE_FROM = 64
"""Bytes from which the escaped form is used when it is allowed; below, hex costs little and parses faster."""

_plain_text = re.compile(r"[ !-&(-\[\]-~]*").fullmatch


class Raw:
    """SQL text that stands in a row as it is, such as ``UTC_TIMESTAMP(6)``.

    Never made from values that users hand in.
    """

    __slots__ = ("sql",)

    def __init__(self, sql: bytes) -> None:
        if type(sql) is not bytes:
            raise ValidationError(f"raw SQL must be bytes, not {type(sql).__name__}", parameter="sql")
        self.sql = sql

    def __repr__(self) -> str:
        """Return the call that makes an equal object."""
        return f"Raw({self.sql!r})"


def refuse(value: object) -> ValidationError:
    """Return the error for a value that has no literal. Used by both twins."""
    if isinstance(value, float):
        return ValidationError(f"{value} cannot be stored: only finite numbers can", parameter="value")
    if isinstance(value, int):
        return ValidationError("an int to be stored must fit into 64 bits (-2**63 to 2**64-1)", parameter="value")
    if isinstance(value, datetime):
        return ValidationError(
            f"a datetime to be stored must be timezone-aware and representable in UTC, not {value!r}",
            parameter="value",
        )
    return ValidationError(f"no SQL literal for a value of type {type(value).__name__}", parameter="value")


def surrogate(value: str) -> SerializationError:
    """Return the error for text that has no UTF-8 form. Used by both twins."""
    return SerializationError(f"text with a lone surrogate cannot be stored: {value!r:.80}")


def bad_row(problem: str) -> ValidationError:
    """Return the error for a row that is not like the others. Used by both twins."""
    return ValidationError(f"rows must be non-empty tuples or lists of equal length: {problem}", parameter="rows")


def bad_argument(name: str, expected: str, value: object) -> ValidationError:
    """Return the error for an argument of `build_values` other than the rows. Used by both twins."""
    return ValidationError(f"{name} must be {expected}, not {type(value).__name__}", parameter=name)


def too_large(size: int, max_bytes: int) -> PayloadTooLargeError:
    """Return the error for a row that fits into no statement. Used by both twins."""
    return PayloadTooLargeError(
        f"one row needs a statement of {size} bytes, more than the {max_bytes} that fit into one packet",
        size=size,
        limit=max_bytes,
        parameter="rows",
    )


def utc_text(value: datetime) -> bytes:
    """Return the quoted UTC form of an aware datetime. Used by both twins."""
    if value.tzinfo is not UTC:
        if value.utcoffset() is None:
            raise refuse(value)
        try:
            value = value.astimezone(UTC)
        except OverflowError:
            raise refuse(value) from None
    return b"'%04d-%02d-%02d %02d:%02d:%02d.%06d'" % (
        value.year,
        value.month,
        value.day,
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
    )


def _escape(data: bytes, introducer: bytes, no_backslash_escapes: bool) -> bytes:
    if not no_backslash_escapes:
        data = data.replace(b"\\", b"\\\\")
    return introducer + b"'" + data.replace(b"'", b"''") + b"'"


def _literal(value: object, escaped: bool, no_backslash_escapes: bool) -> bytes:
    if value is None:
        return b"NULL"
    if isinstance(value, str):
        if _plain_text(value):
            return b"'" + str.encode(value) + b"'"
        try:
            data = str.encode(value)
        except UnicodeEncodeError:
            raise surrogate(value) from None
        if escaped and len(data) >= ESCAPE_FROM:
            return _escape(data, b"_utf8mb4", no_backslash_escapes)
        return b"_utf8mb4 X'" + data.hex().encode() + b"'"
    if isinstance(value, int):
        if value is True:
            return b"1"
        if value is False:
            return b"0"
        if not -(2**63) <= value < 2**64:
            raise refuse(value)
        return int.__repr__(value).encode()
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if escaped and len(data) >= ESCAPE_FROM:
            return _escape(data, b"_binary", no_backslash_escapes)
        return b"X'" + data.hex().encode() + b"'"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise refuse(value)
        return float.__repr__(value).encode()
    if isinstance(value, UUID):
        return b"X'%032x'" % value.int
    if isinstance(value, datetime):
        return utc_text(value)
    if type(value) is Raw:
        return value.sql
    raise refuse(value)


def literal(value: object) -> bytes:
    """Return the SQL literal of a value.

    Parameters
    ----------
    value : None, bool, int, float, str, bytes, bytearray, memoryview, UUID, aware datetime or Raw
        `str` becomes text, bytes-like values become binary, UUIDs their 16 bytes, datetimes UTC with
        microseconds.

    Raises
    ------
    ValidationError
        For another type, NaN or infinity, an int of more than 64 bits, a naive datetime.
    SerializationError
        For text with a lone surrogate.
    """
    return _literal(value, False, False)


def literals(values: Iterable[object]) -> bytes:
    """Return the literals of `values` with commas between them, for ``IN (...)``; empty for no values."""
    return b",".join([_literal(value, False, False) for value in values])


def build_values(
    prefix: bytes,
    rows: Iterable[Sequence[object]],
    suffix: bytes = b"",
    *,
    max_bytes: int,
    escaped: bool = False,
    no_backslash_escapes: bool = False,
) -> list[tuple[bytes, int]]:
    """Return as few statements ``prefix(..),(..)suffix`` as carry all rows, each with its number of rows.

    Parameters
    ----------
    prefix, suffix : bytes
        SQL before and after the rows, such as ``INSERT INTO t (a, b) VALUES ``.
    rows : iterable of tuples or lists
        All of one length; values as for `literal`.
    max_bytes : int
        Length that no statement exceeds.
    escaped : bool
        Write values of 64 bytes and more as escaped text instead of hex: about half the bytes on the wire,
        dearer to parse. Only for connections whose character set is utf8mb4.
    no_backslash_escapes : bool
        Whether the session has the SQL mode NO_BACKSLASH_ESCAPES; matters to the escaped form only.

    Raises
    ------
    PayloadTooLargeError
        When one row alone does not fit; its `size` is what the statement would need.
    ValidationError, SerializationError
        As `literal`, and for rows that are empty, of different length, or no tuples or lists.
    """
    if type(prefix) is not bytes:
        raise bad_argument("prefix", "bytes", prefix)
    if type(suffix) is not bytes:
        raise bad_argument("suffix", "bytes", suffix)
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
        raise bad_argument("max_bytes", "an int", max_bytes)
    return _pack(prefix, _rows(rows, escaped, no_backslash_escapes), suffix, max_bytes)


def _rows(rows: Iterable[Sequence[object]], escaped: bool, no_backslash_escapes: bool) -> Iterator[bytes]:
    width = -1
    for row in rows:
        if not isinstance(row, tuple | list):
            raise bad_row(f"got {type(row).__name__}")
        if len(row) != width:
            if width >= 0:
                raise bad_row(f"got {width} and {len(row)} values")
            if not row:
                raise bad_row("got no values")
            width = len(row)
        yield b"(" + b",".join([_literal(value, escaped, no_backslash_escapes) for value in row]) + b")"


def _pack(prefix: bytes, rows: Iterable[bytes], suffix: bytes, max_bytes: int) -> list[tuple[bytes, int]]:
    """Return as few statements of at most `max_bytes` as carry all rows, each with its number of rows."""
    fixed = len(prefix) + len(suffix)
    statements: list[tuple[bytes, int]] = []
    pending: list[bytes] = []
    size = fixed
    for text in rows:
        if pending and size + 1 + len(text) > max_bytes:
            statements.append((prefix + b",".join(pending) + suffix, len(pending)))
            pending = []
            size = fixed
        size += len(text) + (1 if pending else 0)
        if size > max_bytes:
            raise too_large(size, max_bytes)
        pending.append(text)
    if pending:
        statements.append((prefix + b",".join(pending) + suffix, len(pending)))
    return statements


def build_tasks(
    prefix: bytes,
    ids: Sequence[UUID],
    middle: bytes,
    payloads: Sequence[bytes],
    ending: bytes,
    *,
    max_bytes: int,
) -> list[tuple[bytes, int]]:
    """Return as few statements as carry a row ``(id middle payload ending)`` for each id and its payload.

    As `build_values`, for rows that differ in nothing but these two values.

    Parameters
    ----------
    prefix : bytes
        SQL before the rows.
    ids : sequence of UUID
    middle, ending : bytes
        SQL between the id and the payload, and between the payload and the row's end, with their commas.
    payloads : sequence of bytes
        As many as there are ids; written in hex.
    max_bytes : int
        Length that no statement exceeds.

    Raises
    ------
    PayloadTooLargeError
        When one row alone does not fit; its `size` is what the statement would need.
    ValidationError
        When the numbers of ids and payloads differ, or a payload is not bytes.
    """
    if len(ids) != len(payloads):
        raise bad_row(f"got {len(ids)} ids and {len(payloads)} payloads")
    return _pack(prefix, _task_rows(ids, middle, payloads, ending), b"", max_bytes)


def _task_rows(ids: Sequence[UUID], middle: bytes, payloads: Sequence[bytes], ending: bytes) -> Iterator[bytes]:
    for task_id, payload in zip(ids, payloads, strict=True):
        if not isinstance(payload, bytes):
            raise refuse(payload)
        yield b"(X'%032x'%bX'%b'%b)" % (task_id.int, middle, payload.hex().encode(), ending)
