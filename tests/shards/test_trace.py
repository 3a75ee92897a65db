from __future__ import annotations

import asyncio
import io
import json
import os
from array import array

import msgspec
import pytest

import clockworker as cw
from clockworker.shards.protocol._recording import SLICE_WORDS
from clockworker.shards.tools._chrome import write_chrome_trace
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


def test_each_slice_of_a_step_that_was_cut_is_a_bar(run: Run) -> None:
    pytest.importorskip("greenlet")
    if not cw.compiled:
        pytest.skip("preemption is for compiled modules")

    async def body() -> None:
        recordings: list[int | None] = []
        ticks = 0
        async with cw.Executor([cw.Queue("plain"), cw.Queue("cut", preemptive=True)]) as executor:
            trace = Trace(0, executor, recordings.append)

            async def tick() -> None:
                nonlocal ticks
                while ticks < 100:
                    ticks += 1
                    await asyncio.sleep(0.001)

            async def hog() -> None:
                for _ in range(2):
                    wanted = ticks + 3
                    while ticks < wanted:
                        pass
                    await asyncio.sleep(0)

            ticking = executor.queue("plain").spawn(tick(), name="tick")
            await executor.queue("cut").spawn(hog(), name="hog")
            ticking.abort()
            cuts = executor.queue_stats()["cut"].cuts
            trace.end()
        (memory,) = recordings
        assert memory is not None
        with os.fdopen(memory, "rb") as file:
            recorded = msgspec.msgpack.decode(file.read(), type=Recorded)
        assert recorded.queues[1].cuts == cuts
        slices = array("Q", recorded.slices)
        assert sum(slices[SLICE_WORDS - 1 :: SLICE_WORDS]) == cuts
        file = io.BytesIO()
        steps = write_chrome_trace(file, [recorded])
        assert steps == sum(queue.polls for queue in recorded.queues)
        events = json.loads(file.getvalue())["traceEvents"]
        bars = [event for event in events if event.get("cat") == "step" and event["name"] == "hog"]
        assert len(bars) == cuts + 3  # its two hogging steps, and the last
        had = sum(bar["dur"] - bar["args"]["stolen us"] for bar in bars)
        assert had * 1000 == pytest.approx(recorded.queues[1].busy_ns)
        numbers = [bar["args"].get("slice") for bar in bars]
        first = next(number for number, bar in enumerate(bars) if not bar["args"]["cut"])
        assert numbers[: first + 1] == list(range(1, first + 2))
        assert numbers[first + 1 : -1] == list(range(1, len(numbers) - first - 1))
        assert numbers[-1] is None
        # An arrow through the slices of each step.
        arrows = [event for event in events if event.get("cat") == "slice"]
        assert [arrow["ph"] for arrow in arrows] == [
            *("s", *["t"] * (first - 1), "f"),
            *("s", *["t"] * (len(numbers) - first - 4), "f"),
        ]
        assert [arrow["ts"] for arrow in arrows] == [bar["ts"] for bar in bars[:-1]]
        assert len({arrow["id"] for arrow in arrows}) == 2

    run(body)
