# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The seam: between asyncio and its tasks.

CPython's `asyncio.Task` asks its loop for every step and every wake-up by `loop.call_soon(callback, ..., context=...)`, where
`callback.__self__` is the task. An instance attribute `call_soon` on the loop sees them all, on asyncio's loops and on
uvloop's. What is not a step or a wake-up, or not of a task that the owner takes, passes straight through. Tasks stay genuine
`asyncio.Task`s. An attribute `call_soon_threadsafe` only takes note of what passes in the loop's own thread: steps that come
after that must not overtake it either.

Rejected: driving coroutines ourselves (nothing in the ecosystem would recognise the current task), a custom task factory
(sees births, not wake-ups), and subclassing a loop (a loop for each loop).

Compiled, the attribute is a builtin method that takes its arguments as an array (`seam_call_soon` in the .pxd): it is
called for every step of every task. It knows a step by its type, and a wake-up by its C function. Where CPython's are not what
we assume (`_cpython_cy`), they are recognised by what they look like, and wrapped in a `PlainStep`: whoever is beyond the seam
has only to do with what it knows.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._cpython_cy import STEP, WAKEUP, holds, task_behind

if cython.compiled:
    from cython.cimports.clockworker.executor._native import (
        PyCFunction_GET_FUNCTION,
        PyThread_get_thread_ident,
        call_without_arguments,
        getter_of,
        is_none,
        is_true,
        method_without_arguments,
        new_call_soon,
    )
else:
    PyThread_get_thread_ident = threading.get_ident


@cython.final
@cython.cclass
class PlainStep:
    """A step, or a wake-up, that C would not recognise: in the layout of CPython's own steps, and called like one."""

    task: asyncio.Task[Any]
    callback: Any
    args: tuple[Any, ...]

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("a PlainStep is not made: a task asks its loop for it")

    def __call__(self) -> object:
        return self.callback(*self.args)


_STEP_TYPE = type(STEP) if holds("step") else PlainStep
_PLAIN = not (holds("step") and holds("wakeup"))  # else some are not recognised by C
_ANY_FUTURE = holds("completed")
if cython.compiled:
    _WAKEUP = PyCFunction_GET_FUNCTION(WAKEUP) if holds("wakeup") else cython.NULL
    # They are asked after every step, and a look-up by name costs ten times as much.
    if holds("methods"):
        _DONE = method_without_arguments(asyncio.Task.done)
        _CANCELLED = method_without_arguments(asyncio.Task.cancelled)
        _RESULT = method_without_arguments(asyncio.Task.result)
        _EXCEPTION = getter_of(asyncio.Task._exception) if holds("exception") else cython.NULL
_EXCEPTION_TELLS = holds("exception")


def is_done(task: asyncio.Task[Any]) -> bool:
    if cython.compiled:
        return is_true(_DONE, task) if _DONE else task.done()
    return task.done()


def is_cancelled(task: asyncio.Task[Any]) -> bool:
    if cython.compiled:
        return is_true(_CANCELLED, task) if _CANCELLED else task.cancelled()
    return task.cancelled()


def result_of(task: asyncio.Task[Any]) -> Any:
    """Of a task that is done. Raises what it has raised."""
    if cython.compiled:
        return call_without_arguments(_RESULT, task) if _RESULT else task.result()
    return task.result()


def has_exception(task: asyncio.Task[Any]) -> bool:
    """Whether a task that is done has raised; if possible without the task's taking note that it was asked."""
    if cython.compiled and _EXCEPTION != cython.NULL:
        return not is_none(_EXCEPTION, task)
    if _EXCEPTION_TELLS:
        return task._exception is not None
    return not task.cancelled() and task.exception() is not None


