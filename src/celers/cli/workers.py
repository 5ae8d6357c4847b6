"""`celers workers`: look at workers, forget dead ones."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from celers.cli import codes
from celers.cli.ask import add_queue, add_yes, confirm, describe, moment
from celers.cli.output import counted, print_json, print_table, report
from celers.cli.target import find_app, open_broker, resolve
from celers.errors import ValidationError, WorkerNotFoundError
from celers.model.enums import DbTaskState

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.cli.main import SubParsers

# An idle worker says every 20 s that it is there; two of these and a bit.
STALE_SECS = 45.0


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `workers` to a parser of commands."""
    parser = subparsers.add_parser(
        "workers",
        help="look at workers, forget dead ones",
        description="Look at the workers of one queue. A worker that has been silent for too long is shown as offline; "
        "one that ends properly is forgotten by itself.",
        epilog="exit status: 0, or 1 when a worker is not there",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = actions.add_parser("list", help="workers, the newest heartbeat first")
    one = actions.add_parser("show", help="all about one worker")
    one.add_argument("id", metavar="ID")
    delete = actions.add_parser("delete", help="forget workers that have ended; tasks stay as they are")
    delete.add_argument("ids", nargs="*", metavar="ID")
    delete.add_argument("--offline", action="store_true", help="all that are offline")
    add_yes(delete)
    for action in (shown, one, delete):
        action.add_argument(
            "--stale",
            type=float,
            default=STALE_SECS,
            metavar="SECONDS",
            help=f"silent for longer means offline (default: {STALE_SECS:g})",
        )
        add_queue(action)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `workers` command."""
    if args.action == "delete" and bool(args.ids) == args.offline:
        raise ValidationError("say which workers to forget: ids, or --offline")
    with open_broker(resolve(args, find_app(args)), args.queue) as broker:
        match args.action:
            case "list":
                return _list(broker, args)
            case "show":
                return _show(broker, args)
            case _:
                return _delete(broker, args)


def _list(broker: MysqlBroker, args: argparse.Namespace) -> int:
    found = broker.get_all_worker_heartbeats(args.stale)
    if args.json:
        print_json([worker.to_dict() for worker in found])
    elif not found:
        print("no workers")
    else:
        print_table(
            ("worker", "status", "tasks", "last heartbeat"),
            [
                (worker.worker_id, worker.status.value, worker.task_count, moment(worker.last_heartbeat))
                for worker in found
            ],
        )
    return codes.OK


def _show(broker: MysqlBroker, args: argparse.Namespace) -> int:
    beat = next((beat for beat in broker.get_all_worker_heartbeats(args.stale) if beat.worker_id == args.id), None)
    numbers = broker.get_worker_statistics(args.id)
    if beat is None and numbers.last_seen is None:
        raise WorkerNotFoundError(f"queue {args.queue!r} knows no worker {args.id!r}", worker_id=args.id)
    tasks = [task for task in broker.get_tasks_by_worker(args.id) if task.state is DbTaskState.PROCESSING]
    if args.json:
        print_json(
            {
                **numbers.to_dict(),
                "heartbeat": None if beat is None else beat.to_dict(),
                "tasks": [task.to_dict() for task in tasks],
            }
        )
        return codes.OK
    print(
        describe(
            {
                "worker": args.id,
                "queue": args.queue,
                "status": "not registered" if beat is None else beat.status.value,
                "last_seen": moment(numbers.last_seen),
                "in_work": numbers.active_tasks,
                "completed": numbers.completed_tasks,
                "failed": numbers.failed_tasks,
                "run_time": f"{numbers.avg_task_duration_secs:.3f} s on average" if numbers.completed_tasks else None,
                "capabilities": None
                if beat is None or beat.capabilities is None
                else json.dumps(beat.capabilities, ensure_ascii=False),
            }
        )
    )
    if tasks:
        print()
        print_table(
            ("id", "task", "started", "retries"),
            [(task.id, task.task_name, moment(task.started_at), task.retry_count) for task in tasks],
        )
    return codes.OK


def _delete(broker: MysqlBroker, args: argparse.Namespace) -> int:
    ids = list(dict.fromkeys(args.ids))
    if args.offline:
        ids = [beat.worker_id for beat in broker.get_all_worker_heartbeats(args.stale) if beat.status == "offline"]
    if ids and not confirm(args, f"Forget {counted(len(ids), 'worker')} of queue {args.queue!r}?"):
        return codes.FAILED
    deleted = sum(broker.unregister_worker(worker_id) for worker_id in ids)
    report(args, {"deleted": deleted}, f"forgot {counted(deleted, 'worker')}")
    return codes.OK if args.offline or deleted == len(ids) else codes.FAILED
