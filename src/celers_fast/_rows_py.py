"""Decoding of claimed rows in Python; `_rows_c` gives equal objects faster.

Rows come from the driver as tuples of bytes and None, without its converters (about 1 us per value). The
messages are made without the constructors of their classes: what comes from the table was checked on its way
in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from celers.errors import DeserializationError, PayloadTooLargeError, ValidationError
from celers_fast.compression import decompress_payload

if TYPE_CHECKING:
    from celers.model.task import BrokerMessage, SerializedTask, TaskMetadata

    Types = tuple[type[TaskMetadata], type[SerializedTask], type[BrokerMessage], type[DeserializationError]]

__all__ = [
    "CLAIM_COLUMNS",
    "RESERVED_KEYS",
    "decode_claims",
    "make_receipt",
    "parse_datetime",
    "parse_receipt",
]

Row = Sequence[bytes | None]

CLAIM_COLUMNS = (
    "seq",
    "id",
    "task_name",
    "payload",
    "payload_encoding",
    "priority",
    "retry_count",
    "max_retries",
    "timeout_secs",
    "created_at",
    "started_at",
    "deliveries",
    "group_id",
    "chord_id",
    "parent_task_id",
    "metadata",
    "isolated",
)
"""Columns of a claimed row, in the order in which `decode_claims` expects them."""

RESERVED_KEYS = frozenset(
    {
        "queue",
        "enqueued_at",
        "scheduled_for",
        "delay_seconds",
        "dedup_key",
        "group_id",
        "chord_id",
        "parent_task_id",
        "dependencies",
        "trace_context",
        "progress",
        "requeued_from",
        "recurring_id",
        "synthetic",
        "load_test_id",
    }
)
"""Metadata keys that belong to celers and are left out of a delivered task's `extra`."""

METADATA_FIELDS = (
    "id",
    "name",
    "created_at",
    "updated_at",
    "max_retries",
    "timeout_secs",
    "priority",
    "group_id",
    "chord_id",
    "parent_task_id",
    "dependencies",
    "extra",
)
TASK_FIELDS = ("metadata", "payload")
MESSAGE_FIELDS = ("task", "receipt_handle", "retry_count", "delivered_at", "isolated")

NO_DEPENDENCIES: frozenset[UUID] = frozenset()

_datetime_text = re.compile(rb"(\d{4})-(\d{2})-(\d{2}) (\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,6}))?", re.ASCII).fullmatch
_number_text = re.compile(rb"-?\d{1,20}", re.ASCII).fullmatch
_receipt_text = re.compile("[0-9a-f]{32}").fullmatch


def bad_value(column: str, problem: str) -> DeserializationError:
    """Return the error for a stored value that cannot be decoded. Used by both twins."""
    return DeserializationError(f"column {column}: {problem}")


def bad_receipt_part(name: str, bits: int, value: object) -> ValidationError:
    """Return the error for a part that does not fit into a receipt. Used by both twins."""
    return ValidationError(f"{name} must be an int of {bits} bits, not {value!r:.40}", parameter=name)


def bad_datetime(text: object) -> DeserializationError:
    """Return the error for a stored time that cannot be decoded. Used by both twins."""
    return DeserializationError(f"not a stored time: {text!r:.80}")


def bad_width(row: object) -> DeserializationError:
    """Return the error for a row with other columns than expected. Used by both twins."""
    size = len(row) if isinstance(row, tuple | list) else type(row).__name__
    return DeserializationError(f"a claimed row must have {len(CLAIM_COLUMNS)} columns, not {size}")


