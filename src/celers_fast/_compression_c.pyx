"""Payload compression in C; the stored form is in `_compression_py`.

Faster because the tables of a stream are set up once and reset for the next payload, because data that does not shrink
is given up as soon as that is clear, and because a batch is compressed in one go without the GIL, by several threads
when it is large. Nine tenths of the time of 1 kB are DEFLATE itself, which only another processor makes shorter.
"""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.string cimport memcpy, memset

from celers_fast._compression_py import (
    BITS,
    MAX_SIZE,
    MEMORY,
    SMALL,
    SMALL_BITS,
    SMALL_MEMORY,
    _compress as _compress_huge,
    damaged,
    decompress_payload as _decompress_huge,
    not_bytes,
    too_large,
    whole,
)

cdef extern from "zlib.h" nogil:
    ctypedef unsigned int uInt
    ctypedef struct z_stream:
        unsigned char *next_in
        uInt avail_in
        unsigned char *next_out
        uInt avail_out
    int deflateInit2(z_stream *stream, int level, int method, int bits, int memory, int strategy)
    int deflateReset(z_stream *stream)
    int deflateEnd(z_stream *stream)
    int deflate(z_stream *stream, int flush)
    int inflateInit2(z_stream *stream, int bits)
    int inflateReset(z_stream *stream)
    int inflateEnd(z_stream *stream)
    int inflate(z_stream *stream, int flush)
    int Z_FINISH, Z_NO_FLUSH, Z_DEFLATED, Z_DEFAULT_STRATEGY
    int Z_OK, Z_STREAM_END, Z_BUF_ERROR, Z_MEM_ERROR

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_t:
        pass
    int pthread_create(pthread_t *thread, const void *attributes, void *(*start)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)

cdef extern from *:
    """
    /* Which job a thread takes: none twice, and nothing else depends on the order. */
    static Py_ssize_t take_number(Py_ssize_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }
    """
    Py_ssize_t take_number(Py_ssize_t *next) noexcept nogil

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **value, Py_ssize_t size) except -1

cdef enum:
    RELEASE_GIL = 16384     # bytes of input from which other threads are let run
    KEEP = 4                # idle streams kept per level and size
    THREADS = 4             # most that work on one batch
    SHARE = 1 << 17         # bytes of a batch per thread: a tenth of a percent of the time goes into starting it
    GROUP = 1 << 20         # bytes of a batch that are compressed in one go
    HUGE = 1 << 30          # from here, counters of 32 bits do not do


@cython.final
cdef class _Deflater:
    cdef z_stream stream
    cdef bint ready

    def __cinit__(self, int level, bint small):
        memset(&self.stream, 0, sizeof(z_stream))
        self.ready = (
            deflateInit2(
                &self.stream,
                level,
                Z_DEFLATED,
                -(<int>SMALL_BITS if small else <int>BITS),
                <int>SMALL_MEMORY if small else <int>MEMORY,
                Z_DEFAULT_STRATEGY,
            )
            == Z_OK
        )
        if not self.ready:
            raise MemoryError("zlib has no memory for a stream")

    def __dealloc__(self):
        if self.ready:
            deflateEnd(&self.stream)


cdef Py_ssize_t _deflate(z_stream *stream, const char *data, Py_ssize_t size, char *to) noexcept nogil:
    """Compress into `size` bytes at `to`; -1 when the result is not smaller than the data."""
    deflateReset(stream)
    stream.next_in = <unsigned char *>data
    stream.avail_in = <uInt>size
    stream.next_out = <unsigned char *>to
    # One byte more than a useful result has: zlib tells the end of the stream only while there is room left.
    stream.avail_out = <uInt>size
    if deflate(stream, Z_FINISH) != Z_STREAM_END or stream.avail_out == 0:
        return -1
    return size - <Py_ssize_t>stream.avail_out


@cython.final
cdef class _Inflater:
    cdef z_stream stream
    cdef bint ready

    def __cinit__(self):
        memset(&self.stream, 0, sizeof(z_stream))
        self.ready = inflateInit2(&self.stream, -15) == Z_OK
        if not self.ready:
            raise MemoryError("zlib has no memory for a stream")

    def __dealloc__(self):
        if self.ready:
            inflateEnd(&self.stream)


# Idle streams. Taking and giving back are one list operation each, atomic with and without the GIL; a stream in use by
# another thread during a fork is simply not in the child's list.
cdef list _deflaters = [[] for _ in range(20)]
cdef list _inflaters = []
cdef Py_ssize_t _small = SMALL


cdef _Deflater _take_deflater(int level, bint small):
    try:
        return (<list>_deflaters[2 * level + small]).pop()
    except IndexError:
        return _Deflater(level, small)


