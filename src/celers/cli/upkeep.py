"""Retention on the command line: the rules that `celers worker` follows and `celers db maintain` applies once."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from celers.cli import codes
from celers.cli.ask import add_yes, confirm
from celers.cli.output import print_json, print_table

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.worker.upkeep import Upkeep

    # What a parser and a group of its arguments have in common.
    Arguments = argparse._ActionsContainer  # noqa: SLF001

__all__ = ["add_maintain", "add_rules", "maintain", "period", "rules"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_KEPT = {
    "finished": "completed, failed and cancelled tasks",
    "results": "results",
    "dead-letters": "dead letters",
    "history": "history rows",
}


def add_rules(parser: Arguments) -> None:
    """Let a command be told what to delete and to take back."""
    for name, what in _KEPT.items():
        parser.add_argument(f"--keep-{name}", type=period, metavar="PERIOD", help=f"delete {what} that ended earlier")
    parser.add_argument(
        "--overdue-after",
        type=period,
        metavar="PERIOD",
        help="take back tasks in processing for longer than their own time limit, or than this when they have none",
    )


def rules(args: argparse.Namespace) -> Upkeep:
    """Return the rules of a parsed command."""
    # Only now: the parser alone shall be quick.
    from celers.worker.upkeep import Upkeep

    return Upkeep(
        keep_finished=args.keep_finished,
        keep_results=args.keep_results,
        keep_dead_letters=args.keep_dead_letters,
        keep_history=args.keep_history,
        overdue_after=args.overdue_after,
    )


def period(text: str) -> float:
    """Read a period in seconds: a number, with s, m, h or d behind it."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        value = float(number) * _UNITS[unit]
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"a period like 90s, 15m, 12h or 7d is needed, not {text!r}")
    return value


def add_maintain(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `celers db maintain`."""
    add_rules(parser)
    add_yes(parser)
    parser.epilog = "periods: 90s, 15m, 12h, 7d or seconds; nothing is deleted unless asked for"


def maintain(broker: MysqlBroker, args: argparse.Namespace) -> int:
    """Carry out a parsed `db maintain`: rescue, promotion and the rules, once, for all queues of the database."""
    from celers.worker.upkeep import upkeep_steps

    wanted = rules(args)
    deletes = [what for name, what in _KEPT.items() if getattr(args, f"keep_{name.replace('-', '_')}") is not None]
    if deletes and not confirm(args, f"Delete old {', '.join(deletes)} of all queues?"):
        return codes.FAILED
    done: dict[tuple[str, str], int] = {
        ("all", "tasks of dead consumers taken back"): broker.maintenance.rescue_dead(),
        ("all", "due tasks promoted"): broker.maintenance.promote_due(),
    }
    began = time.monotonic()
    for queue, what, count in upkeep_steps(broker, wanted):
        done[queue, what] = done.get((queue, what), 0) + count
        if sys.stderr.isatty():
            print(f"\r{queue}: {what}: {done[queue, what]} ", end="", file=sys.stderr, flush=True)
        # As long as it took: whoever works with the queues gets the server for half of the time at least.
        time.sleep(min(time.monotonic() - began, 1.0))
        began = time.monotonic()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if args.json:
        print_json([{"queue": queue, "what": what, "count": count} for (queue, what), count in done.items()])
    else:
        print_table(("queue", "what", "count"), [(queue, what, count) for (queue, what), count in done.items()])
    return codes.OK
