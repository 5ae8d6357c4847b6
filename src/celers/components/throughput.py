"""How many tasks end in a minute: samples of two counters that never go down.

Each process that acknowledges or rejects tasks sends one more statement behind the COMMIT of such a packet, at most
every five seconds. It notes what the queue had completed and failed before that packet. It takes no lock that a claim
or an acknowledgement waits for, its own caller hears a millisecond later, an error of it means nothing, and a queue at
rest writes nothing: where no sample is, nothing has ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celers import rows as read
from celers.model.stats import TaskThroughput

if TYPE_CHECKING:
    from celers.components.base import Component
    from celers.core import Core

__all__ = ["HOUR_SECS", "MINUTE_SECS", "SAMPLE_SECS", "Point", "ended_since", "sample", "sampled", "throughput"]

SAMPLE_SECS: Final = 5.0
"""Least time between two samples; the places of the ring in throughput.sql are as long."""
MINUTE_SECS: Final = 60
HOUR_SECS: Final = 3600


def sample(component: Component[Any], completions: int, failures: int = 0) -> tuple[bytes, ...]:
    """Return the statement to send behind the COMMIT of a packet that ends so many tasks; none when it is too soon."""
    core = component.core
    if time.monotonic() < core.next_sample or component.inside:
        return ()
    return (core.sql("throughput", "sample", queue_id=core.queue_id, completions=completions, failures=failures),)


def sampled(core: Core, sent: Sequence[bytes]) -> None:
    """Note that a packet with that statement has been answered."""
    if sent:
        core.next_sample = time.monotonic() + SAMPLE_SECS


@dataclass(frozen=True, slots=True)
class Point:
    """The counters at a time."""

    age_secs: float
    completions: int
    failures: int


def ended_since(secs: float, now: Point, before: Point | None, after: Point | None) -> tuple[int, int]:
    """Return how many tasks were completed, and failed, in the last seconds.

    Parameters
    ----------
    secs : float
        Length of the window that ends now.
    now : Point
    before, after : Point or None
        The last sample before the window's beginning, and the first one after it.
    """
    end = after or now
    if before is None:
        return now.completions - end.completions, now.failures - end.failures
    # Work may have gone on unseen for the time of one sample, and then rested until the next one was written.
    busy = min(before.age_secs - end.age_secs, SAMPLE_SECS)
    share = min((before.age_secs - secs) / busy, 1.0) if busy > 0 else 1.0

    def count(now: int, before: int, end: int) -> int:
        return max(0, round(now - before - (end - before) * share))

    return (
        count(now.completions, before.completions, end.completions),
        count(now.failures, before.failures, end.failures),
    )


def throughput(rows: Sequence[tuple[Any, ...]]) -> TaskThroughput:
    """Make the numbers of the statement `throughput.read`."""
    now = Point(0.0, read.integer(rows[0][2]), read.integer(rows[0][3]))
    points: dict[int, list[Point]] = {MINUTE_SECS: [], HOUR_SECS: []}
    for row in rows[1:]:
        points[read.integer(row[0])].append(
            Point(read.integer(row[1]) / 1e6, read.integer(row[2]), read.integer(row[3]))
        )
    found = {}
    for secs, some in points.items():
        before = next((point for point in some if point.age_secs >= secs), None)
        after = next((point for point in some if point.age_secs < secs), None)
        found[secs] = ended_since(secs, now, before, after)
    return TaskThroughput(
        completed_last_minute=found[MINUTE_SECS][0],
        completed_last_hour=found[HOUR_SECS][0],
        failed_last_minute=found[MINUTE_SECS][1],
        failed_last_hour=found[HOUR_SECS][1],
        tasks_per_second=found[MINUTE_SECS][0] / MINUTE_SECS,
    )
