"""Files of exported objects: one JSON object a line.

The first line says what the file holds, the last one how many objects there were, so that a file that was cut is not
taken for a whole one. A file without a first line is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

from celers import validate
from celers.errors import DeserializationError
from celers.portable import json_kind, object_text, read_array

__all__ = ["Lines", "end_line", "head_line"]

VERSION: Final = 1
LONGEST_LINE: Final = 128 * 1024 * 1024
"""Bytes of one line: a payload of the largest size as a list of numbers, and the largest metadata."""

HEAD, END = "celers_export", "celers_export_end"


def head_line(what: str, queue_name: str) -> str:
    """Return the first line of a file: what it holds."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return object_text({HEAD: {"what": what, "version": VERSION, "queue_name": queue_name, "exported_at": now}})


def end_line(count: int) -> str:
    """Return the last line of a file: how many objects it holds."""
    return object_text({END: {"count": count}})


class Lines:
    """The objects of a file, read one by one; the array form is read as a whole.

    Parameters
    ----------
    stream : binary file
    what : str
        What the file's first line must announce, when it announces anything.

    Attributes
    ----------
    line : int
        Number of the line that was read last, from 1.
    bytes_read : int
        How far the file is read.

    Raises
    ------
    DeserializationError
        While reading: a line is no JSON object, the file is of another kind or of a newer form, or its end is missing.
    """

    def __init__(self, stream: BinaryIO, what: str = "tasks") -> None:
        self._stream = stream
        self._what = what
        self.line = 0
        self.bytes_read = 0

    def __iter__(self) -> Iterator[Any]:
        announced = ended = False
        count = 0
        for text in self._texts():
            if not (count or announced) and text.startswith(b"["):
                yield from self._array(text)
                return
            value = self._value(text)
            if ended:
                raise DeserializationError(f"line {self.line}: something follows the end of the export")
            if count == 0 and not announced and value.keys() == {HEAD}:
                self._check_head(value[HEAD])
                announced = True
                continue
            if announced and value.keys() == {END}:
                if value[END] != {"count": count}:
                    raise DeserializationError(f"line {self.line}: the export ends after {count} objects too early")
                ended = True
                continue
            yield value
            count += 1
        if announced and not ended:
            raise DeserializationError(
                f"the export is not complete: it stops after {count} objects, without the line that ends it"
            )

    def _texts(self) -> Iterator[bytes]:
        """Lines that are not blank."""
        while text := self._stream.readline(LONGEST_LINE + 1):
            self.line += 1
            self.bytes_read += len(text)
            if len(text) > LONGEST_LINE:
                raise DeserializationError(f"line {self.line} is longer than {LONGEST_LINE} bytes")
            if text := text.strip():
                yield text

    def _value(self, text: bytes) -> dict[str, Any]:
        try:
            value = validate.json_value(text.decode("utf-8"), "the line")
        except (DeserializationError, UnicodeDecodeError) as error:
            raise DeserializationError(f"line {self.line}: {error}") from None
        if not isinstance(value, dict):
            raise DeserializationError(f"line {self.line} must be a JSON object, not {json_kind(value)}")
        return value

    def _array(self, start: bytes) -> Iterable[Any]:
        rest = self._stream.read()
        self.line = 0  # places in an array are told by its items
        self.bytes_read += len(rest)
        try:
            return read_array((start + b"\n" + rest).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DeserializationError(f"the file is no UTF-8 text: {error}") from None

    def _check_head(self, head: object) -> None:
        if not isinstance(head, dict) or head.get("what") != self._what:
            what = head.get("what") if isinstance(head, dict) else head
            raise DeserializationError(f"the file holds {validate.shown(what)} and not {self._what}")
        if head.get("version") != VERSION:
            raise DeserializationError(
                f"the file has the form {validate.shown(head.get('version'))}; this version reads {VERSION}"
            )
