"""Time-ordered ids in C; the layout is in `_ids_py`.

The clock, the counter and the random bytes are handled in C without touching a Python object, so a block under the
GIL (or under the critical section of a free-threaded build) is atomic; the UUID objects are made afterwards, by
writing their slots.
"""

cimport cython
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

import os
from uuid import UUID, SafeUUID

from celers_fast._ids_py import MAX_MANY, bad_count
from celers_fast._object cimport celers_int_from_bytes16, celers_new, celers_put, celers_slot_offset

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int TIME_UTC
    int timespec_get(timespec *ts, int base)

cdef enum:
    POOL = 4096   # random bytes asked for at a time
    BLOCK = 256   # ids made at a time

cdef object _unknown = SafeUUID.unknown
cdef object _uuid_type = UUID  # a C variable: no look-up per value
cdef Py_ssize_t _int_at = celers_slot_offset(UUID, b"int")
cdef Py_ssize_t _is_safe_at = celers_slot_offset(UUID, b"is_safe")

cdef struct Id:
    uint64_t high
    uint64_t low


@cython.final
cdef class _State:
    cdef uint64_t last_ms
    cdef uint64_t counter
    cdef Py_ssize_t used
    cdef unsigned char pool[POOL]

    def __cinit__(self):
        self.last_ms = 0
        self.counter = 0
        self.used = POOL  # nothing left

    cdef uint64_t draw(self, int size) noexcept nogil:
        """Take `size` random bytes; the caller knows that they are there."""
        cdef uint64_t value = 0
        cdef int i
        for i in range(size):
            value = value << 8 | self.pool[self.used + i]
        # What was handed out is not kept: a later look into the memory does not tell earlier ids.
        memset(&self.pool[self.used], 0, size)
        self.used += size
        return value

    cdef int make(self, Id *ids, int wanted) noexcept nogil:
        """Make up to `wanted` ids and return how many; fewer when the random bytes run out."""
        cdef timespec now
        cdef uint64_t ms
        cdef int made = 0
        timespec_get(&now, TIME_UTC)
        ms = <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000
        while made < wanted and self.used + 12 <= POOL:
            if ms > self.last_ms:
                self.last_ms = ms
                self.counter = self.draw(8) >> 23
            elif self.counter < (<uint64_t>1 << 42) - 1:
                self.counter += 1
            else:
                self.last_ms += 1
                self.counter = self.draw(8) >> 23
            ids[made].high = (
                (self.last_ms & 0xFFFFFFFFFFFFULL) << 16 | 0x7000 | self.counter >> 30
            )
            ids[made].low = (
                <uint64_t>1 << 63 | (self.counter & 0x3FFFFFFFULL) << 32 | self.draw(4)
            )
            made += 1
        return made

    cdef void refill(self, const unsigned char *fresh) noexcept nogil:
        memcpy(self.pool, fresh, POOL)
        self.used = 0


cdef _State _state = _State()


def _reset_after_fork():
    """Forget all state: parent and child must not count on from the same place or share random bytes."""
    global _state
    _state = _State()  # a new object also has a new lock


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_reset_after_fork)


def _set_last_ms(uint64_t value):
    """Pretend that the last id was made at `value` (tests: a clock that goes back)."""
    cdef _State state = _state
    with cython.critical_section(state):
        state.last_ms = value


cdef inline object _uuid(Id *made):
    cdef unsigned char data[16]
    cdef int i
    for i in range(8):
        data[i] = <unsigned char>(made.high >> (56 - 8 * i))
        data[8 + i] = <unsigned char>(made.low >> (56 - 8 * i))
    result = celers_new(_uuid_type)
    celers_put(result, _int_at, celers_int_from_bytes16(data))
    celers_put(result, _is_safe_at, _unknown)
    return result


cdef int _make(Id *ids, int wanted) except -1:
    cdef _State state
    cdef int made
    cdef bytes fresh
    while True:
        state = _state
        with cython.critical_section(state):
            made = state.make(ids, wanted)
        if made:
            return made
        fresh = os.urandom(POOL)
        with cython.critical_section(state):
            state.refill(fresh)


def uuid7():
    """Return a new time-ordered id (UUID version 7); see `_ids_py.uuid7`."""
    cdef Id made
    _make(&made, 1)
    return _uuid(&made)


def uuid7_many(n):
    """Return `n` new ids in ascending order; see `_ids_py.uuid7_many`."""
    cdef Id block[BLOCK]
    cdef int made, i
    cdef Py_ssize_t left
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MAX_MANY:
        raise bad_count(n)
    left = n
    cdef list result = []
    while left:
        made = _make(block, <int>min(left, BLOCK))
        for i in range(made):
            result.append(_uuid(&block[i]))
        left -= made
    return result