cdef int _give_deflater(int level, bint small, _Deflater used) except -1:
    cdef list idle = _deflaters[2 * level + small]
    if len(idle) < KEEP:
        idle.append(used)
    return 0


cdef inline bytes _data(object value):
    if type(value) is bytes:
        return <bytes>value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise not_bytes(value)


cdef bytes _raw(bytes data):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, size + 1)
    cdef char *to = PyBytes_AS_STRING(made)
    to[0] = 0
    memcpy(to + 1, PyBytes_AS_STRING(data), size)
    return made


cdef bytes _packed(const char *text, Py_ssize_t size):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, size + 1)
    cdef char *to = PyBytes_AS_STRING(made)
    to[0] = 1
    memcpy(to + 1, text, size)
    return made


cdef bint _worth_trying(Py_ssize_t size, int level, object min_size) except -1:
    # Level 0 stores, which never shrinks; a result must be shorter than the data and has at least one byte.
    return size >= min_size and size > 1 and level > 0


def compress_payload(data, *, level=1, min_size=1024):
    """Return the stored form of a payload; see `_compression_py.compress_payload`."""
    cdef int level_ = whole(level, "level", 0, 9)
    whole(min_size, "min_size", 0, 2**63 - 1)
    return _compress(_data(data), level_, min_size)


cdef bytes _compress(bytes data, int level, object min_size):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t length
    cdef const char *text = PyBytes_AS_STRING(data)
    cdef char *scratch
    cdef _Deflater deflater
    cdef bytes result
    if not _worth_trying(size, level, min_size):
        return _raw(data)
    if size >= HUGE:
        return _compress_huge(data, level, min_size)
    scratch = <char *>PyMem_Malloc(size)
    if scratch == NULL:
        raise MemoryError()
    try:
        deflater = _take_deflater(level, size <= _small)
        if size >= RELEASE_GIL:
            with nogil:
                length = _deflate(&deflater.stream, text, size, scratch)
        else:
            length = _deflate(&deflater.stream, text, size, scratch)
        _give_deflater(level, size <= _small, deflater)
        return _raw(data) if length < 0 else _packed(scratch, length)
    finally:
        PyMem_Free(scratch)


cdef struct Job:
    const char *data
    Py_ssize_t size
    char *to
    Py_ssize_t length   # of the result, or -1


cdef struct Work:
    z_stream *large     # streams of this thread alone
    z_stream *small
    Job *jobs           # shared by all threads
    Py_ssize_t count
    Py_ssize_t *next


cdef void *_work(void *argument) noexcept nogil:
    """Take jobs until there are none."""
    cdef Work *work = <Work *>argument
    cdef Job *job
    cdef Py_ssize_t number = take_number(work.next)
    while number < work.count:
        job = work.jobs + number
        job.length = _deflate(work.small if job.size <= _small else work.large, job.data, job.size, job.to)
        number = take_number(work.next)
    return NULL


cdef void _run_jobs(Work *works, int threads) noexcept nogil:
    """Do all jobs, on this thread and on others; what no other thread does is done here."""
    cdef pthread_t others[THREADS]
    cdef int started = 0, i
    for i in range(1, threads):
        if pthread_create(&others[started], NULL, _work, &works[i]) == 0:
            started += 1
    _work(&works[0])
    for i in range(started):
        pthread_join(others[i], NULL)


