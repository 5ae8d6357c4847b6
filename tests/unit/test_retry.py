"""Retry strategies and policies."""

from __future__ import annotations

import json
import math
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.errors import DeserializationError, ValidationError
from celers.retry import Exponential, ExponentialWithJitter, Fixed, Linear, RetryPolicy, RetryStrategy

seconds = st.floats(0, 1e6)
FORMS = {
    "fixed": Fixed(1.5),
    "linear": Linear(5),
    "exponential": Exponential(2, 2.0, 60),
    "exponential_with_jitter": ExponentialWithJitter(1, 2.0, 300),
}
strategies = st.one_of(
    st.builds(Fixed, seconds),
    st.builds(Linear, seconds),
    *(
        st.builds(form, seconds, st.floats(1, 100), st.floats(1e6, 1e9))
        for form in (Exponential, ExponentialWithJitter)
    ),
)


class Always:
    """A random source that returns one number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.spec("RETRY-01")
class TestDelays:
    @pytest.mark.parametrize(
        ("strategy", "expected"),
        [
            (Fixed(7), [7, 7, 7]),
            (Fixed(0.25), [0.25, 0.25]),
            (Linear(5), [5, 10, 15, 20]),
            (Linear(0), [0, 0]),
            (Exponential(2, 2.0, 60), [2, 4, 8, 16, 32, 60, 60]),
            (Exponential(1, 1.5, 300), [1, 1, 2, 3, 5, 7, 11, 17]),
            (Exponential(0, 2.0, 60), [0, 0, 0]),
            (Exponential(5, 1.0, 5), [5, 5, 5]),
        ],
    )
    def test_examples(self, strategy: RetryStrategy, expected: list[float]) -> None:
        delays = [strategy.calculate_delay(attempt) for attempt in range(len(expected))]
        assert delays == expected
        assert {type(delay) for delay in delays} == {float}

    @pytest.mark.spec("TYPE-52")
    def test_jitter(self) -> None:
        strategy = ExponentialWithJitter(2, 2.0, 60)
        assert strategy.calculate_delay(3, rng=Always(0.0)) == 16
        assert strategy.calculate_delay(3, rng=Always(0.5)) == 14
        assert 12 < strategy.calculate_delay(3, rng=Always(math.nextafter(1, 0))) < 12.001
        delays = {strategy.calculate_delay(3) for _ in range(100)}
        assert len(delays) > 90
        assert all(12 < delay <= 16 for delay in delays)
        assert strategy.calculate_delay(3, rng=random.Random(1)) == strategy.calculate_delay(3, rng=random.Random(1))

    @given(strategies, st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
    def test_bounds(self, strategy: RetryStrategy, attempt: int, number: float) -> None:
        delay = strategy.calculate_delay(attempt, rng=Always(number))
        assert type(delay) is float
        assert 0 <= delay < math.inf
        if isinstance(strategy, Exponential):
            exact = strategy.base_delay_secs * min(strategy.multiplier ** min(attempt, 100), 1e300)
            assert delay <= strategy.max_delay_secs
            assert delay == math.floor(delay)
            assert math.isclose(delay, min(exact, strategy.max_delay_secs), rel_tol=1e-9, abs_tol=1) or attempt > 100
        elif isinstance(strategy, ExponentialWithJitter):
            assert delay <= strategy.max_delay_secs
            top = strategy.calculate_delay(attempt, rng=Always(0.0))
            assert 0.75 * top <= delay <= top

    @pytest.mark.parametrize(
        "strategy",
        [Exponential(1, 1e308, 60), ExponentialWithJitter(1, 10.0, 60), Exponential(1e-9, 2.0, 60)],
    )
    @pytest.mark.parametrize("attempt", [5000, 10**30, 10**400])
    def test_overflow_yields_the_maximum(self, strategy: RetryStrategy, attempt: int) -> None:
        assert strategy.calculate_delay(attempt, rng=Always(0.0)) == 60

    def test_linear_overflow_stays_finite(self) -> None:
        assert math.isfinite(Linear(1e300).calculate_delay(10**300))
        assert Linear(0).calculate_delay(10**400) == 0

    @pytest.mark.parametrize("strategy", FORMS.values(), ids=FORMS)
    @pytest.mark.parametrize("attempt", [-1, 1.0, True, None, "1"])
    def test_bad_attempts(self, strategy: RetryStrategy, attempt: Any) -> None:
        with pytest.raises(ValidationError, match="attempt"):
            strategy.calculate_delay(attempt)
        with pytest.raises(ValidationError, match="attempt"):
            RetryPolicy(3, strategy).calculate_delay(attempt)

    def test_base_class_has_no_delay(self) -> None:
        with pytest.raises(NotImplementedError):
            RetryStrategy().calculate_delay(0)


@pytest.mark.spec("TYPE-49", "TYPE-50", "TYPE-51", "TYPE-52")
class TestValidation:
    @pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, None, "1"])
    def test_delays(self, value: Any) -> None:
        for make in (
            lambda: Fixed(value),
            lambda: Linear(value),
            lambda: Exponential(value, 2.0, 60),
            lambda: Exponential(1, 2.0, value),
            lambda: ExponentialWithJitter(value, 2.0, 60),
            lambda: ExponentialWithJitter(1, 2.0, value),
        ):
            with pytest.raises(ValidationError, match="delay_secs"):
                make()

    @pytest.mark.parametrize("form", [Exponential, ExponentialWithJitter])
    @pytest.mark.parametrize("value", [0.999, 0, -1, math.nan, math.inf, True, None, "2"])
    def test_multiplier(self, form: Any, value: Any) -> None:
        with pytest.raises(ValidationError, match="multiplier"):
            form(1, value, 60)

    @pytest.mark.parametrize("form", [Exponential, ExponentialWithJitter])
    def test_maximum_below_base(self, form: Any) -> None:
        with pytest.raises(ValidationError, match="max_delay_secs"):
            form(10, 2.0, 9)
        assert form(10, 2.0, 10).max_delay_secs == 10

    def test_timedelta(self) -> None:
        assert Fixed(timedelta(minutes=1)).delay_secs == 60  # type: ignore[arg-type]


@pytest.mark.spec("RETRY-02", "TYPE-48")
class TestPolicy:
    def test_defaults_and_json_form(self) -> None:
        policy = RetryPolicy()
        assert policy == RetryPolicy(3, ExponentialWithJitter(1, 2.0, 300))
        assert policy.to_dict() == {
            "max_retries": 3,
            "strategy": {
                "type": "exponential_with_jitter",
                "base_delay_secs": 1,
                "multiplier": 2.0,
                "max_delay_secs": 300,
            },
        }
        assert policy.calculate_delay(0, rng=Always(0.0)) == 1

    @pytest.mark.parametrize("strategy", FORMS.values(), ids=FORMS)
    def test_type_names(self, strategy: RetryStrategy) -> None:
        assert FORMS[strategy.to_dict()["type"]] is strategy

    @given(strategies, st.integers(0, 1000))
    def test_round_trip(self, strategy: RetryStrategy, max_retries: int) -> None:
        policy = RetryPolicy(max_retries, strategy)
        assert RetryPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
        assert RetryStrategy.from_dict(strategy.to_dict()) == strategy

    @pytest.mark.parametrize("value", [-1, 1001, 1.0, True, None])
    def test_bad_max_retries(self, value: Any) -> None:
        with pytest.raises(ValidationError, match="max_retries"):
            RetryPolicy(value)

    @pytest.mark.parametrize("value", [None, "fixed", {"type": "fixed"}, RetryStrategy(), Fixed])
    def test_bad_strategy(self, value: Any) -> None:
        with pytest.raises(ValidationError, match="strategy"):
            RetryPolicy(3, value)

    @pytest.mark.parametrize(
        "data",
        [
            None,
            [],
            "x",
            {},
            {"max_retries": 3},
            {"max_retries": 3, "strategy": None},
            {"max_retries": 3, "strategy": {}},
            {"max_retries": 3, "strategy": {"type": "fibonacci"}},
            {"max_retries": 3, "strategy": {"type": []}},
            {"max_retries": 3, "strategy": {"type": "fixed"}},
            {"max_retries": 3, "strategy": {"type": "fixed", "delay_secs": -1}},
            {"max_retries": 3, "strategy": {"type": "fixed", "delay_secs": "1"}},
            {"max_retries": 3, "strategy": {"type": "fixed", "delay_secs": 1, "more": 1}},
            {"max_retries": 3, "strategy": {"type": "exponential", "base_delay_secs": 1, "multiplier": 2}},
            {"max_retries": -1, "strategy": {"type": "fixed", "delay_secs": 1}},
            {"max_retries": "3", "strategy": {"type": "fixed", "delay_secs": 1}},
            {"max_retries": 3, "strategy": {"type": "fixed", "delay_secs": 1}, "more": 1},
        ],
    )
    def test_unreadable(self, data: Any) -> None:
        with pytest.raises(DeserializationError, match="retry"):
            RetryPolicy.from_dict(data)
