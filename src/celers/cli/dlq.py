"""`celers dlq`: look at dead letters, requeue them, delete them."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING
from uuid import UUID

from celers.cli import codes
from celers.cli.ask import add_page, add_queue, add_yes, confirm, describe, moment, one_line, whole_id
from celers.cli.files import add_target, write_objects
from celers.cli.output import counted, print_json, print_table, report
from celers.cli.target import find_app, open_broker, resolve
from celers.errors import TaskNotFoundError, ValidationError

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.cli.main import SubParsers


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `dlq` to a parser of commands."""
    parser = subparsers.add_parser(
        "dlq",
        help="look at dead letters, requeue, export or delete them",
        description="Dead letters are tasks whose retries are used up. A dead letter has an id of its own, besides "
        "the id of the task that it was.",
        epilog="exit status: 0, or 1 when a letter is not there",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = actions.add_parser("list", help="dead letters, newest first")
    shown.add_argument("--by-name", action="store_true", help="count them by task name instead")
    add_page(shown)
    one = actions.add_parser("show", help="all about one dead letter")
    one.add_argument("id", type=whole_id, metavar="ID")
    requeue = actions.add_parser("requeue", help="make new tasks of dead letters")
    requeue.add_argument("ids", type=whole_id, nargs="+", metavar="ID")
    replay = actions.add_parser("replay", help="requeue many, the oldest first")
    replay.add_argument("--name", metavar="TEXT", help="only tasks whose name contains this text")
    replay.add_argument("--min-retries", type=int, metavar="N", help="only those that were retried at least so often")
    replay.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (default: 100)")
    purge = actions.add_parser("purge", help="delete dead letters")
    purge.add_argument("ids", type=whole_id, nargs="*", metavar="ID")
    purge.add_argument("--all", action="store_true", help="all of the queue")
    purge.add_argument(
        "--older-than", type=float, metavar="HOURS", help="those that are older than so many hours, at least 1"
    )
    add_yes(purge)
    export = actions.add_parser("export", help="write them to a file, newest first, one JSON object a line")
    add_target(export)
    for action in (shown, one, requeue, replay, purge, export):
        add_queue(action)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `dlq` command."""
    if args.action == "purge" and bool(args.ids) + args.all + (args.older_than is not None) != 1:
        raise ValidationError("say which dead letters to delete: ids, or --all, or --older-than")
    with open_broker(resolve(args, find_app(args)), args.queue) as broker:
        match args.action:
            case "list":
                return _count(broker, args) if args.by_name else _list(broker, args)
            case "show":
                return _show(broker, args)
            case "requeue":
                return _requeue(broker, args)
            case "replay":
                replayed = broker.replay_dlq_batch(args.name, args.min_retries, args.limit)
                report(args, {"replayed": replayed}, f"requeued {_letters(replayed)}")
                return codes.OK
            case "export":
                return _export(broker, args)
            case _:
                return _purge(broker, args)


def _letters(count: int) -> str:
    return counted(count, "dead letter")


def _list(broker: MysqlBroker, args: argparse.Namespace) -> int:
    found = broker.list_dlq(args.limit, args.offset)
    if args.json:
        print_json([letter.to_dict() for letter in found])
    elif not found:
        print("no dead letters")
    else:
        print_table(
            ("id", "task", "retries", "failed", "error"),
            [
                (
                    letter.id,
                    letter.task_name,
                    letter.retry_count,
                    moment(letter.failed_at),
                    one_line(letter.error_message),
                )
                for letter in found
            ],
        )
    return codes.OK


def _count(broker: MysqlBroker, args: argparse.Namespace) -> int:
    found = broker.get_dlq_statistics()
    if args.json:
        print_json(found.to_dict())
    elif not found.total_tasks:
        print("no dead letters")
    else:
        print_table(
            ("task", "dead letters", "retries on average", "at most"),
            [(name.task_name, name.count, f"{name.avg_retries:.1f}", name.max_retries) for name in found.by_task_name],
        )
    return codes.OK


def _show(broker: MysqlBroker, args: argparse.Namespace) -> int:
    letter = broker.dlq.get(args.id)
    if letter is None:
        raise TaskNotFoundError(f"the dead letter {args.id} is not in queue {args.queue!r}")
    report(
        args,
        letter.to_dict(),
        describe(
            {
                "id": letter.id,
                "task_id": letter.task_id,
                "task": letter.task_name,
                "priority": letter.priority,
                "retries": f"{letter.retry_count} of {letter.max_retries}",
                "failed": moment(letter.failed_at),
                "error": letter.error_message,
                "metadata": json.dumps(letter.metadata, ensure_ascii=False),
            }
        ),
    )
    return codes.OK


def _requeue(broker: MysqlBroker, args: argparse.Namespace) -> int:
    made: dict[UUID, UUID | None] = {}
    for dlq_id in args.ids:
        try:
            made[dlq_id] = broker.requeue_from_dlq(dlq_id)
        except TaskNotFoundError:
            made.setdefault(dlq_id, None)
    report(
        args,
        {str(dlq_id): None if task_id is None else str(task_id) for dlq_id, task_id in made.items()},
        "\n".join(
            f"{dlq_id}: " + ("not in this queue" if task_id is None else f"requeued as task {task_id}")
            for dlq_id, task_id in made.items()
        ),
    )
    return codes.OK if all(made.values()) else codes.FAILED


def _export(broker: MysqlBroker, args: argparse.Namespace) -> int:
    found = broker.iter_export_dlq(snapshot=not args.live)
    return write_objects(args, "dead letters", found, broker.get_statistics().dlq)


def _purge(broker: MysqlBroker, args: argparse.Namespace) -> int:
    if args.all:
        what = f"all {_letters(broker.get_statistics().dlq)} of queue {args.queue!r}"
    elif args.older_than is not None:
        what = f"the dead letters of queue {args.queue!r} that are older than {args.older_than:g} hours"
    else:
        what = _letters(len(set(args.ids)))
    if not confirm(args, f"Delete {what}?"):
        return codes.FAILED
    if args.all:
        deleted = broker.purge_all_dlq()
    elif args.older_than is not None:
        deleted = broker.apply_dlq_retention(args.older_than * 3600)
    else:
        deleted = sum(broker.purge_dlq(dlq_id) for dlq_id in args.ids)
    report(args, {"deleted": deleted}, f"deleted {_letters(deleted)}")
    return codes.OK if not args.ids or deleted == len(set(args.ids)) else codes.FAILED
