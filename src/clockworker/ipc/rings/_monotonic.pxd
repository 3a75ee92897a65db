# The clock of deadlines. It must be the kernel's own, because deadlines are compared by other processes.

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


cdef inline long long now_ns() noexcept:
    """CLOCK_MONOTONIC, as time.monotonic_ns, without making an int of it."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <long long>time.tv_sec * 1000000000 + time.tv_nsec
