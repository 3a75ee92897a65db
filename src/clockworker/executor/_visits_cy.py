# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Visits: how often somebody comes for whom a slice is cut, and so how often it is worth looking.

A look is a timer's interrupt. On a machine of its own it takes a microsecond or two; in a virtual machine the hypervisor has
to be asked for it twice, and it takes 15 to 30, which is the better part of a cut. So looks come where they are likely to find
somebody: eight in the time from one visit to the next, a quarter to half a millisecond apart. Where visits are further apart
than 30 ms there are none, and who comes waits for the slice to end.

How far visits are apart falls faster than it rises: a rest is no reason to let those who come after it wait. Where they are
frequent slices do not grow in every pause, but in one that is longer than chance would have it.

Policy only: times are arguments.
"""

from __future__ import annotations

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

_LOOKS = 8  # from one visit to the next
LOOK_NS = 250_000  # from one look to the next, at least
LONGEST_LOOK_NS = 500_000
OFTEN_NS = 30_000_000
# A pause is long after so many times the usual one.
_PATIENCE = 12
FIRST_GAP_NS = 1_000_000_000
_LEAST_NS = 1_000
_FALLS, _RISES = 4, 16


@cython.final
@cython.cclass
class Visits:
    """To one core. Times are its clock's, in ns."""

    at: int  # when the last one was
    gap_ns: int  # how far they are apart

    def __init__(self) -> None:
        self.at = 0
        self.gap_ns = FIRST_GAP_NS

    def note(self, now: int) -> None:
        """Somebody has come while a slice ran."""
        gap = min(max(now - self.at, _LEAST_NS), _RISES * self.gap_ns)  # by one it is at most doubled
        self.at = now
        self.gap_ns += (gap - self.gap_ns) // (_FALLS if gap < self.gap_ns else _RISES)

    def look_ns(self) -> int:
        """From one look to the next. 0: they cost more than they bring."""
        if self.gap_ns > OFTEN_NS:
            return 0
        return min(max(self.gap_ns // _LOOKS, LOOK_NS), LONGEST_LOOK_NS)

    def have_paused(self, now: int) -> bool:
        """Whether the next is not to be expected soon."""
        return self.gap_ns > OFTEN_NS or now - self.at >= _PATIENCE * self.gap_ns
