"""Retry delays in Python; `_backoff_c` gives equal results faster."""

from __future__ import annotations

import math
from collections.abc import Sequence

from celers.errors import ValidationError

__all__ = ["EXPONENTIAL", "EXPONENTIAL_WITH_JITTER", "FIXED", "LINEAR", "delay", "delays"]

FIXED = 0
LINEAR = 1
EXPONENTIAL = 2
EXPONENTIAL_WITH_JITTER = 3


def number(value: object, name: str) -> float:
    """Return `value` as float; anything but int and float raises `ValidationError`. Used by both twins."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError(f"{name} must be a number, not {type(value).__name__}", parameter=name)
    try:
        return float(value)
    except OverflowError:
        raise ValidationError(f"{name} is too large for a float", parameter=name) from None


def bad_attempt(value: object) -> ValidationError:
    """Return the error for a refused attempt number. Used by both twins."""
    if isinstance(value, bool) or not isinstance(value, int):
        return ValidationError(f"attempt must be an int, not {type(value).__name__}", parameter="attempt")
    return ValidationError("attempt must not be negative", parameter="attempt")


def bad_kind(value: object) -> ValidationError:
    """Return the error for an unknown kind. Used by both twins."""
    return ValidationError(f"kind must be 0, 1, 2 or 3, not {value!r:.40}", parameter="kind")


def bad_lengths(attempts: int, us: int) -> ValidationError:
    """Return the error for vectors of different lengths. Used by both twins."""
    return ValidationError(f"attempts and us must be equally long, not {attempts} and {us}", parameter="us")


def delay(kind: int, attempt: int, base: float, multiplier: float, max_delay: float, u: float) -> float:
    """Return the delay before retry number `attempt`, in seconds.

    Parameters
    ----------
    kind : int
        0 fixed, 1 linear, 2 exponential, 3 exponential with jitter.
    attempt : int
        Retries made so far, >= 0.
    base, max_delay : float
        Seconds. `max_delay` bounds the exponential forms, and is the result of any form that overflows.
    multiplier : float
        Growth per attempt of the exponential forms.
    u : float
        Random number in [0, 1), used by the jitter form only.

    Returns
    -------
    float
        Seconds; whole seconds for form 2, in (0.75 d, d] for form 3.

    Raises
    ------
    ValidationError
        For a negative attempt, an unknown kind, or an argument that is no number.
    """
    if type(kind) is not int or not 0 <= kind <= 3:
        raise bad_kind(kind)
    if isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 0:
        raise bad_attempt(attempt)
    return _delay(
        kind,
        attempt,
        number(base, "base"),
        number(multiplier, "multiplier"),
        number(max_delay, "max_delay"),
        number(u, "u"),
    )


def _delay(kind: int, attempt: int, base: float, multiplier: float, max_delay: float, u: float) -> float:
    if kind == FIXED:
        return base
    try:
        times = float(attempt)
    except OverflowError:
        times = math.inf
    if kind == LINEAR:
        linear = base * (times + 1.0)
        return linear if math.isfinite(linear) else (0.0 if base == 0.0 else max_delay)
    if base == 0.0:  # before the product: 0 times an overflowed power would be NaN
        grown = 0.0
    else:
        try:
            grown = base * math.pow(multiplier, times)
        except (OverflowError, ValueError):
            grown = math.inf
    bounded = min(max_delay, grown)
    if kind == EXPONENTIAL:
        return float(math.floor(bounded)) if math.isfinite(bounded) else bounded
    jittered = bounded * (1.0 - 0.25 * u)
    if jittered <= 0.75 * bounded:  # rounding reached the end that is excluded
        return math.nextafter(0.75 * bounded, bounded)
    return jittered


def delays(
    kind: int, attempts: Sequence[int], base: float, multiplier: float, max_delay: float, us: Sequence[float]
) -> list[float]:
    """Return the delay for each of `attempts`, with the random number at the same place of `us`.

    See `delay` for the parameters.

    Raises
    ------
    ValidationError
        As `delay`, and when the two sequences differ in length.
    """
    if type(kind) is not int or not 0 <= kind <= 3:
        raise bad_kind(kind)
    base = number(base, "base")
    multiplier = number(multiplier, "multiplier")
    max_delay = number(max_delay, "max_delay")
    if len(attempts) != len(us):
        raise bad_lengths(len(attempts), len(us))
    result = []
    for attempt, u in zip(attempts, us, strict=True):
        if isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 0:
            raise bad_attempt(attempt)
        result.append(_delay(kind, attempt, base, multiplier, max_delay, number(u, "u")))
    return result
