"""A recording of what a shard's executor did, as it is passed on: `_trace` writes one, tools read it."""

from __future__ import annotations

import msgspec

# Of a step, or of a slice of one in a preemptive queue: queue, name, when it began, how long it took, what others had of that, how
# many of its queue were left runnable, and which slice it is.
WORDS = 7


def slice_word(number: int, cut: bool) -> int:
    """number: of the slice in its step, from 1; 0: the step was not cut. cut: whether the step goes on after it."""
    return number << 1 | cut


def slice_of(word: int) -> tuple[int, bool]:
    """What `slice_word` was given."""
    return word >> 1, bool(word & 1)


class QueueTrace(msgspec.Struct, frozen=True):
    """A queue, and what its statistics count between the start of the recording and its end."""

    name: str
    busy_ns: int
    polls: int
    cuts: int = 0


class Recorded(msgspec.Struct, frozen=True):
    """Times are the monotonic clock's, in ns. steps: `WORDS` words each. turns: two each, when it began and ended.
    whole: whether it lasted as long as it should."""

    shard: int
    pid: int
    started_ns: int
    ended_ns: int
    whole: bool
    queues: list[QueueTrace]
    names: list[str]  # "task" or "task (group)"
    steps: bytes
    turns: bytes
