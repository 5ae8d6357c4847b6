"""Print how much faster each compiled function is than its Python twin: ``python -m benchmarks.gain``.

Status 1 when a function gains less than the factor asked for (``--at-least``, 2 by default); compression is
exempt, its time is zlib's own in both.
"""

from __future__ import annotations

import argparse
import sys
import timeit
from collections.abc import Callable

from benchmarks.fast_cases import CASES, EXEMPT, implementations


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the time of one call: the best of several rounds, which is the least disturbed one."""
    timer = timeit.Timer(call)
    number, taken = timer.autorange()
    number = max(1, round(number * 0.1 / max(taken, 1e-9)))
    return min(timer.repeat(repeats, number)) / number


def shown(value: float) -> str:
    """Return a time with a unit that fits."""
    for factor, unit in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        if value * factor < 1000:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s"


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--at-least", type=float, default=2.0, metavar="FACTOR")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    weak: list[str] = []
    print(f"{'function':<45} {'Python':>10} {'C':>10} {'gain':>7}")
    for case in CASES:
        modules = implementations(case.topic)
        if "c" not in modules:
            print(f"{case.name:<45} the compiled module is not built", file=sys.stderr)
            return 2
        python = seconds(case.call(modules["python"]), options.repeats)
        compiled = seconds(case.call(modules["c"]), options.repeats)
        gain = python / compiled
        if gain < options.at_least and case.function not in EXEMPT:
            # A second look, as something else may have had the processor.
            compiled = min(compiled, seconds(case.call(modules["c"]), options.repeats))
            gain = seconds(case.call(modules["python"]), options.repeats) / compiled
        note = "  (exempt)" if case.function in EXEMPT else ""
        print(f"{case.name:<45} {shown(python):>10} {shown(compiled):>10} {gain:>6.1f}x{note}")
        if gain < options.at_least and case.function not in EXEMPT:
            weak.append(case.name)
    if weak:
        print(f"below {options.at_least:g}x: {', '.join(weak)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
