"""`celers migrate`: make, upgrade, list and verify the tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from celers.cli import codes
from celers.cli.output import print_json, print_table
from celers.cli.target import find_app, resolve

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.cli.main import SubParsers

OPTIONAL = ("reporting-indexes",)


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `migrate` to a parser of commands."""
    parser = subparsers.add_parser(
        "migrate",
        help="make or upgrade the tables, list or verify them",
        description="Bring the database to what this version of celers needs. Safe to repeat, also from "
        "several machines at once.",
        epilog="exit status of --verify: 0 complete and valid, 3 otherwise",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--with",
        dest="include",
        choices=OPTIONAL,
        help="also make something optional: reporting-indexes speed up listings and searches, and cost throughput",
    )
    action.add_argument("--without", dest="exclude", choices=OPTIONAL, help="remove something optional")
    action.add_argument("--list", action="store_true", help="list the applied migrations; change nothing")
    action.add_argument("--verify", action="store_true", help="compare the database with this version; change nothing")
    parser.add_argument(
        "--table-prefix", default="celers_", metavar="PREFIX", help="prefix of the tables (default: celers_)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `migrate` command."""
    from celers.broker import MysqlBroker

    with MysqlBroker(resolve(args, find_app(args)), table_prefix=args.table_prefix, heartbeat=False) as broker:
        if args.verify:
            return _verify(broker, args)
        if args.list:
            return _list(broker, args)
        before = {found.version for found in broker.list_migrations()}
        broker.migrate(reporting_indexes=True if args.include else False if args.exclude else None)
        after = {found.version: found.name for found in broker.list_migrations()}
        applied = sorted(after.keys() - before)
        removed = sorted(before - after.keys())
        if args.json:
            print_json({"applied": applied, "removed": removed, "versions": sorted(after)})
            return codes.OK
        for version in applied:
            print(f"applied {version} {after[version]}")
        for version in removed:
            print(f"removed {version}")
        if not applied and not removed:
            print(f"nothing to do: {len(after)} migrations are applied")
        return codes.OK


def _list(broker: MysqlBroker, args: argparse.Namespace) -> int:
    found = broker.list_migrations()
    if args.json:
        print_json([migration.to_dict() for migration in found])
    else:
        rows = [(m.version, m.name, f"{m.applied_at:%Y-%m-%d %H:%M:%S} UTC", m.checksum[:12]) for m in found]
        print_table(("version", "name", "applied", "checksum"), rows)
    return codes.OK


def _verify(broker: MysqlBroker, args: argparse.Namespace) -> int:
    found = broker.verify_migrations()
    good = found.is_complete and found.schema_valid
    if args.json:
        print_json(found.to_dict())
    elif good:
        print(f"complete and valid: {found.applied_count} migrations")
    else:
        for version in found.missing_migrations:
            print(f"missing: {version}")
        for problem in found.problems:
            print(f"differs: {problem}")
        if not found.is_complete:
            print("run: celers migrate")
    return codes.OK if good else codes.NOT_READY
