"""Controlled: a queue whose share follows a goal. A job should be done at a certain time, and not earlier than it must.

Glommio has such queues for work that must keep up with something, compaction with writes, say, at the least cost to all else.
The controller here looks at the job now and then and asks three questions:

- What does it cost? The CPU time that its queue has used for the progress that it has made, the last of it counting most.
- What does it need? That cost, for what is left of the job, in the time that is left: a part u of the core.
- How is it to have that, and no more? No more: by a limit (`_paced_cy`), since a share alone gives it all that others leave,
  and a job that has a night would be done in an hour. That much: by a share. As long as it gets u with the share that it has,
  others leave enough, and the share sinks; it need not stand in anybody's way. When it has had too little the share doubles, up
  to what is worth u even while all other queues are busy: u / (1 - u) of their shares together, and some more, so that it can
  catch up.

So nothing has to be tuned: what a share is worth is known, and there is nothing to find out by trying, as a controller with
gains would. Each look starts from what is left, so an error of the one before is made good by the next, and so are bursts of
others. Towards the end what is left is divided by little time; the last hundredth is left free for that.

Policy is in `Goal`, which is told the time and reads no clock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from clockworker._errors import ConfigurationError, UsageError
from clockworker.executor._eevdf_cy import MAX_SHARE
from clockworker.executor._handles_cy import QueueHandle
from clockworker.executor._paced_cy import begin_pacing, end_pacing
from clockworker.executor._queue import check_share

_LOOKS = 200  # from beginning to end
_LEAST_S, _MOST_S = 0.002, 1.0  # between two looks
_FREE = 0.01  # of the time, at its end
_MORE = 1.25  # than its need, in shares: what others have had of its time comes back
_AT_LEAST = 0.02  # of what is left by its progress, however much it has had since
_ENOUGH = 0.8  # of what was wanted, lately: then the share need not rise
_LATELY = 0.05  # how much the last look counts in that: bursts of others pass, and what they took is made good
_RECENT = 0.2  # how much the cost of the last piece of progress counts


class Need(msgspec.Struct, frozen=True):
    """part: of the core, which the job is to have. math.inf: as much as it can get. None: nothing is known yet."""

    part: float | None
    done: bool = False


class Goal:
    """What a job needs, from what it has had and what came of that. Times in seconds of one clock, service in nanoseconds."""

    def __init__(self, now: float, finish: float) -> None:
        self.began = now
        self._ends = now + finish * (1 - _FREE)
        self._progress = 0.0
        self._service_ns = 0  # when there was that progress
        self._cost_ns: float | None = None  # of the whole job, as the last pieces have it
        self.first = True

    def look(self, now: float, progress: float, service_ns: int) -> Need:
        """progress: 0 to 1. service_ns: what the queue has had since the beginning."""
        if progress >= 1:
            return Need(0.0, done=True)
        if self.first:
            self.first = False
            self._progress = progress  # it may have been begun before
            self._service_ns = service_ns
        elif progress > self._progress and service_ns > self._service_ns:
            cost_ns = (service_ns - self._service_ns) / (progress - self._progress)
            recent = 1.0 if self._cost_ns is None else min(1.0, _RECENT + progress - self._progress)
            self._cost_ns = cost_ns if self._cost_ns is None else self._cost_ns + recent * (cost_ns - self._cost_ns)
            self._progress, self._service_ns = progress, service_ns
        if now >= self._ends:
            return Need(math.inf)
        if self._cost_ns is None:
            return Need(None)
        # What it has had since its last progress is on the way to the next, which may cost more than those before.
        left_ns = self._cost_ns * (1 - self._progress)
        left_ns = max(left_ns * _AT_LEAST, left_ns - (service_ns - self._service_ns))
        return Need(left_ns / 1e9 / (self._ends - now))


def share_for(part: float, others: int, within: float, most: int) -> int:
    """The share that is worth so much of the core, beside `others` together, where they all have `within` of it at least."""
    wanted = part * _MORE / within
    if others == 0:
        return 1
    if wanted >= 1:
        return most
    return max(1, min(most, math.ceil(wanted / (1 - wanted) * others)))


def next_share(share: int, enough: int, wanted: float, got: float) -> int:
    """The next one. share: the present one. enough: that of `share_for`. wanted, got: lately, of the core."""
    if got < _ENOUGH * wanted:
        return min(enough, 2 * share)
    return max(1, min(enough, share - (share + 3) // 4))


class Controlled:
    """Raise and lower the share of a queue so that the job in it ends on time, and hold the queue back so that it ends no
    earlier.

        with cw.Controlled(executor.queue("compaction"), finish=3600, progress=lambda: done / total):
            await compact()

    queue: the running queue; all that runs in it counts as the job.
    finish: seconds from now.
    progress: a function that says how much is done, from 0 to 1. One that fails, or says what is no number, is reported once to
        the loop's exception handler; what it said before holds.
    most: the share that it may have at most, 10,000 unless given. With less than it needs, it may be late.

    It begins when it is made, in the executor's thread, and ends when all is done, by `stop()`, or with the block: then the
    queue has the share that it had before, and no limit. When the time is over and the job is not done, the queue has the share
    `most`, and no limit.

    Raises ConfigurationError for values that cannot be, and UsageError if the executor does not run or the queue is controlled
    already.
    """

    def __init__(
        self, queue: QueueHandle, *, finish: float, progress: Callable[[], float], most: int = MAX_SHARE
    ) -> None:
        if not isinstance(queue, QueueHandle):
            raise ConfigurationError(
                f"Controlled is of a running queue, such as executor.queue('jobs'), and not of {queue!r}"
            )
        if isinstance(finish, bool) or not isinstance(finish, int | float) or not 0 < finish < math.inf:
            raise ConfigurationError(f"finish is {finish!r}; it must be seconds from now, more than 0")
        if not callable(progress):
            raise ConfigurationError(f"progress is {progress!r}; it must be a function that returns 0 to 1")
        check_share(f"Controlled queue {queue.key!r}, at most,", most)
        core: Any = queue._core
        core.check_thread("Controlled")
        if core.loop is None:
            raise UsageError("Controlled needs a running executor: make it inside `async with`")
        if queue.key in _of(core):
            raise UsageError(f"queue {queue.key!r} is controlled already; stop() that first")
        self._core = core
        self._queue = queue
        self._progress = progress
        self._most = most
        self._loop: asyncio.AbstractEventLoop = core.loop
        self._before = queue.share
        self._began_ns = queue._queue.busy_ns
        self._seen = 0.0
        self._complained = False
        self._period = min(max(finish / _LOOKS, _LEAST_S), _MOST_S)
        self._goal = Goal(self._loop.time(), finish)
        self._timer: asyncio.TimerHandle | None = None
        # When last, what the queue had had, and what was wanted from then on; what was wanted and got lately, of the core.
        self._looked = (self._goal.began, 0, 0.0)
        self._lately = (0.0, 0.0)
        self._paced = begin_pacing(core, queue._queue)
        _of(core)[queue.key] = self
        self._look()

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return _of(self._core).get(self._queue.key) is self

    def stop(self) -> None:
        """The queue has its share again, and no limit."""
        if not self.active:
            return
        del _of(self._core)[self._queue.key]
        if self._timer is not None:
            self._timer.cancel()
        end_pacing(self._paced)
        self._core.set_share(self._queue._queue, self._before)

    def _look(self) -> None:
        self._timer = None
        if self._core.loop is None:  # the executor has ended
            self.stop()
            return
        now, service_ns = self._loop.time(), self._queue._queue.busy_ns - self._began_ns
        need = self._goal.look(now, self._ask(), service_ns)
        if need.done:
            self.stop()
            return
        if need.part is not None:
            others, within = self._core.owner._standing.others(self._core, self._queue.key)
            before, had_ns, wanted = self._looked
            got = (service_ns - had_ns) / 1e9 / (now - before) if now > before else wanted
            self._lately = (
                self._lately[0] + _LATELY * (wanted - self._lately[0]),
                self._lately[1] + _LATELY * (got - self._lately[1]),
            )
            enough = share_for(need.part, others, within, self._most)
            share = next_share(self._queue.share, enough, *self._lately)
            if need.part == math.inf:
                share = self._most
            self._looked = (now, service_ns, min(need.part, 1.0))
            if share != self._queue.share:
                self._core.set_share(self._queue._queue, share)
            self._paced.set_rate(need.part)
        self._timer = self._loop.call_later(self._period, self._look)

    def _ask(self) -> float:
        try:
            said = self._progress()
            if isinstance(said, bool) or not isinstance(said, int | float) or math.isnan(said):
                raise ConfigurationError(f"progress() returned {said!r}; it must return 0 to 1")
            self._seen = max(self._seen, min(1.0, said))
        except BaseException as error:
            if not self._complained:
                self._complained = True
                self._core.report("how much of a controlled job is done could not be found", error)
        return self._seen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "" if self.active else ", ended"
        return f"<Controlled {self._queue.key!r} share={self._queue.share} done={self._seen:.0%}{state}>"


def _of(core: Any) -> dict[Any, Controlled]:
    """The controlled queues of an executor."""
    controlled: dict[Any, Controlled] = core.owner._controlled
    return controlled
