"""The pulse of a real loop, whose executor works and rests."""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
from collections.abc import Iterator

import pytest

import clockworker as cw
from clockworker.shards.protocol._pulse import DUMP_SIGNAL, Pulse, PulseReader, create_dump, create_pulse
from clockworker.shards.protocol._rest import BEAT_S
from tests.conftest import Run

PACE = 0.3


@pytest.fixture
def both() -> Iterator[tuple[PulseReader, Pulse]]:
    """Ends of one pulse. The shard's has none but the end of its process."""
    descriptor, dump = create_pulse(), create_dump()
    reader, pulse = PulseReader(descriptor, dump), Pulse(descriptor, dump, PACE)
    yield reader, pulse
    faulthandler.unregister(DUMP_SIGNAL)
    pulse._file.close()
    reader.close()


def test_a_loop_beats_slowly_at_rest_and_at_once_when_there_is_work(run: Run, both: tuple[PulseReader, Pulse]) -> None:
    async def body() -> None:
        reader, pulse = both
        assert (reader.beat, reader.pace) == (0, 0), "nothing is expected yet"
        changes: asyncio.Queue[bool] = asyncio.Queue()

        async def work() -> tuple[float, list[bool]]:
            told = [changes.get_nowait() for _ in range(changes.qsize())]
            return reader.pace, told

        async with cw.Executor([cw.Queue("only")]) as executor:
            pulse.start(executor, changes.put_nowait)
            assert reader.pace == BEAT_S
            for _ in range(2):
                before = reader.beat
                assert await changes.get() is True, "it rests"
                assert reader.pace == PACE
                resting = reader.beat
                assert resting > before
                # The first step finds that everybody has been told.
                assert await executor.queues()[0].spawn(work()) == (BEAT_S, [False])
                assert reader.beat > resting
            pulse.stop()
            assert reader.beat == 0
            await executor.queues()[0].spawn(work())
            assert changes.empty(), "nobody is told any more"

    run(body)


def test_a_loop_at_rest_beats_on(run: Run, both: tuple[PulseReader, Pulse]) -> None:
    async def body() -> None:
        reader, pulse = both
        rests = asyncio.Event()
        async with cw.Executor([cw.Queue("only")]) as executor:
            pulse.start(executor, lambda resting: rests.set())
            await rests.wait()
            beats = [reader.beat]
            while len(beats) < 4:
                await asyncio.sleep(0.05)
                if reader.beat != beats[-1]:
                    beats.append(reader.beat)
            assert all(later - earlier > 0.8 * PACE for earlier, later in itertools.pairwise(beats[1:]))
            pulse.stop()

    run(body)
