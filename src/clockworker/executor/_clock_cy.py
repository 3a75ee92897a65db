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
same last reading.

*Wound time.* A test may wind one thread's clock by hand (`clockworker.testing`): then nothing that an executor measures is
real, and all of it repeats. Such a clock moves by `wind` and by one pace at each reading. So a step takes some time; else
EEVDF would charge it nothing, and a queue that has something to run would keep the thread for ever. Dice make paces of
different lengths, and the same number the same ones again. The slow path of `now_ns` asks whether time is wound, and the
counter is not used meanwhile: whoever winds nothing pays nothing.
"""

from __future__ import annotations

import threading
import time

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._cpython_cy import holds, switch_off

if not cython.compiled:
    _64_BITS = (1 << 64) - 1

    class _Clock:
        """The wound part of the compiled clock."""

        wound_in = 0
        wound_ns = 0
        pace_ns = 0
        dice = 0

        def reading(self) -> int:
            pace_ns, dice = self.pace_ns, self.dice
            if dice:
                dice ^= dice << 13 & _64_BITS
                dice ^= dice >> 7
                dice ^= dice << 17 & _64_BITS
                self.dice = dice
                pace_ns <<= dice >> 61
            self.wound_ns += pace_ns
            return self.wound_ns

    clock = _Clock()

    def is_wound() -> bool:
        """Whether the caller's time is wound by hand."""
        return clock.wound_in != 0 and clock.wound_in == threading.get_ident()

    def now_ns() -> int:
        return clock.reading() if clock.wound_in and is_wound() else time.monotonic_ns()

else:
    read_clock(cython.address(clock))  # type: ignore[name-defined, used-before-def]  # noqa: F821


def begin() -> None:
    """Find the counter's rate, where it is used."""
    if cython.compiled and holds("clock") and not clock_begin(cython.address(clock)):  # type: ignore[name-defined]  # noqa: F821
        switch_off("clock", "its rate is not that of any processor")


def read(rate: float | None = None) -> int:
    """The time, for tests. rate: nanoseconds a tick, taken for true from now on, and for longer than is ever done."""
    if cython.compiled and rate is not None:
        clock_set_rate(cython.address(clock), rate, 1e9)  # type: ignore[name-defined]  # noqa: F821
    return now_ns()


def begin_winding(pace_ns: int, dice: int) -> None:
    """From now on the caller's thread has wound time, and begins with the real one. dice: 1 to 2**64 - 1, or 0 for even paces.

    Raises UsageError if any thread has it: there is one such clock in a process.
    """
    if clock.wound_in:
        raise UsageError("a clock is being wound in this process already: close its loop first, or leave its run()")
    if cython.compiled:
        clock_begin_winding(cython.address(clock), pace_ns, dice)  # type: ignore[name-defined]  # noqa: F821
    else:
        clock.wound_ns, clock.pace_ns, clock.dice = time.monotonic_ns(), pace_ns, dice
    clock.wound_in = threading.get_ident()


def end_winding() -> None:
    """Time is real again, in all threads."""
    if cython.compiled:
        clock_end_winding(cython.address(clock))  # type: ignore[name-defined]  # noqa: F821
    else:
        clock.wound_in = 0


def wind(ns: int) -> None:
    """Move wound time on. It is the caller's thread's from now on: a loop may be made in one thread and run in another."""
    clock.wound_ns += ns
    clock.wound_in = threading.get_ident()


def wound_ns() -> int:
    """Wound time, without moving it."""
    return clock.wound_ns
