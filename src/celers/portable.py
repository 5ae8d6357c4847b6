"""The form in which tasks and dead letters leave a database, and in which tasks come back into one.

An object for each task, made of what JSON knows; payloads are base64 text and always decompressed.

Everything here is pure. Objects come from outside and may be anything: `check_task` refuses what is not a task.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from celers import rows as read
from celers import validate
from celers.errors import DeserializationError, PayloadTooLargeError, SerializationError, ValidationError
from celers.model.base import JSON
from celers.model.enums import DbTaskState
from celers.retry import RetryPolicy
from celers_fast.compression import compress_payload, decompress_payload

__all__ = [
    "LETTER_COLUMNS",
    "TASK_COLUMNS",
    "ImportedTask",
    "check_task",
    "json_kind",
    "letter_object",
    "object_text",
    "read_array",
    "task_object",
]

Row = tuple[bytes | None, ...]

TASK_COLUMNS: Final = (
    *("id", "task_name", "payload", "payload_encoding", "state", "priority", "retry_count", "max_retries"),
    *("timeout_secs", "created_at", "scheduled_at", "started_at", "completed_at", "worker_id", "error_message"),
    *("metadata", "retry_policy", "dedup_key", "group_id", "chord_id", "parent_task_id", "dependencies"),
)
"""Columns of an exported task's row, in their order; `dependencies` is the hexadecimal ids with commas."""

LETTER_COLUMNS: Final = (
    *("id", "task_id", "task_name", "payload", "payload_encoding", "priority", "retry_count", "max_retries"),
    *("timeout_secs", "error_message", "failed_at", "created_at", "metadata", "retry_policy", "dedup_key"),
    *("group_id", "chord_id", "parent_task_id"),
)

_KEYS: Final = frozenset({*TASK_COLUMNS, "queue_name"})
# Kept in columns and fields of their own; a task's metadata never stores them.
_COLUMN_KEYS: Final = frozenset(
    {"queue", "enqueued_at", "dedup_key", "group_id", "chord_id", "parent_task_id", "dependencies"}
)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_STATES: Final = frozenset(state.value for state in DbTaskState)
_ENDED: Final = (DbTaskState.COMPLETED, DbTaskState.FAILED, DbTaskState.CANCELLED)


# Out


def task_object(row: Row, queue_name: str) -> dict[str, JSON]:
    """Return the object of a stored task; the row has `TASK_COLUMNS`.

    Raises
    ------
    DeserializationError, PayloadTooLargeError
        What is stored cannot be read; the error names the task.
    """
    task_id = read.uuid(row[0])
    try:
        return {
            "id": str(task_id),
            "queue_name": queue_name,
            "task_name": read.text(row[1]),
            **_payload_fields(row[2], row[3]),
            "state": read.text(row[4]),
            "priority": read.integer(row[5]),
            "retry_count": read.integer(row[6]),
            "max_retries": read.integer(row[7]),
            "timeout_secs": read.integer_or_none(row[8]),
            "created_at": _time_text(row[9]),
            "scheduled_at": _time_text(row[10]),
            "started_at": _time_text(row[11]),
            "completed_at": _time_text(row[12]),
            "worker_id": read.text_or_none(row[13]),
            "error_message": read.text_or_none(row[14]),
            "metadata": _metadata_object(row[15]),
            "retry_policy": None if row[16] is None else validate.json_value(row[16], "retry_policy"),
            "dedup_key": read.text_or_none(row[17]),
            "group_id": read.text_or_none(row[18]),
            "chord_id": _id_text(row[19]),
            "parent_task_id": _id_text(row[20]),
            "dependencies": [] if row[21] is None else [str(UUID(part)) for part in read.text(row[21]).split(",")],
        }
    except (DeserializationError, PayloadTooLargeError) as error:
        raise DeserializationError(f"the task {task_id} cannot be exported: {error}") from error


def letter_object(row: Row, queue_name: str) -> dict[str, JSON]:
    """Return the object of a dead letter; the row has `LETTER_COLUMNS`."""
    letter_id = read.uuid(row[0])
    try:
        return {
            "id": str(letter_id),
            "task_id": _id_text(row[1]),
            "queue_name": queue_name,
            "task_name": read.text(row[2]),
            **_payload_fields(row[3], row[4]),
            "priority": read.integer(row[5]),
            "retry_count": read.integer(row[6]),
            "max_retries": read.integer(row[7]),
            "timeout_secs": read.integer_or_none(row[8]),
            "error_message": read.text_or_none(row[9]),
            "failed_at": _time_text(row[10]),
            "created_at": _time_text(row[11]),
            "metadata": _metadata_object(row[12]),
            "retry_policy": None if row[13] is None else validate.json_value(row[13], "retry_policy"),
            "dedup_key": read.text_or_none(row[14]),
            "group_id": read.text_or_none(row[15]),
            "chord_id": _id_text(row[16]),
            "parent_task_id": _id_text(row[17]),
        }
    except (DeserializationError, PayloadTooLargeError) as error:
        raise DeserializationError(f"the dead letter {letter_id} cannot be exported: {error}") from error