def load_extra(text: bytes) -> dict[str, Any]:
    """Return the user's keys of a metadata document. Used by both twins."""
    try:
        document = json.loads(text.decode())
    except UnicodeDecodeError:
        raise bad_value("metadata", "it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise bad_value("metadata", "it is not JSON") from None
    if type(document) is not dict:
        raise bad_value("metadata", "it is not a JSON object")
    if not RESERVED_KEYS.isdisjoint(document):
        return {key: value for key, value in document.items() if key not in RESERVED_KEYS}
    return document


def unpack(payload: bytes, encoding: bytes | None) -> bytes:
    """Return a payload that is not stored raw. Used by both twins."""
    if encoding == b"deflate":
        return decompress_payload(payload)
    shown = "NULL" if encoding is None else repr(encoding)[1:]
    raise bad_value("payload_encoding", f"{shown:.40} is unknown")


def parse_datetime(text: bytes) -> datetime:
    """Return the aware UTC time that a DATETIME column holds.

    Parameters
    ----------
    text : bytes
        ``YYYY-MM-DD HH:MM:SS`` with or without a fraction of up to six digits.

    Raises
    ------
    DeserializationError
        For anything else, and for dates that do not exist.
    """
    match = _datetime_text(text) if type(text) is bytes else None
    if match is None:
        raise bad_datetime(text)
    year, month, day, hour, minute, second, fraction = match.groups()
    try:
        return datetime(
            int(year),
            int(month),
            int(day),
            int(hour),
            int(minute),
            int(second),
            int(fraction.ljust(6, b"0")) if fraction else 0,
            UTC,
        )
    except ValueError:
        raise bad_datetime(text) from None


def make_receipt(seq: int, consumer_no: int, deliveries: int) -> str:
    """Return the receipt of a delivery, 32 hex digits.

    `seq` takes the first 16, `consumer_no` and `deliveries` 8 each.

    Raises
    ------
    ValidationError
        When a part is negative or too large for its place.
    """
    _part("seq", 64, seq)
    _part("consumer_no", 32, consumer_no)
    _part("deliveries", 32, deliveries)
    return f"{seq:016x}{consumer_no:08x}{deliveries:08x}"


def _part(name: str, bits: int, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or value >> bits:
        raise bad_receipt_part(name, bits, value)


def parse_receipt(text: object) -> tuple[int, int, int] | None:
    """Return the parts of a receipt, (seq, consumer_no, deliveries), or None when it is malformed."""
    if not isinstance(text, str) or not _receipt_text(text):
        return None
    value = int(text, 16)
    return value >> 64, value >> 32 & 0xFFFF_FFFF, value & 0xFFFF_FFFF


def _present(row: Row, index: int) -> bytes:
    value = row[index]
    if type(value) is not bytes:
        raise bad_value(CLAIM_COLUMNS[index], "it is NULL" if value is None else "it is not bytes")
    return value


def _integer(row: Row, index: int) -> int:
    text = _present(row, index)
    if _number_text(text):
        value = int(text)
        if -(2**63) <= value < 2**63:
            return value
    raise bad_value(CLAIM_COLUMNS[index], "it is not an integer of 64 bits")


def _seq(row: Row) -> int:
    text = _present(row, 0)
    if _number_text(text):
        value = int(text)
        if 0 <= value < 2**64:
            return value
    raise bad_value("seq", "it is not an unsigned integer of 64 bits")


def _text(row: Row, index: int) -> str:
    try:
        return _present(row, index).decode()
    except UnicodeDecodeError:
        raise bad_value(CLAIM_COLUMNS[index], "it is not UTF-8") from None


def _uuid(row: Row, index: int) -> UUID:
    value = _present(row, index)
    if len(value) != 16:
        raise bad_value(CLAIM_COLUMNS[index], "it is not 16 bytes long")
    return UUID(bytes=value)


def _datetime(row: Row, index: int) -> datetime:
    text = _present(row, index)
    try:
        return parse_datetime(text)
    except DeserializationError:
        raise bad_value(CLAIM_COLUMNS[index], "it is not a time") from None


def _maker(cls: type[Any], fields: tuple[str, ...]) -> Callable[..., Any]:
    """Return a function that makes an instance from its fields in order, without `__init__`."""
    setters = [getattr(cls, field).__set__ for field in fields]
    new = object.__new__

    def make(*values: object) -> Any:
        made = new(cls)
        for setter, value in zip(setters, values, strict=True):
            setter(made, value)
        return made

    return make


_makers: dict[Types, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {}


def decode_claims(
    rows: Sequence[Row], consumer_no: int, types: Types, held: dict[int, tuple[UUID, int]] | None = None
) -> tuple[list[BrokerMessage], list[tuple[int, str]]]:
    """Return the messages of a claim in delivery order, and the rows that cannot be decoded.

    Parameters
    ----------
    rows : sequence of tuples of bytes or None
        Columns as in `CLAIM_COLUMNS`, in any order of rows.
    consumer_no : int
        The consumer that made the claim; part of the receipts.
    types : tuple
        The classes TaskMetadata, SerializedTask, BrokerMessage and DeserializationError. The first three are
        slotted dataclasses and are made without running their constructors.
    held : dict, optional
        Gets the messages' receipts: from `seq` to the id and the number of the delivery.

    Returns
    -------
    messages : list of BrokerMessage
        Highest priority first, then by `seq`.
    bad : list of (int, str)
        `seq` of each undecodable row with the reason, in the order of the rows.

    Raises
    ------
    DeserializationError
        When a row has another number of columns or its `seq` cannot be read.
    ValidationError
        When `consumer_no` does not fit into a receipt.
    """
    _part("consumer_no", 32, consumer_no)
    makers = _makers.get(types)
    if makers is None:
        makers = _makers[types] = (
            _maker(types[0], METADATA_FIELDS),
            _maker(types[1], TASK_FIELDS),
            _maker(types[2], MESSAGE_FIELDS),
        )
    keyed: list[tuple[int, int, BrokerMessage]] = []
    bad: list[tuple[int, str]] = []
    failure = types[3]
    for row in rows:
        if not isinstance(row, tuple | list) or len(row) != len(CLAIM_COLUMNS):
            raise bad_width(row)
        seq = _seq(row)
        try:
            message = _decode(row, seq, consumer_no, *makers)
        except failure as error:
            bad.append((seq, str(error)))
        except PayloadTooLargeError as error:
            bad.append((seq, f"column payload: {error}"))
        else:
            keyed.append((-message.task.metadata.priority, seq, message))
            if held is not None:
                held[seq] = (message.task.metadata.id, _integer(row, 11))
    keyed.sort(key=_order)
    return [message for _, _, message in keyed], bad


def _order(keyed: tuple[int, int, object]) -> tuple[int, int]:
    return keyed[0], keyed[1]


def _decode(
    row: Row,
    seq: int,
    consumer_no: int,
    make_metadata: Callable[..., TaskMetadata],
    make_task: Callable[..., SerializedTask],
    make_message: Callable[..., BrokerMessage],
) -> BrokerMessage:
    task_id = _uuid(row, 1)
    name = _text(row, 2)
    payload = _present(row, 3)
    if row[4] != b"raw":
        payload = unpack(payload, row[4])
    priority = _integer(row, 5)
    retry_count = _integer(row, 6)
    max_retries = _integer(row, 7)
    timeout_secs = None if row[8] is None else _integer(row, 8)
    created_at = _datetime(row, 9)
    started_at = _datetime(row, 10)
    deliveries = _integer(row, 11)
    if deliveries < 0 or deliveries >> 32:
        raise bad_value("deliveries", "it is not an integer of 32 bits")
    group_id = None if row[12] is None else _text(row, 12)
    chord_id = None if row[13] is None else _uuid(row, 13)
    parent_task_id = None if row[14] is None else _uuid(row, 14)
    extra = {} if row[15] is None else load_extra(_present(row, 15))
    isolated = _integer(row, 16) != 0
    metadata = make_metadata(
        task_id,
        name,
        created_at,
        started_at,
        max_retries,
        timeout_secs,
        priority,
        group_id,
        chord_id,
        parent_task_id,
        NO_DEPENDENCIES,
        extra,
    )
    receipt = f"{seq:016x}{consumer_no:08x}{deliveries:08x}"
    return make_message(make_task(metadata, payload), receipt, retry_count, started_at, isolated)
