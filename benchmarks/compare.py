"""Celers beside its floor and its peers: ``python -m benchmarks.compare``.

Every contender runs in a process of its own; each measurement is taken of one contender after the other, and all of
that is repeated in rounds, so that what disturbs the machine disturbs all alike. Ratios are taken within a round.
Every measurement verifies that no task was lost and none ran twice.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import kernels, machine, report
from benchmarks.charts import charts
from benchmarks.contenders import Contender, contenders_of
from benchmarks.peers import PEERS
from benchmarks.plan import Plan, Step, plan_of

__all__ = ["main", "parse"]

QUICK_MINUTES = 8.5
"""A quick run begins no round that would end later: it has to end within ten minutes."""
OVERTIME_SECS = 45.0
"""How long after its limit a run still takes first samples, on a machine too slow for one round."""

Say = Callable[[str], None]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: under ten minutes on two cores")
    parser.add_argument(
        "--server", choices=("mariadb", "mysql", "both"), default="both", help="where celers runs (default: both)"
    )
    parser.add_argument(
        "--peers", metavar="A,B", help=f"of {', '.join(PEERS)}; none for none (default: all that are installed)"
    )
    parser.add_argument("--binlog", action="store_true", help="also with the binary log on and sync_binlog=1")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything that was measured")
    parser.add_argument("--svg", metavar="DIR", type=Path, help="write charts")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds at most (default: 3 with --quick, 5 without)")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help=f"begin no round that would end later (default: {QUICK_MINUTES:g} with --quick, no limit without)",
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="factor on all sizes (default: 1)")
    parser.add_argument("--quiet", action="store_true", help="do not report progress")
    options = parser.parse_args(arguments)
    if options.minutes is None and options.quick:
        options.minutes = QUICK_MINUTES
    if options.peers is None:
        options.names = list(PEERS)
    else:
        options.names = [name for name in options.peers.split(",") if name and name != "none"]
        unknown = [name for name in options.names if name not in PEERS]
        if unknown:
            parser.error(f"no peer is named {', '.join(unknown)}")
    return options


def turns(plan: Plan, made: Sequence[Contender], number: int) -> Iterator[tuple[Step, Contender]]:
    """Return who takes which step, in the order of one round.

    A server's contenders take a block together. Every other round is in reverse, so that nobody always follows the
    same neighbour. Peers on a server with binary log take part in the first round only: they are slow.
    """
    order = list(made) if number % 2 == 0 else list(made)[::-1]
    for block in plan.blocks:
        for _, group in itertools.groupby(order, key=lambda contender: contender.place):
            members = list(group)
            for step in block:
                if step.rounds is not None and number >= step.rounds:
                    continue
                for contender in members:
                    aside = contender.is_logged and (not step.logged or (contender.kind == "peers" and number > 0))
                    if contender.kind in step.who and not aside:
                        yield step, contender


def run(plan: Plan, made: Sequence[Contender], *, deadline: float | None, say: Say) -> int:
    """Carry a plan out; return the number of complete rounds."""
    for number in range(plan.rounds):
        began = time.monotonic()
        for step, contender in turns(plan, made, number):
            if deadline is not None and time.monotonic() > deadline + OVERTIME_SECS:
                if step.key not in contender.samples:
                    contender.missing[step.key] = "no time left"
                continue
            say(f"round {number + 1}: {step.key}, {contender.name}")
            contender.measure(step)
        if deadline is not None:
            # The first rounds are the longest: they take more kinds of samples.
            expected = (time.monotonic() - began) * (0.75 if number == 0 else 1.0)
            if time.monotonic() + expected > deadline:
                return number + 1
    return plan.rounds


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return everything ready for JSON."""
    started = time.monotonic()

    def say(text: str) -> None:
        if not options.quiet:
            print(f"[{time.monotonic() - started:6.1f} s] {text}", file=sys.stderr, flush=True)

    plan = plan_of(quick=options.quick, scale=options.scale, rounds=options.rounds)
    kinds = ("mariadb", "mysql") if options.server == "both" else (options.server,)
    left_out: dict[str, str] = {}
    facts = machine.describe()
    say("compiled functions")
    found = kernels.measure(quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="celers-compare-") as directory:
        say("starting servers and contenders")
        with contenders_of(
            kinds, options.names, binlog=options.binlog, directory=Path(directory), left_out=left_out
        ) as (made, running):
            if not any(contender.kind == "celers" for contender in made):
                raise SystemExit("nothing to measure: " + "; ".join(f"{key}: {text}" for key, text in left_out.items()))
            deadline = started + options.minutes * 60 if options.minutes else None
            rounds = run(plan, made, deadline=deadline, say=say)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": facts | {"load_after": machine.load()},
        "settings": {
            "quick": options.quick,
            "scale": options.scale,
            "rounds": rounds,
            "binlog": options.binlog,
            "seconds": round(time.monotonic() - started, 1),
        },
        "servers": {server.name: server.version for server in running},
        "versions": {contender.name: contender.versions for contender in made},
        "samples": {contender.name: contender.samples for contender in made},
        "kernels": found,
        "missing": {contender.name: contender.missing for contender in made if contender.missing},
        "left_out": left_out,
    }


def save(path: Path, result: dict[str, Any]) -> None:
    """Write a result and the rows of its report; numbers have as many digits as a measurement can have."""
    rows = [row.to_dict() for row in report.rows_of(result)]
    text = json.dumps(report.rounded(result | {"rows": rows}), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; status 1 when a contender gave wrong counts or failed."""
    options = parse(arguments)
    for path in (options.json and options.json.parent, options.svg):
        if path:
            path.mkdir(parents=True, exist_ok=True)
    result = measure(options)
    if options.json:
        save(options.json, result)
    if options.svg:
        for name, text in charts(result["samples"]).items():
            (options.svg / name).write_text(text, encoding="utf-8")
    print(report.whole(result))
    failed = [text for missing in result["missing"].values() for text in missing.values() if text.startswith("failed")]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
