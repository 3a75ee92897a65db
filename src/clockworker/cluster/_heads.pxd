# Heads of frames as they travel, `<BIIQI`: little-endian, and not aligned.

from libc.stdint cimport int64_t


cdef extern from *:
    """
    #include <endian.h>
    #include <stdint.h>
    #include <string.h>
    static inline void cw_put_head(
        char *to, int64_t kind, int64_t queue, int64_t method, int64_t call, int64_t length
    ) {
        uint32_t queue_le = htole32((uint32_t)queue), method_le = htole32((uint32_t)method);
        uint64_t call_le = htole64((uint64_t)call);
        uint32_t length_le = htole32((uint32_t)length);
        to[0] = (char)kind;
        memcpy(to + 1, &queue_le, 4);
        memcpy(to + 5, &method_le, 4);
        memcpy(to + 9, &call_le, 8);
        memcpy(to + 17, &length_le, 4);
    }
    static inline int64_t cw_get_u32(const char *from) {
        uint32_t value;
        memcpy(&value, from, 4);
        return (int64_t)le32toh(value);
    }
    static inline uint64_t cw_get_u64(const char *from) {
        uint64_t value;
        memcpy(&value, from, 8);
        return le64toh(value);
    }
    """
    void cw_put_head(char *to, int64_t kind, int64_t queue, int64_t method, int64_t call, int64_t length) noexcept
    int64_t cw_get_u32(const char *source) noexcept
    unsigned long long cw_get_u64(const char *source) noexcept
