"""The lifespan of an ASGI application: its start-up before the first request, its shutdown after the last one.

One task runs both, because what an application opens at its start (a task group, a cancel scope) can be closed in that task
alone.

Whether an application has a lifespan only calling it tells. One that raises before it awaits `receive()`, or returns, or
answers with something that is no event of a lifespan, does not know what it was asked: under `auto` it has none, and is served.
One that has taken `lifespan.startup` knows, and what it raises then is a failed start: the server ends. uvicorn's `auto` takes
that, too, for "no lifespan" unless `lifespan.startup.failed` came before, and serves an application that has not started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from enum import Enum
from typing import Any, TypeAlias

from clockworker._errors import ApplicationError
from clockworker.shards.config._application import format_traceback
from clockworker.shards.config._http import LifespanMode

log = logging.getLogger("clockworker.shard")

Message: TypeAlias = MutableMapping[str, Any]
AsgiApplication: TypeAlias = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[object],
]

# An application that says that it has failed mostly raises the reason right after. Seconds that it has for that.
REASON_S = 1.0

_OFF = "if it is to be served without a lifespan, add --lifespan off"


class State(Enum):
    CALLED = "called"  # and has received nothing
    STARTING = "starting"
    START_FAILED = "start failed"
    SERVING = "serving"
    STOPPING = "stopping"
    STOP_FAILED = "stop failed"
    ENDED = "ended"


# What an application may say, and what follows.
SAID = {
    (State.CALLED, "lifespan.startup.complete"): State.SERVING,
    (State.CALLED, "lifespan.startup.failed"): State.START_FAILED,
    (State.STARTING, "lifespan.startup.complete"): State.SERVING,
    (State.STARTING, "lifespan.startup.failed"): State.START_FAILED,
    (State.STOPPING, "lifespan.shutdown.complete"): State.ENDED,
    (State.STOPPING, "lifespan.shutdown.failed"): State.STOP_FAILED,
}


class Lifespan:
    """Of one application in one shard.

    mode: `auto`; `on`: an application without a lifespan fails; `off`: it is not called.
    state: the scope's, which the application fills.
    spawn: starts the lifespan's task, in the queue in which it is to run.
    """

    def __init__(
        self,
        app: AsgiApplication,
        mode: LifespanMode,
        state: dict[str, Any],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._app = app
        self._mode = mode
        self._spawn = spawn
        self._scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
        self._state = State.ENDED
        self._unknown = False  # the application has shown that it does not know what a lifespan is
        self._said = ""  # why it has failed
        self._error: BaseException | None = None  # that it has raised
        self._failure: ApplicationError | None = None
        self._handle: object = None  # a loop holds its tasks weakly
        self._task: asyncio.Task[Any] | None = None
        self._started, self._stop, self._stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._done = asyncio.Event()  # the task is

    async def startup(self) -> None:
        """Return when the application has started, or turns out to have no lifespan. Raises `ApplicationError` if its start
        fails, whose cause is what it has raised."""
        if self._mode == "off":
            return
        self._state = State.CALLED
        self._handle = self._spawn(self._run())
        try:
            await self._started.wait()
            if self._state is State.START_FAILED:
                await self._wait_for_reason()
                self._failure = self._failed()
        except asyncio.CancelledError:
            self._cancel()
            raise
        if self._failure is not None:
            raise self._failure from self._error

    async def shutdown(self) -> None:
        """Return when the application has shut down, at once if it has no lifespan. What goes wrong is logged."""
        if self._state is not State.SERVING:
            return
        self._state = State.STOPPING
        self._stop.set()
        await self._stopped.wait()
        if self._state is State.STOP_FAILED:
            await self._wait_for_reason()
            log.error("the application's shutdown has failed%s", self._reason())

    def log_cut(self) -> None:
        """The grace is over."""
        if self._state is State.STOPPING:
            log.warning("the application has not finished its lifespan's shutdown, and is cut")

    # The task.

    async def _run(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self._app(self._scope, self._receive, self._send)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit, too, ends a lifespan and not the loop
            self._error = error
        finally:
            self._end()

    async def _receive(self) -> Message:
        if self._state is State.CALLED:
            self._state = State.STARTING
            return {"type": "lifespan.startup"}
        await self._stop.wait()
        self._stop = asyncio.Event()  # whoever asks again has been told, and waits
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = str(message.get("type"))
        state = SAID.get((self._state, kind))
        if state is None:
            self._unknown = not kind.startswith("lifespan.")
            right = " or ".join(said for before, said in SAID if before is self._state) or "nothing"
            raise RuntimeError(f"a lifespan that is {self._state.value} sends {right}, and the application sent {kind}")
        self._state = state
        if state in (State.START_FAILED, State.STOP_FAILED):
            self._said = str(message.get("message", "")).strip()
        (self._stopped if self._started.is_set() else self._started).set()

    def _end(self) -> None:
        """The application has returned, raised or been cancelled."""
        state, error = self._state, self._error
        if state is State.CALLED or (state is State.STARTING and self._unknown):
            if self._mode == "on":
                self._failure = ApplicationError(f"the application has no lifespan, and --lifespan is on{self._why()}")
        elif state is State.STARTING:
            self._failure = self._failed()
        elif error is not None and state is not State.START_FAILED and state is not State.STOP_FAILED:
            when = "while it served; there will be no shutdown" if state is State.SERVING else "at its shutdown"
            log.error("the application's lifespan raised %s\n%s", when, format_traceback(error))
        if state is not State.START_FAILED and state is not State.STOP_FAILED:
            self._state = State.ENDED
        for event in (self._started, self._stopped, self._done):
            event.set()

    # Failures.

    async def _wait_for_reason(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REASON_S):
                await self._done.wait()
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._done.is_set():
            self._task.cancel()

    def _failed(self) -> ApplicationError:
        what = "the application's start-up has failed"
        if self._error is None and not self._said:
            what = "the application's lifespan has ended without lifespan.startup.complete"
        hint = f"; {_OFF}" if self._mode == "auto" and not self._said else ""
        return ApplicationError(f"{what}{self._why()}{hint}")

    def _why(self) -> str:
        """For the end of a line."""
        if self._error is not None:
            return f": {type(self._error).__name__}: {self._error}"
        return f": {self._said}" if self._said else ""

    def _reason(self) -> str:
        return self._why() if self._error is None else f"\n{format_traceback(self._error)}"
