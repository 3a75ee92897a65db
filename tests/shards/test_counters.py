from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from clockworker.shards._counters import SLOTS, CounterReader, CounterWriter, Counts, create_counters
from tests.shards.servers import eventually

# Sets all slots to 1, to 2, and so on, for as long as it lives, with a pause after each that a reader can get in.
WRITER = """
import sys
from clockworker.shards._counters import SLOTS, CounterWriter, Counts
writer = CounterWriter(int(sys.argv[1]))
value = 0
while True:
    value += 1
    writer.write(Counts(*[value] * len(SLOTS)))
    for _ in range(500):
        pass
"""


def test_what_is_written_is_read() -> None:
    descriptor = create_counters()
    writer, reader = CounterWriter(descriptor), CounterReader(descriptor)
    os.close(descriptor)
    assert reader.read() == Counts()
    counts = Counts(*range(2**64 - len(SLOTS), 2**64))
    writer.write(counts)
    assert reader.read() == counts
    writer.close()
    assert reader.read() == counts
    reader.close()


def test_another_process_never_shows_half_a_set_even_when_killed() -> None:
    descriptor = create_counters()
    reader = CounterReader(descriptor)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(descriptor)], pass_fds=[descriptor])
    try:
        eventually(lambda: reader.read().written_ns, "the writer has started")
        seen = [0]

        def look() -> bool:
            for _ in range(100):
                values = msgspec.structs.astuple(reader.read())
                assert len(set(values)) == 1, values
                if values[0] != seen[-1]:
                    seen.append(values[0])
            return len(seen) > 100

        eventually(look, "a hundred different sets")
        assert seen == sorted(seen)
    finally:
        process.kill()
        process.wait()
        os.close(descriptor)
    values = msgspec.structs.astuple(reader.read())
    assert len(set(values)) == 1
    assert values[0] >= seen[-1]
    reader.close()


def test_the_summary_is_one_line() -> None:
    assert "\n" not in Counts().summary()
