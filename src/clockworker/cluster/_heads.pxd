# Heads of frames and of messages as they travel, `<BIIQI` and `<HHIIIQ`: little-endian, and not aligned.

from libc.stdint cimport int64_t, uint64_t


cdef extern from *:
    """
    #include <endian.h>
    #include <stdint.h>
    #include <string.h>
    static inline void cw_put_head(
        char *to, int64_t kind, int64_t queue, int64_t method, uint64_t call, int64_t length
    ) {
        uint32_t queue_le = htole32((uint32_t)queue), method_le = htole32((uint32_t)method);
        uint64_t call_le = htole64(call);
        uint32_t length_le = htole32((uint32_t)length);
        to[0] = (char)kind;
        memcpy(to + 1, &queue_le, 4);
        memcpy(to + 5, &method_le, 4);
        memcpy(to + 9, &call_le, 8);
        memcpy(to + 17, &length_le, 4);
    }
    static inline void cw_put_message_head(
        char *to, int64_t version, int64_t flags, int64_t ours, int64_t theirs, int64_t number, int64_t taken
    ) {
        uint16_t version_le = htole16((uint16_t)version), flags_le = htole16((uint16_t)flags);
        uint32_t ours_le = htole32((uint32_t)ours), theirs_le = htole32((uint32_t)theirs);
        uint32_t number_le = htole32((uint32_t)number);
        uint64_t taken_le = htole64((uint64_t)taken);
        memcpy(to, &version_le, 2);
        memcpy(to + 2, &flags_le, 2);
        memcpy(to + 4, &ours_le, 4);
        memcpy(to + 8, &theirs_le, 4);
        memcpy(to + 12, &number_le, 4);
        memcpy(to + 16, &taken_le, 8);
    }
    static inline int64_t cw_get_u16(const char *from) {
        uint16_t value;
        memcpy(&value, from, 2);
        return (int64_t)le16toh(value);
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
    void cw_put_head(char *to, int64_t kind, int64_t queue, int64_t method, uint64_t call, int64_t length) noexcept
    void cw_put_message_head(
        char *to, int64_t version, int64_t flags, int64_t ours, int64_t theirs, int64_t number, int64_t taken
    ) noexcept
    int64_t cw_get_u16(const char *source) noexcept
    int64_t cw_get_u32(const char *source) noexcept
    unsigned long long cw_get_u64(const char *source) noexcept