def _payload_fields(stored: bytes | None, encoding: bytes | None) -> dict[str, JSON]:
    payload = stored or b""
    if encoding == b"deflate":
        payload = decompress_payload(payload)
    elif encoding != b"raw":
        raise DeserializationError(f"the payload_encoding {validate.shown(encoding)} is unknown")
    return {"payload": binascii.b2a_base64(payload, newline=False).decode("ascii"), "payload_encoding": "base64"}


def _metadata_object(text: bytes | None) -> dict[str, JSON]:
    if text is None:
        return {}
    value = validate.json_value(text, "metadata")
    if not isinstance(value, dict):
        raise DeserializationError("the metadata is no object")
    return value


def _time_text(value: bytes | None) -> str | None:
    """RFC 3339, as `to_json` writes times."""
    moment = read.instant_or_none(value)
    return None if value is None or moment is None else value.decode("ascii").replace(" ", "T") + "Z"


def _id_text(value: bytes | None) -> str | None:
    return None if value is None else str(UUID(bytes=value))


def object_text(value: Mapping[str, JSON]) -> str:
    """Return the JSON text of an exported object; one line."""
    return validate.json_text(value, "an exported object")


# In


@dataclass(frozen=True, slots=True)
class ImportedTask:
    """A task that was read and found good, as it will be stored.

    Times are the text of a DATETIME(6) in UTC; `payload` has its stored form.
    """

    id: UUID
    task_name: str
    payload: bytes
    payload_encoding: str
    state: str
    priority: int
    retry_count: int
    max_retries: int
    timeout_secs: int | None
    created_at: str
    scheduled_at: str
    started_at: str | None
    completed_at: str | None
    worker_id: str | None
    error_message: str | None
    metadata: str | None
    retry_policy: str | None
    dedup_key: str | None
    group_id: str | None
    chord_id: UUID | None
    parent_task_id: UUID | None
    dependencies: tuple[UUID, ...]


def read_array(text: str) -> list[Any]:
    """Return the members of a JSON array.

    Raises
    ------
    ValidationError
        It is no text.
    DeserializationError
        It is not JSON, or no array.
    """
    if not isinstance(text, str):
        raise ValidationError(f"json_data must be text, not {type(text).__name__}", parameter="json_data")
    value = validate.json_value(text, "json_data")
    if not isinstance(value, list):
        raise DeserializationError(f"json_data must be a JSON array, not {json_kind(value)}")
    return value


def check_task(value: object, index: int, *, max_payload_bytes: int, compress: bool) -> ImportedTask:
    """Return a task out of an object of `task_object`'s form.

    Parameters
    ----------
    value : object
        What was read. The payload may also be a list of numbers, metadata and retry policy JSON text.
    index : int
        Its place in the input, for the error.
    max_payload_bytes : int
        Limit of the stored payload.
    compress : bool
        Store the payload compressed.

    Raises
    ------
    DeserializationError
        Something is missing, malformed or unknown; the error says where.
    PayloadTooLargeError
        The stored payload would be too large.
    """
    try:
        return _checked(value, max_payload_bytes, compress)
    except PayloadTooLargeError as error:
        raise PayloadTooLargeError(
            f"item {index}: {error}", size=error.size, limit=error.limit, parameter=error.parameter
        ) from None
    except (ValidationError, SerializationError, DeserializationError) as error:
        raise DeserializationError(f"item {index}: {error}") from None


