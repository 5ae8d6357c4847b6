"""When a failed task runs again.

A `RetryPolicy` says how often a task may be retried and, by one of four strategies, how long each retry
waits. Everything here is a pure computation; random numbers can be handed in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Final, Protocol, Self

from celers import validate
from celers.errors import DeserializationError, ValidationError
from celers.model.base import JSON, Record
from celers_fast import backoff

__all__ = [
    "Exponential",
    "ExponentialWithJitter",
    "Fixed",
    "Linear",
    "RandomSource",
    "RetryPolicy",
    "RetryStrategy",
]

_FIXED, _LINEAR, _EXPONENTIAL, _JITTER = range(4)


class RandomSource(Protocol):
    """What `calculate_delay` asks of a random generator; `random.Random` is one."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


class RetryStrategy(Record):
    """How long a retry waits: `Fixed`, `Linear`, `Exponential` or `ExponentialWithJitter`."""

    __slots__ = ()

    type_name: ClassVar[str]

    def calculate_delay(self, attempt: int, *, rng: RandomSource | None = None) -> float:
        """Return how long the retry waits.

        Parameters
        ----------
        attempt : int
            Number of the retry, counted from 0.
        rng : RandomSource or None
            Source of the jitter; the `random` module when None. Used by the form with jitter only.

        Returns
        -------
        float
            Seconds, at least 0. A result beyond what a float holds becomes the maximum.

        Raises
        ------
        ValidationError
            When `attempt` is negative or no int.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, JSON]:
        """Return the JSON form: the type's name and the fields."""
        return {"type": self.type_name, **super().to_dict()}

    @staticmethod
    def from_dict(data: Mapping[str, JSON]) -> RetryStrategy:
        """Read the JSON form.

        Raises
        ------
        DeserializationError
            For an unknown type, missing or unknown fields, or values that the type refuses.
        """
        if not isinstance(data, Mapping):
            raise DeserializationError(f"a retry strategy must be an object, not {validate.shown(data)}")
        kind = data.get("type")
        form = _FORMS.get(kind) if isinstance(kind, str) else None
        if form is None:
            known = ", ".join(_FORMS)
            raise DeserializationError(f"unknown retry strategy {validate.shown(kind)}; known are {known}")
        values = {key: value for key, value in data.items() if key != "type"}
        if set(values) != {item.name for item in fields(form)}:
            raise DeserializationError(f"retry strategy {kind} has the wrong fields: {validate.shown(list(values))}")
        try:
            return form(**values)
        except ValidationError as error:
            raise DeserializationError(f"retry strategy {kind} has a bad value: {error}") from error


def _check_delay(strategy: RetryStrategy, name: str) -> float:
    seconds = validate.duration(getattr(strategy, name), name)
    object.__setattr__(strategy, name, seconds)
    return seconds


def _check_growth(strategy: RetryStrategy, multiplier: object) -> None:
    base = _check_delay(strategy, "base_delay_secs")
    object.__setattr__(strategy, "multiplier", validate.number(multiplier, "multiplier", 1.0))
    longest = _check_delay(strategy, "max_delay_secs")
    if longest < base:
        raise ValidationError(
            f"max_delay_secs must be at least base_delay_secs ({base:g}), not {longest:g}",
            parameter="max_delay_secs",
        )


@dataclass(frozen=True, slots=True)
class Fixed(RetryStrategy):
    """The same wait each time: `delay_secs`."""

    type_name: ClassVar[str] = "fixed"

    delay_secs: float

    def __post_init__(self) -> None:
        """Check the value."""
        _check_delay(self, "delay_secs")

    def calculate_delay(self, attempt: int, *, rng: RandomSource | None = None) -> float:
        """Return `delay_secs`."""
        attempt = validate.integer(attempt, "attempt", 0)
        return backoff.delay(_FIXED, attempt, self.delay_secs, 1.0, self.delay_secs, 0.0)


@dataclass(frozen=True, slots=True)
class Linear(RetryStrategy):
    """A wait that grows by the same amount: `base_delay_secs` times 1, 2, 3 and so on."""

    type_name: ClassVar[str] = "linear"

    base_delay_secs: float

    def __post_init__(self) -> None:
        """Check the value."""
        _check_delay(self, "base_delay_secs")

    def calculate_delay(self, attempt: int, *, rng: RandomSource | None = None) -> float:
        """Return `base_delay_secs` times one more than `attempt`."""
        attempt = validate.integer(attempt, "attempt", 0)
        # There is no maximum to fall back to, so overflow gives the largest float.
        return backoff.delay(_LINEAR, attempt, self.base_delay_secs, 1.0, _LARGEST, 0.0)


