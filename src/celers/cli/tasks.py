"""`celers tasks`: look at stored tasks, cancel them, run them again."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from celers.cli import codes
from celers.cli.ask import add_page, add_queue, describe, moment, one_line, whole_id
from celers.cli.output import print_json, print_table, report
from celers.cli.target import find_app, open_broker, resolve
from celers.errors import TaskNotFoundError
from celers.model.enums import DbTaskState

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.cli.main import SubParsers
    from celers.model.task import TaskInfo


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `tasks` to a parser of commands."""
    parser = subparsers.add_parser(
        "tasks",
        help="look at tasks, cancel them, run them again",
        description="Look at the tasks of one queue, cancel them, or run ended ones again. Dead letters are no tasks "
        "any more: see celers dlq.",
        epilog="exit status: 0, or 1 when a task is not there or not in a state for it",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = actions.add_parser("list", help="tasks, newest first")
    chosen = shown.add_mutually_exclusive_group()
    chosen.add_argument("--state", choices=[state.value for state in DbTaskState], help="only tasks in this state")
    chosen.add_argument("--worker", metavar="ID", help="only tasks that this worker held last, the last started first")
    chosen.add_argument(
        "--where",
        nargs=2,
        metavar=("PATH", "VALUE"),
        help="only tasks with a value in their metadata, such as --where $.customer.id 7; reads all tasks",
    )
    chosen.add_argument("--in-work", action="store_true", help="tasks in work, the longest on top")
    add_page(shown)
    one = actions.add_parser("show", help="all about one task")
    cancel = actions.add_parser("cancel", help="cancel tasks, and those that wait for them")
    retry = actions.add_parser("retry", help="run failed and cancelled tasks again")
    one.add_argument("id", type=whole_id, metavar="ID")
    for several in (cancel, retry):
        several.add_argument("ids", type=whole_id, nargs="+", metavar="ID")
    for action in (shown, one, cancel, retry):
        add_queue(action)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `tasks` command."""
    with open_broker(resolve(args, find_app(args)), args.queue) as broker:
        match args.action:
            case "list":
                return _list(broker, args)
            case "show":
                return _show(broker, args)
            case "cancel":
                return _changed(args, "cancelled {} tasks", broker.cancel_batch(args.ids))
            case _:
                return _retry(broker, args)


def _list(broker: MysqlBroker, args: argparse.Namespace) -> int:
    if args.worker is not None:
        found = broker.get_tasks_by_worker(args.worker)[args.offset :][: args.limit]
    elif args.where is not None:
        path, value = args.where
        found = broker.query_tasks_by_metadata(path, _scalar(value), args.limit, args.offset)
    elif args.in_work:
        found = broker.get_processing_tasks(args.limit, args.offset)
    else:
        state = None if args.state is None else DbTaskState(args.state)
        found = broker.list_tasks(state, args.limit, args.offset)
    if args.json:
        print_json([task.to_dict() for task in found])
    elif not found:
        print("no tasks")
    else:
        print_table(
            ("id", "task", "state", "priority", "retries", "created", "worker", "error"),
            [
                (
                    task.id,
                    task.task_name,
                    task.state.value,
                    task.priority,
                    task.retry_count,
                    moment(task.created_at),
                    task.worker_id,
                    one_line(task.error_message),
                )
                for task in found
            ],
        )
    return codes.OK


def _scalar(text: str) -> Any:
    """A JSON scalar where it is one, else text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, list | dict) else value


def _get(broker: MysqlBroker, args: argparse.Namespace) -> TaskInfo:
    task = broker.get_task(args.id)
    if task is None:
        raise TaskNotFoundError(f"the task {args.id} is not in queue {args.queue!r}; it may be in celers dlq list")
    return task


def _show(broker: MysqlBroker, args: argparse.Namespace) -> int:
    task = _get(broker, args)
    transitions = broker.get_task_state_transitions(args.id)
    progress = broker.get_task_progress(args.id)
    if args.json:
        value = task.to_dict()
        value["progress"] = None if progress is None else progress.to_dict()
        value["transitions"] = [transition.to_dict() for transition in transitions]
        print_json(value)
        return codes.OK
    print(
        describe(
            {
                "id": task.id,
                "task": task.task_name,
                "queue": task.queue_name,
                "state": task.state.value,
                "priority": task.priority,
                "retries": f"{task.retry_count} of {task.max_retries}",
                "created": moment(task.created_at),
                "due": moment(task.scheduled_at),
                "started": moment(task.started_at),
                "ended": moment(task.completed_at),
                "worker": task.worker_id,
                "waits_for": f"{task.unmet_dependencies} tasks" if task.unmet_dependencies else None,
                "progress": None
                if progress is None
                else f"{progress.progress_percent:g} % {progress.current_step or ''}".rstrip(),
                "error": task.error_message,
                "metadata": json.dumps(task.metadata, ensure_ascii=False),
            }
        )
    )
    print()
    print_table(
        ("from", "to", "at", "worker", "message"),
        [
            (
                transition.from_state and transition.from_state.value,
                str(transition.to_state),
                moment(transition.transitioned_at),
                transition.worker_id,
                one_line(transition.message),
            )
            for transition in transitions
        ],
    )
    return codes.OK


def _retry(broker: MysqlBroker, args: argparse.Namespace) -> int:
    # A task in work would be taken from its worker and run twice: only what has ended is run again.
    ended = [
        task_id
        for task_id in args.ids
        if (task := broker.get_task(task_id)) is not None and task.state in (DbTaskState.FAILED, DbTaskState.CANCELLED)
    ]
    return _changed(args, "made {} tasks pending again", broker.update_batch_state(ended, DbTaskState.PENDING))


def _changed(args: argparse.Namespace, text: str, changed: int) -> int:
    asked = len(set(args.ids))
    report(args, {"changed": changed, "asked": asked}, text.format(f"{changed} of {asked}"))
    return codes.OK if changed == asked else codes.FAILED
