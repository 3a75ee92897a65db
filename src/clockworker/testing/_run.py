"""`run` and `new_event_loop` as in `clockworker`, by a wound clock and shuffled by a seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import clockworker.executor as executor_package
from clockworker.executor import Executor, Queue, QueueGroup
from clockworker.testing._clock import Clock
from clockworker.testing._loop import WoundLoop
from clockworker.testing._shuffle import check_seed, shuffled

T = TypeVar("T")


def run(
    main: Coroutine[Any, Any, T],
    *,
    queues: Iterable[Queue | QueueGroup] = (),
    clock: Clock | None = None,
    seed: int | None = None,
    debug: bool | None = None,
    **options: Any,
) -> T:
    """Run `main` to its end and return its result, as `clockworker.run` does, on a loop that goes by `clock`.

    queues: one, named "test", if there are none. `main` runs in the first, as that of a shard does, and so does what it starts
        itself.
    clock: one that jumps by itself unless given.
    seed: 0 to 2**64 - 1. Runnable tasks of a queue go in an order that it gives, and steps take different times, so that queues
        take turns in an order that it gives too; every such order is one that could come to pass. The same seed makes the same
        run, and an exception that leaves this one has a note with it. None: as in production, and alike each time too.

    debug: asyncio's debug mode. Other options are those of `Executor`. What is left when `main` ends is cancelled, and its
    timers are not waited for.

    Raises what `main` does, and ConfigurationError for another seed, and as `Executor` does.
    """
    clock = Clock(autojump=True) if clock is None else clock
    try:
        executor = Executor(_queues(queues, seed), **options)
        runner = asyncio.Runner(loop_factory=_loop_factory(clock, seed), debug=debug)
        runner.get_loop()
    except BaseException:
        main.close()
        raise
    autojump = clock.autojump

    async def with_executor() -> T:
        async with executor:
            try:
                return await executor.queues()[0].spawn(main)
            finally:
                clock.autojump = True  # nobody is left who would wind it

    try:
        with runner:
            return runner.run(with_executor())
    except BaseException as error:
        if seed is not None:
            error.add_note(f"clockworker.testing: seed={seed}")
        raise
    finally:
        clock.autojump = autojump


def new_event_loop(
    queues: Iterable[Queue | QueueGroup] = (), *, clock: Clock | None = None, seed: int | None = None, **options: Any
) -> asyncio.AbstractEventLoop:
    """A loop with an executor, as `clockworker.new_event_loop` makes, for whoever runs tests by `asyncio.Runner` or takes a
    `loop_factory`. `queues`, clock and seed are those of `run`, options those of
    `Executor`. Raises ConfigurationError as `run` does."""
    clock = Clock(autojump=True) if clock is None else clock
    return executor_package.new_event_loop(_queues(queues, seed), loop_factory=_loop_factory(clock, seed), **options)


def _queues(queues: Iterable[Queue | QueueGroup], seed: int | None) -> list[Queue | QueueGroup]:
    declared: list[Queue | QueueGroup] = list(queues) or [Queue("test")]
    return declared if seed is None else shuffled(declared, seed)


def _loop_factory(clock: Clock, seed: int | None) -> Callable[[], asyncio.AbstractEventLoop]:
    if seed is None:
        return clock.new_event_loop
    check_seed(seed)
    return lambda: WoundLoop(clock, random.Random(str(seed)).randrange(1, 1 << 64))
