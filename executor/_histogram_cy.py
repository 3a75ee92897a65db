# cython: language_level=3, annotation_typing=False, auto_pickle=False
"""A histogram of durations by powers of two, cheap enough to be kept for every step."""

from __future__ import annotations

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

if cython.compiled:
    from cython.cimports.clockworker.executor._native import bit_length
else:
    bit_length = int.bit_length


class Histogram:
    """Bucket i counts durations of bit length i: those of 2**(i-1) to 2**i - 1 nanoseconds; bucket 0, those of 0."""

    max_ns: int

    def __init__(self) -> None:
        self.max_ns = 0
        if not cython.compiled:
            self._buckets = [0] * 64

    def record(self, duration_ns: int) -> None:
        """Count one duration; a negative one, from a clock that was wound back, as 0."""
        if duration_ns < 0:
            duration_ns = 0
        self._buckets[bit_length(duration_ns)] += 1
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns

    def buckets(self) -> tuple[int, ...]:
        """The counts, up to the last that is not 0."""
        counts = [self._buckets[i] for i in range(64)]
        while counts and counts[-1] == 0:
            counts.pop()
        return tuple(counts)
