"""Functions that compute, run as steps of a preemptive queue: `run_blocking(function, queue=...)`.

Such a function has the loop's thread to itself but for its cuts, a part of the core by the share of its queue, and its place in
the statistics and traces; a thread has none of these. Functions of one queue run one after the other. What blocks instead of
computing (a socket, a file) is for a thread: nothing runs beside it here.

As with threads a caller that is cancelled leaves a function that has begun running, and the stop of the shard waits for it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar

from clockworker._errors import UsageError
from clockworker.executor import JoinHandle, QueueHandle
from clockworker.executor._guard_cy import calls_out
from clockworker.shards.worker._places import bearable, name_of

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("clockworker.shard")

_SAY_AFTER_S = 0.5  # of a stop that waits; the next line comes after five times as long
_NAMED = 3  # functions in one line


class QueueCalls:
    """Of one shard."""

    def __init__(self) -> None:
        self._calls: dict[JoinHandle[None], str] = {}  # those that are not done, with their functions' names

    async def run(
        self, queue: QueueHandle, group: Hashable, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Its result, or its exception. It sees a copy of the caller's context variables.

        group: its group in the queue; None: it has none. Raises `UsageError` if the queue is not preemptive.
        """
        if not queue._queue.preemptive:
            raise UsageError(
                f"run_blocking(queue={queue.key!r}): that queue is not preemptive, and a function there would hold up all that "
                f"the shard does until it returns; declare cw.Queue({queue.key!r}, preemptive=True), or give --queue "
                f"{queue.key}:{queue.share}:preemptive, or leave queue= out for a thread"
            )
        name = name_of(function)
        step = _Step(functools.partial(function, *args, **kwargs))
        place = queue if group is None else queue.group(group)
        handle = place.spawn(step.run(), name=name)
        self._calls[handle] = name
        handle.task.add_done_callback(lambda _: self._calls.pop(handle, None))
        try:
            await handle
        except asyncio.CancelledError:
            if not step.begun:
                handle.abort()
            raise
        if step.error is not None:
            try:
                raise bearable(step.error, function)
            finally:
                del step  # or the exception, whose traceback has this frame, would be in a cycle
        return step.result  # type: ignore[no-any-return]

    async def drain(self) -> None:
        """Wait until no function is left."""
        say_after = _SAY_AFTER_S
        while self._calls:
            done, _ = await asyncio.wait([handle.task for handle in self._calls], timeout=say_after)
            if done:
                continue
            say_after *= 5
            names = list(self._calls.values())
            rest = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
            log.warning("the stop waits for functions in queues: %s", ", ".join([*names[:_NAMED], *rest]))


class _Step:
    """A function as the only step of a task. begun: whether it has been called. result, error: what it returned or raised, once
    it has; whatever that is, it is no exception of the task's."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function: Callable[[], Any] | None = function
        self.begun = False
        self.result: Any = None
        self.error: BaseException | None = None

    @calls_out
    async def run(self) -> None:
        """The coroutine of its task."""
        function, self._function = self._function, None
        assert function is not None
        self.begun = True
        try:
            self.result = function()
        except BaseException as error:
            self.error = error
