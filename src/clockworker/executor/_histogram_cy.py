# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A log-linear histogram of durations, cheap enough to be kept for every step.

Each power of two is divided into 8 buckets of equal width, so that a bucket's bounds are at most an eighth apart, whether
it is about microseconds or seconds. Histograms of several queues or shards are added bucket by bucket. The idea is
HdrHistogram's, and the one of `log2` with linear steps in bpf's tools.
"""

from __future__ import annotations

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

if cython.compiled:
    from cython.cimports.clockworker.executor._native import bit_length
else:
    bit_length = int.bit_length

# The last bucket also holds what is longer than it says: over 137 s.
BUCKETS = 280
_BITS = 3  # 2**3 buckets to a power of two
_MAX_SHIFT = 33


def bucket_bound_ns(bucket: int) -> int:
    """The longest duration that is counted in this bucket."""
    if bucket < 16:
        return bucket
    return (((bucket & 7) + 9) << ((bucket >> 3) - 1)) - 1


@cython.final
@cython.cclass
class Histogram:
    """Bucket i < 16 counts durations of i nanoseconds; the others those that are longer than bucket i - 1's bound and not
    longer than their own (`bucket_bound_ns`)."""

    max_ns: int
    total_ns: int

    def __init__(self) -> None:
        self.max_ns = 0
        self.total_ns = 0
        if not cython.compiled:
            self._buckets = [0] * BUCKETS

    def record(self, duration_ns: int) -> None:
        """Count one duration; a negative one, from a clock that was wound back, as 0."""
        if duration_ns < 0:
            duration_ns = 0
        shift = bit_length(duration_ns) - (_BITS + 1)
        if shift <= 0:
            bucket = duration_ns
        elif shift <= _MAX_SHIFT:
            bucket = (shift << _BITS) + (duration_ns >> shift)
        else:
            bucket = (_MAX_SHIFT << _BITS) + 15
        self._buckets[bucket] += 1
        self.total_ns += duration_ns
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns

    def buckets(self) -> tuple[int, ...]:
        """The counts, up to the last that is not 0."""
        length = BUCKETS
        while length and self._buckets[length - 1] == 0:
            length -= 1
        return tuple([self._buckets[i] for i in range(length)])
