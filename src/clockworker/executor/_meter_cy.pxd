cimport cython
from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <stdlib.h>
    #include <time.h>
    #include <unistd.h>

    static inline long long clockworker_thread_cpu_ns(void) {
        struct timespec now;
        if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0) return 0;
        return now.tv_sec * 1000000000LL + now.tv_nsec;
    }

    /* Whether the file says how long the thread has waited for a core, and how often it was given one. */
    static inline int clockworker_read_schedstat(int descriptor, long long *delay_ns, long long *arrivals) {
        char text[128];
        ssize_t length;
        do length = pread(descriptor, text, sizeof(text) - 1, 0);
        while (length < 0 && errno == EINTR);
        if (length <= 0) return 0;
        text[length] = 0;
        char *had, *delay, *number;
        strtoull(text, &had, 10);
        unsigned long long waited = strtoull(had, &delay, 10), given = strtoull(delay, &number, 10);
        if (had == text || delay == had || number == delay) return 0;
        *delay_ns = (long long)waited;
        *arrivals = (long long)given;
        return given > 0;  /* zeros where the kernel does not count */
    }
    """
    long long thread_cpu_ns "clockworker_thread_cpu_ns"() noexcept
    bint read_schedstat "clockworker_read_schedstat"(int descriptor, long long *delay_ns, long long *arrivals) noexcept
    unsigned long native_thread_id "PyThread_get_thread_native_id"() noexcept

cdef bint _has_cpu_clock


cdef class Meter:
    cdef long _thread
    cdef bint _counts_delay
    cdef int _descriptor
    cdef bint _counts_switches
    cdef long long _delay_ns
    cdef long long _arrivals
    cdef long long _voluntary

    cpdef int64_t cpu_ns(self) except? -1
    @cython.locals(thread=cython.long, delay_ns=cython.longlong, arrivals=cython.longlong, voluntary=cython.longlong)
    cpdef int64_t ask(self, long long lost_ns) except? -1
    cdef _begin(self, long thread)
    cdef bint _read_schedstat(self) except -1
    cdef _read_switches(self)
    cpdef close(self)
