"""Decoding of claimed rows in C; what a row holds is in `_rows_py`.

Every task of every worker passes through here. Faster because numbers, times and ids are read straight from the bytes,
the slots of the messages are written without descriptors or constructors, and what repeats from row to row (the name
of the task, the time of the claim) is decoded once.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.datetime cimport datetime_new, import_datetime
from cpython.long cimport PyLong_AsUnsignedLongLong, PyLong_Check
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.tuple cimport PyTuple_GET_ITEM
from cpython.unicode cimport PyUnicode_Check, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp

from datetime import UTC
from uuid import UUID, SafeUUID

from celers.errors import DeserializationError, PayloadTooLargeError
from celers_fast._object cimport celers_int_from_bytes16, celers_new, celers_put, celers_slot_offset
from celers_fast._rows_py import (
    CLAIM_COLUMNS,
    MESSAGE_FIELDS,
    METADATA_FIELDS,
    NO_DEPENDENCIES,
    TASK_FIELDS,
    bad_datetime,
    bad_receipt_part,
    bad_value,
    bad_width,
    load_extra,
    unpack,
)

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void *PyUnicode_DATA(object text)
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    COLUMNS = 17

import_datetime()

cdef object _utc = UTC
cdef object _no_dependencies = NO_DEPENDENCIES
cdef object _unknown = SafeUUID.unknown
cdef object _uuid_type = UUID  # a C variable: no look-up per value
cdef Py_ssize_t _int_at = celers_slot_offset(UUID, b"int")
cdef Py_ssize_t _is_safe_at = celers_slot_offset(UUID, b"is_safe")
cdef const char *_hex = b"0123456789abcdef"

assert len(CLAIM_COLUMNS) == COLUMNS


cdef struct Key:
    int64_t priority
    uint64_t seq
    Py_ssize_t index


cdef int _compare(const void *left, const void *right) noexcept nogil:
    cdef const Key *a = <const Key *>left
    cdef const Key *b = <const Key *>right
    if a.priority != b.priority:
        return -1 if a.priority > b.priority else 1
    if a.seq != b.seq:
        return -1 if a.seq < b.seq else 1
    return -1 if a.index < b.index else 1


cdef inline bint _parse_number(const char *text, Py_ssize_t size, uint64_t *value, bint *negative) noexcept nogil:
    """Read an optional minus and 1 to 20 digits; False for anything else and above 64 bits."""
    cdef Py_ssize_t i = 0
    cdef uint64_t result = 0
    cdef unsigned int digit
    negative[0] = size > 0 and text[0] == c"-"
    if negative[0]:
        i = 1
    if not 1 <= size - i <= 20:
        return False
    while i < size:
        digit = <unsigned int>(<unsigned char>text[i]) - c"0"
        if digit > 9:
            return False
        if result > (0xFFFFFFFFFFFFFFFFULL - digit) // 10:
            return False
        result = result * 10 + digit
        i += 1
    value[0] = result
    return True


cdef inline bint _two(const char *text, int *value) noexcept nogil:
    cdef unsigned int tens = <unsigned int>(<unsigned char>text[0]) - c"0"
    cdef unsigned int ones = <unsigned int>(<unsigned char>text[1]) - c"0"
    value[0] = tens * 10 + ones
    return tens <= 9 and ones <= 9


cdef object _time(const char *text, Py_ssize_t size):
    """Return the time, or None when the text is none."""
    cdef int century, year, month, day, hour, minute, second, micro = 0, scale = 100000
    cdef unsigned int digit
    cdef Py_ssize_t i
    if size < 19 or size == 20 or size > 26:
        return None
    if not (
        _two(text, &century)
        and _two(text + 2, &year)
        and text[4] == c"-"
        and _two(text + 5, &month)
        and text[7] == c"-"
        and _two(text + 8, &day)
        and text[10] == c" "
        and _two(text + 11, &hour)
        and text[13] == c":"
        and _two(text + 14, &minute)
        and text[16] == c":"
        and _two(text + 17, &second)
    ):
        return None
    if size > 19:
        if text[19] != c".":
            return None
        for i in range(20, size):
            digit = <unsigned int>(<unsigned char>text[i]) - c"0"
            if digit > 9:
                return None
            micro += digit * scale
            scale //= 10
    try:
        return datetime_new(century * 100 + year, month, day, hour, minute, second, micro, _utc, 0)
    except ValueError:
        return None


def parse_datetime(text):
    """Return the aware UTC time that a DATETIME column holds; see `_rows_py.parse_datetime`."""
    result = None
    if PyBytes_CheckExact(text):
        result = _time(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    if result is None:
        raise bad_datetime(text)
    return result


cdef object _receipt(uint64_t seq, uint64_t consumer_no, uint64_t deliveries):
    cdef object text = PyUnicode_New(32, 127)
    cdef char *to = <char *>PyUnicode_DATA(text)
    cdef uint64_t low = consumer_no << 32 | deliveries
    cdef int i
    for i in range(16):
        to[i] = _hex[(seq >> (60 - 4 * i)) & 15]
        to[16 + i] = _hex[(low >> (60 - 4 * i)) & 15]
    return text


cdef uint64_t _part(str name, int bits, object value) except? 0xFFFFFFFFFFFFFFFF:
    cdef uint64_t result
    if not PyLong_Check(value) or isinstance(value, bool):
        raise bad_receipt_part(name, bits, value)
    try:
        result = PyLong_AsUnsignedLongLong(value)
    except OverflowError:
        raise bad_receipt_part(name, bits, value) from None
    if bits < 64 and result >> bits:
        raise bad_receipt_part(name, bits, value)
    return result


def make_receipt(seq, consumer_no, deliveries):
    """Return the receipt of a delivery, 32 hex digits; see `_rows_py.make_receipt`."""
    cdef uint64_t a = _part("seq", 64, seq)
    cdef uint64_t b = _part("consumer_no", 32, consumer_no)
    return _receipt(a, b, _part("deliveries", 32, deliveries))


def parse_receipt(text):
    """Return the parts of a receipt, or None when it is malformed; see `_rows_py.parse_receipt`."""
    cdef const unsigned char *at
    cdef uint64_t part[2]
    cdef uint64_t digit
    cdef int i
    if not PyUnicode_Check(text) or PyUnicode_GET_LENGTH(text) != 32 or not PyUnicode_IS_ASCII(text):
        return None
    at = <const unsigned char *>PyUnicode_DATA(text)
    part[0] = part[1] = 0
    for i in range(32):
        digit = at[i]
        if c"0" <= digit <= c"9":
            digit -= c"0"
        elif c"a" <= digit <= c"f":
            digit -= c"a" - 10
        else:
            return None
        part[i >> 4] = part[i >> 4] << 4 | digit
    return part[0], part[1] >> 32, part[1] & 0xFFFFFFFF


cdef class _Layout:
    """Where the slots of the three classes are."""

    cdef object metadata_type
    cdef object task_type
    cdef object message_type
    cdef Py_ssize_t metadata[12]
    cdef Py_ssize_t task[2]
    cdef Py_ssize_t message[5]

    def __cinit__(self, metadata_type, task_type, message_type):
        cdef int i
        self.metadata_type = metadata_type
        self.task_type = task_type
        self.message_type = message_type
        for i in range(12):
            self.metadata[i] = celers_slot_offset(metadata_type, METADATA_FIELDS[i].encode())
        for i in range(2):
            self.task[i] = celers_slot_offset(task_type, TASK_FIELDS[i].encode())
        for i in range(5):
            self.message[i] = celers_slot_offset(message_type, MESSAGE_FIELDS[i].encode())


cdef dict _layouts = {}


cdef class _Decoder:
    """One call of `decode_claims`: what the rows share."""

    cdef _Layout layout
    cdef uint64_t consumer_no
    cdef bytes name_bytes     # of the row before, with its decoded form
    cdef object name
    cdef bytes started_bytes
    cdef object started
    cdef int64_t priority     # of the row just decoded, as the next two
    cdef object id
    cdef int64_t deliveries

    cdef bytes present(self, tuple row, int index):
        value = <object>PyTuple_GET_ITEM(row, index)
        if PyBytes_CheckExact(value):
            return <bytes>value
        raise bad_value(CLAIM_COLUMNS[index], "it is NULL" if value is None else "it is not bytes")

    cdef int64_t integer(self, tuple row, int index) except? -1:
        cdef bytes text = self.present(row, index)
        cdef uint64_t value
        cdef bint negative
        if _parse_number(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), &value, &negative):
            if not negative and value <= 0x7FFFFFFFFFFFFFFFULL:
                return <int64_t>value
            if negative and value <= 0x8000000000000000ULL:
                return <int64_t>(0 - value)
        raise bad_value(CLAIM_COLUMNS[index], "it is not an integer of 64 bits")

    cdef object text(self, tuple row, int index):
        cdef bytes text = self.present(row, index)
        try:
            return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), NULL)
        except UnicodeDecodeError:
            raise bad_value(CLAIM_COLUMNS[index], "it is not UTF-8") from None

    cdef object uuid(self, tuple row, int index):
        cdef bytes data = self.present(row, index)
        if PyBytes_GET_SIZE(data) != 16:
            raise bad_value(CLAIM_COLUMNS[index], "it is not 16 bytes long")
        result = celers_new(_uuid_type)
        celers_put(result, _int_at, celers_int_from_bytes16(<const unsigned char *>PyBytes_AS_STRING(data)))
        celers_put(result, _is_safe_at, _unknown)
        return result

    cdef object time(self, tuple row, int index):
        cdef bytes text = self.present(row, index)
        result = _time(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        if result is None:
            raise bad_value(CLAIM_COLUMNS[index], "it is not a time")
        return result

    cdef object decode(self, tuple row, uint64_t seq):
        cdef _Layout layout = self.layout
        cdef bytes text, payload
        cdef object encoding, extra, retry_count
        cdef bint isolated
        metadata = celers_new(layout.metadata_type)
        self.id = self.uuid(row, 1)
        celers_put(metadata, layout.metadata[0], self.id)
        text = self.present(row, 2)
        if self.name_bytes is None or not _same(text, self.name_bytes):
            self.name = self.text(row, 2)
            self.name_bytes = text
        celers_put(metadata, layout.metadata[1], self.name)
        payload = self.present(row, 3)
        encoding = <object>PyTuple_GET_ITEM(row, 4)
        if not (
            PyBytes_CheckExact(encoding)
            and PyBytes_GET_SIZE(encoding) == 3
            and memcmp(PyBytes_AS_STRING(encoding), b"raw", 3) == 0
        ):
            payload = unpack(payload, encoding)
        self.priority = self.integer(row, 5)
        celers_put(metadata, layout.metadata[6], self.priority)
        retry_count = self.integer(row, 6)
        celers_put(metadata, layout.metadata[4], self.integer(row, 7))
        celers_put(metadata, layout.metadata[5], None if row[8] is None else self.integer(row, 8))
        celers_put(metadata, layout.metadata[2], self.time(row, 9))
        text = self.present(row, 10)
        if self.started_bytes is None or not _same(text, self.started_bytes):
            self.started = self.time(row, 10)
            self.started_bytes = text
        celers_put(metadata, layout.metadata[3], self.started)
        self.deliveries = self.integer(row, 11)
        if not 0 <= self.deliveries <= 0xFFFFFFFF:
            raise bad_value("deliveries", "it is not an integer of 32 bits")
        celers_put(metadata, layout.metadata[7], None if row[12] is None else self.text(row, 12))
        celers_put(metadata, layout.metadata[8], None if row[13] is None else self.uuid(row, 13))
        celers_put(metadata, layout.metadata[9], None if row[14] is None else self.uuid(row, 14))
        celers_put(metadata, layout.metadata[10], _no_dependencies)
        extra = {} if row[15] is None else load_extra(self.present(row, 15))
        celers_put(metadata, layout.metadata[11], extra)
        isolated = self.integer(row, 16) != 0

        task = celers_new(layout.task_type)
        celers_put(task, layout.task[0], metadata)
        celers_put(task, layout.task[1], payload)
        message = celers_new(layout.message_type)
        celers_put(message, layout.message[0], task)
        celers_put(message, layout.message[1], _receipt(seq, self.consumer_no, <uint64_t>self.deliveries))
        celers_put(message, layout.message[2], retry_count)
        celers_put(message, layout.message[3], self.started)
        celers_put(message, layout.message[4], isolated)
        return message


cdef inline bint _same(bytes left, bytes right) noexcept:
    return PyBytes_GET_SIZE(left) == PyBytes_GET_SIZE(right) and memcmp(
        PyBytes_AS_STRING(left), PyBytes_AS_STRING(right), PyBytes_GET_SIZE(left)
    ) == 0


cdef uint64_t _seq(tuple row) except? 0:
    cdef uint64_t value
    cdef bint negative
    text = <object>PyTuple_GET_ITEM(row, 0)
    if not PyBytes_CheckExact(text):
        raise bad_value("seq", "it is NULL" if text is None else "it is not bytes")
    if _parse_number(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), &value, &negative):
        if not negative or value == 0:
            return value
    raise bad_value("seq", "it is not an unsigned integer of 64 bits")


def decode_claims(rows, consumer_no, types, dict held=None):
    """Return the messages of a claim and the rows that cannot be decoded; see `_rows_py.decode_claims`."""
    cdef _Decoder decoder = _Decoder.__new__(_Decoder)
    cdef list messages = [], bad = [], ordered
    cdef tuple values, all_rows
    cdef Py_ssize_t count = 0, i
    cdef uint64_t seq
    cdef bint sorted_already = True
    cdef Key *keys
    decoder.consumer_no = _part("consumer_no", 32, consumer_no)
    layout = _layouts.get(types)
    if layout is None:
        layout = _layouts[types] = _Layout(types[0], types[1], types[2])
    decoder.layout = <_Layout>layout
    failure = types[3]
    all_rows = tuple(rows)
    keys = <Key *>PyMem_Malloc((len(all_rows) or 1) * sizeof(Key))
    if keys == NULL:
        raise MemoryError()
    try:
        for row in all_rows:
            if not isinstance(row, (tuple, list)) or len(row) != COLUMNS:
                raise bad_width(row)
            values = tuple(row)
            seq = _seq(values)
            try:
                messages.append(decoder.decode(values, seq))
            except failure as error:
                bad.append((seq, str(error)))
                continue
            except PayloadTooLargeError as error:
                bad.append((seq, f"column payload: {error}"))
                continue
            keys[count].priority = decoder.priority
            keys[count].seq = seq
            keys[count].index = count
            if count and sorted_already:
                sorted_already = _compare(&keys[count - 1], &keys[count]) < 0
            count += 1
            if held is not None:
                held[seq] = (decoder.id, decoder.deliveries)
        if not sorted_already:
            qsort(keys, count, sizeof(Key), _compare)
            ordered = [messages[keys[i].index] for i in range(count)]
            messages = ordered
    finally:
        PyMem_Free(keys)
    return messages, bad
