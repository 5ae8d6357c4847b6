"""Entry point of the command line: finds the command, gives every command the common options, reports errors.

A command is a module with `add_parser(subparsers)`, which returns its parser and sets `run` as a default;
`run(args)` returns an exit status. Only the module of the command asked for is imported, so that
`celers --help` and small commands start quickly. Errors of celers become one line on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING

from celers.cli import codes
from celers.errors import BrokerConnectionError, CelersError, ValidationError

if TYPE_CHECKING:
    # The class is generic for type checkers only.
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

__all__ = ["build_parser", "main"]

COMMANDS = {
    "db": "the database: sizes, indexes, plans, slow statements, upkeep",
    "demo": "index a directory tree with tasks, and check every result",
    "dlq": "look at dead letters, requeue, export or delete them",
    "doctor": "does the database suit celers, and what costs something",
    "enqueue": "enqueue a task by name",
    "export": "write the tasks of a queue to a file",
    "import": "read tasks from a file into a queue",
    "load": "make tasks for a load test, delete them again",
    "migrate": "make or upgrade the tables, list or verify them",
    "queue": "queues and their numbers; pause and drain them, delete their tasks",
    "results": "look at the results of tasks, delete them",
    "server": "the private database server: start, stop, status, url",
    "status": "queues, workers and the server at a glance",
    "tasks": "look at tasks, cancel them, run them again",
    "worker": "run tasks",
    "workers": "look at workers, forget dead ones",
}

EPILOG = """\
The database is the one of --url, else that of the application (-A), else that of CELERS_URL, else a private
server that celers starts by itself.

exit status: 0 success, 1 failure, 2 wrong arguments, 3 the server does not run or the database is not ready
"""


def build_parser(commands: Sequence[str]) -> argparse.ArgumentParser:
    """Make the parser.

    Parameters
    ----------
    commands : sequence of str
        Commands that need their arguments known; of the others only the names are.
    """
    parser = argparse.ArgumentParser(
        prog="celers",
        description="Task queue on MySQL and MariaDB.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and end")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        if name in commands:
            _add_common(import_module(f"celers.cli.{_module(name)}").add_parser(subparsers))
        else:
            subparsers.add_parser(name, help=text, add_help=False)
    _add_common(parser)
    parser.set_defaults(url=None, app=None, json=False, debug=False)
    return parser


def _module(command: str) -> str:
    """The module of a command; `import` cannot be one's name."""
    return f"{command}_" if iskeyword(command) else command


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Give a parser, and those below it, the common options that it does not define itself.

    Only the first parser has defaults: others would overwrite what was given before the command's name.
    """
    known = parser._option_string_actions  # noqa: SLF001 - argparse has no public way to ask
    for names, settings in (
        (("--url",), {"metavar": "URL", "help": "the database (default: CELERS_URL)"}),
        (
            ("-A", "--app"),
            {"metavar": "MODULE[:NAME]", "help": "the application (default: CELERS_APP)"},
        ),
        (("--json",), {"action": "store_true", "help": "print JSON"}),
        (("--debug",), {"action": "store_true", "help": "show the whole traceback of an error"}),
    ):
        if names[-1] in known:
            known[names[-1]].default = argparse.SUPPRESS
        else:
            parser.add_argument(*names, default=argparse.SUPPRESS, **settings)  # type: ignore[arg-type]
    for below in _below(parser):
        _add_common(below)


def _below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    if parser.prog == "celers":
        return  # its commands were given theirs one by one
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            yield from action.choices.values()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process when left out.

    Returns
    -------
    int
        Exit status, see `celers.cli.codes`.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    completing = "_ARGCOMPLETE" in os.environ
    parser = build_parser([name for name in COMMANDS if completing or name in arguments])
    if completing:
        _complete(parser)
    args = parser.parse_args(arguments)
    if args.version:
        from importlib.metadata import version

        print(f"celers {version('celers')}")
        return codes.OK
    if args.command is None:
        parser.print_help(sys.stderr)
        return codes.USAGE
    return run(args)


def run(args: argparse.Namespace) -> int:
    """Carry out parsed arguments and turn errors into messages and exit statuses."""
    try:
        status = int(args.run(args))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return codes.INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (as in `celers status | head -1`); nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.FAILED
    except CelersError as error:
        if args.debug:
            raise
        _report(args, error)
        return _code(error)
    except Exception as error:  # the last resort: users see a line and not a traceback
        if args.debug:
            raise
        _report(args, error, f"unexpected {type(error).__name__}: {error} (--debug shows where)")
        return codes.FAILED
    return status


def _code(error: CelersError) -> int:
    match error:
        case ValidationError():
            return codes.USAGE
        case BrokerConnectionError():
            return codes.NOT_READY
        case _:
            return codes.FAILED


def _report(args: argparse.Namespace, error: BaseException, text: str | None = None) -> None:
    text = str(error) if text is None else text
    if args.json:
        print(json.dumps({"error": text, "type": type(error).__name__}))
    else:
        print(f"celers: {text}", file=sys.stderr)


def _complete(parser: argparse.ArgumentParser) -> None:
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)
