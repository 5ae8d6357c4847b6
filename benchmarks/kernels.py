"""Compiled functions against the obvious alternative: numpy.percentile, and a loop over zlib.compress."""

from __future__ import annotations

import json
import math
import random
import time
import zlib
from collections.abc import Callable
from typing import Any

__all__ = ["measure"]


def _times(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call, in turns."""
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for name, call in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - started)
    return found


def percentiles(count: int, rounds: int) -> dict[str, Any]:
    """Three quantiles of doubles."""
    import numpy as np

    from celers_fast.percentiles import percentiles as ours

    values = np.random.default_rng(7).exponential(size=count)
    points = (50.0, 95.0, 99.0)
    # The definition of the statistics: the value nearest to the rank, no interpolation.
    expected = tuple(float(np.sort(values)[math.floor(p / 100 * (count - 1) + 0.5)]) for p in points)
    if ours(values, points) != expected:
        raise AssertionError(f"{ours(values, points)} is not {expected}")
    found = _times(lambda: ours(values, points), lambda: np.percentile(values, points), rounds)
    return found | {"what": f"percentiles of {count:,} float64, three quantiles"}


def compression(count: int, rounds: int) -> dict[str, Any]:
    """Payloads of 1 kB in one call, at one level."""
    from celers_fast.compression import compress_payloads, decompress_payload

    level = 1
    rng = random.Random(7)
    payloads = []
    for number in range(count):
        orders = [{"order": rng.randrange(10**6), "customer": f"customer {rng.randrange(99)}"} for _ in range(30)]
        payloads.append(json.dumps([number, orders]).encode()[:1000])
    packed = compress_payloads(payloads, level=level, min_size=0)
    if [bytes(decompress_payload(one)) for one in packed] != payloads:
        raise AssertionError("a payload has changed on its way")
    loop = [zlib.compress(one, level) for one in payloads]
    found: dict[str, Any] = _times(
        lambda: compress_payloads(payloads, level=level, min_size=0),
        lambda: [zlib.compress(one, level) for one in payloads],
        rounds,
    )
    size, other = sum(map(len, packed)), sum(map(len, loop))
    return found | {
        "what": f"compression of {count:,} payloads of 1 kB, one call, level {level} ({size / other:.2f} of the size)",
        "bytes": size,
        "bytes_theirs": other,
    }


def measure(*, quick: bool) -> dict[str, dict[str, Any]]:
    """Measure both."""
    return {
        "percentiles": percentiles(200_000 if quick else 1_000_000, 5 if quick else 15),
        "compression": compression(1000, 5 if quick else 15),
    }
