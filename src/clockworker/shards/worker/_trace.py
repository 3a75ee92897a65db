"""A recording of what a shard's executor does: each choice, each step, each turn on the loop.

While one runs, the core calls `Trace.step` after every step, which costs about a third of a microsecond; otherwise it
tests one pointer. Steps are kept as six words each in one array, names once; so is each slice of one that is
cut. What the queues' statistics say before and
after is kept with them, so that whoever reads the recording can check it. A recording that grows to `MAX_STEPS` ends there.
"""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections.abc import Callable
from typing import Any

import msgspec

from clockworker.executor import Executor
from clockworker.ipc.rings._memory_cy import create_memory
from clockworker.shards.protocol._recording import WORDS, QueueTrace, Recorded
from clockworker.shards.worker._recorder import text_of

log = logging.getLogger("clockworker.shard")

MAX_STEPS = 500_000


class Trace:
    """finished: called with a memfd of the encoded `Recorded`, to close; with None if there can be none."""

    def __init__(self, shard: int, executor: Executor, finished: Callable[[int | None], None]) -> None:
        self._shard = shard
        self._executor = executor
        self._finished = finished
        self._keys = list(executor.queue_stats(top_groups=0))
        self._numbers = {key: number for number, key in enumerate(self._keys)}
        self._names: dict[str, int] = {}
        self._slices = array("Q")
        self._cut: dict[int, int] = {}  # how many slices there are of a queue's step that is cut, by the queue's number
        self._steps = array("Q")
        self._turns = array("Q")
        self._steps_before_turn = 0
        self._running = True
        self._before = executor.queue_stats(top_groups=0)
        self._started_ns = time.monotonic_ns()
        executor.trace(self)

    def step(self, queue: Any, state: Any, started: int, ended: int, stolen: int = 0) -> None:
        number = self._numbers[queue.key]
        if number in self._cut:
            self._slices.extend((len(self._steps) // WORDS, self._cut.pop(number) + 1, False))
        self._keep(number, queue, state, started, ended, stolen)

    stolen_step = step

    def cut_step(self, queue: Any, state: Any, started: int, ended: int, stolen: int) -> None:
        """A slice of a step that goes on later."""
        number = self._numbers[queue.key]
        which = self._cut[number] = self._cut.get(number, 0) + 1
        self._slices.extend((len(self._steps) // WORDS, which, True))
        self._keep(number, queue, state, started, ended, stolen)

    def _keep(self, queue_number: int, queue: Any, state: Any, started: int, ended: int, stolen: int) -> None:
        name = state.task.get_name()
        if state.group is not None:
            name = f"{name} ({text_of(state.group)})"
        number = self._names.setdefault(name, len(self._names))
        # One array, in one call: `extend` would keep the words before one that does not fit.
        self._steps += array("Q", (queue_number, number, started, max(0, ended - started), stolen, queue.runnable))
        if len(self._steps) >= WORDS * MAX_STEPS:
            self.end(whole=False)

    def turn(self, started: int, ended: int) -> None:
        if len(self._steps) != self._steps_before_turn:  # else it only looked for news
            self._steps_before_turn = len(self._steps)
            self._turns.extend((started, ended))

    def end(self, *, whole: bool = True) -> None:
        """The time is over. Without effect the second time."""
        if not self._running:
            return
        self._running = False
        self._executor.trace(None)
        after = self._executor.queue_stats(top_groups=0)
        recorded = Recorded(
            shard=self._shard,
            pid=os.getpid(),
            started_ns=self._started_ns,
            ended_ns=time.monotonic_ns(),
            whole=whole,
            queues=[
                QueueTrace(
                    str(key),
                    after[key].busy_ns - self._before[key].busy_ns,
                    after[key].polls - self._before[key].polls,
                    after[key].cuts - self._before[key].cuts,
                )
                for key in self._keys
            ],
            names=list(self._names),
            steps=self._steps.tobytes(),
            turns=self._turns.tobytes(),
            slices=self._slices.tobytes(),
        )
        data = msgspec.msgpack.encode(recorded)
        try:
            descriptor = create_memory("trace", len(data))
            os.pwrite(descriptor, data, 0)
        except OSError as error:
            log.error("what was traced cannot be handed over: %s", error.strerror)
            self._finished(None)
        else:
            self._finished(descriptor)
