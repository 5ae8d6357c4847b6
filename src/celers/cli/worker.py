"""`celers worker`: run the tasks of an application."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING, Any

from celers.cli import target
from celers.cli.upkeep import add_rules, rules
from celers.errors import ConfigurationError
from celers.payload import FORMATS
from celers.worker.settings import usable_processors

if TYPE_CHECKING:
    # The class is generic for type checkers only.
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

LEVELS = ("debug", "info", "warning", "error")


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `worker` to a parser of commands; `run` does what it says."""
    parser = subparsers.add_parser(
        "worker",
        help="run tasks",
        description="Run the tasks of an application until SIGTERM or SIGINT. The first signal lets running tasks"
        " finish, the second ends at once.",
    )
    parser.add_argument(
        "-q",
        "--queues",
        metavar="A,B",
        type=_names,
        help="queues, an earlier one first (default: those of the application's tasks)",
    )
    parser.add_argument(
        "-p",
        "--processes",
        type=int,
        default=usable_processors(),
        metavar="N",
        help="processes that run tasks; 0 runs them in this one (default: one for each processor, %(default)s here)",
    )
    parser.add_argument(
        "-t",
        "--threads",
        type=int,
        default=4,
        metavar="M",
        help="plain functions at a time in each process (default: %(default)s)",
    )
    parser.add_argument(
        "--async-tasks",
        type=int,
        default=100,
        metavar="K",
        help="coroutines at a time in each process (default: %(default)s)",
    )
    parser.add_argument(
        "--pool",
        choices=("threads",),
        default="threads",
        help="what runs plain functions in a process (default: %(default)s)",
    )
    parser.add_argument(
        "--lease",
        type=float,
        default=15,
        metavar="SECONDS",
        help="silence after which this worker counts as dead and others run its tasks (default: %(default)s)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=30,
        metavar="SECONDS",
        help="time for running tasks after the first signal; then they are given back (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=int, default=500, metavar="N", help="most quick tasks to claim at once (default: %(default)s)"
    )
    parser.add_argument(
        "--accept",
        type=_names,
        metavar="A,B",
        help=f"formats of arguments to read, of {', '.join(FORMATS)} (default: the application's)",
    )
    parser.add_argument(
        "--no-wake-up",
        dest="wake_up",
        action="store_false",
        help="look for tasks up to once a second while idle, instead of being woken by whoever enqueues",
    )
    keeping = parser.add_argument_group(
        "upkeep",
        "One worker of a database does this for all its queues; give all workers the same. Nothing is deleted unless"
        " asked for. Periods: 90s, 15m, 12h, 7d or seconds.",
    )
    add_rules(keeping)
    parser.add_argument("--name", help="name of this worker (default: host and process id)")
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="what to log on standard error (default: %(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `worker` command."""
    # Only now: the parser alone shall be quick.
    from celers.worker import Worker
    from celers.worker.child import LOG_FORMAT

    logging.basicConfig(level=args.log_level.upper(), format=LOG_FORMAT)
    app = target.find_app(args)
    if app is None:
        raise ConfigurationError("a worker needs to know the tasks: name the application with -A module:app")
    app.connect_to(target.resolve(args, app))
    options: dict[str, Any] = {"accept": args.accept, "name": args.name}
    worker = Worker(
        app,
        queues=args.queues,
        processes=args.processes,
        threads=args.threads,
        async_tasks=args.async_tasks,
        lease=args.lease,
        grace=args.grace,
        batch=args.batch,
        app_path=args.app or os.environ["CELERS_APP"].strip(),
        log_level=args.log_level,
        upkeep=rules(args),
        wake_up=args.wake_up,
        **{name: value for name, value in options.items() if value is not None},
    )
    return worker.run()


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
