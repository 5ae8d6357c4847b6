"""SQL literals and multi-row statements in C; what is written, and why it is safe, is in `_params_py`.

Faster because all values go straight into one growing buffer: no bytes object per value, no list, no join.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.datetime cimport (
    PyDateTime_Check,
    datetime_day,
    datetime_hour,
    datetime_microsecond,
    datetime_minute,
    datetime_month,
    datetime_second,
    datetime_tzinfo,
    datetime_year,
    import_datetime,
)
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_AsSsize_t, PyLong_AsUnsignedLongLong, PyLong_Check
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.memoryview cimport PyMemoryView_Check
from cpython.unicode cimport PyUnicode_Check
from libc.math cimport isfinite
from libc.string cimport memcpy, memmove, strlen

from datetime import UTC
from uuid import UUID

from celers_fast._object cimport celers_int_to_bytes16, celers_peek, celers_slot_offset
from celers_fast._text cimport celers_escape, celers_hex, celers_plain
from celers_fast._params_py import (
    ESCAPE_FROM,
    Raw,
    bad_argument,
    bad_row,
    refuse,
    surrogate,
    too_large,
    utc_text,
)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    char *PyOS_double_to_string(double value, char format, int precision, int flags, int *kind) except NULL
    int Py_DTSF_ADD_DOT_0

import_datetime()

cdef object _utc = UTC
cdef object _raw_type = Raw
cdef object _uuid_type = UUID  # a C variable: no look-up per value
cdef Py_ssize_t _int_at = celers_slot_offset(UUID, b"int")
cdef Py_ssize_t _escape_from = ESCAPE_FROM


cdef class _Buffer:
    """A growing buffer; freed also when an exception passes."""

    cdef char *data
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    cdef bint escaped
    cdef bint no_backslash_escapes

    def __cinit__(self):
        self.capacity = 512
        self.data = <char *>PyMem_Malloc(self.capacity)
        if self.data == NULL:
            raise MemoryError()
        self.size = 0
        self.escaped = False
        self.no_backslash_escapes = False

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef char *room(self, Py_ssize_t extra) except NULL:
        """Return where to write, with `extra` bytes there; the caller adds what it wrote to `size`."""
        cdef Py_ssize_t wanted
        cdef char *grown
        if extra > self.capacity - self.size:
            wanted = self.capacity * 2
            if wanted < self.size + extra:
                wanted = self.size + extra
            grown = <char *>PyMem_Realloc(self.data, wanted)
            if grown == NULL:
                raise MemoryError()
            self.data = grown
            self.capacity = wanted
        return self.data + self.size

    cdef int add(self, const char *text, Py_ssize_t size) except -1:
        cdef char *to = self.room(size)
        memcpy(to, text, size)
        self.size += size
        return 0

    cdef int add_bytes(self, bytes text) except -1:
        return self.add(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    cdef int add_data(self, const char *data, Py_ssize_t size, const char *introducer, bint hex_introducer) except -1:
        """Write bytes as hex or escaped literal; hex literals carry the introducer only for text."""
        cdef char *start
        cdef char *to
        cdef Py_ssize_t length
        if self.escaped and size >= _escape_from:
            length = strlen(introducer)
            start = to = self.room(length + 2 * size + 2)
            memcpy(to, introducer, length)
            to += length
            to[0] = c"'"
            to = celers_escape(to + 1, data, size, not self.no_backslash_escapes)
            to[0] = c"'"
            self.size += to + 1 - start
            return 0
        start = to = self.room(2 * size + 16)
        if hex_introducer:
            length = strlen(introducer)
            memcpy(to, introducer, length)
            to[length] = c" "
            to += length + 1
        to[0] = c"X"
        to[1] = c"'"
        celers_hex(to + 2, <const unsigned char *>data, size)
        to += 2 + 2 * size
        to[0] = c"'"
        self.size += to + 1 - start
        return 0

    cdef int add_unsigned(self, unsigned long long value, bint negative) except -1:
        cdef char digits[24]
        cdef int at = 24
        while True:
            at -= 1
            digits[at] = <char>(c"0" + value % 10)
            value //= 10
            if value == 0:
                break
        if negative:
            at -= 1
            digits[at] = c"-"
        return self.add(digits + at, 24 - at)

    cdef int add_int(self, object value) except -1:
        cdef int overflow = 0
        cdef long long small = PyLong_AsLongLongAndOverflow(value, &overflow)
        cdef unsigned long long large
        if overflow == 0:
            if small < 0:
                return self.add_unsigned(0 - <unsigned long long>small, True)
            return self.add_unsigned(<unsigned long long>small, False)
        if overflow < 0:
            raise refuse(value)
        try:
            large = PyLong_AsUnsignedLongLong(value)
        except OverflowError:
            raise refuse(value) from None
        return self.add_unsigned(large, False)

    cdef int add_float(self, double value) except -1:
        cdef char *text = PyOS_double_to_string(value, c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
        try:
            return self.add(text, strlen(text))
        finally:
            PyMem_Free(text)

    cdef int add_uuid(self, object value) except -1:
        cdef unsigned char data[16]
        cdef char *to
        if type(value) is _uuid_type and celers_peek(value, _int_at) != NULL:
            celers_int_to_bytes16(<object>celers_peek(value, _int_at), data)
        else:
            celers_int_to_bytes16(value.int, data)
        to = self.room(35)
        to[0] = c"X"
        to[1] = c"'"
        celers_hex(to + 2, data, 16)
        to[34] = c"'"
        self.size += 35
        return 0

    cdef int add_datetime(self, object value) except -1:
        cdef char *to
        if datetime_tzinfo(value) is not _utc:
            return self.add_bytes(utc_text(value))
        to = self.room(28)
        to[0] = c"'"
        _digits(to + 1, datetime_year(value), 4)
        to[5] = c"-"
        _digits(to + 6, datetime_month(value), 2)
        to[8] = c"-"
        _digits(to + 9, datetime_day(value), 2)
        to[11] = c" "
        _digits(to + 12, datetime_hour(value), 2)
        to[14] = c":"
        _digits(to + 15, datetime_minute(value), 2)
        to[17] = c":"
        _digits(to + 18, datetime_second(value), 2)
        to[20] = c"."
        _digits(to + 21, datetime_microsecond(value), 6)
        to[27] = c"'"
        self.size += 28
        return 0

    cdef int add_text(self, object value) except -1:
        cdef Py_ssize_t size
        cdef const char *text
        cdef char *to
        try:
            text = PyUnicode_AsUTF8AndSize(value, &size)
        except UnicodeEncodeError:
            raise surrogate(value) from None
        if not celers_plain(text, size):
            return self.add_data(text, size, b"_utf8mb4", True)
        to = self.room(size + 2)
        to[0] = c"'"
        memcpy(to + 1, text, size)
        to[size + 1] = c"'"
        self.size += size + 2
        return 0

    cdef int add_view(self, object value) except -1:
        cdef Py_buffer view
        cdef bytes copy
        try:
            PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
        except Exception:
            copy = bytes(value)  # not contiguous; or the right exception
            return self.add_data(PyBytes_AS_STRING(copy), PyBytes_GET_SIZE(copy), b"_binary", False)
        try:
            return self.add_data(<const char *>view.buf, view.len, b"_binary", False)
        finally:
            PyBuffer_Release(&view)

    cdef int add_value(self, object value) except -1:
        if value is None:
            return self.add(b"NULL", 4)
        if PyUnicode_Check(value):
            return self.add_text(value)
        if PyLong_Check(value):
            return self.add_int(value)
        if PyBytes_Check(value):
            return self.add_data(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), b"_binary", False)
        if type(value) is _uuid_type:
            return self.add_uuid(value)
        if PyDateTime_Check(value):
            return self.add_datetime(value)
        if PyFloat_Check(value):
            if not isfinite(PyFloat_AS_DOUBLE(value)):
                raise refuse(value)
            return self.add_float(PyFloat_AS_DOUBLE(value))
        if PyMemoryView_Check(value) or isinstance(value, bytearray):
            return self.add_view(value)
        if type(value) is _raw_type:
            return self.add_bytes(value.sql)
        if isinstance(value, UUID):
            return self.add_uuid(value)
        raise refuse(value)


cdef inline void _digits(char *to, int value, int width) noexcept nogil:
    while width:
        width -= 1
        to[width] = <char>(c"0" + value % 10)
        value //= 10


def literal(value):
    """Return the SQL literal of a value; see `_params_py.literal`."""
    cdef _Buffer buffer = _Buffer.__new__(_Buffer)
    buffer.add_value(value)
    return PyBytes_FromStringAndSize(buffer.data, buffer.size)


def literals(values):
    """Return the literals of `values` with commas between them; see `_params_py.literals`."""
    cdef _Buffer buffer = _Buffer.__new__(_Buffer)
    cdef bint first = True
    for value in values:
        if first:
            first = False
        else:
            buffer.add(b",", 1)
        buffer.add_value(value)
    return PyBytes_FromStringAndSize(buffer.data, buffer.size)


cdef object _statement(_Buffer buffer, Py_ssize_t end, bytes suffix):
    cdef Py_ssize_t extra = PyBytes_GET_SIZE(suffix)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, end + extra)
    cdef char *to = PyBytes_AS_STRING(made)
    memcpy(to, buffer.data, end)
    memcpy(to + end, PyBytes_AS_STRING(suffix), extra)
    return made


def build_values(prefix, rows, suffix=b"", *, max_bytes, escaped=False, no_backslash_escapes=False):
    """Return as few statements ``prefix(..),(..)suffix`` as carry all rows; see `_params_py.build_values`."""
    cdef Py_ssize_t limit, start, end, ending, width = -1, count = 0
    cdef tuple values
    cdef list statements = []
    cdef bint first
    if type(prefix) is not bytes:
        raise bad_argument("prefix", "bytes", prefix)
    if type(suffix) is not bytes:
        raise bad_argument("suffix", "bytes", suffix)
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
        raise bad_argument("max_bytes", "an int", max_bytes)
    try:
        limit = PyLong_AsSsize_t(max_bytes)
    except OverflowError:
        limit = 0 if max_bytes < 0 else (<Py_ssize_t>-1) ^ (<Py_ssize_t>1 << (8 * sizeof(Py_ssize_t) - 1))
    cdef _Buffer buffer = _Buffer.__new__(_Buffer)
    buffer.escaped = escaped
    buffer.no_backslash_escapes = no_backslash_escapes
    buffer.add_bytes(prefix)
    start = buffer.size
    ending = PyBytes_GET_SIZE(suffix)
    for row in rows:
        if isinstance(row, tuple):
            values = tuple(row)
        elif isinstance(row, list):
            values = tuple(row)  # its own copy: encoding a value may run code that changes the list
        else:
            raise bad_row(f"got {type(row).__name__}")
        if len(values) != width:
            if width >= 0:
                raise bad_row(f"got {width} and {len(values)} values")
            if not values:
                raise bad_row("got no values")
            width = len(values)
        end = buffer.size
        if count:
            buffer.add(b",(", 2)
        else:
            buffer.add(b"(", 1)
        first = True
        for value in values:
            if first:
                first = False
            else:
                buffer.add(b",", 1)
            buffer.add_value(value)
        buffer.add(b")", 1)
        if count and buffer.size + ending > limit:
            # The row opens the next statement: cut before its comma, then move it to the front.
            statements.append((_statement(buffer, end, suffix), count))
            memmove(buffer.data + start, buffer.data + end + 1, buffer.size - end - 1)
            buffer.size = start + buffer.size - end - 1
            count = 0
        if buffer.size + ending > limit:
            raise too_large(buffer.size + ending, max_bytes)
        count += 1
    if count:
        statements.append((_statement(buffer, buffer.size, suffix), count))
    return statements


def build_tasks(prefix, ids, middle, payloads, ending, *, max_bytes):
    """Return as few statements as carry a row for each id and its payload; see `_params_py.build_tasks`."""
    cdef Py_ssize_t limit = max_bytes, start, end, at, count = 0
    cdef tuple keys = tuple(ids), values = tuple(payloads)
    cdef bytes before = prefix, between = middle, after = ending
    cdef object value
    cdef list statements = []
    if len(keys) != len(values):
        raise bad_row(f"got {len(keys)} ids and {len(values)} payloads")
    cdef _Buffer buffer = _Buffer.__new__(_Buffer)
    buffer.add_bytes(before)
    start = buffer.size
    for at in range(len(keys)):
        end = buffer.size
        if count:
            buffer.add(b",(", 2)
        else:
            buffer.add(b"(", 1)
        value = values[at]
        if not PyBytes_Check(value):
            raise refuse(value)
        buffer.add_uuid(keys[at])
        buffer.add_bytes(between)
        buffer.add_data(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), b"_binary", False)
        buffer.add_bytes(after)
        buffer.add(b")", 1)
        if count and buffer.size > limit:
            statements.append((_statement(buffer, end, b""), count))
            memmove(buffer.data + start, buffer.data + end + 1, buffer.size - end - 1)
            buffer.size = start + buffer.size - end - 1
            count = 0
        if buffer.size > limit:
            raise too_large(buffer.size, max_bytes)
        count += 1
    if count:
        statements.append((_statement(buffer, buffer.size, b""), count))
    return statements
