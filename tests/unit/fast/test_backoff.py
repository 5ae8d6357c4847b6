"""Retry delays of both twins."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celers.errors import ValidationError

FIXED, LINEAR, EXPONENTIAL, JITTER = range(4)
parity = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.spec("RETRY-01")
def test_worked_examples(backoff):
    assert [backoff.delay(FIXED, n, 7.5, 1.0, 0.0, 0.0) for n in range(3)] == [7.5, 7.5, 7.5]
    assert [backoff.delay(LINEAR, n, 5, 1.0, 100.0, 0.0) for n in range(4)] == [5, 10, 15, 20]
    doubling = backoff.delays(EXPONENTIAL, range(7), 2, 2.0, 60, [0.5] * 7)
    assert doubling == [2, 4, 8, 16, 32, 60, 60]
    slow = backoff.delays(EXPONENTIAL, range(8), 1, 1.5, 300, [0.5] * 8)
    assert slow == [1, 1, 2, 3, 5, 7, 11, 17]
    assert all(type(value) is float for value in doubling + slow)


@pytest.mark.spec("RETRY-01")
def test_jitter_lies_between_three_quarters_and_the_whole(backoff):
    assert backoff.delay(JITTER, 3, 2, 2.0, 60, 0.0) == 16.0
    assert 12.0 < backoff.delay(JITTER, 3, 2, 2.0, 60, math.nextafter(1.0, 0.0)) < 12.1
    assert backoff.delay(JITTER, 3, 2, 2.0, 60, 0.5) == 14.0


@pytest.mark.spec("RETRY-01")
@pytest.mark.parametrize("attempt", [5000, 10**30, 10**400])
def test_overflow_gives_the_maximum(backoff, attempt):
    assert backoff.delay(EXPONENTIAL, attempt, 1.0, 10.0, 300.0, 0.0) == 300.0
    assert backoff.delay(JITTER, attempt, 1.0, 10.0, 300.0, 0.0) == 300.0
    assert backoff.delay(LINEAR, attempt, 1e305, 1.0, 300.0, 0.0) == 300.0
    assert backoff.delay(EXPONENTIAL, attempt, 0.0, 10.0, 300.0, 0.0) == 0.0
    assert backoff.delay(EXPONENTIAL, 10_000, 1.0, 10.0, math.inf, 0.0) == math.inf


@pytest.mark.spec("RETRY-01")
@pytest.mark.parametrize("attempt", [-1, -(10**400), 1.0, True, "1", None])
def test_refused_attempts(backoff, attempt):
    with pytest.raises(ValidationError, match="attempt"):
        backoff.delay(FIXED, attempt, 1.0, 1.0, 1.0, 0.0)
    with pytest.raises(ValidationError, match="attempt"):
        backoff.delays(FIXED, [attempt], 1.0, 1.0, 1.0, [0.0])


@pytest.mark.parametrize("kind", [-1, 4, 10**30, True, 1.0, None])
def test_refused_kinds(backoff, kind):
    with pytest.raises(ValidationError, match="kind"):
        backoff.delay(kind, 0, 1.0, 1.0, 1.0, 0.0)


def test_vectors_must_be_equally_long(backoff):
    with pytest.raises(ValidationError, match="equally long"):
        backoff.delays(FIXED, [1, 2], 1.0, 1.0, 1.0, [0.0])
    assert backoff.delays(FIXED, [], 1.0, 1.0, 1.0, []) == []


any_float = st.floats()
attempts = st.one_of(st.integers(0, 100), st.integers(), st.booleans(), st.none())
numbers = st.one_of(any_float, st.integers(-10, 10), st.just(10**400), st.booleans(), st.text(max_size=2))


@parity
@given(st.integers(-1, 4), attempts, numbers, numbers, numbers, numbers)
def test_twins_agree_on_one(both, kind, attempt, base, multiplier, max_delay, u):
    both_nan_safe(both, "delay", kind, attempt, base, multiplier, max_delay, u)


@parity
@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 1)), max_size=20),
    st.floats(0, 1e9),
    st.floats(1, 1e9),
    st.floats(0, 1e12),
)
def test_twins_agree_on_many(both, kind, pairs, base, multiplier, max_delay):
    both("backoff", "delays", kind, [a for a, _ in pairs], base, multiplier, max_delay, [u for _, u in pairs])


def both_nan_safe(both, function, *args):
    """NaN is not equal to itself: compare the texts then."""
    try:
        both("backoff", function, *args)
    except AssertionError as error:
        if "nan" not in str(error):
            raise
