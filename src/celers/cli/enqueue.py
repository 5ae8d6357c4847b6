"""`celers enqueue`: enqueue a task by its name, from a shell."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from celers.cli import codes
from celers.cli.output import Progress, print_json
from celers.cli.target import find_app, open_broker, resolve
from celers.errors import ValidationError

if TYPE_CHECKING:
    from celers.app import App
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
    parser.add_argument("--args", dest="arguments", type=_array, default=[], metavar="JSON", help="array of arguments")
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
    value: list[Any] = _json(text, list, "a JSON array such as '[1, \"two\"]'")
    return value


def _object(text: str) -> dict[str, Any]:
    value: dict[str, Any] = _json(text, dict, "a JSON object such as '{\"size\": 3}'")
    return value


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
    app = find_app(args)
    url = resolve(args, app)
    ids: list[UUID] = []
    with Progress("enqueue", args.count, enabled=args.count > _BATCH and not args.json) as progress:
        if app is None:
            queue, batches = args.queue or "default", _by_name(args, url)
        else:
            app.connect_to(url)
            queue, batches = _of_application(args, app)
        for batch in batches:
            ids += batch
            progress.update(len(ids))
    if args.json:
        print_json({"queue": queue, "task_name": args.name, "ids": [str(task_id) for task_id in ids]})
    elif args.count == 1:
        print(ids[0])
    else:
        print(f"enqueued {args.count:,} tasks {args.name} in queue {queue}")
    return codes.OK


def _sizes(count: int) -> Iterator[int]:
    for start in range(0, count, _BATCH):
        yield min(_BATCH, count - start)


def _by_name(args: argparse.Namespace, url: str) -> Iterator[list[UUID]]:
    """Enqueue what only its name is known of, batch by batch."""
    from celers.model.task import SerializedTask

    text = json.dumps([args.arguments, args.keywords], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    settings = {
        name: value
        for name, value in (("priority", args.priority), ("max_retries", args.max_retries))
        if value is not None
    }
    with open_broker(url, args.queue or "default") as broker:
        for size in _sizes(args.count):
            tasks = [SerializedTask.new(args.name, text.encode(), **settings) for _ in range(size)]
            yield broker.producer.submit(tasks, delay_secs=args.delay)


def _of_application(args: argparse.Namespace, app: App) -> tuple[str, Iterator[list[UUID]]]:
    """The queue of one task of an application, and the enqueueing, batch by batch."""
    task = app.tasks.get(args.name)
    if task is None:
        known = ", ".join(sorted(app.tasks)) or "none"
        raise ValidationError(f"the application has no task {args.name!r}; it has: {known}", parameter="name")
    if args.max_retries is not None:
        raise ValidationError("with -A the application says how often a task is retried", parameter="max_retries")
    try:
        task.check_arguments(tuple(args.arguments), args.keywords)
    except TypeError as error:
        raise ValidationError(str(error), parameter="args") from error
    call = task.using(queue=args.queue, priority=args.priority, delay=args.delay or None)

    def batches() -> Iterator[list[UUID]]:
        for size in _sizes(args.count):
            if args.keywords:
                yield [call.enqueue(*args.arguments, **args.keywords) for _ in range(size)]
            else:
                yield call.enqueue_many([tuple(args.arguments)] * size)
        app.close()

    return args.queue or task.queue, batches()
