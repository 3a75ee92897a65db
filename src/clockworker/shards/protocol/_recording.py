"""A recording of what a shard's executor did, as it is passed on: `_trace` writes one, tools read it."""

from __future__ import annotations

import msgspec

# Of a step, or of a slice of one that was cut: queue, name, when it began, how long it took, what others had of that, how many
# of its queue were left runnable.
WORDS = 6
# Of a slice: which step it is among those recorded; its number in the step that was cut, from 1; whether that goes on after it.
SLICE_WORDS = 3


class QueueTrace(msgspec.Struct, frozen=True):
    """A queue, and what its statistics count between the start of the recording and its end."""

    name: str
    busy_ns: int
    polls: int
    cuts: int = 0


class Recorded(msgspec.Struct, frozen=True):
    """Times are the monotonic clock's, in ns. steps: `WORDS` words each. turns: two each, when it began and ended. slices:
    `SLICE_WORDS` each, of those among the steps that are slices. whole: whether it lasted as long as it should."""

    shard: int
    pid: int
    started_ns: int
    ended_ns: int
    whole: bool
    queues: list[QueueTrace]
    names: list[str]  # "task" or "task (group)"
    steps: bytes
    turns: bytes
    slices: bytes = b""
