# What several compiled modules need to make objects without running their constructors.
#
# A slot of a class with __slots__ is a pointer at a fixed offset, which its member descriptor tells. Writing it
# directly is several times faster than object.__setattr__ and does what the descriptor would do.

from cpython.object cimport PyObject, PyTypeObject

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030C0000
    #include <structmember.h>
    #endif

    /* 128-bit integers from and to 16 bytes, most significant first. */
    static inline PyObject *celers_int_from_bytes16(const unsigned char *bytes) {
    #if PY_VERSION_HEX >= 0x030D0000
        return PyLong_FromUnsignedNativeBytes(bytes, 16, Py_ASNATIVEBYTES_BIG_ENDIAN);
    #else
        return _PyLong_FromByteArray(bytes, 16, 0, 0);
    #endif
    }

    static inline int celers_int_to_bytes16(PyObject *value, unsigned char *bytes) {
    #if PY_VERSION_HEX >= 0x030D0000
        Py_ssize_t needed = PyLong_AsNativeBytes(value, bytes, 16,
            Py_ASNATIVEBYTES_BIG_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER
            | Py_ASNATIVEBYTES_REJECT_NEGATIVE);
        if (needed < 0) return -1;
        if (needed > 16) {
            PyErr_SetString(PyExc_OverflowError, "int too big to convert");
            return -1;
        }
        return 0;
    #else
        if (!PyLong_Check(value)) {
            PyErr_SetString(PyExc_TypeError, "an int is required");
            return -1;
        }
        return _PyLong_AsByteArray((PyLongObject *)value, bytes, 16, 0, 0);
    #endif
    }

    /* Offset of a slot, or -1 with TypeError when the attribute is no plain slot. */
    static inline Py_ssize_t celers_slot_offset(PyObject *cls, const char *name) {
        PyObject *descr = PyObject_GetAttrString(cls, name);
        Py_ssize_t offset = -1;
        if (descr == NULL) return -1;
        if (Py_TYPE(descr) == &PyMemberDescr_Type) {
            offset = ((PyMemberDescrObject *)descr)->d_member->offset;
        } else {
            PyErr_Format(PyExc_TypeError, "%s.%s is not a slot", ((PyTypeObject *)cls)->tp_name, name);
        }
        Py_DECREF(descr);
        return offset;
    }

    /* A new instance with empty slots. */
    static inline PyObject *celers_new(PyObject *cls) {
        return ((PyTypeObject *)cls)->tp_alloc((PyTypeObject *)cls, 0);
    }

    /* Fill an empty slot. */
    static inline void celers_put(PyObject *made, Py_ssize_t offset, PyObject *value) {
        Py_INCREF(value);
        *(PyObject **)((char *)made + offset) = value;
    }

    /* Borrowed content of a slot; NULL when empty. */
    static inline PyObject *celers_peek(PyObject *made, Py_ssize_t offset) {
        return *(PyObject **)((char *)made + offset);
    }
    """
    object celers_int_from_bytes16(const unsigned char *data)
    int celers_int_to_bytes16(object value, unsigned char *data) except -1
    Py_ssize_t celers_slot_offset(object cls, const char *name) except -1
    object celers_new(object cls)
    void celers_put(object made, Py_ssize_t offset, object value) noexcept
    PyObject *celers_peek(object made, Py_ssize_t offset) noexcept
