"""`celers demo`: the whole of celers once, on real files, with every result checked."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from celers.cli import codes
from celers.cli.output import bar, print_json
from celers.cli.target import resolve

if TYPE_CHECKING:
    from celers.cli.demorun import Report
    from celers.cli.main import SubParsers

_BAR = 40


def add_parser(subparsers: SubParsers) -> argparse.ArgumentParser:
    """Add the command `demo` to a parser of commands."""
    parser = subparsers.add_parser(
        "demo",
        help="index a directory tree with tasks, and check every result",
        description="Enqueue one task for each file of a directory tree, let worker processes run them, and "
        "compare every result with a direct computation. Without --url or CELERS_URL it uses the private "
        "server that celers starts by itself.",
        epilog="exit status: 0 when all results are right, 1 otherwise",
    )
    parser.add_argument(
        "path", nargs="?", type=Path, metavar="PATH", help="the tree (default: Python's standard library)"
    )
    parser.add_argument(
        "--processes",
        type=_positive,
        metavar="N",
        help="worker processes (default: the number of processors, 4 at most)",
    )
    parser.add_argument("--batch", type=_positive, default=250, metavar="N", help="tasks in one enqueue (default: 250)")
    parser.add_argument("--limit", type=_positive, default=50_000, metavar="N", help="files at most (default: 50000)")
    parser.add_argument("--keep", action="store_true", help="leave the tasks and results in the database afterwards")
    parser.set_defaults(run=run)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, not {text}")
    return value


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed `demo` command."""
    from celers.cli.demorun import Demo
    from celers.demo import default_tree, find_files
    from celers.errors import ConfigurationError
    from celers.worker.settings import usable_processors

    tree = (args.path or default_tree()).absolute()
    if not tree.is_dir():
        raise ConfigurationError(f"{tree} is not a directory")
    files = list(itertools.islice(find_files(tree), args.limit))
    if not files:
        raise ConfigurationError(f"no file that can be read was found below {tree}")
    demo = Demo(
        resolve(args),
        tree,
        files,
        processes=args.processes or min(4, usable_processors()),
        batch=args.batch,
        keep=args.keep,
        quiet=args.json,
    )
    report = demo.run()
    if args.json:
        print_json(report.to_dict())
    else:
        print(text(report))
    return codes.OK if report.verified == report.tasks - report.changed else codes.FAILED


def text(report: Report) -> str:
    """The report for people."""
    workers = f"{report.processes} worker process{'es' if report.processes != 1 else ''}"
    whole = f"from the first enqueue to the end of the last task ({report.total_secs:.2f} s)"
    lines = [
        "",
        f"{report.tasks:,} tasks, {report.megabytes:,.1f} MB of files, {workers}, {report.server}",
        f"{'enqueue':<18}{report.tasks / report.enqueue_secs:>10,.0f} tasks/s, in batches",
        f"{'whole job':<18}{report.tasks / report.total_secs:>10,.0f} tasks/s, {whole}",
        "",
        f"{'latency, ms':<18}{'p50':>10}{'p95':>10}{'p99':>10}",
        f"{'enqueue to start':<18}{_quantiles(report.wait_quantiles)}",
        f"{'run time':<18}{_quantiles(report.run_quantiles)}",
        "(the tasks are enqueued all at once: most of the first line is waiting behind other tasks)",
        "",
        "run time of the tasks",
        *histogram(report.run_ms),
        "",
    ]
    lines += [f"WRONG  {problem}" for problem in report.problems[:20]]
    if len(report.problems) > 20:
        lines.append(f"       and {len(report.problems) - 20:,} more")
    if report.problems:
        right = f"{report.verified:,} of {report.tasks:,} results are right, {len(report.problems):,} are wrong"
        lines.append(right)
    elif report.changed:
        lines.append(
            f"all {report.verified:,} results that can be compared are verified; {report.changed:,} files "
            "changed meanwhile"
        )
    else:
        lines.append(f"all {report.verified:,} results verified against a direct computation")
    return "\n".join([*lines, "", *_next_steps(report)])


def _quantiles(values: tuple[float, ...]) -> str:
    return "".join(f"{value:>10,.2f}" for value in values)


def _next_steps(report: Report) -> list[str]:
    celers = "celers" if Path(sys.argv[0]).name != "__main__.py" else f"{Path(sys.executable).name} -m celers"
    steps = [
        "What to try next:",
        f"  {celers} demo /usr/share          another tree",
        f"  {celers} demo --keep              leave the tasks and results in the database",
        f"  {celers} status                   queues, workers and the server",
        f"  {celers} worker --help            run tasks of your own; README.md has a tour of five minutes",
    ]
    if report.kept:
        steps.insert(2, f"  {celers} status --queue {report.queue}")
    return steps


def histogram(values_ms: list[float]) -> list[str]:
    """Draw a histogram on a logarithmic scale, one line for each step.

    Parameters
    ----------
    values_ms : list of float
        Times in ms, each above 0.
    """
    edges = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, math.inf]
    counts = [0] * len(edges)
    for value in values_ms:
        counts[next(i for i, edge in enumerate(edges) if value < edge)] += 1
    used = [i for i, count in enumerate(counts) if count]
    if not used:
        return []
    most = max(counts)
    lines = []
    for i in range(used[0], used[-1] + 1):
        low = f"{edges[i - 1]:g}" if i else "0"
        label = f"{low} - {edges[i]:g} ms" if edges[i] != math.inf else f"{low} ms and more"
        lines.append(f"  {label:>16} {counts[i]:>8,} {bar(counts[i] / most, _BAR)}".rstrip())
    return lines
