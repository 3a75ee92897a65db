"""The event loop that goes by a `Clock`: asyncio's own, with another clock and a selector that does not wait.

A selector is all that has to be replaced. asyncio asks it for events, and says how long it may wait for them: until the next
timer, for ever, or not at all because something is runnable. In the first two cases nothing is left to do.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import selectors
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple, Unpack

from clockworker._errors import UsageError

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_Events = list[tuple[selectors.SelectorKey, int]]

_SHOWN = 8  # tasks in the message of a loop that can't go on


class Time(Protocol):
    """A `Clock`, as its loop knows it."""

    threshold: float
    patience: float

    @property
    def now(self) -> float: ...

    def begin(self, loop: asyncio.AbstractEventLoop, dice: int) -> None: ...

    def end(self, loop: asyncio.AbstractEventLoop) -> None: ...

    def entered(self) -> None: ...

    def moves(self, timeout: float | None) -> bool: ...

    def go_on(self, timeout: float | None) -> None: ...


class _Selector(selectors.BaseSelector):
    """The best there is, and what it does instead of waiting."""

    def __init__(self) -> None:
        self.real = selectors.DefaultSelector()
        self.idle: Callable[[float | None], _Events]

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self.real.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self.real.get_map()

    def get_key(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self.real.get_key(fileobj)

    def close(self) -> None:
        self.real.close()

    def select(self, timeout: float | None = None) -> _Events:
        events = self.real.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        return self.idle(timeout)


class WoundLoop(asyncio.SelectorEventLoop):
    """dice: 0, or makes steps take different times, see `executor._clock_cy`."""

    def __init__(self, clock: Time, dice: int) -> None:
        self._wound = clock
        self._working = 0  # threads that have something of ours to do
        self._real = _Selector()
        self._real.idle = self._idle
        super().__init__(self._real)
        try:
            clock.begin(self, dice)
        except BaseException:
            super().close()
            raise
        self._own = len(self._real.get_map())  # what asyncio itself listens to: other threads and signals

    def time(self) -> float:
        return self._wound.now

    def run_forever(self) -> None:
        self._wound.entered()
        super().run_forever()

    def close(self) -> None:
        if not self.is_running():
            self._wound.end(self)
        super().close()

    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._working += 1
        future.add_done_callback(self._worked)
        return future

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        # It waits for threads, from 3.12 on with a timeout by this clock.
        self._working += 1
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._working -= 1

    def _worked(self, future: object) -> None:
        self._working -= 1

    def _idle(self, timeout: float | None) -> _Events:
        """Nothing is runnable until then, and no event has come."""
        clock, select = self._wound, self._real.real.select
        watched = len(self._real.get_map()) > self._own
        if self._working == 0 and clock.moves(timeout):
            if watched and clock.threshold and (events := select(clock.threshold)):
                return events
            clock.go_on(timeout)
            return []
        if watched and not self._working:  # who knows who is at the other end
            return select(None)
        if not (events := select(clock.patience)):
            raise stuck(clock, self, timeout, self._working)
        return events


def stuck(clock: Time, loop: asyncio.AbstractEventLoop, timeout: float | None, threads: int) -> UsageError:
    """What to say of a loop that can't go on."""
    waiting = sorted(filter(None, map(_waiting, asyncio.all_tasks(loop))))
    shown = "".join(f"\n    {line}" for line in waiting[:_SHOWN])
    more = f"\n    and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
    if threads:
        why = f"the clock for {threads} threads that work for the loop and do not end"
    elif timeout is None:
        why = "no timer is set and nobody is there to wake them"
    else:
        why = (
            f"the next timer is due in {timeout:g} s and nobody winds the clock: `await clock.advance({timeout:g})` in a task, "
            "or Clock(autojump=True)"
        )
    return UsageError(f"all tasks wait, at {clock.now:g} s; {why}. What waits:{shown}{more}")


def _waiting(task: asyncio.Task[Any]) -> str | None:
    """Where a task of the test waits, as deep as it can be followed outside of asyncio; None for one of ours."""
    coroutine: Any = task.get_coro()
    name = getattr(coroutine, "__qualname__", repr(coroutine))
    place = ""
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if frame.f_code.co_filename.startswith(os.path.dirname(asyncio.__file__)):
            break
        if not place and os.path.dirname(frame.f_code.co_filename) == os.path.dirname(__file__):
            return None
        place = f", at {frame.f_code.co_filename}:{frame.f_lineno}"
        coroutine = coroutine.cr_await
    return f"{task.get_name()}: {name}{place}"
