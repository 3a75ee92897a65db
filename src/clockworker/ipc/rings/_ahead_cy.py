# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""When to ring ahead of news for a peer (`_doorbell_cy` says how, and why that is safe). Policy only: the time is an argument.

Who sends a call knows that there will be a frame, and rings before it encodes the arguments. For all else there is a habit to
go by: what follows news of a peer that has gone to sleep, the reply to its call or the next call after its reply, mostly takes
as long as it did before. So a link keeps a running mean of that time. While the mean is short the peer is rung the moment that
its news are seen, before they have been taken in: its core wakes up while we work.

The mean is of the last eight or so. Only what is asked of a sleeping peer is counted, for one that is awake needs no bell. What
took longer than 100 us counts as that, and so does what never came. So one in eight may be slow; and a peer that was woken for
nothing three times in a row is not rung ahead again before it has been answered quickly some fifteen times.

Rejected: a mean for each method (nothing is known of the method before the frame has been taken out and looked up; that is a
microsecond of the twenty that a core takes to wake up, in which the peer goes from where it wakes in ten to where it does not),
and a promise by the programmer (who knows the code and not the machine).
"""

from __future__ import annotations

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

# What follows within this time, on average, is rung ahead for: by then the core that it is for has just woken up.
_SOON_NS = 20_000
_LONGEST_NS = 100_000


@cython.final
@cython.cclass
class Habit:
    """How soon something for a peer follows its news."""

    mean_ns: int
    heard_ns: int  # when there was news of the peer, which slept then; 0: something has followed

    def __init__(self) -> None:
        self.mean_ns = _LONGEST_NS
        self.heard_ns = 0

    def hear(self, now_ns: int) -> bool:
        """There is news of the sleeping peer. True if it should be rung ahead of what follows."""
        if self.heard_ns:
            self.follow(self.heard_ns + _LONGEST_NS)
        self.heard_ns = now_ns
        return self.mean_ns < _SOON_NS

    def follow(self, now_ns: int) -> None:
        """Something for the peer has been published."""
        if self.heard_ns:
            self.mean_ns += (min(now_ns - self.heard_ns, _LONGEST_NS) - self.mean_ns) >> 3
            self.heard_ns = 0
