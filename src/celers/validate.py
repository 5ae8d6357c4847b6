"""Checks of the parameters that callers give. Each function is named after what it returns.

Parameters are typed `object`, because they come from outside and may be anything.

All raise `ValidationError` (or its subclass for payloads), which names the parameter and shows the value,
before anything is sent to the server. Payloads are never shown.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from celers.errors import (
    DeserializationError,
    PayloadTooLargeError,
    SerializationError,
    ValidationError,
)

__all__ = [
    "DEFAULT_MAX_PAYLOAD_BYTES",
    "MAX_INSTANT",
    "MAX_RETRIES",
    "MIN_INSTANT",
    "age",
    "boolean",
    "duration",
    "error_text",
    "instant",
    "integer",
    "items",
    "json_text",
    "json_value",
    "limit",
    "max_retries",
    "name",
    "number",
    "offset",
    "optional_name",
    "payload",
    "priority",
    "shown",
    "table_prefix",
    "task_id",
    "task_ids",
    "timeout_secs",
]

MIN_INSTANT: Final = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
MAX_INSTANT: Final = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
DEFAULT_MAX_PAYLOAD_BYTES: Final = 16_777_215  # MEDIUMBLOB
MAX_RETRIES: Final = 1000
MAX_TEXT_BYTES: Final = 65_535  # TEXT
MAX_PAGE: Final = 10_000
MAX_NAME_LENGTH: Final = 255
LONGEST_AGE_SECS: Final = 1000 * 31_556_952

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_TABLE_PREFIX = re.compile(r"[A-Za-z0-9_]{1,32}", re.ASCII)
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def shown(value: object) -> str:
    """Return a short, printable text of any value for an error message."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__ or an int of too many digits must not hide the real error
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _refuse(parameter: str, must: str, value: object) -> ValidationError:
    return ValidationError(f"{parameter} must be {must}, not {shown(value)}", parameter=parameter)


def task_id(value: object, name: str = "task_id") -> UUID:
    """Return a task id as `UUID`; canonical text (8-4-4-4-12 hex digits) is converted."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str) and _CANONICAL_UUID.fullmatch(value):
        return UUID(value)
    raise _refuse(name, "a UUID or its canonical text", value)


def task_ids(values: Iterable[UUID | str], name: str = "task_ids") -> list[UUID]:
    """Return task ids without repetitions, in the order of their first occurrence."""
    # A single id in text form is an iterable, too: of characters.
    if isinstance(values, str | bytes):
        raise _refuse(name, "an iterable of task ids", values)
    try:
        given = iter(values)
    except TypeError:
        raise _refuse(name, "an iterable of task ids", values) from None
    return list(dict.fromkeys(task_id(value, name) for value in given))


def items(values: Iterable[Any], name: str) -> list[Any]:
    """Return the members of an iterable; text and bytes are not taken for one."""
    if not isinstance(values, str | bytes | bytearray):
        try:
            return list(iter(values))
        except TypeError:
            if isinstance(values, Iterable):
                raise  # its own failure
    raise _refuse(name, "an iterable", values)


def duration(
    value: object,
    name: str,
    *,
    positive: bool = False,
    minimum: float = 0,
    maximum: float | None = None,
) -> float:
    """Return a duration in float seconds.

    Parameters
    ----------
    value : timedelta, int or float
        Seconds when not a `timedelta`; finite and not negative.
    name : str
        Name of the parameter, for the error.
    positive : bool
        Refuse zero as well.
    minimum, maximum : float
        Smallest and largest value in seconds, both allowed.
    """
    seconds = math.nan
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    if not (minimum <= seconds < math.inf) or (positive and not seconds):
        bound = "above 0" if positive else f"of at least {minimum:g}"
        raise _refuse(name, f"a duration (timedelta or seconds) {bound}", value)
    if maximum is not None and seconds > maximum:
        raise _refuse(name, f"a duration of at most {maximum:g} s", value)
    return seconds + 0.0  # -0.0 becomes 0.0


def age(value: object, name: str, *, positive: bool = False) -> int:
    """Return a duration to subtract from now in whole microseconds, at most 1000 years: nothing stored is older."""
    return round(min(duration(value, name, positive=positive), LONGEST_AGE_SECS) * 1_000_000)


def instant(value: object, name: str) -> datetime:
    """Return a point in time as aware UTC `datetime`, from 1970-01-01T00:00:01Z to the end of the year 9999.

    Unix seconds are rounded to microseconds. Naive datetimes are refused, because they mean another time on
    another machine.
    """
    result: datetime | None = None
    must = "an aware datetime or Unix seconds"
    try:
        if isinstance(value, datetime):
            if value.utcoffset() is not None:
                must = "between 1970-01-01T00:00:01Z and 9999-12-31T23:59:59.999999Z"
                result = value.astimezone(UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            must = "between 1970-01-01T00:00:01Z and 9999-12-31T23:59:59.999999Z"
            result = _EPOCH + timedelta(seconds=value)
    except (OverflowError, ValueError):  # beyond what datetime holds; NaN
        result = None
    if result is None or not MIN_INSTANT <= result <= MAX_INSTANT:
        raise _refuse(name, must, value)
    return result


def integer(value: object, name: str, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return an int (not a bool) within bounds, both inclusive."""
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and (minimum is None or value >= minimum)
        and (maximum is None or value <= maximum)
    ):
        return int(value)
    if minimum is None:
        must = "an int" if maximum is None else f"an int of at most {maximum}"
    else:
        must = f"an int of at least {minimum}" if maximum is None else f"an int from {minimum} to {maximum}"
    raise _refuse(name, must, value)


