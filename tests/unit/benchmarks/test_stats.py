"""Statistics of samples."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stats import change, percentile, ratio, summarise

pytestmark = pytest.mark.spec("BENCH-02")
values = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


def test_percentile_is_the_nearest_rank():
    assert percentile([3, 1, 2, 4], 50) == 2
    assert percentile([3, 1, 2, 4], 100) == 4
    assert percentile([7], 99) == 7
    assert percentile(range(1, 101), 99) == 99


def test_percentile_of_nothing():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@given(values)
def test_summary_lies_between_its_ends(samples):
    found = summarise(samples)
    assert found.low <= found.median <= found.high
    assert found.low <= found.p95 <= found.high
    assert found.count == len(samples)
    assert found.median == statistics.median(samples)


def test_ratio_is_taken_round_by_round():
    # The machine was slow in the second round for both: the ratio does not care.
    found = ratio([100, 50, 102], [50, 25, 50])
    assert found is not None
    assert (found.median, found.low, found.high) == (2, 2, 2.04)


def test_ratio_of_unequal_rounds_is_that_of_the_medians():
    found = ratio([100, 110, 120], [10])
    assert found is not None
    assert found.median == 11
    assert found.count == 1


@pytest.mark.parametrize(("ours", "theirs"), [([], [1.0]), ([1.0], []), ([1.0], [0.0])])
def test_no_ratio(ours, theirs):
    assert ratio(ours, theirs) is None


def test_change_and_its_interval():
    before, after = [1.0, 1.01, 0.99, 1.0, 1.02] * 4, [1.5, 1.51, 1.49, 1.5, 1.52] * 4
    middle, low, high = change(before, after)
    assert middle == pytest.approx(0.5)
    assert 0.4 < low <= middle <= high < 0.6


def test_same_samples_show_no_change():
    samples = [1.0, 1.2, 0.8, 1.1, 0.9] * 5
    middle, low, high = change(samples, samples)
    assert middle == 0
    assert low <= 0 <= high
