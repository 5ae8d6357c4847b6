"""`celers db`: the database behind the queues.

Another action is one line in `ACTIONS`: a function that adds arguments to its parser, and one that carries it out
with an open broker and returns an exit status.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from celers.cli import codes
from celers.cli.ask import add_queue, describe, one_line
from celers.cli.output import print_json, print_table
from celers.cli.target import find_app, open_broker, resolve
from celers.cli.upkeep import add_maintain, maintain

if TYPE_CHECKING:
    from celers.broker import MysqlBroker
    from celers.cli.main import SubParsers
    from celers.model.database import QueryPlan

_KIB: Final = 1024


class Action(NamedTuple):
    """One action of the command."""

    help: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[MysqlBroker, argparse.Namespace], int]


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `db` to a parser of commands."""
    parser = subparsers.add_parser(
        "db",
        help="the database: sizes, indexes, plans, slow statements, upkeep",
        description="Look at the database behind the queues, and keep it in shape.",
        epilog="exit status: 0, 1 when indexes --check finds something, 3 when health finds that it cannot work",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, action in ACTIONS.items():
        action.add(
            actions.add_parser(name, help=action.help, description=f"{action.help[0].upper()}{action.help[1:]}.")
        )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `db` command."""
    with open_broker(resolve(args, find_app(args)), getattr(args, "queue", "default")) as broker:
        return ACTIONS[args.action].run(broker, args)


def _nothing(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def _add_indexes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="only tell what is wrong with them")


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", nargs="?", metavar="SELECT", help="a query; it is not run (default: a claim)")
    add_queue(parser)


def _add_slow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (default: 20)")
    parser.add_argument(
        "--min-ms", type=float, metavar="MS", help="what they read, of those that take so long on average"
    )
    parser.add_argument("--reset", action="store_true", help="forget what the server has counted so far")


def _sizes(broker: MysqlBroker, args: argparse.Namespace) -> int:
    found = broker.get_table_sizes()
    if args.json:
        print_json([size.to_dict() for size in found])
    elif not found:
        print("no tables: run celers migrate")
    else:
        print_table(
            ("table", "rows (estimate)", "data KiB", "indexes KiB", "free KiB"),
            [
                (
                    size.table_name,
                    size.row_count,
                    size.data_size_bytes // _KIB,
                    size.index_size_bytes // _KIB,
                    size.free_bytes // _KIB,
                )
                for size in found
            ],
        )
    return codes.OK


def _indexes(broker: MysqlBroker, args: argparse.Namespace) -> int:
    if args.check:
        findings = broker.check_index_usage()
        if args.json:
            print_json(findings)
        else:
            print("\n".join(findings) or "nothing is wrong with the indexes")
        return codes.FAILED if findings else codes.OK
    found = broker.get_index_stats()
    if args.json:
        print_json([stats.to_dict() for stats in found])
    else:
        print_table(
            ("table", "index", "columns", "cardinality", "unique"),
            [
                (stats.table_name, stats.index_name, ", ".join(stats.columns), stats.cardinality, stats.unique_values)
                for stats in found
            ],
        )
    return codes.OK


def _explain(broker: MysqlBroker, args: argparse.Namespace) -> int:
    plan: list[QueryPlan] = broker.explain_dequeue() if args.query is None else broker.explain_query(args.query)
    if args.json:
        print_json([line.to_dict() for line in plan])
    else:
        print_table(
            ("id", "kind", "table", "type", "key", "rows", "extra"),
            [
                (
                    line.id,
                    line.select_type,
                    line.table,
                    line.query_type,
                    line.key_used,
                    line.rows_examined,
                    one_line(line.extra),
                )
                for line in plan
            ],
        )
    return codes.OK


def _slow(broker: MysqlBroker, args: argparse.Namespace) -> int:
    if args.reset:
        broker.reset_query_stats()
        if args.json:
            print_json({"reset": True})
        else:
            print("the server counts anew from now on")
        return codes.OK
    headers: tuple[str, ...] = ("statement", "executions", "average ms", "longest ms", "total ms")
    rows: list[tuple[object, ...]]
    if args.min_ms is None:
        queries = broker.get_slow_queries(args.limit)
        values = [query.to_dict() for query in queries]
        rows = [
            (
                one_line(query.query_text),
                query.execution_count,
                round(query.avg_time_ms, 3),
                round(query.max_time_ms, 3),
                round(query.total_time_ms, 1),
            )
            for query in queries
        ]
    else:
        profiles = broker.profile_query_performance(args.min_ms, args.limit)
        values = [profile.to_dict() for profile in profiles]
        headers = ("statement", "executions", "average ms", "rows read", "rows sent", "needs an index")
        rows = [
            (
                one_line(profile.query_digest),
                profile.execution_count,
                round(profile.avg_execution_time_ms, 3),
                profile.total_rows_examined,
                profile.total_rows_sent,
                profile.needs_optimization,
            )
            for profile in profiles
        ]
    if args.json:
        print_json(values)
    elif rows:
        print_table(headers, rows)
    else:
        print("no statements")
    return codes.OK


def _optimize(broker: MysqlBroker, args: argparse.Namespace) -> int:
    broker.optimize_tables()
    return _done(args, "rebuilt")


def _analyze(broker: MysqlBroker, args: argparse.Namespace) -> int:
    broker.analyze_tables()
    return _done(args, "analysed")


def _done(args: argparse.Namespace, word: str) -> int:
    if args.json:
        print_json({"done": True})
    else:
        print(f"all tables are {word}")
    return codes.OK


def _health(broker: MysqlBroker, args: argparse.Namespace) -> int:
    found = broker.check_health()
    ready = found.healthy and broker.is_ready()
    if args.json:
        print_json({**found.to_dict(), "ready": ready, "settings": broker.get_server_variables() if ready else {}})
    else:
        print(
            describe(
                {
                    "healthy": "yes" if found.healthy else "no",
                    "ready": "yes" if ready else "no",
                    "server": found.database_version or None,
                    "queue": args.queue,
                    "pending": f"{found.pending_tasks:,}",
                    "processing": f"{found.processing_tasks:,}",
                    "dead_letters": f"{found.dlq_tasks:,}",
                    "error": found.error,
                }
            )
        )
    return codes.OK if ready else codes.NOT_READY


ACTIONS: Final[dict[str, Action]] = {
    "sizes": Action("the tables and their sizes", _nothing, _sizes),
    "indexes": Action("the indexes, or what is wrong with them", _add_indexes, _indexes),
    "explain": Action("how the server finds the rows of a claim, or of a query", _add_explain, _explain),
    "slow": Action("the statements that take longest, as the server has measured", _add_slow, _slow),
    "optimize": Action("rebuild the tables, which gives freed space back", _nothing, _optimize),
    "analyze": Action("renew the statistics from which the server makes its plans", _nothing, _analyze),
    "maintain": Action("take back and promote what is due, and delete what is old", add_maintain, maintain),
    "health": Action("can a broker work with it now?", add_queue, _health),
}