def number(value: object, name: str, minimum: float | None = None, maximum: float | None = None) -> float:
    """Return a finite float within bounds, both inclusive; an int is converted, a bool refused."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        low, high = (-math.inf if minimum is None else minimum), (math.inf if maximum is None else maximum)
        if math.isfinite(result) and low <= result <= high:
            return result
    bounds = [f"at least {minimum:g}"] if minimum is not None else []
    bounds += [f"at most {maximum:g}"] if maximum is not None else []
    must = " of ".join(["a finite number", " and ".join(bounds)]) if bounds else "a finite number"
    raise _refuse(name, must, value)


def boolean(value: object, name: str) -> bool:
    """Return a bool; nothing else is taken for one."""
    if isinstance(value, bool):
        return value
    raise _refuse(name, "True or False", value)


def limit(value: object, name: str = "limit") -> int:
    """Return the size of a page, 0 to 10000."""
    return integer(value, name, 0, MAX_PAGE)


def offset(value: object, name: str = "offset") -> int:
    """Return the number of rows to skip, at least 0."""
    return integer(value, name, 0, 2**63 - 1)


def priority(value: object, name: str = "priority") -> int:
    """Return a priority, an int of 32 bits; higher first."""
    return integer(value, name, -(2**31), 2**31 - 1)


def max_retries(value: object, name: str = "max_retries") -> int:
    """Return a number of retries, 0 to 1000."""
    return integer(value, name, 0, MAX_RETRIES)


def timeout_secs(value: object, name: str = "timeout") -> int | None:
    """Return a task's time limit in whole seconds, rounded up; None stays None.

    Rounding up never cuts a task short, and keeps the shortest limit above zero.
    """
    if value is None:
        return None
    return math.ceil(duration(value, name, positive=True, maximum=2**32 - 1))


def name(value: object, parameter: str = "name") -> str:
    """Return the name of a queue, task, worker or group, or a key: 1 to 255 characters without surprises.

    Refused are white space at the ends, control characters, lone surrogates and line or paragraph separators
    anywhere: such names cannot be told apart on a screen or break lines in logs.
    """
    if isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and not (value[0].isspace() or value[-1].isspace()):
        # Nearly every name is printable ASCII, where the categories need no look.
        if value.isascii() and value.isprintable():
            return str(value)
        if not any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in value):
            return str(value)
    raise _refuse(
        parameter,
        "a text of 1 to 255 characters without control characters and without white space at its ends",
        value,
    )


def optional_name(value: object, parameter: str) -> str | None:
    """Return a name, or None for None."""
    return None if value is None else name(value, parameter)


def table_prefix(value: object, name: str = "table_prefix") -> str:
    """Return a prefix of table names, which becomes SQL text: 1 to 32 letters, digits and underscores."""
    if isinstance(value, str) and _TABLE_PREFIX.fullmatch(value):
        return str(value)
    raise _refuse(name, "1 to 32 ASCII letters, digits or underscores", value)


def payload(value: object, max_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES, name: str = "payload") -> bytes:
    """Return a payload as bytes.

    Raises
    ------
    PayloadTooLargeError
        When it has more than `max_bytes` bytes.
    """
    if isinstance(value, memoryview):
        size = value.nbytes
    elif isinstance(value, bytes | bytearray):
        size = len(value)
    else:
        # The content of a payload is never shown, and text given by mistake is content.
        raise ValidationError(
            f"{name} must be bytes, bytearray or memoryview, not {type(value).__name__}", parameter=name
        )
    if size > max_bytes:
        raise PayloadTooLargeError(
            f"{name} has {size} bytes, more than the limit of {max_bytes}",
            size=size,
            limit=max_bytes,
            parameter=name,
        )
    return value if type(value) is bytes else bytes(value)


def error_text(value: object, name: str = "error", *, max_bytes: int = MAX_TEXT_BYTES) -> str | None:
    """Return an error text that fits into its column; None stays None.

    A longer text is cut on a character border and ends with ``…``. Lone surrogates (file names in messages
    have them) are written as escapes: an odd character must not prevent an error from being stored.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise _refuse(name, "text or None", value)
    # Every character has at least one byte, so what is beyond the limit is never needed.
    head = value[: max_bytes + 1].encode("utf-8", "backslashreplace")
    if len(head) <= max_bytes:
        return head.decode("utf-8")
    mark = "…".encode()
    return head[: max_bytes - len(mark)].decode("utf-8", "ignore") + "…"


