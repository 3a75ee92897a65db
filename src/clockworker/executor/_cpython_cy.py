# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What we assume of CPython beyond what it documents, in one place.

An assumption has a name. It is tried once, when this module is imported, on this interpreter and not by its version; one that
does not hold is switched off by itself, and the slower way is taken that assumes nothing. Whoever relies on one asks `holds` at
its own import, and keeps the answer where a step can read it for nothing. `switched_off` says what is off, and why.

`CLOCKWORKER_PLAIN=1` switches all of them off, `CLOCKWORKER_PLAIN=gc,wakeup` these: to find out whether a crash or a wrong
answer is due to one of them, and to go on working until that is mended.

Two cannot be replaced, and without them the import fails: a Task asks its loop's `call_soon` for each step and each wake-up,
with a `context`; and it waits for whatever has `_asyncio_future_blocking`, as `asyncio.isfuture` documents it.

What cannot be tried: that a memoryview moves a word of eight bytes at once, on which rings rely where nothing is compiled.

Rejected: asking for the version. A version that is not out yet has not been tried, a patched one is not what it says, and
asyncio's tasks may be in Python (`asyncio.Task = asyncio.tasks._PyTask`, as nest_asyncio has it).
"""

from __future__ import annotations

import asyncio
import dis
import gc
import os
import signal
import sys
import threading
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError
from clockworker.executor import _guard_cy, _layout, _locks_cy

if cython.compiled:
    from cython.cimports.clockworker.executor._native import (
        Py_REFCNT,
        PyObject_GC_Track,
        PyObject_GC_UnTrack,
        PyObject_IS_GC,
        getter_of,
        in_empty_context,
        method_without_arguments,
        proceed_by,
        step_holds,
        takes_one_argument,
    )
    from cython.cimports.clockworker.executor._seal_cy import seal

VARIABLE = "CLOCKWORKER_PLAIN"

# What is assumed, and what is done where it is not so.
ASSUMPTIONS: Mapping[str, tuple[str, str]] = {
    "step": (
        "a Task's step is an object of a type of its own, whose first field is the Task",
        "each step is wrapped in an object of ours that names its task",
    ),
    "wakeup": (
        "a Task's wake-up is a builtin method that takes one argument, and is known by its C function",
        "each wake-up is recognised by its name, wrapped, and called like any other callable",
    ),
    "methods": (
        "Task.done, cancelled, result and _exception are C functions in the type's descriptors",
        "they are looked up by name, each time",
    ),
    "exception": (
        "Task._exception tells what a task has raised, and does not count as asking for it",
        "task.exception() is asked, and asyncio says nothing of an exception that nobody retrieves",
    ),
    "force": (
        "Task._fut_waiter is what a task waits for",
        "a task whose future refuses to be cancelled is reported, and not cancelled",
    ),
    "completed": (
        "a Task's wake-up takes any future that is done for the one that the task waits for",
        "it is given the one that it waits for",
    ),
    "current": (
        "asyncio.tasks._current_tasks is a dict of each loop's current task",
        "tasks are entered and left by asyncio's own functions",
    ),
    "registry": (
        "a Task enters itself, after it has asked for its first step, into a WeakSet that asyncio.all_tasks() reads",
        "the set is left alone, and each task is in it",
    ),
    "gc": (
        "Tasks, steps and wake-ups are the collector's, which may be told to overlook one that is reachable anyway",
        "the collector looks into all of them, each time",
    ),
    "refcount": (
        "an object with one reference is known to nobody but who holds that",
        "records of steps are not used again, and the collector sees a task as soon as it is done",
    ),
    "spacing": (
        "two Tasks are at least 128 bytes apart in memory",
        "tasks are found by a dict",
    ),
    "context": (
        "the thread's state has its current context, or NULL for an empty one",
        "the current context is copied at each spawn",
    ),
    "send": (
        "the C function in am_send of a type of ours is what an `await` of its instances calls",
        "results go through a StopIteration",
    ),
    "lookahead": (
        "a Task has its coroutine, and a suspended coroutine the top of its stack, where two samples have them",
        "what the next steps of a long queue will touch is not fetched into the cache",
    ),
    "locks": (
        "the methods of _thread.lock and _thread.RLock are C functions in the types' descriptors, called as their flags say",
        "there are no preemptive queues",
    ),
    "codes": (
        "a code object keeps a word for who asks for one",
        "there are no preemptive queues",
    ),
    "interrupt": (
        "SIGRTMAX is the last signal, and handlers of signals that have come are called in the order of their numbers",
        "there are no preemptive queues",
    ),
    "seal": (
        "a type whose __new__ is taken out of its dict makes no half-made instances",
        "X.__new__(X) of a compiled type, which nobody should call, may end the process",
    ),
    "clock": (
        "the kernel keeps time by the processor's time stamp counter, whose rate has been measured",
        "each reading of the clock is the kernel's",
    ),
    "suspend": (
        "a coroutine function whose bytecode has no GET_AWAITABLE, SEND or YIELD_VALUE never suspends",
        "each call of another shard's gets a task, whether it needs one or not",
    ),
}
# Where nothing is compiled these are not made.
OF_COMPILED = frozenset(
    {
        *("step", "wakeup", "methods", "gc", "refcount", "spacing", "context", "send", "lookahead", "seal", "clock"),
        *("locks", "codes", "interrupt"),
    }
)
# An await is the first and the second, followed by the third, in which it suspends: one would do.
_SUSPENDS = frozenset({"GET_AWAITABLE", "SEND", "YIELD_VALUE"})
_SPACING = 128  # of _page_table.pxd's entries

_off: dict[str, str] = {}


def switched_off() -> dict[str, str]:
    """What Clockworker has found not to be as it assumes of this CPython, or was told not to assume (`CLOCKWORKER_PLAIN`), and
    does without: the name of each assumption, and why. Empty where all hold."""
    return dict(_off)


def holds(name: str) -> bool:
    """Whether the assumption may be relied on. To be asked once, at import."""
    if name not in ASSUMPTIONS:
        raise KeyError(name)
    return name not in _off


def switch_off(name: str, why: str) -> None:
    """It was found later not to hold."""
    _off.setdefault(name, why)


def names_in(text: str) -> frozenset[str]:
    """The assumptions that a value of CLOCKWORKER_PLAIN switches off. ConfigurationError names one that there is not."""
    given = [each.strip().lower() for each in text.split(",")]
    if given in ([""], ["0"]):
        return frozenset()
    if given == ["1"]:
        return frozenset(ASSUMPTIONS)
    for each in given:
        if each not in ASSUMPTIONS:
            raise ConfigurationError(
                f"{VARIABLE} is {text!r}, and {each!r} is nothing that can be switched off; give 1 for all, or some of "
                f"{', '.join(ASSUMPTIONS)}"
            )
    return frozenset(given)


# Tasks, asked


class _Answers:
    """What Tasks hand to `call_soon` and do with it, found by running two. In a thread of its own: from CPython 3.14 on a task
    only runs in its loop's thread, beside no other, and whoever imports us may be in a task."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.step: Any = None
        self.wakeup: Any = None
        self.task: Any = None  # done
        self.waited_for: object = None
        self.exception: object = None
        self.completed = False
        self.registered = (True, False)  # before and after the step was asked for
        thread = threading.Thread(target=self._try)
        thread.start()
        thread.join()

    def _try(self) -> None:
        try:
            self._ask()
        except BaseException as error:
            self.error = error

    def _ask(self) -> None:
        registry = find_registry()
        seen: list[Any] = []
        early: list[bool] = []

        class Recorder:
            def call_soon(self, callback: Any, *args: Any, context: Any) -> None:
                early.append(_is_in(registry, getattr(callback, "__self__", None)))
                seen.append(callback)

            def get_debug(self) -> bool:
                return False

        loop: Any = Recorder()
        asyncio._set_running_loop(loop)
        future: asyncio.Future[int] = asyncio.Future(loop=loop)
        task = self.task = asyncio.Task(_layout.wait_for(future), loop=loop)
        self.registered = early.pop(), _is_in(registry, task)
        self.step = seen.pop()
        self.step()
        self.waited_for = getattr(task, "_fut_waiter", None) is future
        future.set_result(1)
        self.wakeup = seen.pop()
        self.wakeup(future)
        if task.result() != 1:
            raise RuntimeError("a task has not given back what it waited for")

        duck = _layout.Duck(loop)
        other = asyncio.Task(_layout.wait_for(duck), loop=loop)
        seen.pop()()
        wakeup: Any = duck.callback
        if wakeup is None or not _is_like(wakeup, self.wakeup):
            raise RuntimeError("a task does not wait for what has _asyncio_future_blocking")
        try:
            wakeup(future)  # another one
            self.completed = other.done() and other.result() == "duck"
        except Exception:
            self.completed = False
        if not other.done():
            wakeup(duck)

        failing = asyncio.Task(_layout.fail(), loop=loop)
        seen.pop()()
        self.exception = isinstance(getattr(failing, "_exception", None), LookupError)
        failing.exception()  # or asyncio would report it


