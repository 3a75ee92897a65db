"""A shard's life as a table, and when a dead one is started again. Pure: the time is an argument.

    stopped ──> starting ──> ready ──> draining ──> stopped
                   │ │         │          ▲
                   │ └─────────┼──────────┘      told to stop while starting
                   └────┬──────┘
                        ▼
                      dead ──> back-off ──> starting

Every change of state goes through `Lifecycle.to`, so that a transition nobody thought of is an error at the place where
it happens rather than a strange supervisor an hour later. A shard that ends while draining has stopped, however it
ended; one that ends otherwise is dead. The table is h11's idea, the limit on starts systemd's (`StartLimitBurst`).
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import msgspec

from clockworker._errors import UsageError


class State(Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"
    BACKOFF = "back-off"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.READY, State.DRAINING, State.DEAD}),
    State.READY: frozenset({State.DRAINING, State.DEAD}),
    State.DRAINING: frozenset({State.STOPPED}),
    State.DEAD: frozenset({State.BACKOFF, State.STOPPED}),
    State.BACKOFF: frozenset({State.STARTING, State.STOPPED}),
}


# What is left of a death that is as good as forgotten.
_FORGOTTEN = 0.1


class Lifecycle:
    """The state of one shard. Every change goes by the table."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.STOPPED

    def to(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise UsageError(f"a shard that is {self.state.value} cannot become {state.value}")
        self.state = state


class RestartPolicy(msgspec.Struct, frozen=True):
    """Times in seconds. The first restart is immediate, the second waits `delay`, each further one twice as long.

    More than `max_starts` within `window` is a crash loop, whatever their cause. A death is forgotten over so long a time of
    being ready, little by little, and over the same time starts are counted. So whatever a shard's span of life is, it is
    caught by the one or the other: the shorter, the more each death counts; and one that lives for the whole window and dies
    is started again at once each time, which is seldom enough.

    Of a server that has never served, starts are counted and not timed: however long each takes, because the application does
    or because others have the CPU, what has failed `max_starts` times in a row ends. Later there is something to lose by that:
    what a start waits for may come back, and until then the others serve.
    """

    delay: float = 0.1
    max_delay: float = 5.0
    max_starts: int = 5
    window: float = 10.0


class Restarts:
    """The history of one shard's starts, and the answer to "when may it start again?"."""

    __slots__ = ("_failures", "_policy", "_ready_at", "_refused", "_starts", "_was_ready")

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._starts: deque[float] = deque(maxlen=policy.max_starts)
        self._ready_at: float | None = None
        self._was_ready = False  # since the first of the starts
        self._failures = 0.0  # deaths that are not forgotten
        self._refused = 0  # starts in a row

    def started(self, now: float) -> None:
        self._starts.append(now)
        self._ready_at = None

    def forget(self) -> None:
        """What comes next is no restart: the shard stopped in good order, and is replaced."""
        self._starts.clear()
        self._was_ready = False
        self._failures = 0.0

    def became_ready(self, now: float) -> None:
        self._ready_at = now
        self._was_ready = True
        self._refused = 0

    def refused(self) -> float:
        """The system had no process, memory or descriptor for the last start, which says nothing of the shard: it does not
        count. Such shortages pass. Returns the delay until the next start."""
        if self._starts:
            self._starts.pop()
        self._refused += 1
        return min(self._policy.max_delay, self._policy.delay * 2.0 ** min(self._refused - 1, 30))

    def died(self, now: float, *, give_up: bool = True, timed: bool = True) -> float | None:
        """The delay until the next start, or None if that start would make a crash loop. give_up: else there is none, and
        the delay is the longest. timed: whether the window matters to a shard that has not been ready."""
        policy = self._policy
        if self._ready_at is not None:
            self._failures = max(0.0, self._failures - (now - self._ready_at) / policy.window)
        delay = 0.0
        if self._failures > _FORGOTTEN:
            delay = round(min(policy.max_delay, policy.delay * 2.0 ** (self._failures - 1)), 2)
        self._failures += 1
        timed = timed or self._was_ready
        if len(self._starts) == policy.max_starts and (not timed or now + delay - self._starts[0] < policy.window):
            return None if give_up else policy.max_delay
        return delay
