"""Few places, threads or processes, for functions that would hold up the loop: what both have in common.

No more than so many calls at once; later ones wait in the loop, fairly between accounts (`_line`), and a caller that waits can
still leave. A place is given back on the loop, however the function ends. The stop of a shard waits for all, and names what it
waits for before its grace ends. A wait that is long is said in the log, with what has the places.

Every call ends: with the function's result, with its exception, or with a RuntimeError in place of an exception that would
mean something else to the caller's task. StopIteration and GeneratorExit would end its coroutine (the first of which no asyncio
future takes), CancelledError would say that the task was cancelled.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from clockworker._errors import UsageError
from clockworker.shards.logs._log_limit import Limiter, more
from clockworker.shards.worker._line import Line

log = logging.getLogger("clockworker.shard")

LONG_WAIT_S = 2.0  # for a place: said in the log
_SAY_AFTER_S = 0.5  # of a stop that waits; the next line comes after five times as long
_NAMED = 3  # functions in one line


class Called(Protocol):
    """A call: a function, or the name of what is called, whose account and since when, and who waits for it."""

    what: Callable[..., object] | str
    account: object
    since: float
    future: asyncio.Future[Any]

    def describe(self) -> str:
        """`app.read (4.1 s, ...)`, of one that runs."""


C = TypeVar("C", bound=Called)


class Words(NamedTuple):
    """How the log calls a place, several of them, what is called, and the option that says how many there are."""

    place: str
    places: str
    call: str
    option: str


class Places(Generic[C]):
    """At most `places` calls run at once."""

    def __init__(self, places: int, words: Words) -> None:
        self._places = places
        self._words = words
        self._running: set[C] = set()
        self._waiting = Line[C]()  # only while every place that can be had has something to do
        self._idle = asyncio.Event()
        self._refusal: str | None = None
        self._look: asyncio.TimerHandle | None = None
        self._complaints = Limiter()

    def _start(self, call: C) -> bool:
        """False if one of the places that there are must take it, later. RuntimeError if there is none, and none to be had."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait until no call runs, and none waits. More may follow: a drained shard still serves its peers."""
        say_after = _SAY_AFTER_S
        while self._running or self._waiting:
            try:
                async with asyncio.timeout(say_after):
                    await self._idle.wait()
            except TimeoutError:
                say_after *= 5
                waiting = f", and {self.waiting} calls for a {self._words.place}" if self._waiting else ""
                log.warning("the stop waits for %s: %s%s", self._words.places, self._describe(), waiting)

    @property
    def running(self) -> int:
        """Functions that run now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiting)

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise UsageError(self._refusal)

    def _enter(self, call: C) -> None:
        """It begins, or waits."""
        self._idle.clear()
        if len(self._running) >= self._places or not self._begin(call):
            self._waiting.add(call)
            if self._look is None:
                self._look = call.future.get_loop().call_later(LONG_WAIT_S, self._look_at_line)

    def _leave(self, call: C) -> None:
        """Nobody waits for it any more: unless it runs, it is forgotten."""
        call.future.cancel()  # unless it is done
        self._waiting.remove(call)
        self._tell_if_idle()

    def _end(self, call: C) -> None:
        """Its place is free."""
        self._running.discard(call)
        self._waiting.give_back(call.account)
        self._begin_waiting()
        self._tell_if_idle()

    def _begin(self, call: C) -> bool:
        if not self._start(call):
            return False
        self._running.add(call)
        self._waiting.hold(call.account)
        return True

    def _begin_waiting(self) -> None:
        while self._waiting and len(self._running) < self._places:
            call = self._waiting.next()
            if not call.future.done():
                try:
                    if not self._begin(call):
                        return
                except RuntimeError as error:
                    call.future.set_exception(error)
            self._waiting.pass_on(call)

    def _tell_if_idle(self) -> None:
        if not self._running and not self._waiting:
            self._idle.set()

    def _look_at_line(self) -> None:
        self._look = None
        if not self._waiting:
            return
        oldest, now = self._waiting.oldest(), time.monotonic()
        waited = now - oldest.since
        if waited >= LONG_WAIT_S and (unsaid := self._complaints.may_say(now)) is not None:
            log.warning(
                "%s has waited %.1f s for a %s, as %d calls do; %s is %d, and in them are: %s%s",
                oldest.what if isinstance(oldest.what, str) else f"{self._words.call}({name_of(oldest.what)})",
                waited,
                self._words.place,
                self.waiting,
                self._words.option,
                self._places,
                self._describe(),
                more(unsaid),
            )
        delay = LONG_WAIT_S if waited >= LONG_WAIT_S else LONG_WAIT_S - waited
        self._look = oldest.future.get_loop().call_later(delay, self._look_at_line)

    def _describe(self) -> str:
        """The functions that run, the longest first."""
        calls = sorted(self._running, key=lambda call: call.since)
        rest = [f"{len(calls) - _NAMED} more"] if len(calls) > _NAMED else []
        return ", ".join([*(call.describe() for call in calls[:_NAMED]), *rest])


def bearable(error: BaseException, what: Callable[..., object] | str) -> BaseException:
    """The exception, or one that the caller's task can be given in its place."""
    if isinstance(error, StopIteration | GeneratorExit | asyncio.CancelledError):
        return replaced(error, what)
    return error


def replaced(error: BaseException, what: Callable[..., object] | str) -> RuntimeError:
    """One that says which it was."""
    said = RuntimeError(f"{name_of(what)} raised {type(error).__name__}")
    said.__cause__ = error
    return said


def name_of(function: object) -> str:
    """`module.function`. It is the application's object, whose attributes may do what they like. A text is a name."""
    if isinstance(function, str):
        return function
    try:
        while isinstance(function, functools.partial):
            function = function.func
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
        return f"{module}.{name}" if module and name else str(name or type(function).__qualname__)
    except Exception:
        return type(function).__qualname__
