"""Arguments and questions that several commands share."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from uuid import UUID

from celers.errors import ValidationError

__all__ = ["add_page", "add_queue", "add_yes", "confirm", "describe", "moment", "one_line", "whole_id"]

LINE = 60


def add_queue(parser: argparse.ArgumentParser) -> None:
    """Let a command name its queue."""
    parser.add_argument("--queue", "-q", default="default", metavar="NAME", help="the queue (default: default)")


def add_page(parser: argparse.ArgumentParser) -> None:
    """Let a listing name its page."""
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (default: 20)")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="leave out the first (default: 0)")


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Let a command that deletes be told beforehand."""
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")


def whole_id(text: str) -> UUID:
    """Read an id."""
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected an id such as 018f2b1c-0000-7000-8000-000000000000, not {text}"
        ) from None


def confirm(args: argparse.Namespace, question: str) -> bool:
    """Ask before something is deleted; where nobody can answer, ask for --yes.

    Raises
    ------
    ValidationError
        Standard input is no terminal and --yes was not given.
    """
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise ValidationError(f"{question} Nobody can be asked here: say --yes to do it")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    print("nothing was done", file=sys.stderr)
    return False


def moment(value: datetime | None) -> str | None:
    """Write a time for people."""
    return None if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def one_line(text: str | None) -> str | None:
    """Cut a text to what a column holds."""
    if text is None:
        return None
    first = " ".join(text.split())
    return first if len(first) <= LINE else first[: LINE - 1] + "…"


def describe(values: dict[str, object]) -> str:
    """Lay out names and values, one a line; what is None is left out."""
    shown = {name.replace("_", " "): value for name, value in values.items() if value is not None}
    width = max(map(len, shown), default=0) + 1
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in shown.items())
