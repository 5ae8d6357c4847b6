"""Metadata and progress of stored tasks: the steps behind operations of `Tasks`.

Changes are made here, on the metadata of a locked row, and not by JSON functions of the server: the two servers differ
in what these do, and neither says when a path leads nowhere. Only searching is left to the server, with a condition
that both answer alike (`condition`).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from uuid import UUID

from celers import jsonpath, validate
from celers.components.base import Component
from celers.components.claims import intern_worker
from celers.components.inspection import task_infos
from celers.components.settling import lock_by_id
from celers.errors import DeserializationError, PayloadTooLargeError, ValidationError
from celers.model.base import JSON
from celers.model.inspection import TaskProgress
from celers.model.task import RESERVED_METADATA_KEYS, TaskInfo
from celers.operation import Packet, Steps
from celers_fast.params import Raw, literal

__all__ = ["change", "condition", "find", "progress_of", "set_error", "set_progress", "set_worker"]

SMALLEST_INT, LARGEST_INT = -(2**63), 2**64 - 1
"""Integers beyond become doubles in MySQL's JSON columns."""

MAX_DASHES = 3


# Searching


def find(
    component: Component[Any], json_path: str, value: str | float | bool | None, limit: int, offset: int
) -> Steps[list[TaskInfo]]:
    """Return tasks with a value at a path of their metadata."""
    text = condition(jsonpath.parse(json_path), value)
    count, skip = validate.limit(limit), validate.offset(offset)
    if not count:
        return []
    core = component.core
    statement = core.sql(
        "inspection", "with_metadata", queue_id=core.queue_id, condition=Raw(text), count=count, skip=skip
    )
    return (yield from task_infos(component, statement))


def condition(path: jsonpath.Path, value: object) -> bytes:
    """Return the SQL condition that a scalar stands at a path of `metadata` and equals a value.

    - Numbers are compared as Python compares them, whether stored with a fraction or without. MariaDB keeps the text
      that was stored and calls 1e+16 an integer, so integers are told by their text, which is one text on both.
    - Text matches text byte by byte (collations would ignore blanks at the end), the words true, false and null, and
      a number that Python writes like this.
    - An index asks for an array: both servers take a scalar for an array of one.

    Raises
    ------
    ValidationError
        The value is no scalar, or NaN or infinite.
    SerializationError
        The text has a lone surrogate.
    """
    found = _extract(path)
    kind, text = b"JSON_TYPE(%s)" % found, b"JSON_UNQUOTE(%s)" % found
    conditions = [
        b"JSON_TYPE(%s)='ARRAY'" % _extract(path[:number]) for number, step in enumerate(path) if isinstance(step, int)
    ]
    if value is None:
        conditions.append(b"%s='NULL'" % kind)
    elif isinstance(value, bool):
        conditions.append(b"%s='BOOLEAN' AND %s" % (kind, _is(text, "true" if value else "false")))
    elif isinstance(value, str):
        conditions.append(_text_condition(kind, text, value))
    elif isinstance(value, int | float):
        conditions.append(_number_condition(kind, text, _finite(value)))
    else:
        raise ValidationError(
            f"value={validate.shown(value)} must be text, a number, True, False or None", parameter="value"
        )
    return b"(" + b" AND ".join(b"(%s)" % part for part in conditions) + b")"


def _extract(path: jsonpath.Path) -> bytes:
    """Return the expression of what stands at a path of `metadata`.

    MariaDB finds no name that begins with a minus sign, however it is written. The place of such a name among the
    keys is looked for instead; the values stand in the same order.
    """
    found, plain, dashes = b"metadata", [], 0
    for step in path:
        if not isinstance(step, str) or not step.startswith("-"):
            plain.append(step)
            continue
        dashes += 1
        if dashes > MAX_DASHES:  # each doubles the text
            raise ValidationError(
                f"json_path has more than {MAX_DASHES} names that begin with a minus sign", parameter="json_path"
            )
        if plain:
            found, plain = b"JSON_EXTRACT(%s,%s)" % (found, literal(jsonpath.render(tuple(plain)))), []
        name = literal(re.sub(r"([|%_])", r"|\1", step))
        place = b"JSON_UNQUOTE(JSON_SEARCH(JSON_KEYS(%s),'one',%s,'|'))" % (found, name)
        found = b"JSON_EXTRACT(JSON_EXTRACT(%s,'$.*'),%s)" % (found, place)
    if plain or not path:
        found = b"JSON_EXTRACT(%s,%s)" % (found, literal(jsonpath.render(tuple(plain))))
    return found


def _is(text: bytes, value: str) -> bytes:
    return b"CAST(%s AS BINARY)=%s" % (text, literal(value.encode("utf-8")))


def _finite(value: float) -> float:
    if isinstance(value, float):
        return validate.number(value, "value")
    return int(value)


def _text_condition(kind: bytes, text: bytes, value: str) -> bytes:
    literal(value)  # refuses lone surrogates by name
    ways = [b"%s='STRING' AND %s" % (kind, _is(text, value))]
    if value in ("true", "false"):
        ways.append(b"%s='BOOLEAN' AND %s" % (kind, _is(text, value)))
    elif value == "null":
        ways.append(b"%s='NULL'" % kind)
    else:
        number = _canonical(value)
        if number is not None:
            ways.append(_number_condition(kind, text, number, alike=True))
    return b" OR ".join(b"(%s)" % way for way in ways)


def _canonical(text: str) -> float | None:
    """Return the number that Python's JSON writes exactly like this."""
    try:
        number = float(text) if any(sign in text for sign in ".e") else int(text[:100])
        return number if len(text) <= 100 and repr(number) == text and number - number == 0 else None
    except ValueError:
        return None


