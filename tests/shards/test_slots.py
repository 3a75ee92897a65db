from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker import ControlError, DurationStats
from clockworker.ipc._memory_cy import create_memory
from clockworker.shards._reading import (
    MAX_COUNTERS,
    CallReading,
    Counters,
    Groups,
    LoopReading,
    ProcessReading,
    QueueReading,
    Reading,
    RingReading,
)
from clockworker.shards._slots import SlotReader, SlotWriter, create_slots
from tests.shards.servers import eventually

# Sets all calls and rings to 1, to 2, and so on, for as long as it lives, with a pause after each that a reader can get in.
WRITER = """
import msgspec, sys
from clockworker.shards._reading import CallReading, Reading, RingReading
from clockworker.shards._slots import SlotWriter
writer = SlotWriter(int(sys.argv[1]))
value = 0
while True:
    value += 1
    calls, ring = (kind(*[value] * len(kind.__struct_fields__)) for kind in (CallReading, RingReading))
    writer.write(msgspec.structs.replace(Reading.nothing(["q"]), written_ns=value, calls=calls), {0: ring, 1: ring})
    for _ in range(500):
        pass
"""

word = st.integers(0, 2**64 - 1)
histograms = st.builds(
    DurationStats,
    st.lists(word, max_size=280).map(tuple),
    word,
    word,
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12).filter(
    lambda name: len(name.encode()) <= 32
)
groups = st.builds(Groups, st.dictionaries(names, word, max_size=8))


def sections(kind: type) -> st.SearchStrategy[object]:
    kinds = {DurationStats: histograms, Groups: groups}
    return st.builds(kind, *[kinds.get(field.type, word) for field in msgspec.structs.fields(kind)])


readings = st.builds(
    Reading,
    word,
    sections(ProcessReading),
    sections(LoopReading),
    sections(CallReading),
    st.fixed_dictionaries({"foreground": sections(QueueReading), "background": sections(QueueReading)}),
    st.builds(Counters, st.dictionaries(names, word, max_size=MAX_COUNTERS)),
)


@given(readings, st.dictionaries(st.integers(0, 3), sections(RingReading)))
def test_what_is_written_is_read(reading: Reading, rings: dict[int, RingReading]) -> None:
    descriptor = create_slots(2, 4)
    writer, reader = SlotWriter(descriptor), SlotReader(descriptor, list(reading.queues))
    os.close(descriptor)
    assert reader.read() == Reading.nothing(reading.queues)
    for _ in range(2):  # into either set
        writer.write(reading, rings)
        assert reader.read() == reading
        assert reader.read_rings() == tuple(rings.get(peer, RingReading()) for peer in range(4))
    writer.close()
    assert reader.read() == reading
    reader.close()


def test_a_long_name_of_a_group_is_cut_between_characters() -> None:
    descriptor = create_slots(1, 1)
    writer, reader = SlotWriter(descriptor), SlotReader(descriptor, ["q"])
    os.close(descriptor)
    queue = QueueReading(groups=Groups({"ü" * 15 + "abc": 1, "\ud800": 2}))
    writer.write(msgspec.structs.replace(Reading.nothing(), queues={"q": queue}))
    assert reader.read().queues["q"].groups == Groups({"ü" * 15 + "ab": 1, "?": 2})
    writer.close()
    reader.close()


def test_another_process_never_shows_half_a_set_even_when_killed() -> None:
    descriptor = create_slots(1, 2)
    reader = SlotReader(descriptor, ["q"])
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(descriptor)], pass_fds=[descriptor])
    try:
        eventually(lambda: reader.read().written_ns, "the writer has started")
        seen = [0]

        def look() -> bool:
            for _ in range(100):
                reading = reader.read()
                values = {reading.written_ns, *msgspec.structs.astuple(reading.calls)}
                assert len(values) == 1, values
                rings = {value for ring in reader.read_rings() for value in msgspec.structs.astuple(ring)}
                assert len(rings) == 1, rings
                if reading.written_ns != seen[-1]:
                    seen.append(reading.written_ns)
            return len(seen) > 100

        eventually(look, "a hundred different sets")
        assert seen == sorted(seen)
    finally:
        process.kill()
        process.wait()
        os.close(descriptor)
    reading = reader.read()
    assert {reading.written_ns, *msgspec.structs.astuple(reading.calls)} == {reading.written_ns}
    assert reading.written_ns >= seen[-1]
    reader.close()


def test_slots_of_another_version_are_refused() -> None:
    descriptor = create_memory("slots", 4096)
    with pytest.raises(ControlError, match="version 0; this is version 4"):
        SlotReader(descriptor, ["q"])
    os.close(descriptor)


def test_nonsense_is_read_without_an_exception() -> None:
    descriptor = create_slots(1, 2)
    reader = SlotReader(descriptor, ["q"])
    size = os.fstat(descriptor).st_size
    os.pwrite(descriptor, b"\xff" * (size - 24), 24)
    assert reader.read().calls.sent == 2**64 - 1
    assert len(reader.read().queues["q"].poll_time.buckets) == 280
    assert len(reader.read_rings()) == 2
    os.close(descriptor)
    reader.close()


def test_the_summary_is_one_line() -> None:
    assert "\n" not in Reading.nothing(["q"]).summary()


def test_what_is_only_touched_keeps_its_figures() -> None:
    descriptor = create_slots(1, 1)
    writer, reader = SlotWriter(descriptor), SlotReader(descriptor, ["q"])
    os.close(descriptor)
    reading = msgspec.structs.replace(Reading.nothing(["q"]), written_ns=5, calls=CallReading(sent=7))
    writer.write(reading)
    assert reader.read() == reading
    writer.touch(9)
    assert reader.read() == msgspec.structs.replace(reading, written_ns=9)
    again = msgspec.structs.replace(reading, written_ns=11, calls=CallReading(sent=8))
    writer.write(again)
    assert reader.read() == again
    writer.close()
    reader.close()
