"""Percentiles in Python, by sorting; `_percentiles_c` gives equal results faster, by selection."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

from celers.errors import ValidationError

__all__ = ["percentile", "percentiles"]


def rank(p: object, count: int) -> int:
    """Return the index of percentile `p` among `count` sorted values. Used by both twins."""
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 100:
        raise ValidationError(f"a percentile must be a number in 0..100, not {p!r:.40}", parameter="p")
    return math.floor(p / 100.0 * (count - 1) + 0.5)


def bad_values(values: object) -> ValidationError:
    """Return the error for values that are not a flat sequence of numbers. Used by both twins."""
    return ValidationError(
        f"values must be a one-dimensional sequence of numbers; this {type(values).__name__} is not",
        parameter="values",
    )


def nan_value() -> ValidationError:
    """Return the error for a NaN among the values. Used by both twins."""
    return ValidationError("values must not contain NaN", parameter="values")


def _sorted(values: Iterable[float]) -> list[float]:
    if isinstance(values, str | bytes | bytearray) or getattr(values, "ndim", 1) != 1:
        raise bad_values(values)
    try:
        ordered = array("d", values).tolist()
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        raise bad_values(values) from None
    if any(map(math.isnan, ordered)):
        raise nan_value()
    ordered.sort()
    return ordered


def percentile(values: Iterable[float], p: float) -> float:
    """Return one percentile of `values`.

    Parameters
    ----------
    values : buffer of float64 or iterable of numbers
        In any order, not NaN. One-dimensional float64 buffers (``array("d")``, numpy arrays, memoryviews) are
        read without making Python floats.
    p : float
        0..100.

    Returns
    -------
    float
        The value at index ``floor(p / 100 * (n - 1) + 0.5)`` of the sorted values; 0.0 when there are none.

    Raises
    ------
    ValidationError
        For NaN, for values that are no numbers, and for `p` out of range.
    """
    ordered = _sorted(values)
    index = rank(p, len(ordered))
    # + 0.0: which of -0.0 and 0.0 stands at an index is chance, so neither twin returns -0.0
    return ordered[index] + 0.0 if ordered else 0.0


def percentiles(values: Iterable[float], ps: Sequence[float]) -> tuple[float, ...]:
    """Return several percentiles of `values`, in the order of `ps`; see `percentile`."""
    ordered = _sorted(values)
    indexes = [rank(p, len(ordered)) for p in ps]
    if not ordered:
        return (0.0,) * len(indexes)
    return tuple(ordered[index] + 0.0 for index in indexes)
