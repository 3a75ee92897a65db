"""Time that a test winds by hand.

On a loop of a `Clock` an hour passes when the test says so, and takes as long as what happens in it: `loop.time()`, timers,
`asyncio.sleep`, `asyncio.timeout`, timeouts of calls on the own shard, and everything that an executor measures. Nothing else
moves it but, if that is wanted, a jump to the next timer whenever nothing is left to do (`autojump`).

*Winding is a way, not a distance.* `advance(3600)` stops at each timer on the way, at its exact time, and goes on when all has
been done that can be done then; so something that is due every second runs 3,600 times. `jump(3600)` is what a step that
computes for an hour does: time is later at once, and what was due meanwhile runs late.

*Nothing left to do* is what the loop says when it asks the kernel for events and is ready to wait. Then the clock may move,
unless a thread works for the loop (`run_in_executor`), for which it waits in real time, or a socket brings something within
`threshold` seconds of that.

*A test that can't go on is told so.* Where the clock may not move, nothing is runnable and nobody is there who could change
that, a loop waits for ever. This one waits `patience` seconds of real time, for a thread that nobody has told it of, and then
raises UsageError with what waits.

The executor's clock runs on beside: each step of a task takes `step` seconds of it, which count in statistics, slices and
schedulers, and not in `loop.time()`; else no step would cost anything, and the first queue with something to do would have the
thread for ever. So statistics repeat exactly, and say how many steps there were rather than how long they took.

Taken from trio's MockClock: the jump when all is idle, and its threshold. Rejected: a loop of our own, for asyncio's asks its
selector how long to wait and tells it of nothing else, which is all that has to be known; and uvloop, whose timers are libuv's
own and can't be wound. `time.monotonic()` and `time.time()` stay real: code that wants to be tested asks its loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math

from clockworker._errors import ConfigurationError, UsageError
from clockworker.executor import _clock_cy as executor_clock
from clockworker.testing._loop import WoundLoop

PATIENCE_S = 10.0
_NS = 1_000_000_000


class Clock:
    """Wound by a test: `await clock.advance(60)`. It stands still otherwise.

    autojump: go to the next timer by itself whenever nothing is left to do, so that a test only sleeps. May be set at any time.
    step: seconds that a step of a task takes by the executor's clock (not by `loop.time()`).
    threshold: seconds, real ones, for which sockets that are being read or written must have brought nothing before the clock
        moves. What comes from another process takes longer: wait for that, not for the clock.
    patience: seconds, real ones, after which a test that can't go on ends in UsageError.

    Raises ConfigurationError for times that are none.

    One clock at a time winds in a process, and one loop at a time goes by it.
    """

    def __init__(
        self, *, autojump: bool = False, step: float = 1e-5, threshold: float = 0.001, patience: float = PATIENCE_S
    ) -> None:
        for name, value, least in (("step", step, 1e-9), ("threshold", threshold, 0), ("patience", patience, 0)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 1_000_000:
                raise ConfigurationError(f"{name} is {value!r}; it must be {least:g} to 1,000,000 seconds")
        self.autojump = autojump
        self.threshold = threshold
        self.patience = patience
        self._step_ns = round(step * _NS)
        self._now_ns = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._targets: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap: where somebody wants it to be
        self._turns = itertools.count()

    def __repr__(self) -> str:
        return f"<Clock at {self.now:g} s{', autojump' if self.autojump else ''}>"

    @property
    def now(self) -> float:
        """Seconds since the clock was made; `loop.time()` of its loop."""
        return self._now_ns / _NS

    async def advance(self, seconds: float) -> None:
        """Let so many seconds pass, as they would: all that is due in them runs when it is due, the last moment's included.

        `advance(0)` lets run what can run now. Other tasks may wait for advances of their own meanwhile.

        Raises ConfigurationError for less than 0 seconds, UsageError on a loop that does not go by this clock.
        """
        ns = _forwards("advance", seconds)
        loop = asyncio.get_running_loop()
        self._check(loop, "advance")
        reached: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._targets, (self._now_ns + ns, next(self._turns), reached))
        await reached

    def jump(self, seconds: float) -> None:
        """Let so many seconds pass at once, as a step that computes for so long does. In a step of an executor's task they are
        that step's. Raises ConfigurationError for less than 0 seconds."""
        ns = _forwards("jump", seconds)
        if self._loop is None:
            self._now_ns += ns
        else:
            self._move(ns)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A loop of asyncio's that goes by this clock: `asyncio.Runner(loop_factory=clock.new_event_loop)`. An executor runs on
        it as on any other; `clockworker.testing.new_event_loop` makes one that has an executor."""
        return WoundLoop(self, 0)

    # The loop's side

    def begin(self, loop: asyncio.AbstractEventLoop, dice: int) -> None:
        """This loop goes by it. dice: what steps take is drawn from this number; 0: all take the same."""
        executor_clock.begin_winding(self._step_ns, dice)
        self._loop = loop

    def end(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop is being closed."""
        if self._loop is loop:
            self._loop = None
            self._targets.clear()
            executor_clock.end_winding()

    def entered(self) -> None:
        """The loop runs, in the caller's thread."""
        executor_clock.wind(0)

    def moves(self, timeout: float | None) -> bool:
        """Whether it would go on by itself with nothing runnable. timeout: seconds to the next timer; None, there is none."""
        self._drop_targets()
        return bool(self._targets) or (self.autojump and timeout is not None)

    def go_on(self, timeout: float | None) -> None:
        """To the next stop. All is done that can be done now. timeout: as in `moves`, in seconds."""
        if self._targets and self._targets[0][0] <= self._now_ns:
            heapq.heappop(self._targets)[2].set_result(None)  # one: what it does comes before the next
            return
        stops = [target - self._now_ns for target, _, _ in self._targets[:1]]
        if timeout is not None:
            stops.append(max(1, round(timeout * _NS)))
        self._move(min(stops))

    def _drop_targets(self) -> None:
        while self._targets and self._targets[0][2].done():  # cancelled
            heapq.heappop(self._targets)

    def _move(self, ns: int) -> None:
        self._now_ns += ns
        executor_clock.wind(ns)

    def _check(self, loop: asyncio.AbstractEventLoop, what: str) -> None:
        if self._loop is not loop:
            raise UsageError(
                f"{what}() of a clock that the running loop does not go by: run the test by clockworker.testing.run(..., "
                "clock=clock), or on a loop from clock.new_event_loop()"
            )


def _forwards(what: str, seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ConfigurationError(f"{what}({seconds!r}): a clock is wound forwards, by 0 seconds or more")
    return round(seconds * _NS)
