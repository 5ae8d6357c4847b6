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


@pytest.mark.spec("STAT-02")
@pytest.mark.parametrize("wanted", [(50, 95, 99), (0, 100), (49.9, 50, 50.1, 0, 100), tuple(range(0, 101, 5))])
@pytest.mark.parametrize(
    "shape", ["random", "sorted", "equal", "two", "period", "infinities", "zeros", "spikes", "rare", "subnormal"]
)
def test_many_values_by_a_sample(percentiles, shape, wanted):
    n = 40_001
    rng = random.Random(n)
    values = {
        "random": lambda: [rng.expovariate(1) for _ in range(n)],
        "sorted": lambda: [float(i) for i in range(n)],
        "equal": lambda: [2.5] * n,
        "two": lambda: [float(rng.randrange(2)) for _ in range(n)],
        "period": lambda: [float(i % 16 == 3) + i * 1e-9 for i in range(n)],
        "infinities": lambda: [rng.choice([math.inf, -math.inf, rng.random()]) for _ in range(n)],
        "zeros": lambda: [rng.choice([0.0, -0.0]) for _ in range(n)],
        "spikes": lambda: [1.0 if rng.random() < 0.95 else rng.random() for _ in range(n)],
        # A sample of the middle shows nothing of the ends.
        "rare": lambda: [float(10_000 < i < 10_010) - float(i == 33_333) for i in range(n)],
        "subnormal": lambda: [rng.randrange(9) * 5e-324 for _ in range(n)],
    }[shape]()
    ordered = sorted(values)
    expected = tuple(ordered[math.floor(p / 100 * (n - 1) + 0.5)] + 0.0 for p in wanted)
    given = array("d", values)
    found = percentiles.percentiles(given, wanted)
    assert found == expected
    assert all(math.copysign(1, value) == 1 for value in found if value == 0), "no -0.0"
    assert percentiles.percentiles(values, wanted) == expected, "a list"
    assert percentiles.percentiles(memoryview(given)[::-1], wanted) == expected, "a buffer that is not contiguous"
    assert percentiles.percentile(given, wanted[0]) == expected[0]
    assert given.tolist() == values, "the input is only read"


@pytest.mark.spec("STAT-02")
@pytest.mark.parametrize("place", [0, 1, 8_191, 20_000, 39_999])
@pytest.mark.parametrize("wanted", [(), (50,), tuple(range(20))])
def test_one_nan_among_many_is_found(percentiles, place, wanted):
    values = array("d", range(40_000))
    values[place] = math.nan
    for form in (values, values.tolist()):
        with pytest.raises(ValidationError, match="NaN"):
            percentiles.percentiles(form, wanted)


def test_the_buffer_is_given_back(percentiles):
    values = array("d", range(10_000))
    percentiles.percentiles(values, (50, 99))
    values.append(1.0)  # raises while somebody holds the buffer
    with pytest.raises(ValidationError):
        percentiles.percentiles(values, (101,))
    values.append(2.0)


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
