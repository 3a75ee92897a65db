"""When a shard is at rest, and what that changes. Pure: times are arguments.

A shard that has nothing to do should cost nothing. Whatever is done all the time to see that it is well (its loop writes a
beat, the supervisor looks, readings are written) is done `BEAT_S` by `BEAT_S` while it works, and once in a `pace` while
it rests: a wake-up costs more than what is done in it. So that several things a shard does at that pace need one wake-up and
not one each, all of them are done at multiples of it.

The first work after a rest ends it before it begins: the executor says so (`Executor.when_stirred`), the shard beats, and
tells the supervisor, who would otherwise come to a stall too late. Callbacks of the application that are in no task pass
the executor by. If they take much time that shows in the CPU clock at the next beat; a first one that stands still is
found at the slow pace.
"""

from __future__ import annotations

# How often a loop that works writes that it turns.
BEAT_S = 0.1

# How long it must have had nothing to do before it rests.
REST_AFTER_S = 0.5

# More CPU time than this part of the time is work, whichever thread does it.
BUSY = 0.02

# So long after the shards the supervisor has its turn: it should find what they have just written.
SUPERVISOR_AFTER_S = 0.1


class Rest:
    __slots__ = ("_at", "_cpu", "_turns", "_worked")

    def __init__(self) -> None:
        self._at = 0.0
        self._cpu = 0.0
        self._turns = -1
        self._worked = 0.0  # when work was seen last

    def look(self, now: float, turns: int, cpu: float) -> bool:
        """Whether the shard is at rest. turns: of its executor; cpu: seconds that the process has used."""
        if turns != self._turns or cpu - self._cpu > BUSY * (now - self._at):
            self._worked = now
        self._at, self._turns, self._cpu = now, turns, cpu
        return now - self._worked >= REST_AFTER_S


def next_tick(now: float, pace: float, after: float = 0.0) -> float:
    """The next multiple of the pace, which everybody on the machine has at the same time, and so many seconds `after` it. Not
    one that a timer of some resolution may just have been early for."""
    return ((now - after + 0.05 * pace) // pace + 1) * pace + after