cdef int _run_group(list items, Py_ssize_t first, Py_ssize_t last, Py_ssize_t total, int level, list result) except -1:
    """Compress items[first:last], of `total` bytes together, without the GIL and append the results."""
    cdef Py_ssize_t count = last - first, i, next_job = 0
    cdef Job *jobs = NULL
    cdef char *scratch = NULL
    cdef char *to
    cdef Work works[THREADS]
    cdef int threads = <int>min(total // SHARE, count, <Py_ssize_t>THREADS)
    cdef list large = [], small = []
    if threads > 1:
        threads = min(threads, <int>_processors())
    threads = max(threads, 1)
    jobs = <Job *>PyMem_Malloc(count * sizeof(Job))
    scratch = <char *>PyMem_Malloc(total)
    try:
        if jobs == NULL or scratch == NULL:
            raise MemoryError()
        to = scratch
        for i in range(count):
            jobs[i].data = PyBytes_AS_STRING(items[first + i])
            jobs[i].size = PyBytes_GET_SIZE(items[first + i])
            jobs[i].to = to
            to += jobs[i].size
        for i in range(threads):
            large.append(_take_deflater(level, False))
            small.append(_take_deflater(level, True))
            works[i].large = &(<_Deflater>large[i]).stream
            works[i].small = &(<_Deflater>small[i]).stream
            works[i].jobs = jobs
            works[i].count = count
            works[i].next = &next_job
        if total >= RELEASE_GIL:
            with nogil:
                _run_jobs(works, threads)
        else:
            _run_jobs(works, 1)
        for i in range(threads):
            _give_deflater(level, False, large[i])
            _give_deflater(level, True, small[i])
        for i in range(count):
            if jobs[i].length < 0:
                result.append(_raw(items[first + i]))
            else:
                result.append(_packed(jobs[i].to, jobs[i].length))
    finally:
        PyMem_Free(jobs)
        PyMem_Free(scratch)
    return 0


def _processors():
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def compress_payloads(data, *, level=1, min_size=1024):
    """Return the stored form of each payload; see `_compression_py.compress_payload`."""
    cdef int level_ = whole(level, "level", 0, 9)
    cdef list items, result = []
    cdef Py_ssize_t size, first = 0, i, total = 0
    whole(min_size, "min_size", 0, 2**63 - 1)
    items = [_data(item) for item in data]
    for i in range(len(items)):
        size = PyBytes_GET_SIZE(items[i])
        if _worth_trying(size, level_, min_size) and size < HUGE:
            if total and total + size > GROUP:
                _run_group(items, first, i, total, level_, result)
                first = i
                total = 0
            total += size
            continue
        if total:
            _run_group(items, first, i, total, level_, result)
            total = 0
        result.append(_compress(items[i], level_, min_size))
        first = i + 1
    if total:
        _run_group(items, first, len(items), total, level_, result)
    return result


def decompress_payload(data, *, max_size=MAX_SIZE):
    """Return the payload out of its stored form; see `_compression_py.decompress_payload`."""
    cdef Py_ssize_t limit = whole(max_size, "max_size", 0, 2**31 - 2)
    cdef bytes stored = _data(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(stored)
    cdef const char *text = PyBytes_AS_STRING(stored)
    if size == 0:
        raise damaged("it is empty")
    if text[0] == 0:
        if size - 1 > limit:
            raise too_large(max_size)
        return PyBytes_FromStringAndSize(text + 1, size - 1)
    if text[0] != 1:
        raise damaged(f"unknown first byte {<unsigned char>text[0]}")
    if size >= HUGE:
        return _decompress_huge(stored, max_size=max_size)
    return _inflate(text + 1, size - 1, limit, max_size)


cdef object _inflate(const char *text, Py_ssize_t size, Py_ssize_t limit, object max_size):
    cdef _Inflater inflater
    cdef Py_ssize_t room, done = 0
    cdef int status
    cdef uInt left
    cdef PyObject *out
    cdef unsigned char *to
    try:
        inflater = _inflaters.pop()
    except IndexError:
        inflater = _Inflater()
    inflateReset(&inflater.stream)
    inflater.stream.next_in = <unsigned char *>text
    inflater.stream.avail_in = <uInt>size
    # One byte more than allowed, to tell "exactly the limit" from "more".
    room = min(max(4 * size, 1024), limit + 1)
    made = PyBytes_FromStringAndSize(NULL, room)
    out = <PyObject *>made
    while True:
        to = <unsigned char *>PyBytes_AS_STRING(made) + done
        inflater.stream.next_out = to
        inflater.stream.avail_out = <uInt>(room - done)
        if size >= RELEASE_GIL or room - done >= 4 * RELEASE_GIL:
            with nogil:
                status = inflate(&inflater.stream, Z_NO_FLUSH)
        else:
            status = inflate(&inflater.stream, Z_NO_FLUSH)
        done = room - <Py_ssize_t>inflater.stream.avail_out
        if status != Z_OK or done < room or room > limit:
            break
        room = min(2 * room, limit + 1)
        grown = PyBytes_FromStringAndSize(NULL, room)
        memcpy(PyBytes_AS_STRING(grown), PyBytes_AS_STRING(made), done)
        made = grown
    left = inflater.stream.avail_in
    if len(_inflaters) < KEEP:
        _inflaters.append(inflater)
    if status == Z_MEM_ERROR:
        raise MemoryError("zlib has no memory")
    if status != Z_OK and status != Z_STREAM_END and status != Z_BUF_ERROR:
        raise damaged("the DEFLATE stream is damaged")
    if done > limit:
        raise too_large(max_size)
    if status != Z_STREAM_END:
        raise damaged("the DEFLATE stream is cut")
    if left:
        raise damaged("bytes follow the DEFLATE stream")
    if done == room:
        return made
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(made), done)
