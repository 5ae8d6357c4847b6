"""`celers results`: look at the results of tasks, delete them."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from celers.cli import codes
from celers.cli.ask import add_page, add_queue, add_yes, confirm, describe, moment, one_line, whole_id
from celers.cli.output import counted, print_json, print_table, report
from celers.cli.target import find_app, open_broker, resolve
from celers.errors import TaskNotFoundError, ValidationError
from celers.model.enums import TaskResultStatus

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.cli.main import SubParsers


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `results` to a parser of commands."""
    parser = subparsers.add_parser(
        "results",
        help="look at the results of tasks, delete them",
        description="Look at what the tasks of one queue returned, or why they failed, and delete it. A result has the "
        "id of its task and may outlive it.",
        epilog="exit status: 0, or 1 when a result is not there",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = actions.add_parser("list", help="results, the last completed first")
    shown.add_argument(
        "--status",
        choices=[status.value for status in TaskResultStatus],
        type=str.upper,
        help="only results of this status",
    )
    shown.add_argument("--name", metavar="NAME", help="only results of tasks of this name")
    add_page(shown)
    one = actions.add_parser("show", help="all about one result")
    one.add_argument("id", type=whole_id, metavar="ID")
    delete = actions.add_parser("delete", help="delete results by the ids of their tasks")
    delete.add_argument("ids", type=whole_id, nargs="+", metavar="ID")
    purge = actions.add_parser("purge", help="delete many results; unfinished ones stay")
    purge.add_argument("--all", action="store_true", help="all of the queue")
    purge.add_argument(
        "--older-than", type=float, metavar="HOURS", help="those that were completed longer ago than so many hours"
    )
    for action in (delete, purge):
        add_yes(action)
    for action in (shown, one, delete, purge):
        add_queue(action)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `results` command."""
    if args.action == "purge" and args.all + (args.older_than is not None) != 1:
        raise ValidationError("say which results to delete: --all or --older-than")
    with open_broker(resolve(args, find_app(args)), args.queue) as broker:
        match args.action:
            case "list":
                return _list(broker, args)
            case "show":
                return _show(broker, args)
            case "delete":
                return _delete(broker, args)
            case _:
                return _purge(broker, args)


def _list(broker: MysqlBroker, args: argparse.Namespace) -> int:
    status = None if args.status is None else TaskResultStatus(args.status)
    found = broker.list_results(args.limit, args.offset, status=status, task_name=args.name)
    if args.json:
        print_json([result.to_dict() for result in found])
    elif not found:
        print("no results")
    else:
        print_table(
            ("task id", "task", "status", "completed", "ms", "result or error"),
            [
                (
                    result.task_id,
                    result.task_name,
                    result.status.value,
                    moment(result.completed_at),
                    result.runtime_ms,
                    one_line(json.dumps(result.result, ensure_ascii=False) if result.error is None else result.error),
                )
                for result in found
            ],
        )
    return codes.OK


def _show(broker: MysqlBroker, args: argparse.Namespace) -> int:
    result = broker.get_result(args.id)
    if result is None:
        raise TaskNotFoundError(f"queue {args.queue!r} has no result of the task {args.id}")
    text = describe(
        {
            "task_id": result.task_id,
            "task": result.task_name,
            "status": result.status.value,
            "created": moment(result.created_at),
            "completed": moment(result.completed_at),
            "run_time": None if result.runtime_ms is None else f"{result.runtime_ms:,} ms",
            "error": result.error,
            "result": json.dumps(result.result, ensure_ascii=False),
        }
    )
    if result.traceback:
        text += f"\n\n{result.traceback.rstrip()}"
    report(args, result.to_dict(), text)
    return codes.OK


def _delete(broker: MysqlBroker, args: argparse.Namespace) -> int:
    asked = list(dict.fromkeys(args.ids))
    if not confirm(args, f"Delete {counted(len(asked), 'result')}?"):
        return codes.FAILED
    deleted = sum(broker.delete_result(task_id) for task_id in asked)
    report(args, {"deleted": deleted}, f"deleted {counted(deleted, 'result')}")
    return codes.OK if deleted == len(asked) else codes.FAILED


def _purge(broker: MysqlBroker, args: argparse.Namespace) -> int:
    what = f"all finished results of queue {args.queue!r}"
    if not args.all:
        what = f"the results of queue {args.queue!r} that were completed more than {args.older_than:g} hours ago"
    if not confirm(args, f"Delete {what}?"):
        return codes.FAILED
    deleted = broker.archive_results(0 if args.all else args.older_than * 3600)
    report(args, {"deleted": deleted}, f"deleted {counted(deleted, 'result')}")
    return codes.OK
