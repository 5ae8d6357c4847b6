"""Tasks that ended in a window, out of samples of the counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.components.analytics import queue_status
from celers.components.throughput import SAMPLE_SECS, Point, ended_since

pytestmark = pytest.mark.spec("STAT-10")

NOW = Point(0.0, 1000, 100)


def test_without_a_sample_nothing_has_ended():
    assert ended_since(60, NOW, None, None) == (0, 0)


def test_the_first_sample_stands_before_everything():
    assert ended_since(60, NOW, None, Point(59.9, 990, 97)) == (10, 3)


def test_what_ended_before_the_window_does_not_count():
    assert ended_since(60, NOW, Point(900, 900, 50), Point(30, 990, 97)) == (10, 3)
    assert ended_since(60, NOW, Point(900, 900, 50), None) == (0, 0)


def test_work_at_the_edge_is_shared_out():
    """Between the samples, 5 s apart, 100 tasks ended, of which 2 s are before the window."""
    assert ended_since(60, NOW, Point(62, 800, 0), Point(57, 900, 10)) == (160, 96)
    assert ended_since(60, NOW, Point(60, 800, 0), Point(55, 900, 10)) == (200, 100)
    # Nobody wrote a sample since, so nothing went on for longer than one would have taken.
    assert ended_since(60, NOW, Point(62, 800, 0), None) == (120, 60)


@given(
    secs=st.sampled_from([60, 3600]),
    past=st.floats(0, 1e6),
    inside=st.none() | st.floats(0.0, 1.0, exclude_max=True),
    counts=st.lists(st.integers(0, 10**9), min_size=3, max_size=3).map(sorted),
)
def test_a_window_never_counts_more_than_there_was(secs, past, inside, counts):
    first, second, last = counts
    now = Point(0.0, last, last)
    before = Point(secs + past, first, first)
    after = None if inside is None else Point(secs * inside, second, second)
    completed, failed = ended_since(secs, now, before, after)
    assert completed == failed
    assert 0 <= completed <= last - first
    if after is not None:
        assert completed >= last - second
        if past >= SAMPLE_SECS:
            assert completed == last - second


@pytest.mark.spec("STAT-09", "DEF-87")
def test_a_queue_is_rated():
    rated = {
        (0, 0): "healthy",
        (99, 299): "healthy",
        (100, 0): "degraded",
        (0, 300): "degraded",
        (999, 899): "degraded",
        (1000, 0): "critical",
        (5, 900): "critical",
    }
    assert {key: queue_status(*key) for key in rated} == rated
