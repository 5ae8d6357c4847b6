"""`celers queue`: queues and their numbers; pause and drain them, delete their tasks."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from celers.cli import codes
from celers.cli.ask import add_queue, add_yes, confirm, describe
from celers.cli.output import print_json, print_table
from celers.cli.target import find_app, open_broker, resolve

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.cli.main import SubParsers

# An idle worker says every 20 s that it is there; two of these and a bit.
STALE_SECS = 45.0
_COUNTS = ("pending", "processing", "completed", "failed", "cancelled", "dlq")


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `queue` to a parser of commands."""
    parser = subparsers.add_parser(
        "queue",
        help="queues and their numbers; pause and drain them, delete their tasks",
        description="Look at queues, pause their delivery, let them refuse new tasks, delete their tasks.",
        epilog="exit status: 0, or 1 when there is no such queue, or no room in it (capacity)",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all queues with the numbers of their tasks")
    shown = actions.add_parser("show", help="the numbers and settings of one queue")
    pause = actions.add_parser("pause", help="deliver no more tasks; new ones are still taken")
    resume = actions.add_parser("resume", help="deliver tasks again")
    drain = actions.add_parser("drain", help="refuse new tasks; stored ones are still delivered")
    undrain = actions.add_parser("undrain", help="take new tasks again")
    capacity = actions.add_parser("capacity", help="is there room for another task?")
    capacity.add_argument("limit", type=int, metavar="N", help="most tasks that may be pending")
    purge = actions.add_parser("purge", help="delete all tasks of one queue, in whatever state; dead letters stay")
    add_yes(purge)
    for action in (shown, pause, resume, drain, undrain, capacity, purge):
        add_queue(action)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `queue` command."""
    with open_broker(resolve(args, find_app(args)), getattr(args, "queue", "default")) as broker:
        names = broker.queue.names()
        if args.action == "list":
            return _list([broker.for_queue(name) for name in names], args)
        new = args.queue not in names
        if args.action in ("pause", "resume", "drain", "undrain"):
            return _switch(broker, args, new)
        if new:
            return _missing(args)
        match args.action:
            case "show":
                return _show(broker, args)
            case "capacity":
                return _capacity(broker, args)
            case _:
                return _purge(broker, args)


def _missing(args: argparse.Namespace) -> int:
    text = f"there is no queue {args.queue!r}: a queue comes with its first task"
    if args.json:
        print_json({"error": text, "type": "QueueUnknown"})
    else:
        print(f"celers: {text}", file=sys.stderr)
    return codes.FAILED


def _look(broker: MysqlBroker) -> dict[str, Any]:
    return {
        "name": broker.queue_name,
        "paused": broker.is_paused(),
        "draining": broker.is_drain_mode(),
        **broker.get_statistics().to_dict(),
    }


def _state(found: dict[str, Any]) -> str:
    return ", ".join(word for word in ("paused", "draining") if found[word]) or "open"


def _list(brokers: list[MysqlBroker], args: argparse.Namespace) -> int:
    found = [_look(broker) for broker in brokers]
    if args.json:
        print_json(found)
    elif not found:
        print("no queues yet")
    else:
        print_table(
            ("queue", *_COUNTS[:-1], "dead letters", "state"),
            [(queue["name"], *(queue[count] for count in _COUNTS), _state(queue)) for queue in found],
        )
    return codes.OK


def _show(broker: MysqlBroker, args: argparse.Namespace) -> int:
    found = _look(broker)
    found["scheduled"] = broker.count_scheduled_tasks()
    found["workers"] = [worker.to_dict() for worker in broker.get_all_worker_heartbeats(STALE_SECS)]
    if args.json:
        print_json(found)
        return codes.OK
    shown: dict[str, object] = {"queue": found["name"], "state": _state(found)}
    shown["pending"] = f"{found['pending']:,}, of which {found['scheduled']:,} are scheduled"
    shown.update((name, f"{found[name]:,}") for name in _COUNTS[1:-1])
    shown["dead_letters"] = f"{found['dlq']:,}"
    shown["workers"] = ", ".join(worker["worker_id"] for worker in found["workers"]) or "none"
    print(describe(shown))
    return codes.OK


def _switch(broker: MysqlBroker, args: argparse.Namespace, new: bool) -> int:
    match args.action:
        case "pause":
            broker.pause()
        case "resume":
            broker.resume()
        case "drain":
            broker.enable_drain_mode()
        case _:
            broker.disable_drain_mode()
    if new and not args.json:
        print(f"celers: the queue {args.queue!r} is new", file=sys.stderr)
    found = {"name": args.queue, "paused": broker.is_paused(), "draining": broker.is_drain_mode()}
    if args.json:
        print_json(found)
    else:
        print(f"queue {args.queue} is {_state(found)}")
    return codes.OK


def _capacity(broker: MysqlBroker, args: argparse.Namespace) -> int:
    room = broker.has_capacity(args.limit)
    pending = broker.queue_size()
    if args.json:
        print_json({"name": args.queue, "pending": pending, "limit": args.limit, "has_capacity": room})
    else:
        print(f"queue {args.queue} has {pending:,} pending tasks: {'room' if room else 'no room'} below {args.limit:,}")
    return codes.OK if room else codes.FAILED


def _purge(broker: MysqlBroker, args: argparse.Namespace) -> int:
    statistics = broker.get_statistics()
    busy = f", {statistics.processing:,} of them in work" if statistics.processing else ""
    if not confirm(args, f"Delete all {statistics.total:,} tasks of queue {args.queue!r}{busy}?"):
        return codes.FAILED
    deleted = broker.purge_all()
    if args.json:
        print_json({"name": args.queue, "deleted": deleted})
    else:
        print(f"deleted {deleted:,} task{'' if deleted == 1 else 's'}")
    return codes.OK
