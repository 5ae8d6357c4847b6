"""Retry delays in C: the arithmetic of `_backoff_py` on C doubles, without a Python object per step."""

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsDouble, PyLong_AsLong, PyLong_Check
from libc.math cimport INFINITY, floor, isfinite, nextafter, pow

from celers_fast._backoff_py import bad_attempt, bad_kind, bad_lengths, number


cdef inline double _number(object value, str name) except? -1.0:
    if PyFloat_CheckExact(value):
        return PyFloat_AS_DOUBLE(value)
    return number(value, name)


cdef inline int _kind(object value) except -1:
    cdef long kind
    if type(value) is not int:
        raise bad_kind(value)
    try:
        kind = PyLong_AsLong(value)
    except OverflowError:
        raise bad_kind(value) from None
    if not 0 <= kind <= 3:
        raise bad_kind(value)
    return <int>kind


cdef inline double _times(object attempt) except? -1.0:
    cdef double times
    if not PyLong_Check(attempt) or isinstance(attempt, bool):
        raise bad_attempt(attempt)
    try:
        times = PyLong_AsDouble(attempt)
    except OverflowError:
        if attempt < 0:
            raise bad_attempt(attempt) from None
        return INFINITY
    if times < 0.0:
        raise bad_attempt(attempt)
    return times


cdef inline double _delay(
    int kind, double times, double base, double multiplier, double max_delay, double u
) noexcept nogil:
    cdef double value
    if kind == 0:
        return base
    if kind == 1:
        value = base * (times + 1.0)
        if isfinite(value):
            return value
        return 0.0 if base == 0.0 else max_delay
    value = 0.0 if base == 0.0 else base * pow(multiplier, times)
    if not value < max_delay:  # also when it is NaN
        value = max_delay
    if kind == 2:
        return floor(value) + 0.0
    cdef double jittered = value * (1.0 - 0.25 * u)
    if jittered <= 0.75 * value:  # rounding reached the end that is excluded
        return nextafter(0.75 * value, value)
    return jittered


def delay(kind, attempt, base, multiplier, max_delay, u):
    """Return the delay before retry number `attempt`, in seconds; see `_backoff_py.delay`."""
    cdef int form = _kind(kind)
    cdef double times = _times(attempt)
    cdef double base_ = _number(base, "base")
    cdef double multiplier_ = _number(multiplier, "multiplier")
    cdef double max_delay_ = _number(max_delay, "max_delay")
    return _delay(form, times, base_, multiplier_, max_delay_, _number(u, "u"))


def delays(kind, attempts, base, multiplier, max_delay, us):
    """Return the delay for each of `attempts`; see `_backoff_py.delays`."""
    cdef int form = _kind(kind)
    cdef double base_ = _number(base, "base")
    cdef double multiplier_ = _number(multiplier, "multiplier")
    cdef double max_delay_ = _number(max_delay, "max_delay")
    cdef Py_ssize_t count = len(attempts)
    if count != len(us):
        raise bad_lengths(count, len(us))
    cdef list result = []
    cdef double times
    for attempt, u in zip(attempts, us, strict=True):
        times = _times(attempt)
        result.append(_delay(form, times, base_, multiplier_, max_delay_, _number(u, "u")))
    return result
