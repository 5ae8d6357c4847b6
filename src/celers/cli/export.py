"""`celers export`: write the tasks of a queue to a file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from celers.cli.ask import add_queue
from celers.cli.files import add_target, write_objects
from celers.cli.target import find_app, open_broker, resolve
from celers.model.enums import DbTaskState

if TYPE_CHECKING:
    from celers.cli.main import SubParsers


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `export` to a parser of commands."""
    parser = subparsers.add_parser(
        "export",
        help="write the tasks of a queue to a file",
        description="Write the tasks of one queue, oldest first, one JSON object a line, for celers import. Tasks in "
        "work are written as they are; an import makes them pending. Dead letters: celers dlq export.",
        epilog="exit status: 0, or 1 when something failed; a named file then is as it was before",
    )
    add_target(parser)
    parser.add_argument("--state", choices=[state.value for state in DbTaskState], help="only tasks in this state")
    add_queue(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `export` command."""
    state = None if args.state is None else DbTaskState(args.state)
    with open_broker(resolve(args, find_app(args)), args.queue) as broker:
        total = broker.get_statistics().total if state is None else broker.count_by_state_quick(state)
        return write_objects(args, "tasks", broker.iter_export_tasks(state, snapshot=not args.live), total)
