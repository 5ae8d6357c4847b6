"""`celers import`: read tasks from a file into a queue."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from celers.cli import codes
from celers.cli.ask import add_queue
from celers.cli.files import STANDARD, opened_source
from celers.cli.output import Progress, counted, report
from celers.cli.target import find_app, open_broker, resolve
from celers.errors import CelersError, DeserializationError, DuplicateTaskError, PayloadTooLargeError
from celers.jsonlines import Lines

if TYPE_CHECKING:
    from celers.cli.main import SubParsers

_UPDATE_EVERY = 100


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `import` to a parser of commands."""
    parser = subparsers.add_parser(
        "import",
        help="read tasks from a file into a queue",
        description="Store the tasks of an export in one queue, whichever they came from: all or none. The whole file "
        "is read and checked before anything is stored. Also reads a JSON array, as export_tasks() returns it.",
        epilog="exit status: 0, 1 when something failed, also for a file that holds something else or is not complete",
    )
    parser.add_argument(
        "file",
        nargs="?",
        default=STANDARD,
        metavar="FILE",
        help="the file, compressed when it ends with .gz (default: standard input)",
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out tasks that are stored already; without it, one of them stops the import",
    )
    add_queue(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `import` command."""
    with open_broker(resolve(args, find_app(args)), args.queue) as broker, closing(_Source(args)) as source:
        try:
            stored = broker.import_tasks_from(source, args.skip_existing, progress=source.storing)
        except (DeserializationError, DuplicateTaskError, PayloadTooLargeError) as error:
            source.locate(error)
            raise
    skipped = source.count - stored
    text = f"imported {counted(stored, 'task')} into queue {args.queue!r}"
    if skipped:
        text += f"; {skipped:,} {'was' if skipped == 1 else 'were'} there before"
    report(args, {"imported": stored, "skipped": skipped}, text)
    return codes.OK


class _Source:
    """The objects of a file, with two progress bars: how far it is read, and how much of it is stored."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._file: str = args.file
        self._quiet: bool = args.json
        self._lines: Lines | None = None
        self._values: Generator[Any, None, None] | None = None
        self._storing: Progress | None = None
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        self._values = self._read()
        return self._values

    def _read(self) -> Generator[Any, None, None]:
        with opened_source(self._file) as (stream, size, tell):
            self._lines = Lines(stream)
            with Progress("read", size, enabled=not self._quiet) as progress:
                try:
                    for value in self._lines:
                        yield value
                        self.count += 1
                        if self.count % _UPDATE_EVERY == 0:
                            progress.update(tell())
                except (EOFError, OSError, zlib.error) as error:
                    raise DeserializationError(f"the file cannot be read to its end: {error}") from error

    def storing(self, done: int, total: int) -> None:
        """Show how many tasks are stored."""
        if self._storing is None:
            self._storing = Progress("store", total, enabled=not self._quiet)
        self._storing.update(done)

    def locate(self, error: CelersError) -> None:
        """Say where in which file the error is."""
        name, text = "standard input" if self._file == STANDARD else self._file, str(error)
        line = 0 if self._lines is None else self._lines.line
        if text.startswith("item ") and line:
            text = f"line {line}: {text.partition(': ')[2]}"
        if self._storing is None:
            error.args = (f"{name}: {text}; nothing was imported",)

    def close(self) -> None:
        """Take the progress bars off the screen."""
        if self._values is not None:
            self._values.close()
        if self._storing is not None:
            self._storing.__exit__(None, None, None)
