"""The ways to get a loop that has an executor, and what asks for the executor of the running one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

import uvloop

from clockworker._errors import UsageError
from clockworker.executor._core_cy import Core
from clockworker.executor._executor import Executor
from clockworker.executor._queue import OnPanic, Queue, QueueGroup
from clockworker.executor._tasks_cy import Membership

T = TypeVar("T")


def new_event_loop(
    queues: Iterable[Queue | QueueGroup],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    on_panic: OnPanic = "catch",
    **options: Any,
) -> asyncio.AbstractEventLoop:
    """A loop with an executor attached, for `asyncio.Runner(loop_factory=...)`; `current_executor` finds it.

    Tasks that belong to no queue run in the first one.

    queues, options: those of `Executor`. loop_factory: makes the loop; uvloop's unless given.
    on_panic: "catch" unless given, since there is no `async with` to raise a panic.

    Raises ConfigurationError as `Executor` does.
    """
    executor = Executor(queues, on_panic=on_panic, **options)
    loop = loop_factory()
    try:
        executor._core.attach(loop)
    except BaseException:
        loop.close()
        raise
    first = executor.queues()[0]
    executor._core.default = Membership(executor._core, first._queue, None)
    executor._loops_own = True
    close = loop.close

    def detach_and_close() -> None:
        # Nobody else would detach it, and what is spawned on a closed loop would never run and never complain. A running
        # loop refuses to close, and keeps its executor.
        if not loop.is_running():
            executor._core.detach()
        close()

    loop.close = detach_and_close  # type: ignore[method-assign]
    return loop


class Runtime(Protocol):
    """What answers where no loop of asyncio's runs: `clockworker.trio`, once that is imported."""

    def in_run(self) -> bool:
        """Whether the caller is inside of it."""

    def current_executor(self) -> Any:
        """Its executor."""

    def should_yield(self) -> bool:
        """As below."""

    async def yield_maybe(self) -> None:
        """As below."""


_other: Runtime | None = None


def use_also(runtime: Runtime) -> None:
    """From now on code that may run on either asks this one, too."""
    global _other
    _other = runtime


def _is_elsewhere() -> bool:
    return _other is not None and asyncio._get_running_loop() is None and _other.in_run()


def current_executor() -> Executor:
    """The executor of the running loop, or of the running trio (`clockworker.trio`). Raises UsageError if it has none,
    RuntimeError if neither is running."""
    if _other is not None and _is_elsewhere():
        return _other.current_executor()  # type: ignore[no-any-return]
    core = getattr(asyncio.get_running_loop().call_soon, "__self__", None)
    if not isinstance(core, Core):
        raise UsageError("the running loop has no executor: see Executor and new_event_loop")
    return core.owner  # type: ignore[no-any-return]


def should_yield() -> bool:
    """Whether the running task should give way soon: a queue with an earlier deadline has woken, its own slice is used up, or
    the loop is due its turn. False in a task that is in no queue."""
    if _other is not None and _is_elsewhere():
        return _other.should_yield()
    core = getattr(asyncio.get_running_loop().call_soon, "__self__", None)
    return isinstance(core, Core) and core.should_yield()


async def yield_maybe() -> None:
    """Give way if `should_yield()`, else go on at once. For loops that compute: much cheaper than `asyncio.sleep(0)`."""
    if _other is not None and _is_elsewhere():
        await _other.yield_maybe()
    elif should_yield():
        await asyncio.sleep(0)


def run(
    main: Coroutine[Any, Any, T], *, queues: Iterable[Queue | QueueGroup], debug: bool | None = None, **options: Any
) -> T:
    """Like `uvloop.run`, with an executor: runs `main`, which finds it by `current_executor()`.

    queues, options: those of `Executor`. debug: asyncio's debug mode; as `PYTHONASYNCIODEBUG` says unless given.

    An exception that escapes a spawned task is raised here, unless `on_panic="catch"`.
    """
    executor = Executor(queues, **options)

    async def with_executor() -> T:
        async with executor:
            return await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=debug) as runner:
        return runner.run(with_executor())
