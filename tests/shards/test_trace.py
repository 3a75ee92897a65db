from __future__ import annotations

import os
from array import array

import msgspec

import clockworker as cw
from clockworker.shards.worker._trace import WORDS, Recorded, Trace
from tests.conftest import Run
from tests.executor.test_steal import MS, Pretend, block


def test_a_recording_has_what_was_stolen_of_a_step(run: Run) -> None:
    async def body() -> None:
        recordings: list[int | None] = []
        async with cw.Executor([cw.Queue("one")]) as executor:
            executor._core.steal.meter = Pretend()
            trace = Trace(0, executor, recordings.append)

            async def robbed() -> None:
                block()

            await executor.queue("one").spawn(robbed())
            trace.end()
        (memory,) = recordings
        assert memory is not None
        with os.fdopen(memory, "rb") as file:
            recorded = msgspec.msgpack.decode(file.read(), type=Recorded)
        words = array("Q", recorded.steps)
        assert len(words) == WORDS
        _, _, _, took, stolen, _ = words
        assert 25 * MS <= stolen <= took
        (queue,) = recorded.queues
        assert queue.busy_ns == took - stolen

    run(body)
