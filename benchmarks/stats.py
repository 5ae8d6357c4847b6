"""Statistics of samples: pure functions, standard library only."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Summary", "change", "percentile", "ratio", "summarise"]


@dataclass(frozen=True)
class Summary:
    """Samples in a few numbers."""

    count: int
    median: float
    low: float
    high: float
    mean: float
    deviation: float
    p95: float

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers ready for JSON."""
        return asdict(self)


def percentile(values: Sequence[float], p: float) -> float:
    """Return the nearest-rank percentile: the smallest value that at least `p` percent do not exceed."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = max(1, math.ceil(p / 100 * len(ordered) - 1e-9))
    return ordered[min(rank, len(ordered)) - 1]


def summarise(values: Sequence[float]) -> Summary:
    """Return median, spread and the like of at least one value."""
    if not values:
        raise ValueError("no values")
    return Summary(
        count=len(values),
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else 0.0,
        p95=percentile(values, 95),
    )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Summary | None:
    """Return the ratios of samples that were taken in the same rounds; of the medians when the rounds differ.

    Paired rounds cancel what disturbed the machine for both.
    """
    if not ours or not theirs:
        return None
    if len(ours) == len(theirs) and all(theirs):
        pairs = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        return summarise(pairs)
    below = statistics.median(theirs)
    return summarise([statistics.median(ours) / below]) if below else None


def change(
    before: Sequence[float], after: Sequence[float], *, resamples: int = 2000, level: float = 0.95, seed: int = 1
) -> tuple[float, float, float]:
    """Return the relative change of the median and its confidence interval, by bootstrap.

    Returns
    -------
    tuple of float
        Change, lower and upper bound: 0.1 is ten percent more.
    """
    if not before or not after:
        raise ValueError("no values")
    rng = random.Random(seed)
    base = statistics.median(before)
    if base == 0:
        raise ValueError("the median before is 0")
    found = sorted(
        statistics.median(rng.choices(after, k=len(after)))
        / (statistics.median(rng.choices(before, k=len(before))) or base)
        - 1
        for _ in range(resamples)
    )
    tail = (1 - level) / 2
    low = found[int(tail * (resamples - 1))]
    high = found[math.ceil((1 - tail) * (resamples - 1))]
    return statistics.median(after) / base - 1, low, high
