"""`celers status`: queues, workers and the server at a glance."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celers.cli import codes
from celers.cli.output import print_json, print_table
from celers.cli.target import find_app, open_broker, resolve
from celers.cli.workers import STALE_SECS

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.cli.main import SubParsers
    from celers.model.stats import QueueStatistics
    from celers.model.worker import WorkerHeartbeat


@dataclass(frozen=True, slots=True)
class _Queue:
    name: str
    counts: QueueStatistics
    paused: bool
    draining: bool
    workers: list[WorkerHeartbeat]

    @property
    def state(self) -> str:
        words = [word for word, on in (("paused", self.paused), ("draining", self.draining)) if on]
        return ", ".join(words) or "open"

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "paused": self.paused,
            "draining": self.draining,
            **self.counts.to_dict(),
            "workers": [worker.to_dict() for worker in self.workers],
        }


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `status` to a parser of commands."""
    parser = subparsers.add_parser(
        "status",
        help="queues, workers and the server at a glance",
        description="Show how many tasks each queue has in which state, which workers there are, and the "
        "version of the server.",
        epilog="exit status: 0, or 3 when the database cannot be reached or has no tables",
    )
    parser.add_argument("--queue", "-q", action="append", metavar="NAME", help="only this queue (repeatable)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `status` command."""
    with open_broker(resolve(args, find_app(args))) as broker:
        if not broker.list_migrations():
            if args.json:
                print_json({"server": broker.server_version, "ready": False, "queues": []})
            else:
                print(f"server: {broker.server_version}\nthe database has no tables yet: run celers migrate")
            return codes.NOT_READY
        names = broker.queue.names()
        if args.queue:
            names = [found for found in names if found in args.queue]
        queues = [_look(broker.for_queue(found)) for found in names]
        if args.json:
            print_json(
                {
                    "server": broker.server_version,
                    "ready": True,
                    "queues": [queue.to_dict() for queue in queues],
                }
            )
        else:
            print(f"server: {broker.server_version}")
            _show(queues)
    return codes.OK


def _look(broker: MysqlBroker) -> _Queue:
    return _Queue(
        broker.queue_name,
        broker.get_statistics(),
        broker.is_paused(),
        broker.is_drain_mode(),
        broker.get_all_worker_heartbeats(STALE_SECS),
    )


def _show(queues: list[_Queue]) -> None:
    if not queues:
        print("no queues yet")
        return
    print()
    print_table(
        (
            "queue",
            "pending",
            "processing",
            "completed",
            "failed",
            "cancelled",
            "dead letters",
            "workers",
            "state",
        ),
        [
            (
                queue.name,
                queue.counts.pending,
                queue.counts.processing,
                queue.counts.completed,
                queue.counts.failed,
                queue.counts.cancelled,
                queue.counts.dlq,
                sum(worker.status != "offline" for worker in queue.workers),
                queue.state,
            )
            for queue in queues
        ],
    )
    workers = [(worker, queue.name) for queue in queues for worker in queue.workers]
    if workers:
        print()
        print_table(
            ("worker", "queue", "status", "tasks", "last heartbeat"),
            [
                (
                    worker.worker_id,
                    queue,
                    worker.status.value,
                    worker.task_count,
                    f"{worker.last_heartbeat:%Y-%m-%d %H:%M:%S} UTC",
                )
                for worker, queue in workers
            ],
        )
