# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The clock that times steps: CLOCK_MONOTONIC in nanoseconds, read for half its price.

Each step is timed, so the clock is a good part of what a step costs. Where Linux itself keeps time by the processor's time
stamp counter (`_cpython_cy`, "clock"), having found that it runs at one rate and alike on all cores, that counter is read
instead: 9 ns for the 20 of clock_gettime. It tells how far we are from the last real reading, and only up to a millisecond:
longer steps are measured by two real readings, so neither a machine that slept nor a counter that was set back is ever charged
to a queue. Over that distance a rate that is good to a thousandth, as measured between the import of this module and `begin`,
is plenty. Elsewhere every reading is a real one. It is wall time: what others had of it is _steal_cy's to find out.

The clock never goes back. A rate that is a little high puts us ahead of the next real reading, by up to a microsecond: then
time stands still until that has caught up. So no step takes less than nothing, and whoever subtracts need not ask.

The clock is one, in this module, and `now_ns` is inlined into those that cimport it: times that are compared must be from the
same last reading. Not compiled, `time.monotonic_ns` is imported in its place.
"""

from __future__ import annotations

import time

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._cpython_cy import holds, switch_off

if cython.compiled:
    read_clock(cython.address(clock))  # type: ignore[name-defined]  # noqa: F821


def begin() -> None:
    """Find the counter's rate, where it is used."""
    if cython.compiled and holds("clock") and not clock_begin(cython.address(clock)):  # type: ignore[name-defined]  # noqa: F821
        switch_off("clock", "its rate is not that of any processor")


def read(rate: float | None = None) -> int:
    """The time, for tests. rate: nanoseconds a tick, taken for true from now on, and for longer than is ever done."""
    if cython.compiled:
        if rate is not None:
            clock_set_rate(cython.address(clock), rate, 1e9)  # type: ignore[name-defined]  # noqa: F821
        return now_ns()  # type: ignore[name-defined, no-any-return]  # noqa: F821
    return time.monotonic_ns()
