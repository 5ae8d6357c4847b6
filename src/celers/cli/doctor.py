"""`celers doctor`: does the database suit celers, and what costs something?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from celers.cli import codes
from celers.cli.output import print_json, print_table
from celers.cli.target import find_app, open_broker, resolve

if TYPE_CHECKING:
    from celers.cli.main import SubParsers


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `doctor` to a parser of commands."""
    parser = subparsers.add_parser(
        "doctor",
        help="does the database suit celers, and what costs something",
        description="Look at the database as this account sees it: whether idle workers can be woken or have to poll,"
        " whether a commit is safe, limits, rights, the round trip and the clock. Nothing is changed.",
        epilog="exit status: 0, 1 when something has to be changed, 3 when there are no tables or no server",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `doctor` command."""
    from celers.doctor import Level, examine

    app = find_app(args)
    with open_broker(resolve(args, app)) as broker:
        prefix = "celers_" if app is None else str(app.broker_options["table_prefix"])
        found = examine(broker.options, prefix)
    if args.json:
        print_json({"findings": [finding.to_dict() for finding in found]})
    else:
        print_table(("", "what", "finding"), [(finding.level.value, finding.name, finding.text) for finding in found])
    problems = {finding.name for finding in found if finding.level is Level.PROBLEM}
    if "tables" in problems:
        return codes.NOT_READY
    return codes.FAILED if problems else codes.OK
