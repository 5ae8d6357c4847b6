"""Time-ordered ids in Python; `_ids_c` gives ids of the same form faster.

Layout (RFC 9562 section 5.7, monotonic by method 1 of section 6.2, as CPython 3.14 does it)::

    48 bits  Unix time in ms
     4 bits  version, 7
    12 bits  counter, high part
     2 bits  variant, 0b10
    30 bits  counter, low part
    32 bits  random

The counter starts at a random value below half its range whenever the millisecond advances and is incremented
for each id within one. A clock that goes back does not take the ids back: they stay at the last millisecond
and count on.
"""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

from celers.errors import ValidationError

__all__ = ["uuid7", "uuid7_many"]

MAX_COUNTER = (1 << 42) - 1
MAX_MANY = 1_000_000

_lock = threading.Lock()
_last_ms = 0
_counter = 0
_pool = b""
_used = 0


def bad_count(value: object) -> ValidationError:
    """Return the error for a refused number of ids. Used by both twins."""
    return ValidationError(f"n must be an int in 0..{MAX_MANY}, not {value!r:.40}", parameter="n")


def _reset_after_fork() -> None:
    """Forget all state: parent and child must not count on from the same place or share random bytes."""
    global _lock, _last_ms, _counter, _pool, _used
    _lock = threading.Lock()
    _last_ms = 0
    _counter = 0
    _pool = b""
    _used = 0


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_reset_after_fork)


def _set_last_ms(value: int) -> None:
    """Pretend that the last id was made at `value` (tests: a clock that goes back)."""
    global _last_ms
    with _lock:
        _last_ms = value


def _random(size: int) -> bytes:
    """Return `size` random bytes out of a buffer, so that the system is asked once in many ids."""
    global _pool, _used
    end = _used + size
    if end > len(_pool):
        _pool = os.urandom(max(4096, size))
        _used = 0
        end = size
    taken = _pool[_used:end]
    _used = end
    return taken


def _next() -> int:
    """Return the next id as an integer; the caller holds the lock."""
    global _last_ms, _counter
    now = time.time_ns() // 1_000_000
    if now > _last_ms:
        _last_ms = now
        _counter = int.from_bytes(_random(8), "big") >> 23  # 41 bits: half of the range is left to count
    elif _counter < MAX_COUNTER:
        _counter += 1
    else:
        _last_ms += 1
        _counter = int.from_bytes(_random(8), "big") >> 23
    tail = int.from_bytes(_random(4), "big")
    return (
        (_last_ms & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | _counter >> 30 << 64
        | 0b10 << 62
        | (_counter & 0x3FFF_FFFF) << 32
        | tail
    )


def uuid7() -> UUID:
    """Return a new time-ordered id (UUID version 7), greater than every earlier one of this process.

    Thread-safe and fork-safe; the random bits are cryptographic.

    Source: RFC 9562, section 5.7 (https://www.rfc-editor.org/rfc/rfc9562#section-5.7).
    """
    with _lock:
        value = _next()
    return UUID(int=value)


def uuid7_many(n: int) -> list[UUID]:
    """Return `n` new ids in ascending order; see `uuid7`.

    Raises
    ------
    ValidationError
        When `n` is not an int in 0..1,000,000.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MAX_MANY:
        raise bad_count(n)
    with _lock:
        values = [_next() for _ in range(n)]
    return [UUID(int=value) for value in values]
