"""Percentiles in C, by selection.

A full sort is n log n; finding a few ranks is n. The values are copied once into C doubles (no Python float per value
when they come as a buffer); then one multi-way quickselect settles all wanted ranks, looking only into the parts that
hold one. Parts that refuse to shrink are sorted by heap, so the worst case stays n log n.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_AsDouble, PyFloat_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport floor
from libc.string cimport memcpy, strcmp

from celers_fast._percentiles_py import bad_values, nan_value, rank

cdef enum:
    SMALL = 24          # below, insertion sort
    RELEASE_GIL = 20000  # from here, selecting takes long enough to let other threads run


cdef void _insertion_sort(double *a, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef double x
    for i in range(low + 1, high + 1):
        x = a[i]
        j = i - 1
        while j >= low and a[j] > x:
            a[j + 1] = a[j]
            j -= 1
        a[j + 1] = x


cdef void _sift(double *a, Py_ssize_t root, Py_ssize_t count) noexcept nogil:
    cdef double x = a[root]
    cdef Py_ssize_t child
    while True:
        child = 2 * root + 1
        if child >= count:
            break
        if child + 1 < count and a[child + 1] > a[child]:
            child += 1
        if a[child] <= x:
            break
        a[root] = a[child]
        root = child
    a[root] = x


cdef void _heap_sort(double *a, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    cdef double x
    for i in range(count // 2 - 1, -1, -1):
        _sift(a, i, count)
    for i in range(count - 1, 0, -1):
        x = a[0]
        a[0] = a[i]
        a[i] = x
        _sift(a, 0, i)


cdef inline void _order(double *a, double *b) noexcept nogil:
    cdef double x
    if b[0] < a[0]:
        x = a[0]
        a[0] = b[0]
        b[0] = x


cdef void _select(
    double *a, Py_ssize_t low, Py_ssize_t high, const Py_ssize_t *ranks, Py_ssize_t count, int depth
) noexcept nogil:
    """Put the right value at each of the ascending `ranks`, all of which lie in low..high."""
    cdef Py_ssize_t i, j, middle, left
    cdef double pivot, x
    while count > 0:
        if high - low < SMALL:
            _insertion_sort(a, low, high)
            return
        if depth == 0:
            _heap_sort(a + low, high - low + 1)
            return
        depth -= 1
        middle = low + (high - low) // 2
        _order(&a[low], &a[middle])
        _order(&a[middle], &a[high])
        _order(&a[low], &a[middle])
        pivot = a[middle]
        # Hoare's partition stops at values equal to the pivot, so that many equal values split evenly.
        i = low - 1
        j = high + 1
        while True:
            i += 1
            while a[i] < pivot:
                i += 1
            j -= 1
            while a[j] > pivot:
                j -= 1
            if i >= j:
                break
            x = a[i]
            a[i] = a[j]
            a[j] = x
        left = 0
        while left < count and ranks[left] <= j:
            left += 1
        if left:
            _select(a, low, j, ranks, left, depth)
        ranks += left
        count -= left
        low = j + 1


cdef class _Values:
    """A private copy of the values as C doubles."""

    cdef double *data
    cdef Py_ssize_t count

    def __cinit__(self):
        self.data = NULL
        self.count = 0

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef int reserve(self, Py_ssize_t count) except -1:
        self.data = <double *>PyMem_Malloc((count or 1) * sizeof(double))
        if self.data == NULL:
            raise MemoryError()
        self.count = count
        return 0


cdef bint _load_buffer(_Values into, object values) except -1:
    """Copy a one-dimensional buffer of native doubles; False when `values` is something else."""
    cdef Py_buffer view
    cdef Py_ssize_t i
    cdef const char *at
    cdef bint known
    try:
        PyObject_GetBuffer(values, &view, PyBUF_FORMAT | PyBUF_STRIDES)
    except (BufferError, TypeError, ValueError):
        return False
    try:
        known = (
            view.ndim == 1
            and view.itemsize == sizeof(double)
            and view.format != NULL
            and strcmp(view.format, b"d") == 0
        )
        if known:
            into.reserve(view.shape[0])
            at = <const char *>view.buf
            if view.strides[0] == sizeof(double):
                memcpy(into.data, at, into.count * sizeof(double))
            else:
                for i in range(into.count):
                    memcpy(&into.data[i], at, sizeof(double))
                    at += view.strides[0]
    finally:
        PyBuffer_Release(&view)
    return known


cdef _Values _load(object values):
    cdef _Values loaded = _Values.__new__(_Values)
    cdef tuple items
    cdef Py_ssize_t i
    cdef object item
    cdef double x
    cdef bint nan = False
    if type(values) is not list and type(values) is not tuple:
        if isinstance(values, (str, bytes, bytearray)):
            raise bad_values(values)
        if _load_buffer(loaded, values):
            for i in range(loaded.count):
                nan |= loaded.data[i] != loaded.data[i]
            if nan:
                raise nan_value()
            return loaded
        if getattr(values, "ndim", 1) != 1:
            raise bad_values(values)
    try:
        # A tuple of its own: converting an item may run code that changes the sequence.
        items = tuple(values)
        loaded.reserve(len(items))
        for i in range(loaded.count):
            item = items[i]
            x = PyFloat_AS_DOUBLE(item) if PyFloat_CheckExact(item) else PyFloat_AsDouble(item)
            nan |= x != x
            loaded.data[i] = x
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        raise bad_values(values) from None
    if nan:
        raise nan_value()
    return loaded


cdef Py_ssize_t _rank(object p, Py_ssize_t count) except? -1:
    cdef double x
    if PyFloat_CheckExact(p):
        x = PyFloat_AS_DOUBLE(p)
        if 0.0 <= x <= 100.0:
            return <Py_ssize_t>floor(x / 100.0 * <double>(count - 1) + 0.5)
    return rank(p, count)


cdef void _settle(_Values values, const Py_ssize_t *ranks, Py_ssize_t count):
    cdef Py_ssize_t n = values.count
    cdef double *data = values.data
    cdef int depth = 0
    while n >> depth:
        depth += 1
    depth *= 2
    if n >= RELEASE_GIL:
        with nogil:
            _select(data, 0, n - 1, ranks, count, depth)
    else:
        _select(data, 0, n - 1, ranks, count, depth)


def percentile(values, p):
    """Return one percentile of `values`; see `_percentiles_py.percentile`."""
    cdef _Values loaded = _load(values)
    cdef Py_ssize_t wanted = _rank(p, loaded.count)
    if loaded.count == 0:
        return 0.0
    _settle(loaded, &wanted, 1)
    return loaded.data[wanted] + 0.0


def percentiles(values, ps):
    """Return several percentiles of `values`, in the order of `ps`; see `_percentiles_py.percentiles`."""
    cdef _Values loaded = _load(values)
    cdef list indexes = [_rank(p, loaded.count) for p in ps]
    cdef Py_ssize_t *ranks
    cdef Py_ssize_t count, i
    if loaded.count == 0:
        return (0.0,) * len(indexes)
    cdef list ascending = sorted(set(indexes))
    count = len(ascending)
    ranks = <Py_ssize_t *>PyMem_Malloc((count or 1) * sizeof(Py_ssize_t))
    if ranks == NULL:
        raise MemoryError()
    try:
        for i in range(count):
            ranks[i] = ascending[i]
        _settle(loaded, ranks, count)
    finally:
        PyMem_Free(ranks)
    return tuple([loaded.data[<Py_ssize_t>index] + 0.0 for index in indexes])