def _is_in(registry: Any, task: object) -> bool:
    return registry is not None and task is not None and weakref.ref(task) in registry.data


def _is_like(callback: Any, other: Any) -> bool:
    """Whether two callbacks are the same method of two tasks."""
    return type(callback) is type(other) and (
        callback.__func__ is other.__func__
        if type(other) is types.MethodType
        else getattr(callback, "__name__", None) == getattr(other, "__name__", None)
    )


def task_behind(callback: Any, args: tuple[Any, ...]) -> asyncio.Task[Any] | None:
    """The task whose step or wake-up that is, by what it looks like; None of other callbacks. A step has an argument only if
    tasks are in Python."""
    if len(args) > 1:
        return None
    if _is_like(callback, STEP):
        if args and type(callback) is not types.MethodType:
            return None
    elif not args or args[0] is None or not _is_like(callback, WAKEUP):
        return None
    task = getattr(callback, "__self__", None)
    return task if isinstance(task, _Task) else None


# What is tried. Each returns None if the assumption holds, else why it does not.


def find_registry() -> Any:
    """asyncio's WeakSet of all tasks, if it is made as we know it; else None."""
    found: Any = getattr(asyncio.tasks, "_scheduled_tasks", None)  # from CPython 3.12
    if found is None:
        found = getattr(asyncio.tasks, "_all_tasks", None)
    if (
        type(found) is weakref.WeakSet
        and type(getattr(found, "data", None)) is set
        and type(getattr(found, "_iterating", None)) is set
        and type(getattr(found, "_pending_removals", None)) is list
        and callable(getattr(found, "_commit_removals", None))
    ):
        return found
    return None