def _number_condition(kind: bytes, text: bytes, value: float, *, alike: bool = False) -> bytes:
    """Compare with a stored number.

    Parameters
    ----------
    alike : bool
        Only with one that is stored in the same form: 1 and 1.0 differ.
    """
    numeric = b"%s IN ('INTEGER','UNSIGNED INTEGER','DOUBLE','DECIMAL')" % kind
    fraction = b"%s REGEXP '[.eE]'" % text
    ways: list[bytes] = []
    if isinstance(value, int):
        near = _double(value)
        if SMALLEST_INT <= value <= LARGEST_INT:
            ways.append(_is(text, str(value)))
            if not alike and near is not None and near == value:
                ways.append(b"%s AND %s" % (fraction, _same_double(text, near)))
        elif near is not None:
            ways.append(_same_double(text, near))
    elif SMALLEST_INT <= value <= LARGEST_INT:
        ways.append(b"%s AND %s" % (fraction, _same_double(text, value)))
        if not alike and value.is_integer():
            ways.append(_is(text, str(int(value))))
    else:
        ways.append(_same_double(text, value))
    if not ways:
        return b"FALSE"
    return b"%s AND (%s)" % (numeric, b" OR ".join(b"(%s)" % way for way in ways))


def _double(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _same_double(text: bytes, value: float) -> bytes:
    digits = repr(value)
    return b"%s+0e0=%s" % (text, (digits if "e" in digits else digits + "e0").encode())


# Changing


def change(component: Component[Any], task_id: UUID, json_path: str, value: JSON) -> Steps[bool]:
    """Set a value in the metadata of a task; False without the task."""
    path = jsonpath.parse(json_path)
    if path and path[0] in RESERVED_METADATA_KEYS:
        raise ValidationError(f"json_path={json_path!r} names a key that belongs to celers", parameter="json_path")
    validate.json_text(value, "value")
    if not path and not isinstance(value, dict):
        raise ValidationError(
            f"value={validate.shown(value)} must be an object to replace the whole metadata", parameter="value"
        )
    core = component.core
    locked = yield from lock_by_id(component, [task_id])
    if not locked:
        return False
    seq = locked[0].seq
    stored = (yield Packet(core.sql("inspection", "lock_metadata", seq=seq)))[0].rows[0][0]
    document: dict[str, Any] = {} if stored is None else validate.json_value(stored, "metadata")
    if path:
        jsonpath.put(document, path, value)
    else:
        kept = {key: document[key] for key in document if key in RESERVED_METADATA_KEYS}
        document = {key: value[key] for key in value if key not in RESERVED_METADATA_KEYS} | kept
    text = validate.json_text(document, "metadata") if document else None
    statement = core.sql("inspection", "set_metadata", metadata=text, seq=seq)
    if len(statement) > core.packet_bytes:
        raise PayloadTooLargeError(
            f"the metadata needs {len(statement)} bytes in a statement, but the server's max_allowed_packet leaves"
            f" {core.packet_bytes}",
            size=len(statement),
            limit=core.packet_bytes,
            parameter="value",
        )
    yield Packet(statement, commit=True)
    return True


def set_error(component: Component[Any], task_id: UUID, error: str | None) -> Steps[bool]:
    """Set the error text of a task in any state; False without the task."""
    text = validate.error_text(error, "error_message")
    core = component.core
    locked = yield from lock_by_id(component, [task_id])
    if not locked:
        return False
    yield Packet(core.sql("inspection", "set_error", error=text, seq=locked[0].seq), commit=True)
    return True


def set_worker(component: Component[Any], task_id: UUID, worker_id: str) -> Steps[bool]:
    """Note another worker with a task in work; False when it is not in work."""
    worker = validate.name(worker_id, "worker_id")
    core = component.core
    number = yield from intern_worker(component, worker)
    results = yield Packet(
        core.sql("inspection", "find_seq", id=task_id, queue_id=core.queue_id),
        core.sql("inspection", "set_worker", worker_no=number),
        commit=True,
    )
    return results[1].affected > 0


# Progress


def set_progress(
    component: Component[Any],
    task_id: UUID,
    progress_percent: float,
    current_step: str | None,
    total_steps: int | None,
) -> Steps[bool]:
    """Store the progress of a task in work; False when it is not in work."""
    percent = validate.number(progress_percent, "progress_percent", 0, 100)
    if current_step is not None and not isinstance(current_step, str):
        raise ValidationError(
            f"current_step={validate.shown(current_step)} must be text or None", parameter="current_step"
        )
    if total_steps is not None:
        validate.integer(total_steps, "total_steps", 1)
    text = validate.json_text(
        {"progress_percent": percent, "current_step": current_step, "total_steps": total_steps}, "current_step"
    )
    core = component.core
    results = yield Packet(
        core.sql("inspection", "find_seq", id=task_id, queue_id=core.queue_id),
        core.sql("inspection", "set_progress", progress=text),
        commit=True,
    )
    return results[1].affected > 0


def progress_of(component: Component[Any], task_id: UUID) -> Steps[TaskProgress | None]:
    """Return the progress that a task stored last."""
    core = component.core
    results = yield Packet(core.sql("inspection", "progress", id=task_id, queue_id=core.queue_id))
    rows = results[0].rows
    if not rows or rows[0][0] is None:
        return None
    stored = validate.json_value(rows[0][0], "progress")
    try:
        return TaskProgress(
            task_id=task_id,
            progress_percent=float(stored["progress_percent"]),
            current_step=stored.get("current_step"),
            total_steps=stored.get("total_steps"),
            updated_at=datetime.fromisoformat(stored["updated_at"]),
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DeserializationError(f"the stored progress of task {task_id} cannot be read: {error}") from error