def _checked(value: object, max_payload_bytes: int, compress: bool) -> ImportedTask:
    if not isinstance(value, Mapping):
        raise DeserializationError(f"a task must be an object, not {json_kind(value)}")
    if unknown := value.keys() - _KEYS:
        raise DeserializationError(f"unknown fields: {validate.shown(sorted(map(str, unknown)))}")
    for name in ("id", "task_name", "state", "payload", "created_at", "scheduled_at"):
        if value.get(name) is None:
            raise DeserializationError(f"{name} is missing")
    found = value.get
    task_id = validate.task_id(found("id"), "id")
    validate.optional_name(found("queue_name"), "queue_name")
    state = _state(found("state"))
    payload = _payload(found("payload"), found("payload_encoding"), max_payload_bytes)
    if compress:
        payload = compress_payload(payload)
    validate.payload(payload, max_payload_bytes)
    started_at, worker_id = _time(found("started_at"), "started_at"), _name(found("worker_id"), "worker_id")
    completed_at = _time(found("completed_at"), "completed_at")
    if (completed_at is None) is (state in _ENDED):
        raise DeserializationError(
            f"completed_at must {'be given' if completed_at is None else 'be null'} in the state {state.value}"
        )
    if state not in _ENDED:
        # Whoever had it in work does not exist here.
        state, started_at, worker_id = DbTaskState.PENDING, None, None
    dependencies = _dependencies(found("dependencies"))
    if task_id in dependencies:
        raise DeserializationError("the task depends on itself")
    return ImportedTask(
        id=task_id,
        task_name=validate.name(found("task_name"), "task_name"),
        payload=payload,
        payload_encoding="deflate" if compress else "raw",
        state=state.value,
        priority=validate.priority(found("priority", 0)),
        retry_count=validate.integer(found("retry_count", 0), "retry_count", 0, 2**32 - 1),
        max_retries=validate.max_retries(found("max_retries", 3)),
        timeout_secs=None
        if found("timeout_secs") is None
        else validate.integer(found("timeout_secs"), "timeout_secs", 1, 2**32 - 1),
        created_at=_needed_time(found("created_at"), "created_at"),
        scheduled_at=_needed_time(found("scheduled_at"), "scheduled_at"),
        started_at=started_at,
        completed_at=completed_at,
        worker_id=worker_id,
        error_message=validate.error_text(found("error_message"), "error_message"),
        metadata=_metadata(found("metadata")),
        retry_policy=_policy(found("retry_policy")),
        dedup_key=_name(found("dedup_key"), "dedup_key"),
        group_id=_name(found("group_id"), "group_id"),
        chord_id=_optional_id(found("chord_id"), "chord_id"),
        parent_task_id=_optional_id(found("parent_task_id"), "parent_task_id"),
        dependencies=dependencies,
    )


def json_kind(value: object) -> str:
    """What JSON calls a value; values themselves are users' data and are not shown."""
    if value is None:
        return "null"
    kinds = ((bool, "a boolean"), (int | float, "a number"), (str, "a string"), (list, "an array"), (dict, "an object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def _name(value: object, parameter: str) -> str | None:
    return validate.optional_name(value, parameter)


def _optional_id(value: object, parameter: str) -> UUID | None:
    return None if value is None else validate.task_id(value, parameter)


def _state(value: object) -> DbTaskState:
    if isinstance(value, str) and value in _STATES:
        return DbTaskState(value)
    raise DeserializationError(f"the state {validate.shown(value)} is unknown")


def _payload(value: object, encoding: object, most: int) -> bytes:
    if isinstance(value, str):
        if encoding not in (None, "base64"):
            raise DeserializationError(f"the payload_encoding {validate.shown(encoding)} is unknown")
        try:
            return base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error):
            raise DeserializationError("the payload is no base64 text") from None
    if isinstance(value, list):
        if encoding not in (None, "base64", "raw"):
            raise DeserializationError(f"the payload_encoding {validate.shown(encoding)} is unknown")
        if not all(type(byte) is int and 0 <= byte <= 255 for byte in value):
            raise DeserializationError("a payload given as an array must hold numbers from 0 to 255")
        return bytes(value)
    raise DeserializationError(f"the payload must be base64 text or an array of numbers, not {json_kind(value)}")


def _needed_time(value: object, name: str) -> str:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise DeserializationError(f"{name} must be a time such as 2026-01-02T03:04:05.678901Z, not {json_kind(value)}")
    try:
        # Python calls only a capital Z the time zone.
        moment = datetime.fromisoformat(value.upper())
    except ValueError:
        raise DeserializationError(f"{name} is no time that exists: {validate.shown(value)}") from None
    return f"{validate.instant(moment, name):%Y-%m-%d %H:%M:%S.%f}"


def _time(value: object, name: str) -> str | None:
    return None if value is None else _needed_time(value, name)


def _dependencies(value: object) -> tuple[UUID, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DeserializationError(f"dependencies must be an array of ids, not {json_kind(value)}")
    return tuple(validate.task_ids(value, "dependencies"))


def _object(value: object, name: str) -> dict[str, Any] | None:
    """An object, or the JSON text of one."""
    if isinstance(value, str):
        value = validate.json_value(value, name)
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise DeserializationError(f"{name} must be an object, not {json_kind(value)}")
    return dict(value)


def _metadata(value: object) -> str | None:
    found = _object(value, "metadata")
    kept = {key: item for key, item in (found or {}).items() if key not in _COLUMN_KEYS}
    return validate.json_text(kept, "metadata") if kept else None


def _policy(value: object) -> str | None:
    found = _object(value, "retry_policy")
    if found is None:
        return None
    RetryPolicy.from_dict(found)
    return validate.json_text(found, "retry_policy")
