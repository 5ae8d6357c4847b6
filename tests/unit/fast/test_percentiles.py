"""Percentiles of both twins."""

from __future__ import annotations

import math
import random
from array import array

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celers.errors import ValidationError

parity = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.spec("STAT-02")
@pytest.mark.parametrize(
    ("n", "expected"), [(10, (6, 10, 10)), (100, (51, 95, 99)), (20, (11, 19, 20)), (4, (3, 4, 4))]
)
def test_worked_examples(percentiles, n, expected):
    values = list(range(1, n + 1))
    random.Random(n).shuffle(values)
    assert percentiles.percentiles(values, (50, 95, 99)) == expected
    assert tuple(percentiles.percentile(values, p) for p in (50, 95, 99)) == expected


@pytest.mark.spec("STAT-02", "STAT-06")
def test_few_values(percentiles):
    assert percentiles.percentile([], 95) == 0.0
    assert percentiles.percentiles([], [50, 95]) == (0.0, 0.0)
    assert percentiles.percentile([3.5], 95) == 3.5
    assert percentiles.percentiles([2, 1], []) == ()
    assert percentiles.percentiles([2, 1], [100, 0, 100]) == (2.0, 1.0, 2.0)


@pytest.mark.parametrize("p", [-0.1, 100.1, math.nan, True, "50", None])
def test_refused_percentiles(percentiles, p):
    with pytest.raises(ValidationError, match="percentile"):
        percentiles.percentile([1.0, 2.0], p)
    with pytest.raises(ValidationError, match="percentile"):
        percentiles.percentiles([], [50, p])


@pytest.mark.parametrize("values", [[1.0, math.nan], array("d", [math.nan]), (math.nan,)])
def test_nan_is_refused(percentiles, values):
    with pytest.raises(ValidationError, match="NaN"):
        percentiles.percentile(values, 50)


@pytest.mark.parametrize("values", ["12", b"12", bytearray(b"12"), ["1"], [None], 5, [10**400], [[1.0], [2.0]]])
def test_what_is_no_sequence_of_numbers_is_refused(percentiles, values):
    with pytest.raises(ValidationError, match="values"):
        percentiles.percentile(values, 50)


def test_buffers_and_sequences_give_the_same(percentiles):
    numpy = pytest.importorskip("numpy")
    plain = [5.0, -1.0, 3.0, math.inf, 2.0, 4.0]
    doubles = array("d", plain)
    grid = numpy.array([plain, plain])
    many = [
        plain,
        tuple(plain),
        doubles,
        memoryview(doubles),
        memoryview(array("d", [0.0] * 12))[::2].tolist() and plain,
        numpy.array(plain),
        grid.T[:, 0],  # strided
        numpy.array(plain)[::-1],
        numpy.array(plain, dtype="float32"),
        numpy.array(plain, dtype=">f8"),
        iter(plain),
    ]
    assert {percentiles.percentiles(values, (0, 50, 100)) for values in many} == {(-1.0, 4.0, math.inf)}
    assert percentiles.percentile(memoryview(doubles)[::2], 100) == 5.0
    assert percentiles.percentile(array("i", [3, 1, 2]), 50) == 2.0
    assert doubles.tolist() == plain, "the input is not reordered"
    for bad in (grid, numpy.array(5.0), memoryview(bytes(16)).cast("d", (1, 2))):
        with pytest.raises(ValidationError, match="one-dimensional"):
            percentiles.percentile(bad, 50)


@pytest.mark.parametrize("n", [23, 24, 25, 26, 1000, 30_000])
@pytest.mark.parametrize("shape", ["random", "ascending", "descending", "equal", "few", "organ", "sawtooth"])
def test_selection_on_awkward_orders(percentiles, shape, n):
    rng = random.Random(n)
    values = {
        "random": lambda: [rng.random() for _ in range(n)],
        "ascending": lambda: list(range(n)),
        "descending": lambda: list(range(n, 0, -1)),
        "equal": lambda: [1.0] * n,
        "few": lambda: [float(rng.randrange(3)) for _ in range(n)],
        "organ": lambda: [min(i, n - i) for i in range(n)],
        "sawtooth": lambda: [i % 17 for i in range(n)],
    }[shape]()
    wanted = [0, 1, 25, 50, 50, 75, 90, 95, 99, 99.9, 100]
    ordered = sorted(values)
    expected = tuple(float(ordered[math.floor(p / 100 * (n - 1) + 0.5)]) for p in wanted)
    assert percentiles.percentiles(array("d", values), wanted) == expected


finite_or_inf = st.floats(allow_nan=False)


@parity
@given(st.lists(st.one_of(finite_or_inf, st.integers()), max_size=200), st.lists(st.floats(0, 100), max_size=6))
def test_twins_agree(both, values, ps):
    both("percentiles", "percentiles", values, ps)


@parity
@given(
    st.lists(st.one_of(st.floats(), st.none(), st.booleans(), st.text(max_size=1), st.just(10**400)), max_size=5),
    st.one_of(st.floats(), st.integers(), st.none(), st.booleans()),
)
def test_twins_refuse_alike(both, values, p):
    both("percentiles", "percentile", values, p)


@parity
@given(st.lists(finite_or_inf, max_size=100), st.integers(0, 100))
def test_twins_agree_on_buffers(both, values, p):
    both("percentiles", "percentile", array("d", values), p)