def find_current_tasks() -> dict[Any, Any] | None:
    """Where asyncio keeps the current task of each loop, if that is a dictionary and the one that it looks at."""
    tasks = getattr(asyncio.tasks, "_current_tasks", None)
    if type(tasks) is not dict:
        return None
    loop: Any = object()
    try:
        asyncio._enter_task(loop, loop)
        try:
            return tasks if tasks.get(loop) is loop else None
        finally:
            asyncio._leave_task(loop, loop)
    except RuntimeError:  # from CPython 3.14 on it is a field of the thread, whose loop this is not
        return None


def may_suspend(code: types.CodeType) -> bool:
    """Whether a coroutine with this bytecode may suspend. False only if that shows that it cannot."""
    return not _SUSPEND or _has_await(code)


def _has_await(code: types.CodeType) -> bool:
    return any(instruction.opname in _SUSPENDS for instruction in dis.get_instructions(code))


def _try_step() -> str | None:
    kind = type(STEP)
    if kind in (types.MethodType, types.BuiltinFunctionType, types.FunctionType):
        return f"a step is a {kind.__name__}"
    if kind.__basicsize__ < object.__basicsize__ + 8 or not step_holds(STEP, A_TASK):
        return f"the first field of {kind.__name__} is not the task"
    return None


def _try_wakeup() -> str | None:
    if type(WAKEUP) is not types.BuiltinFunctionType:
        return f"a wake-up is a {type(WAKEUP).__name__}"
    if not takes_one_argument(WAKEUP) or WAKEUP.__self__ is not A_TASK:
        return f"{WAKEUP.__name__} is not a method of one argument of the task's"
    return None


def _try_methods() -> str | None:
    for name in ("done", "cancelled", "result"):
        if not method_without_arguments(getattr(_Task, name)):
            return f"Task.{name} is no C function without arguments"
    return None if getter_of(getattr(_Task, "_exception", None)) else "Task._exception is no getter in C"


def _try_exception() -> str | None:
    return None if _answers.exception else "a task that has raised has not its exception there"


def _try_force() -> str | None:
    return None if _answers.waited_for else "a task that waits has not its future there"


def _try_completed() -> str | None:
    return None if _answers.completed else "a wake-up with another future than the one waited for was refused"


def _try_current() -> str | None:
    return None if find_current_tasks() is not None else "asyncio keeps its current tasks elsewhere"


def _try_registry() -> str | None:
    if find_registry() is None:
        return "asyncio has no such set of its tasks"
    before, after = _answers.registered
    if before or not after:
        return "a task enters itself at another time, or elsewhere"
    return None


def _try_gc() -> str | None:
    for each in (STEP, WAKEUP, A_TASK):
        if not PyObject_IS_GC(each):
            return f"the collector does not know {type(each).__name__}"
    PyObject_GC_UnTrack(A_TASK)
    hidden = not gc.is_tracked(A_TASK)
    PyObject_GC_Track(A_TASK)
    return None if hidden and gc.is_tracked(A_TASK) else "the collector does not overlook what it is told to"


