cimport cython

cdef int _SIZE, _LONGEST_GROUP, _SMALL
cdef object _encode, _decode


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Little endian, as all machines are that this is compiled for; the pure version says so. */
    static inline PyObject *clockworker_put_together(long long deadline_ns, int depth, PyObject *key, PyObject *arguments) {
        Py_ssize_t of_key = PyBytes_GET_SIZE(key), of_arguments = PyBytes_GET_SIZE(arguments);
        uint16_t length = (uint16_t)of_key;
        PyObject *body = PyBytes_FromStringAndSize(NULL, 11 + of_key + of_arguments);
        if (body == NULL) return NULL;
        char *at = PyBytes_AS_STRING(body);
        memcpy(at, &deadline_ns, 8);
        at[8] = (char)depth;
        memcpy(at + 9, &length, 2);
        memcpy(at + 11, PyBytes_AS_STRING(key), of_key);
        memcpy(at + 11 + of_key, PyBytes_AS_STRING(arguments), of_arguments);
        return body;
    }

    static inline long long clockworker_deadline_of(PyObject *body) {
        int64_t deadline_ns;
        memcpy(&deadline_ns, PyBytes_AS_STRING(body), 8);
        return deadline_ns;
    }

    static inline int clockworker_depth_of(PyObject *body) {
        return (unsigned char)PyBytes_AS_STRING(body)[8];
    }

    static inline int clockworker_length_of(PyObject *body) {
        uint16_t length;
        memcpy(&length, PyBytes_AS_STRING(body) + 9, 2);
        return length;
    }
    """
    bytes put_together "clockworker_put_together"(long long deadline_ns, int depth, bytes key, bytes arguments)
    long long deadline_of "clockworker_deadline_of"(bytes body) noexcept
    int depth_of "clockworker_depth_of"(bytes body) noexcept
    int length_of "clockworker_length_of"(bytes body) noexcept


cdef class Chain:
    cdef readonly int depth
    cdef readonly long long deadline_ns
    cdef readonly object asked_by
    cdef readonly Chain within
    cdef public bint ended


@cython.locals(chain=Chain)
cpdef Chain new_chain(int depth, long long deadline_ns, object asked_by)
@cython.locals(key=bytes)
cpdef bytes pack_envelope(long long deadline_ns, object group, int depth, int sender, bytes arguments)
@cython.locals(deadline_ns=cython.longlong, depth=cython.int, length=cython.int, start=cython.Py_ssize_t)
cpdef tuple unpack_envelope(bytes body)
