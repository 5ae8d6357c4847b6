"""`celers enqueue`: enqueue a task by its name, from a shell."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any
from uuid import UUID

from celers.cli import codes
from celers.cli.output import Progress, print_json
from celers.cli.target import app_name, load_app, open_broker, resolve

if TYPE_CHECKING:
    from celers.cli.main import SubParsers

_BATCH = 1000


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `enqueue` to a parser of commands."""
    parser = subparsers.add_parser(
        "enqueue",
        help="enqueue a task by name",
        description="Enqueue a task by name and print its id. With -A the name must be one of its tasks; "
        "what it says about queue, priority, retries and timeout holds unless it is given here.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the task, such as tasks.add")
    parser.add_argument("--queue", "-q", metavar="NAME", help="the queue (default: default)")
    parser.add_argument(
        "--args", dest="arguments", type=_array, default=[], metavar="JSON", help="array of arguments"
    )
    parser.add_argument(
        "--kwargs",
        dest="keywords",
        type=_object,
        default={},
        metavar="JSON",
        help="object of named arguments",
    )
    parser.add_argument("--priority", type=int, metavar="N", help="higher runs first (default: 0)")
    parser.add_argument("--max-retries", type=int, metavar="N", help="retries after failures (default: 3)")
    parser.add_argument(
        "--delay",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="run it not before this time has passed",
    )
    parser.add_argument("--count", type=_count, default=1, metavar="N", help="enqueue it so many times")
    parser.set_defaults(run=run)
    return parser


def _array(text: str) -> list[Any]:
    return _json(text, list, "a JSON array such as '[1, \"two\"]'")


def _object(text: str) -> dict[str, Any]:
    return _json(text, dict, "a JSON object such as '{\"size\": 3}'")


def _json(text: str, kind: type[Any], expected: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected {expected}: {error}") from error
    if not isinstance(value, kind):
        raise argparse.ArgumentTypeError(f"expected {expected}, not {text}")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"expected seconds of 0 or more, not {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, not {text}")
    return value


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `enqueue` command."""
    from celers import SerializedTask

    settings: dict[str, Any] = {}
    queue = "default"
    name = app_name(args)
    app = load_app(name) if name else None
    if app is not None:
        queue, settings = _declared(app, args.name)
    queue = args.queue or queue
    if args.priority is not None:
        settings["priority"] = args.priority
    if args.max_retries is not None:
        settings["max_retries"] = args.max_retries
    payload = json.dumps(
        [args.arguments, args.keywords], ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()
    ids: list[UUID] = []
    with (
        open_broker(args, queue, url=resolve(args, app)) as broker,
        Progress("enqueue", args.count, enabled=args.count > _BATCH and not args.json) as progress,
    ):
        while len(ids) < args.count:
            size = min(_BATCH, args.count - len(ids))
            tasks = [SerializedTask.new(args.name, payload, **settings) for _ in range(size)]
            ids += broker.producer.submit(tasks, delay_secs=args.delay)
            progress.update(len(ids))
    if args.json:
        print_json({"queue": queue, "task_name": args.name, "ids": [str(task_id) for task_id in ids]})
    elif args.count == 1:
        print(ids[0])
    else:
        print(f"enqueued {args.count:,} tasks {args.name} in queue {queue}")
    return codes.OK


def _declared(app: Any, name: str) -> tuple[str, dict[str, Any]]:
    """Queue and settings of one task of an application."""
    from celers.errors import ValidationError

    task = app.tasks.get(name)
    if task is None:
        known = ", ".join(sorted(app.tasks)) or "none"
        raise ValidationError(f"the application has no task {name!r}; it has: {known}", parameter="name")
    options = task.options
    settings = {
        key: value
        for key in ("priority", "max_retries", "timeout")
        if (value := getattr(options, key, None)) is not None
    }
    return options.queue or "default", settings