@dataclass(frozen=True, slots=True)
class Exponential(RetryStrategy):
    """A wait that grows by a factor: ``floor(min(base_delay_secs * multiplier ** attempt, max_delay_secs))``.

    Parameters
    ----------
    base_delay_secs : float
        First wait in s.
    multiplier : float
        Factor, at least 1.0.
    max_delay_secs : float
        Longest wait in s, at least `base_delay_secs`.
    """

    type_name: ClassVar[str] = "exponential"

    base_delay_secs: float
    multiplier: float
    max_delay_secs: float

    def __post_init__(self) -> None:
        """Check the values."""
        _check_growth(self, self.multiplier)

    def calculate_delay(self, attempt: int, *, rng: RandomSource | None = None) -> float:
        """Return the wait in whole seconds."""
        attempt = validate.integer(attempt, "attempt", 0)
        return backoff.delay(_EXPONENTIAL, attempt, self.base_delay_secs, self.multiplier, self.max_delay_secs, 0.0)


@dataclass(frozen=True, slots=True)
class ExponentialWithJitter(RetryStrategy):
    """A wait that grows by a factor, less a random part of up to a quarter: retries do not come at once.

    With ``d = min(base_delay_secs * multiplier ** attempt, max_delay_secs)`` it lies in (0.75 d, d] and
    keeps its fractions. The fields are those of `Exponential`.
    """

    type_name: ClassVar[str] = "exponential_with_jitter"

    base_delay_secs: float
    multiplier: float
    max_delay_secs: float

    def __post_init__(self) -> None:
        """Check the values."""
        _check_growth(self, self.multiplier)

    def calculate_delay(self, attempt: int, *, rng: RandomSource | None = None) -> float:
        """Return the wait with its jitter."""
        attempt = validate.integer(attempt, "attempt", 0)
        u = random.random() if rng is None else rng.random()
        u = min(u, _BELOW_ONE)
        return backoff.delay(_JITTER, attempt, self.base_delay_secs, self.multiplier, self.max_delay_secs, u)


_LARGEST: Final = math.nextafter(math.inf, 0)
# With the very largest random numbers 1 - 0.25 u would be rounded to 0.75, which is outside of the interval.
_BELOW_ONE: Final = 1.0 - 2.0**-50
_FORMS: Final[dict[str, type[Fixed | Linear | Exponential | ExponentialWithJitter]]] = {
    form.type_name: form for form in (Fixed, Linear, Exponential, ExponentialWithJitter)
}


@dataclass(frozen=True, slots=True)
class RetryPolicy(Record):
    """How often a task is retried, and how long each retry waits.

    Parameters
    ----------
    max_retries : int
        0 to 1000; replaces the task's own number.
    strategy : RetryStrategy
        How long each retry waits.
    """

    max_retries: int = 3
    strategy: RetryStrategy = field(default_factory=lambda: ExponentialWithJitter(1.0, 2.0, 300.0))

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "max_retries", validate.max_retries(self.max_retries))
        # The base class itself, or a subclass of the user, could not be stored.
        if type(self.strategy) not in _FORMS.values():
            raise ValidationError(
                f"strategy must be one of {', '.join(form.__name__ for form in _FORMS.values())}, "
                f"not {validate.shown(self.strategy)}",
                parameter="strategy",
            )

    def calculate_delay(self, attempt: int, *, rng: RandomSource | None = None) -> float:
        """Return how long retry number `attempt`, counted from 0, waits in seconds."""
        return self.strategy.calculate_delay(attempt, rng=rng)

    @classmethod
    def from_dict(cls, data: Mapping[str, JSON]) -> Self:
        """Read what `to_dict` wrote.

        Raises
        ------
        DeserializationError
            When it is no such object, or its strategy is unknown.
        """
        if not isinstance(data, Mapping) or set(data) != {"max_retries", "strategy"}:
            raise DeserializationError(
                f"a retry policy must be an object with max_retries and strategy, not {validate.shown(data)}"
            )
        strategy = RetryStrategy.from_dict(data["strategy"])
        try:
            return cls(data["max_retries"], strategy)
        except ValidationError as error:
            raise DeserializationError(f"a retry policy has a bad value: {error}") from error
