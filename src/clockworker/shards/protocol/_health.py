"""When a shard's loop counts as stalled, and when as hung. Pure: times, in seconds, are arguments.

A loop that turns writes the time into shared memory (`_pulse`); how old that time is, is the age judged here. An age over
`stalled_after` is worth a report, while whatever holds up the loop can still be seen; an age over `hung_after` is the
end. A loop at rest (`_rest`) writes at a slower pace, and for so much longer its age is none of `lateness`.

Time in which the supervisor did not run either is nobody's fault: the machine was suspended, the container frozen, the
whole group stopped from a terminal or in a debugger. All shards look hung at the first look after it, and killing them
all would turn a nap into an outage. So the supervisor's own looks are watched as well: of a gap between two of them no
more than `MAX_LATE_S` beyond its length counts, and the look after it judges nobody.
"""

from __future__ import annotations

import math
from enum import Enum

import msgspec

from clockworker.shards.protocol._rest import BEAT_S

# A look every LOOK_S while any loop works or is late: twice as often as a beat, so that a stall of twice `stalled_after` is
# reported while it lasts, wherever between two beats and two looks it began. One that is later than MAX_LATE_S: the
# supervisor cannot have been running.
LOOK_S = 0.05
MAX_LATE_S = 0.4


class HealthPolicy(msgspec.Struct, frozen=True):
    """Seconds. A stall that goes on is reported again at `again` times the age of the report before. `hung_after` 0:
    never."""

    stalled_after: float = 0.15
    again: float = 8.0
    hung_after: float = 30.0

    @property
    def pace(self) -> float:
        """How often a loop at rest beats, and is looked at: seldom, but so that a limit is kept."""
        return min(1.0, max(BEAT_S, self.hung_after / 4)) if self.hung_after else 1.0


class Verdict(Enum):
    FINE = "fine"
    STALLED = "stalled"  # report it
    HUNG = "hung"  # kill it


class Looks:
    """The supervisor's own. `lost` is the time between them in which it did not run; `lost_before`, what it was at the look
    before."""

    __slots__ = ("_due", "lost", "lost_before")

    def __init__(self) -> None:
        self._due = math.inf
        self.lost = self.lost_before = 0.0

    def plan(self, due: float) -> None:
        """When the next one will be."""
        self._due = due

    def look(self, now: float) -> bool:
        """False if this is the first look after a gap."""
        late = now - self._due
        self.lost_before = self.lost
        self.lost += max(0.0, late - MAX_LATE_S)
        return late <= MAX_LATE_S


class Health:
    """Of one incarnation of a shard."""

    __slots__ = ("_beat", "_lost", "_next_report", "_patience", "_policy")

    def __init__(self, policy: HealthPolicy) -> None:
        self._policy = policy
        self._beat = 0.0
        self._lost = 0.0  # when this beat was written
        self._patience = 0.0
        self._next_report = policy.stalled_after

    def see(self, pace: float, beat: float, lost: float) -> None:
        """Take note of the beat. `lost` is that of the look; at the first after a gap, of the look before, since a beat that
        is new then may have been written before the gap."""
        self._patience = max(0.0, pace - BEAT_S)
        if beat != self._beat:
            self._beat = beat
            self._lost = lost
            self._next_report = self._policy.stalled_after

    def age(self, now: float, lost: float) -> float:
        """Of the beat, less the time that was lost meanwhile. 0 where there is no beat, before the loop and after it."""
        return max(0.0, now - self._beat - (lost - self._lost)) if self._beat else 0.0

    def forgive(self, now: float, lost: float) -> None:
        """The loop could not turn until now, and that was not its fault: from here on its time counts again."""
        self._lost -= self.age(now, lost)

    def lateness(self, now: float, lost: float) -> float:
        """The age, of a loop at rest less the time for which it had said that it would not beat."""
        return max(0.0, self.age(now, lost) - self._patience)

    def is_late(self, now: float, lost: float) -> bool:
        """Whether the loop stands still, so that it should be spared new work."""
        return self.lateness(now, lost) > self._policy.stalled_after

    def judge(self, now: float, lost: float) -> Verdict:
        """What is to be done, at a look that is not the first after a gap."""
        if self._policy.hung_after and self.age(now, lost) > self._policy.hung_after:
            return Verdict.HUNG
        late = self.lateness(now, lost)
        if late > self._next_report:
            self._next_report = late * self._policy.again
            return Verdict.STALLED
        return Verdict.FINE
