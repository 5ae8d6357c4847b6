"""Payload compression in Python; `_compression_c` gives equal bytes faster.

A stored payload is one byte that says how (0 raw, 1 raw DEFLATE stream of RFC 1951) and the data.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from celers.errors import DeserializationError, PayloadTooLargeError, ValidationError

__all__ = ["compress_payload", "compress_payloads", "decompress_payload"]

MAX_SIZE = 16_777_215
"""Longest value that a MEDIUMBLOB holds."""

SMALL = 4096
"""Longest data for which a stream with the smaller tables is used."""

BITS, MEMORY = 15, 8
SMALL_BITS, SMALL_MEMORY = 12, 7
"""Size of the window and of the tables, as zlib counts them. What a small window forgets is out of reach of small data
anyway; its tables are a quarter as large, which is what a stream for 1 kB spends its time on when it is new."""

Buffer = bytes | bytearray | memoryview


def whole(value: object, name: str, low: int, high: int) -> int:
    """Return `value` when it is an int in `low`..`high`, else raise `ValidationError`. Used by both twins."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValidationError(f"{name} must be an int in {low}..{high}, not {value!r:.40}", parameter=name)
    return value


def not_bytes(value: object) -> ValidationError:
    """Return the error for a payload that is no bytes. Used by both twins."""
    return ValidationError(
        f"a payload must be bytes, bytearray or memoryview, not {type(value).__name__}", parameter="data"
    )


def damaged(reason: str) -> DeserializationError:
    """Return the error for a stored payload that cannot be read. Used by both twins."""
    return DeserializationError(f"stored payload cannot be read: {reason}")


def too_large(max_size: int) -> PayloadTooLargeError:
    """Return the error for an output above the limit. Used by both twins."""
    return PayloadTooLargeError(
        f"stored payload is larger than {max_size} bytes once decompressed",
        limit=max_size,
        parameter="max_size",
    )


def _data(value: object) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise not_bytes(value)
    return bytes(value)


def compress_payload(data: Buffer, *, level: int = 1, min_size: int = 1024) -> bytes:
    """Return the stored form of a payload, compressed when that makes it smaller.

    Parameters
    ----------
    data : bytes-like
    level : int
        0 (none) to 9 (smallest); 1 is the fastest that compresses.
    min_size : int
        Bytes below which the data is stored raw.

    Raises
    ------
    ValidationError
        For a wrong type and for a level or size out of range.

    Source: specification IMPEX-05; RFC 1951.
    """
    whole(level, "level", 0, 9)
    whole(min_size, "min_size", 0, 2**63 - 1)
    return _compress(_data(data), level, min_size)


def _compress(data: bytes, level: int, min_size: int) -> bytes:
    if len(data) >= min_size:
        small = len(data) <= SMALL
        stream = zlib.compressobj(
            level, zlib.DEFLATED, -(SMALL_BITS if small else BITS), SMALL_MEMORY if small else MEMORY
        )
        packed = stream.compress(data) + stream.flush()
        if len(packed) < len(data):
            return b"\x01" + packed
    return b"\x00" + data


def compress_payloads(data: Sequence[Buffer], *, level: int = 1, min_size: int = 1024) -> list[bytes]:
    """Return the stored form of each payload; see `compress_payload`.

    Notes
    -----
    The compiled twin lets other threads run meanwhile, and has up to four of its own work on a batch: one for each
    128 KiB and for each processor that the process may use.
    """
    whole(level, "level", 0, 9)
    whole(min_size, "min_size", 0, 2**63 - 1)
    return [_compress(_data(item), level, min_size) for item in data]


def decompress_payload(data: Buffer, *, max_size: int = MAX_SIZE) -> bytes:
    """Return the payload out of its stored form.

    Parameters
    ----------
    data : bytes-like
        What `compress_payload` returned.
    max_size : int
        Largest output in bytes; nothing much larger is ever built in memory.

    Raises
    ------
    DeserializationError
        For an empty value, an unknown first byte, a damaged or cut stream, and bytes after its end.
    PayloadTooLargeError
        When the output would be larger than `max_size`.
    ValidationError
        For a wrong type.
    """
    whole(max_size, "max_size", 0, 2**31 - 2)
    stored = _data(data)
    if not stored:
        raise damaged("it is empty")
    form = stored[0]
    if form == 0:
        if len(stored) - 1 > max_size:
            raise too_large(max_size)
        return stored[1:]
    if form != 1:
        raise damaged(f"unknown first byte {form}")
    stream = zlib.decompressobj(-15)
    try:
        result = stream.decompress(stored[1:], max_size + 1)
    except zlib.error:
        raise damaged("the DEFLATE stream is damaged") from None
    if len(result) > max_size:
        raise too_large(max_size)
    if not stream.eof:
        raise damaged("the DEFLATE stream is cut")
    if stream.unused_data:
        raise damaged("bytes follow the DEFLATE stream")
    return result