def _try_refcount() -> str | None:
    alone = _Sample(None)
    one = Py_REFCNT(cython.cast(cython.p_void, alone))
    another = alone
    two = Py_REFCNT(cython.cast(cython.p_void, another))
    return None if (one, two) == (1, 2) else f"a new object has {one} references, and with a second one {two}"


def _try_spacing() -> str | None:
    size = _Task.__basicsize__
    return None if size >= _SPACING else f"a Task takes {size} bytes"


def _try_context() -> str | None:
    found = _layout.in_two_contexts(in_context)
    return None if found == (True, False) else "it is not the context that contextvars has"


def in_context() -> bool:
    """Whether the thread's state has an empty context."""
    return in_empty_context()  # type: ignore[no-any-return]


def _try_send() -> str | None:
    proceed_by(_Sample, _proceed)
    for value, (awaited, iterated) in zip(_layout.RESULTS, _layout.results_of(_Sample), strict=True):
        if awaited is not value or iterated is not value:
            return f"of {value!r} an await has made {awaited!r}, and an iteration {iterated!r}"
    return None


def _try_lookahead() -> str | None:
    if sys.version_info >= (3, 14):
        return "whether a coroutine is suspended is not public from CPython 3.14 on"
    if sys.implementation.name != "cpython":
        return "this is no CPython"
    return None  # _steps_cy learns where things are, and says if it does not find them


def _try_seal() -> str | None:
    seal(_Sample)
    try:
        _layout.make_half(_Sample)
    except TypeError:
        return None
    return "a type without a __new__ in its dict makes instances all the same"


def _try_clock() -> str | None:
    machine = os.uname().machine
    if machine not in ("x86_64", "amd64"):
        return f"there is no time stamp counter on {machine}"
    try:
        with open("/sys/devices/system/clocksource/clocksource0/current_clocksource") as file:
            source = file.read().strip()
    except OSError:
        source = "something unknown"
    return None if source == "tsc" else f"the kernel keeps time by {source}"


def _try_locks() -> str | None:
    return _locks_cy.find()


def _try_codes() -> str | None:
    return _guard_cy.find()


def _try_interrupt() -> str | None:
    last = getattr(signal, "SIGRTMAX", None)
    if last is None or last != signal.NSIG - 1:
        return f"SIGRTMAX is {last}, and the last signal {signal.NSIG - 1}"
    return None


def _try_suspend() -> str | None:
    for function in _layout.SUSPENDING:
        if not _has_await(function.__code__):
            return f"the bytecode of {function.__name__} does not show that it awaits"
    return None


@cython.final
@cython.cclass
class _Sample:
    """An `await` of it gives what it has."""

    value: object

    def __init__(self, value: object) -> None:
        self.value = value

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        raise StopIteration("this is not what is called")


def _proceed(awaited: Any) -> Any:
    sample: _Sample = awaited
    return sample.value


def try_one(check: Callable[[], str | None]) -> str | None:
    """Why what it tries does not hold; None if it does."""
    try:
        return check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


CHECKS: Mapping[str, Callable[[], str | None]] = {
    "step": _try_step,
    "wakeup": _try_wakeup,
    "methods": _try_methods,
    "exception": _try_exception,
    "force": _try_force,
    "completed": _try_completed,
    "current": _try_current,
    "registry": _try_registry,
    "gc": _try_gc,
    "refcount": _try_refcount,
    "spacing": _try_spacing,
    "context": _try_context,
    "send": _try_send,
    "lookahead": _try_lookahead,
    "locks": _try_locks,
    "codes": _try_codes,
    "interrupt": _try_interrupt,
    "seal": _try_seal,
    "clock": _try_clock,
    "suspend": _try_suspend,
}

_told = names_in(os.environ.get(VARIABLE, ""))
_Task = asyncio.Task
_answers = _Answers()
if _answers.error is not None:
    raise ImportError(
        "Clockworker does not run on this Python: its asyncio tasks do not ask their loop for each step by "
        f"call_soon(callback, context=...), or do not wait for what has _asyncio_future_blocking ({_answers.error!r})"
    ) from _answers.error
STEP = _answers.step
WAKEUP = _answers.wakeup
A_TASK = _answers.task

for _name, _check in CHECKS.items():
    if cython.compiled or _name not in OF_COMPILED:
        _why = VARIABLE if _name in _told else try_one(_check)
        if _why is not None:
            _off[_name] = _why
_SUSPEND = holds("suspend")
