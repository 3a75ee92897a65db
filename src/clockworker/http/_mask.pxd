# What a client of WebSockets sends is XORed with four bytes that it chooses (RFC 6455, 5.3). Eight bytes at once.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static void clockworker_xor(unsigned char *to, const unsigned char *from, const unsigned char *mask, Py_ssize_t size) {
        uint64_t wide, word;
        Py_ssize_t at = 0;
        memcpy(&wide, mask, 4);
        memcpy((unsigned char *)&wide + 4, mask, 4);
        for (; at + 8 <= size; at += 8) {
            memcpy(&word, from + at, 8);
            word ^= wide;
            memcpy(to + at, &word, 8);
        }
        for (; at < size; at++)
            to[at] = from[at] ^ mask[at & 3];
    }
    """
    void clockworker_xor(unsigned char *to, const unsigned char *source, const unsigned char *mask, Py_ssize_t size) noexcept nogil


cdef inline bytes xor(bytes data, Py_ssize_t at, Py_ssize_t end):
    """Of data[at:end]; the mask is the four bytes before."""
    cdef bytes found = PyBytes_FromStringAndSize(NULL, end - at)
    cdef const unsigned char *source = <const unsigned char *>PyBytes_AS_STRING(data)
    clockworker_xor(<unsigned char *>PyBytes_AS_STRING(found), source + at, source + at - 4, end - at)
    return found
