"""The seam: between trio and its tasks.

trio's run loop, in each of its passes, takes all that is in its run queue (`batch = list(runner.runq)`, `runner.runq.clear()`),
and runs one step of each of these tasks (`while batch: task = batch.pop()`). Whatever makes a task runnable (a nursery, a
checkpoint, an event, a socket, a deadline, `_attempt_abort` of a cancellation) comes to `Runner.reschedule`, which does
`runner.runq.append(task)`.

While an executor is attached, the run queue of its run, an attribute of that one runner, is its `Gate`; and the batch, which
the gate gives when it is asked for a list of itself, is a `Turn`, which decides at each `pop()` which step is next and ends
when the turn's budget is spent. Between two passes trio looks for sockets, deadlines and signals, as ever. Tasks stay genuine:
trio makes them, runs their steps, delivers their cancellations and calls its instruments; `current_task()`, names, contexts,
tracebacks, `iter_await_frames`, guest mode, `MockClock` and `wait_all_tasks_blocked` (which ask whether the run queue is empty)
need nothing from us.

That trio asks *our* list is due to one name, `list` in the module of its run loop, which is a subclass of the builtin while any
executor is attached, in whichever thread. It gives the builtin's to all others.

Rejected:

- A wrapper around each coroutine that asks at each resumption whether it may go on, and else parks: each step would be two of
  trio's; a cancellation that arrives while it is held has to be delivered by the wrapper, later; checkpoints would be counted
  twice (`assert_checkpoints`), and `task.coro`, tracebacks and stacks would be the wrapper's.
- Instruments (`before_task_step`, `task_scheduled`): they see steps, and cannot choose. Two calls through Python for each step.
- Holding tasks back by one pass of the loop for each step: right, and a look at the kernel for each step, three times as dear.
- A run loop of our own (one pseudo-task, whose step is a pump that runs the others'): it would have to do what trio does around
  a step, and do it again with each of trio's releases.

What is assumed of trio's privates is looked for when an executor is attached; where it is not so, that is a ConfigurationError.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol

import trio
from trio._core import _run

from clockworker._errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from trio._core._run import Runner

_lock = threading.Lock()
_attached = 0


class RunQueue(Protocol):
    """What can stand in the place of trio's run queue."""

    def begin_turn(self) -> object:
        """What trio takes for the batch of this pass."""

    def append(self, task: trio.lowlevel.Task) -> None:
        """The task is runnable."""

    def clear(self) -> None:
        """The batch has been taken."""

    def __len__(self) -> int:
        """How many tasks are runnable."""


class _List(list[Any]):
    """`list` in the module of trio's run loop."""

    def __new__(cls, things: Iterable[Any] = ()) -> Any:
        if isinstance(things, _List.queues):
            return things.begin_turn()
        return list(things)

    queues: type[Any] | tuple[()] = ()


def in_run() -> bool:
    """Whether the caller is inside of trio."""
    return hasattr(_run.GLOBAL_RUN_CONTEXT, "runner")


def in_task() -> bool:
    """Whether the caller is in a task's step. Newer releases have both in `trio.lowlevel`."""
    return hasattr(_run.GLOBAL_RUN_CONTEXT, "task")


def current_runner() -> Runner:
    """Of the caller's run. Raises RuntimeError outside of trio."""
    try:
        return _run.GLOBAL_RUN_CONTEXT.runner
    except AttributeError:
        raise RuntimeError("must be called from async context, inside of trio.run") from None


def executor_queue(kind: type[Any]) -> Any:
    """The run queue of the caller's run, if it is of this kind; else None."""
    runq = current_runner().runq
    return runq if type(runq) is kind else None


def put_in_place(runner: Runner, queue: Any) -> None:
    """From now on it is the runner's run queue, with all that is runnable there."""
    global _attached
    check()
    if isinstance(runner.runq, type(queue)):
        raise UsageError("this run of trio has an executor already: leave its `async with` first, or use its queues")
    with _lock:
        if _attached == 0:
            _List.queues = type(queue)
            _run.list = _List  # type: ignore[attr-defined]
        _attached += 1
    runnable, runner.runq = runner.runq, queue
    for task in runnable:
        queue.append(task)


def take_out(runner: Runner, runnable: Iterable[trio.lowlevel.Task]) -> None:
    """The runner has a plain run queue again, with these tasks."""
    global _attached
    from collections import deque

    runner.runq = deque(runnable)
    with _lock:
        _attached -= 1
        if _attached == 0:
            del _run.list  # type: ignore[attr-defined]


def check() -> None:
    """Raise ConfigurationError if this trio's run loop is not the one that is described above."""
    loop: CodeType | None = getattr(getattr(_run, "unrolled_run", None), "__code__", None)
    reschedule: CodeType | None = getattr(getattr(getattr(_run, "Runner", None), "reschedule", None), "__code__", None)
    if (
        loop is None
        or reschedule is None
        or not {"list", "runq", "clear", "pop"} <= {*loop.co_names}
        or "batch" not in loop.co_varnames
        or not {"runq", "append"} <= {*reschedule.co_names}
        or not hasattr(_run, "GLOBAL_RUN_CONTEXT")
    ):
        raise ConfigurationError(
            f"trio {trio.__version__} runs its tasks in another way than Clockworker knows; it knows trio 0.27 to 0.35"
        )
