"""`celers load`: make tasks for a load test, delete them again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING
from uuid import UUID

from celers.cli import codes
from celers.cli.ask import add_queue, add_yes, confirm, whole_id
from celers.cli.output import Progress, counted, report
from celers.cli.target import find_app, open_broker, resolve
from celers.errors import ValidationError
from celers_fast.ids import uuid7

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.cli.main import SubParsers

_STEP = 5000


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `load` to a parser of commands."""
    parser = subparsers.add_parser(
        "load",
        help="make tasks for a load test, delete them again",
        description="Store many tasks with random payloads in one queue. They are told from others by a mark in their "
        "metadata, by which they are deleted again.",
        epilog="exit status: 0, or 1 when something failed",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    generate = actions.add_parser("generate", help="store tasks; prints their mark")
    generate.add_argument("count", type=int, metavar="COUNT", help="how many, up to 1,000,000")
    generate.add_argument("--name", default="celers.load", metavar="NAME", help="their name (default: celers.load)")
    generate.add_argument("--size", type=int, default=100, metavar="BYTES", help="size of each payload (default: 100)")
    generate.add_argument(
        "--priority", type=int, nargs=2, metavar=("LOW", "HIGH"), help="random priorities from LOW to HIGH (default: 0)"
    )
    delete = actions.add_parser("delete", help="delete tasks of load tests, in any state")
    delete.add_argument("mark", nargs="?", type=whole_id, metavar="MARK", help="those of one load test")
    delete.add_argument("--all", action="store_true", help="those of all load tests")
    add_yes(delete)
    for action in (generate, delete):
        add_queue(action)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `load` command."""
    if args.action == "delete" and (args.mark is None) is not args.all:
        raise ValidationError("say which tasks to delete: the mark of a load test, or --all")
    with open_broker(resolve(args, find_app(args)), args.queue) as broker:
        return _generate(broker, args) if args.action == "generate" else _delete(broker, args)


def _generate(broker: MysqlBroker, args: argparse.Namespace) -> int:
    mark: UUID = uuid7()
    priorities = None if args.priority is None else tuple(args.priority)
    done = 0
    try:
        with Progress("generate", args.count, enabled=not args.json) as progress:
            while True:
                # The first step checks the whole count.
                count = args.count if args.count > 1_000_000 else min(_STEP, args.count - done)
                made = broker.loads.generate(count, args.name, args.size, priorities, load_test_id=mark)
                done += len(made)
                progress.update(done)
                if done >= args.count:
                    break
    except BaseException as error:
        if done:
            error.add_note(f"the mark is {mark}")
        raise
    report(
        args, {"generated": done, "load_test_id": str(mark)}, f"generated {counted(done, 'task')} of load test {mark}"
    )
    return codes.OK


def _delete(broker: MysqlBroker, args: argparse.Namespace) -> int:
    what = "all load tests" if args.all else f"load test {args.mark}"
    if not confirm(args, f"Delete the tasks of {what} in queue {args.queue!r}?"):
        return codes.FAILED
    deleted = broker.delete_load(args.mark)
    report(args, {"deleted": deleted}, f"deleted {counted(deleted, 'task')}")
    return codes.OK
