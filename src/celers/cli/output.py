"""What commands print: JSON, aligned tables, a progress bar. Colours and bars on a terminal only."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TextIO

__all__ = ["Progress", "bar", "counted", "print_json", "print_table", "report", "table"]

_REDRAW_SECS = 0.1


def print_json(value: Any) -> None:
    """Print one JSON value, one line."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def report(args: argparse.Namespace, value: Any, text: str) -> None:
    """Print a value for programs (--json) or a text for people."""
    if args.json:
        print_json(value)
    else:
        print(text)


def counted(count: int, noun: str) -> str:
    """Write a number of things: ``1 task``, ``2,000 tasks``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows under headers; numbers stand at the right of their column.

    Returns
    -------
    str
        Lines without blanks at their ends.
    """
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *texts]) for i in range(len(headers))]
    right = [_is_numeric([row[i] for row in rows]) for i in range(len(headers))]
    lines = [
        "  ".join(
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(headers), *texts]
    ]
    return "\n".join(lines)


def _is_numeric(column: Sequence[object]) -> bool:
    return bool(column) and all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in column
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, with rich's lines and colours on a terminal when rich is there."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass
        else:
            drawn = Table()
            for i, header in enumerate(headers):
                numeric = _is_numeric([row[i] for row in rows])
                drawn.add_column(header, justify="right" if numeric else "left")
            for row in rows:
                drawn.add_row(*[Text(_cell(value)) for value in row])
            Console().print(drawn)
            return
    print(table(headers, rows))


def bar(share: float, width: int, stream: TextIO | None = None) -> str:
    """Draw `share` (0 to 1) of `width` in blocks and eighths of them, or # where the encoding has none."""
    share = min(max(share, 0.0), 1.0)
    encoding = (stream or sys.stdout).encoding or "ascii"
    try:
        "█▏".encode(encoding)
    except (UnicodeError, LookupError):
        return "#" * max(round(share * width), 1 if share > 0 else 0)
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


class Progress:
    """A line on standard error that shows how far something is; nothing at all when that is no terminal.

    Parameters
    ----------
    label : str
        What is being done.
    total : int
        Number of steps.
    enabled : bool
        False keeps it silent on a terminal too.
    """

    def __init__(self, label: str, total: int, *, enabled: bool = True) -> None:
        self._label = label
        self._total = total
        self._stream = sys.stderr
        self._shown = enabled and total > 0 and self._stream.isatty()
        self._drawn_at = float("-inf")

    def __enter__(self) -> Self:
        self.update(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def update(self, done: int) -> None:
        """Show that `done` steps are behind us."""
        now = time.monotonic()
        if not self._shown or (now - self._drawn_at < _REDRAW_SECS and done < self._total):
            return
        self._drawn_at = now
        share = done / self._total
        filled = bar(share, 30, self._stream).ljust(30)
        self._stream.write(f"\r{self._label} {filled} {done:,}/{self._total:,} ({share:.0%})\x1b[K")
        self._stream.flush()
