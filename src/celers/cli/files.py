"""Files of exported objects on the command line: named ones, compressed ones, standard input and output."""

from __future__ import annotations

import argparse
import gzip
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from celers.cli import codes
from celers.cli.ask import add_yes, confirm
from celers.cli.output import Progress, counted, print_json
from celers.errors import CelersError, ValidationError
from celers.jsonlines import end_line, head_line
from celers.portable import object_text

__all__ = ["STANDARD", "add_target", "opened_source", "write_objects"]

STANDARD = "-"
_UPDATE_EVERY = 100


def add_target(parser: argparse.ArgumentParser) -> None:
    """Let an export name its file and how it reads."""
    parser.add_argument(
        "file",
        nargs="?",
        default=STANDARD,
        metavar="FILE",
        help="the file, compressed when it ends with .gz (default: standard output)",
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="at most so many")
    parser.add_argument(
        "--live",
        action="store_true",
        help="read page by page and not in one snapshot: a long export does not slow busy workers down",
    )
    add_yes(parser)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def write_objects(
    args: argparse.Namespace, what: str, objects: Iterable[Mapping[str, Any]], total: int, *, noun: str | None = None
) -> int:
    """Write objects to the file of the arguments, one a line; return an exit status.

    A named file appears when it is complete. On standard output the last line tells that it is.
    """
    noun = noun or what.removesuffix("s")
    if args.limit is not None:
        objects, total = islice(objects, args.limit), min(total, args.limit)
    if args.file != STANDARD and Path(args.file).exists() and not confirm(args, f"Replace {args.file}?"):
        return codes.FAILED
    to_screen = args.file == STANDARD and sys.stdout.isatty()
    count = 0
    with _opened_target(args.file) as stream, Progress("export", total, enabled=not to_screen) as progress:
        stream.write(head_line(what, args.queue).encode() + b"\n")
        for value in objects:
            stream.write(object_text(value).encode() + b"\n")
            count += 1
            if count % _UPDATE_EVERY == 0:
                progress.update(count)
        stream.write(end_line(count).encode() + b"\n")
    if args.file != STANDARD:
        if args.json:
            print_json({"exported": count, "file": args.file})
        else:
            print(f"exported {counted(count, noun)} to {args.file}")
    elif not args.json and not to_screen and sys.stderr.isatty():
        print(f"celers: exported {counted(count, noun)}", file=sys.stderr)
    return codes.OK


@contextmanager
def _opened_target(name: str) -> Iterator[BinaryIO]:
    if name == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    # Beside the file itself, so that the last step cannot fail half-way.
    part = Path(f"{name}.part")
    try:
        with part.open("wb") as raw:
            if name.endswith(".gz"):
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6) as packed:
                    yield cast(BinaryIO, packed)
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(name)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CelersError(f"cannot write {name}: {error.strerror or error}") from error
        raise


@contextmanager
def opened_source(name: str) -> Iterator[tuple[BinaryIO, int, Any]]:
    """Open a file to read: the stream, the file's size (0: unknown), and what tells how far the file is read."""
    if name == STANDARD:
        if sys.stdin.isatty():
            raise ValidationError("name a file, or let something be read from standard input")
        yield sys.stdin.buffer, 0, lambda: 0
        return
    try:
        raw = Path(name).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ValidationError(f"cannot read {name}: {error.strerror or error}") from error
    with raw:
        size = os.fstat(raw.fileno()).st_size
        stream: Any = gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw
        yield stream, size, raw.tell