class Seam:
    """Takes the place of one loop's `call_soon`. Its owner, a subclass, says which tasks are its own (`take`)."""

    loop: asyncio.AbstractEventLoop | None  # None before and after
    completed: asyncio.Future[None]  # an argument for wake-ups of those who did not wait for an asyncio.Future
    behind: bool  # the loop was given something that did not stay here since the owner last said False
    debug: bool  # the loop's, when the owner last looked
    _thread: int  # which the loop was last seen to run in; 0: in none yet
    _had: dict[str, Any]  # the loop's attributes that we have replaced, where they were its own and not its class's
    _loop_call_soon: Any
    _loop_call_soon_threadsafe: Any
    _keywords: tuple[str, ...]  # the tuple ("context",) in which the C Task names its keyword

    def __init__(self) -> None:
        self.loop = None
        self.behind = False
        self.debug = False
        self._thread = 0
        self._had = {}
        self._loop_call_soon = None
        self._loop_call_soon_threadsafe = None
        self._keywords = ()

    def take_call_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop's `call_soon`."""
        if isinstance(getattr(loop.call_soon, "__self__", None), Seam):
            raise UsageError("this loop has an executor already: leave its `async with` first, or use its queues")
        own = getattr(loop, "__dict__", {})
        self._had = {name: own[name] for name in ("call_soon", "call_soon_threadsafe") if name in own}
        self._loop_call_soon = loop.call_soon
        self._loop_call_soon_threadsafe = loop.call_soon_threadsafe
        try:
            loop.call_soon = new_call_soon(seam_call_soon, self) if cython.compiled else self.call_soon  # type: ignore[method-assign, assignment, name-defined]  # noqa: F821
        except AttributeError:
            raise UsageError(
                f"{type(loop).__module__}.{type(loop).__qualname__} does not let its call_soon be replaced; "
                "asyncio's own loops and uvloop's do"
            ) from None
        loop.call_soon_threadsafe = self.call_soon_threadsafe  # type: ignore[method-assign, assignment]
        self.loop = loop
        self.completed = loop.create_future()
        self.completed.set_result(None)
        self._thread = 0
        self.is_own_thread()
        self.debug = loop.get_debug()

    def give_call_soon_back(self) -> None:
        """`pass_on` still works afterwards; `loop` is the owner's to clear."""
        for name in ("call_soon", "call_soon_threadsafe"):
            if name in self._had:
                setattr(self.loop, name, self._had[name])
            else:
                delattr(self.loop, name)

    def take(self, callback: Any, argument: Any, context: contextvars.Context) -> bool:
        """A step (then `argument` is None) or a wake-up of a task. True if it is the owner's, who will run it."""
        raise NotImplementedError

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        """In place of the loop's `call_soon`. What is taken returns None: the Task does not look at its handles."""
        if (
            context is not None
            and task_behind(callback, args) is not None
            and self.take(callback, args[0] if args else None, context)
        ):
            return None
        return self.pass_on(callback, args, context)

    def call_soon_threadsafe(
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """In place of the loop's."""
        handle: asyncio.Handle = self._loop_call_soon_threadsafe(callback, *args, context=context)
        if self.is_own_thread():
            self.behind = True
        return handle

    def runs(self, handle: Any) -> bool:
        """Whether this is the handle of the task whose step is running."""
        raise NotImplementedError

    def report(self, message: str, error: BaseException) -> None:
        """Of code that is not ours, to whom it may concern."""
        raise NotImplementedError

    def schedule(self, callback: Any, argument: Any, context: contextvars.Context) -> None:
        """`call_soon(callback, argument, context=context)`, from here. Raises nothing: others wait to be woken too."""
        try:
            if cython.compiled:
                taken = (
                    self.take(callback, argument, context)
                    if is_wakeup(callback)  # type: ignore[name-defined]  # noqa: F821
                    else _PLAIN and self._take_plain(callback, (argument,), context)
                )
                if not taken:
                    self.pass_on(callback, (argument,), context)
            else:
                self.call_soon(callback, argument, context=context)
        except BaseException as error:
            self.report("who waited for a task or a call could not be woken", error)

    def wake_waiter(self, callback: Any, awaited: Any, cancelled: bool, context: contextvars.Context) -> None:
        """Wake the task that waits for what is no asyncio.Future: a `Waiter`, a `Call`. callback: its wake-up. cancelled:
        it is to see CancelledError."""
        if self.loop is None:  # the executor has left it
            awaited._loop.call_soon(callback, awaited, context=context)
        else:
            # A wake-up asks what it is given for a result or an exception, and an asyncio.Future four times as quickly.
            self.schedule(callback, self.completed if _ANY_FUTURE and not cancelled else awaited, context)

    def _take_plain(self, callback: Any, args: tuple[Any, ...], context: contextvars.Context) -> bool:
        """`take` of what C has not recognised. Compiled only."""
        task = task_behind(callback, args)
        if task is None:
            return False
        step: PlainStep = PlainStep.__new__(PlainStep)
        step.task = task
        step.callback = callback
        step.args = args
        return self.take(step, None, context)

    def pass_on(self, callback: Any, args: tuple[Any, ...], context: contextvars.Context | None) -> Any:
        """To the loop with what is not the owner's."""
        self.behind = True
        return self._loop_call_soon(callback, *args, context=context)

    def is_own_thread(self) -> bool:
        """Whether the caller may touch what is the loop's: the loop runs in the caller's thread, or in none.

        A loop may be made in one thread and run in another, and run again in a third.
        """
        thread = PyThread_get_thread_ident()
        if thread == self._thread:
            return True
        loop = self.loop
        if loop is None:
            return self._thread == 0
        if asyncio._get_running_loop() is loop:
            self._thread = thread
            return True
        return not loop.is_running()

    def check_thread(self, what: str) -> None:
        """Raise UsageError in a thread other than that in which the loop runs. what: the call that was made, as its caller
        would write it."""
        if not self.is_own_thread():
            raise UsageError(
                f"{what} was called from another thread than its executor's, and nothing was done. From here: "
                f"loop.call_soon_threadsafe({what}, ...), asyncio.run_coroutine_threadsafe(coroutine, loop), or for a "
                "method of another shard call_threadsafe"
            )

    def _check_seam_thread(self) -> None:
        if not self.is_own_thread():
            raise RuntimeError(
                "Non-thread-safe operation: call_soon of an event loop with an executor was called from another thread"
            )

    def _names_context(self, keywords: tuple[str, ...]) -> bool:
        """Whether the only keyword is `context`. The C Task names it by the same tuple each time: it is remembered."""
        if keywords == ("context",):
            self._keywords = keywords
            return True
        return False
