"""Percentiles in C, by selection.

A full sort is n log n; finding a few ranks is n. Many values are not even copied: a sample of them says between which
two values each wanted rank almost certainly lies (Floyd and Rivest, "Expected time bounds for selection", 1975), one
pass counts what is below and picks out the few in between, and only these are looked into. The pass has no branches
that depend on the data, so the compiler makes vector instructions of it, and it sees whether the guess was right: if
not, or when there are few values, all are copied and one multi-way quickselect settles the ranks, looking only into
the parts that hold one. Parts that refuse to shrink are sorted by heap, so the worst case stays n log n.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_AsDouble, PyFloat_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport floor
from libc.string cimport memcpy, strcmp

from celers_fast._percentiles_py import bad_values, nan_value, rank

cdef enum:
    RELEASE_GIL = 20000  # from here, selecting takes long enough to let other threads run
    SAMPLED = 5000      # from here, a sample is worth taking


include "_selection.pxi"


cdef class _Values:
    """The values as C doubles: a private copy of them, or the buffer of somebody else, which is only read."""

    cdef const double *data
    cdef double *own
    cdef Py_ssize_t count
    cdef Py_buffer view
    cdef bint held
    cdef bint checked   # for NaN

    def __cinit__(self):
        self.data = NULL
        self.own = NULL
        self.count = 0
        self.held = False
        self.checked = False

    def __dealloc__(self):
        PyMem_Free(self.own)
        if self.held:
            PyBuffer_Release(&self.view)

    cdef int reserve(self, Py_ssize_t count) except -1:
        self.own = <double *>PyMem_Malloc((count or 1) * sizeof(double))
        if self.own == NULL:
            raise MemoryError()
        self.data = self.own
        self.count = count
        return 0

    cdef int copy(self) except -1:
        """Make the values our own, if they are not yet, and refuse NaN."""
        cdef const double *theirs = self.data
        cdef Py_ssize_t i
        cdef bint nan = False
        if self.own == NULL:
            self.reserve(self.count)
            with nogil:
                memcpy(self.own, theirs, self.count * sizeof(double))
            self.checked = False
        if not self.checked:
            for i in range(self.count):
                nan |= self.own[i] != self.own[i]
            if nan:
                raise nan_value()
            self.checked = True
        return 0


cdef bint _load_buffer(_Values into, object values) except -1:
    """Take a one-dimensional buffer of native doubles; False when `values` is something else."""
    cdef Py_ssize_t i
    cdef const char *at
    try:
        PyObject_GetBuffer(values, &into.view, PyBUF_FORMAT | PyBUF_STRIDES)
    except (BufferError, TypeError, ValueError):
        return False
    into.held = True
    if not (
        into.view.ndim == 1
        and into.view.itemsize == sizeof(double)
        and into.view.format != NULL
        and strcmp(into.view.format, b"d") == 0
    ):
        return False
    at = <const char *>into.view.buf
    if into.view.strides[0] == sizeof(double) and <size_t>at % sizeof(double) == 0:
        into.data = <const double *>at
        into.count = into.view.shape[0]
    else:
        into.reserve(into.view.shape[0])
        for i in range(into.count):
            memcpy(&into.own[i], at, sizeof(double))
            at += into.view.strides[0]
    return True


cdef _Values _load(object values):
    cdef _Values loaded = _Values.__new__(_Values)
    cdef tuple items
    cdef Py_ssize_t i
    cdef object item
    if type(values) is not list and type(values) is not tuple:
        if isinstance(values, (str, bytes, bytearray)):
            raise bad_values(values)
        if _load_buffer(loaded, values):
            return loaded
        if getattr(values, "ndim", 1) != 1:
            raise bad_values(values)
    try:
        # A tuple of its own: converting an item may run code that changes the sequence.
        items = tuple(values)
        loaded.reserve(len(items))
        for i in range(loaded.count):
            item = items[i]
            loaded.own[i] = PyFloat_AS_DOUBLE(item) if PyFloat_CheckExact(item) else PyFloat_AsDouble(item)
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        raise bad_values(values) from None
    return loaded


cdef Py_ssize_t _rank(object p, Py_ssize_t count) except? -1:
    cdef double x
    if PyFloat_CheckExact(p):
        x = PyFloat_AS_DOUBLE(p)
        if 0.0 <= x <= 100.0:
            return <Py_ssize_t>floor(x / 100.0 * <double>(count - 1) + 0.5)
    return rank(p, count)


cdef int _settle(_Values values, const Py_ssize_t *ranks, Py_ssize_t count, double *found) except -1:
    """Write the values at the ascending ranks to `found`."""
    cdef Py_ssize_t n = values.count, i
    cdef int depth = 0, failed
    cdef double *own
    if n >= SAMPLED and 0 < count <= BRACKETS:
        if n >= RELEASE_GIL:
            with nogil:
                failed = _narrow(values.data, n, ranks, count, found)
        else:
            failed = _narrow(values.data, n, ranks, count, found)
        if failed == 0:
            return 0
        if failed == NAN_FOUND:
            raise nan_value()
        if failed == NO_MEMORY:
            raise MemoryError()
    values.copy()
    own = values.own
    while n >> depth:
        depth += 1
    depth *= 2
    if n >= RELEASE_GIL:
        with nogil:
            _select(own, 0, n - 1, ranks, count, depth)
    else:
        _select(own, 0, n - 1, ranks, count, depth)
    for i in range(count):
        found[i] = own[ranks[i]]
    return 0


def percentile(values, p):
    """Return one percentile of `values`; see `_percentiles_py.percentile`."""
    cdef _Values loaded = _load(values)
    cdef Py_ssize_t wanted
    cdef double found
    try:
        wanted = _rank(p, loaded.count)
    except Exception:
        loaded.copy()   # NaN among the values is told first, as by the twin
        raise
    _settle(loaded, &wanted, 1 if loaded.count else 0, &found)
    return found + 0.0 if loaded.count else 0.0


def percentiles(values, ps):
    """Return several percentiles of `values`, in the order of `ps`; see `_percentiles_py.percentiles`."""
    cdef _Values loaded = _load(values)
    cdef list indexes, ascending
    cdef Py_ssize_t *ranks
    cdef double *found
    cdef Py_ssize_t count, i
    cdef dict placed
    try:
        indexes = [_rank(p, loaded.count) for p in ps]
    except Exception:
        loaded.copy()   # NaN among the values is told first, as by the twin
        raise
    if loaded.count == 0:
        return (0.0,) * len(indexes)
    ascending = sorted(set(indexes))
    count = len(ascending)
    ranks = <Py_ssize_t *>PyMem_Malloc((count or 1) * sizeof(Py_ssize_t))
    found = <double *>PyMem_Malloc((count or 1) * sizeof(double))
    try:
        if ranks == NULL or found == NULL:
            raise MemoryError()
        for i in range(count):
            ranks[i] = ascending[i]
        _settle(loaded, ranks, count, found)
        placed = {}
        for i in range(count):
            # + 0.0: no -0.0, as in the twin
            placed[ascending[i]] = found[i] + 0.0
    finally:
        PyMem_Free(ranks)
        PyMem_Free(found)
    return tuple([placed[index] for index in indexes])