def _json_writer() -> Callable[[Any], str]:
    """Make the one encoder for all: `JSONEncoder.encode` prepares another for each call, which is half of its cost.

    The function that it prepares is kept, where the interpreter has it and it answers as it should; it is no public
    part of `json`. It keeps no list of the values around the one it is in, so a cycle ends as too deep nesting.
    """
    plain = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    sample = [('ü"\\\n', -1, 2.5), {"a": None, "b": [True, {}]}, 2**80, "x"]
    try:
        encoder: Any = json.encoder
        text = encoder.encode_basestring
        pieces = encoder.c_make_encoder(None, plain.default, text, None, ":", ",", False, False, False)
        if all("".join(pieces(value, 0)) == plain.encode(value) for value in (sample, *sample)):
            return lambda value: "".join(pieces(value, 0))
    except Exception:  # noqa: BLE001, S110 - another interpreter, or another version of it
        pass
    return plain.encode


_write_json = _json_writer()


def json_text(value: Any, name: str = "value") -> str:
    """Return the JSON text of a value, exact for integers of any usual size.

    Raises
    ------
    SerializationError
        For what JSON cannot hold: other types, NaN and infinities, lone surrogates, cycles, too deep nesting.
    """
    try:
        text = _write_json(value)
        if not text.isascii():
            text.encode("utf-8")
    except UnicodeEncodeError:
        raise SerializationError(f"{name} holds a lone surrogate, which is no valid text") from None
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise SerializationError(f"{name} cannot be written as JSON: {reason}") from error
    return text


def json_value(text: str | bytes, name: str = "value") -> Any:
    """Return the value of a stored JSON text.

    Raises
    ------
    DeserializationError
        When it is no valid JSON text. The text itself is not shown: it is the user's data.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DeserializationError(f"{name} cannot be read as JSON: {reason}") from error
