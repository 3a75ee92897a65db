from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker import ControlError, DurationStats
from clockworker.ipc.rings._memory_cy import create_memory
from clockworker.shards.protocol._figures import Field, Section, fields
from clockworker.shards.protocol._reading import (
    MAX_COUNTER,
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
from clockworker.shards.protocol._request_readings import MAX_ROUTES, OTHER, Requests, RouteReading
from clockworker.shards.protocol._slot_words import MOST, MOST_BYTES, MOST_NS
from clockworker.shards.protocol._slots import VERSION, SlotReader, SlotWriter, create_slots
from clockworker.shards.protocol._topic_readings import MAX_TOPICS, OTHER_TOPICS, TopicReading, TopicReadings
from tests.shards.servers import eventually

# Sets all calls, rings and routes to 1, to 2, and so on, for as long as it lives, with a pause after each that a reader can get
# in.
WRITER = """
import msgspec, sys
from clockworker.executor import DurationStats
from clockworker.shards.protocol._reading import CallReading, Reading, RingReading
from clockworker.shards.protocol._request_readings import Requests, RouteReading
from clockworker.shards.protocol._slots import SlotWriter
writer = SlotWriter(int(sys.argv[1]), 1)
value = 0
while True:
    value += 1
    calls, ring = (kind(*[value] * len(kind.__struct_fields__)) for kind in (CallReading, RingReading))
    route = RouteReading(*[value] * 10, time=DurationStats((value,) * 50, value, value))
    http = Requests({"q": {f"/{number}": route for number in range(value % 5)}})
    writer.write(msgspec.structs.replace(Reading.nothing(["q"]), written_ns=value, calls=calls, http=http), {0: ring, 1: ring})
    for _ in range(500):
        pass
"""

bounds = {"ns": st.integers(0, MOST_NS), "bytes": st.integers(0, MOST_BYTES), "": st.integers(0, MOST)}
histograms = st.builds(
    DurationStats,
    st.lists(bounds[""], max_size=280).map(tuple),
    bounds["ns"],
    bounds["ns"],
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12).filter(
    lambda name: len(name.encode()) <= 32
)
counter_names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,20}", fullmatch=True).filter(
    lambda name: not name.startswith(("clockworker_", "process_"))
)
groups = st.builds(Groups, st.dictionaries(names, bounds["ns"], max_size=8))


def sections(kind: type[Section]) -> st.SearchStrategy[object]:
    kinds = {DurationStats: histograms, Groups: groups}

    def of(field: Field) -> st.SearchStrategy[int]:
        return bounds["ns" if field.in_ns else "bytes" if field.in_bytes else ""]

    return st.builds(kind, *[kinds[field.type] if field.type in kinds else of(field) for field in fields(kind)])


route_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40).filter(
    lambda name: len(name.encode()) <= 128
)
requests = st.builds(
    Requests,
    st.dictionaries(
        st.sampled_from(["foreground", "background"]),
        st.dictionaries(route_names, sections(RouteReading), min_size=1, max_size=3),
    ),
)

topics = st.builds(TopicReadings, st.dictionaries(route_names, sections(TopicReading), max_size=4))

readings = st.builds(
    Reading,
    bounds["ns"],
    sections(ProcessReading),
    sections(LoopReading),
    sections(CallReading),
    st.fixed_dictionaries({"foreground": sections(QueueReading), "background": sections(QueueReading)}),
    st.builds(Counters, st.dictionaries(counter_names, st.integers(0, MAX_COUNTER), max_size=MAX_COUNTERS)),
    requests,
    topics,
)


@given(readings, st.dictionaries(st.integers(0, 3), sections(RingReading)), st.lists(requests, max_size=2))
def test_what_is_written_is_read(reading: Reading, rings: dict[int, RingReading], others: list[Requests]) -> None:
    descriptor = create_slots(2, 4)
    writer, reader = SlotWriter(descriptor, 2), SlotReader(descriptor, list(reading.queues))
    os.close(descriptor)
    assert reader.read() == Reading.nothing(reading.queues)
    for http in others:  # of which only what differs is written anew
        writer.write(msgspec.structs.replace(reading, http=http))
        assert reader.read().http == http
    for _ in range(2):  # into either set
        writer.write(reading, rings)
        assert reader.read() == reading
        assert reader.read_rings() == tuple(rings.get(peer, RingReading()) for peer in range(4))
    writer.close()
    assert reader.read() == reading
    reader.close()


def test_topics_with_long_names_and_too_many_of_them() -> None:
    descriptor = create_slots(1, 1)
    writer, reader = SlotWriter(descriptor, 1), SlotReader(descriptor, ["q"])
    os.close(descriptor)
    long = {"ü" * 64 + name: TopicReading(published=1, subscribers=1) for name in ("one", "other")}
    writer.write(msgspec.structs.replace(Reading.nothing(["q"]), topics=TopicReadings(long)))
    assert reader.read().topics == TopicReadings({"ü" * 64: TopicReading(published=2, subscribers=2)})
    many = TopicReadings.of((str(number), TopicReading(delivered=1)) for number in range(MAX_TOPICS + 10))
    assert len(many.values) == MAX_TOPICS + 1
    assert many.values[OTHER_TOPICS] == TopicReading(delivered=10)
    for _ in range(2):
        writer.write(msgspec.structs.replace(Reading.nothing(["q"]), topics=many))
        assert reader.read().topics == many
    writer.close()
    reader.close()


def test_a_long_name_of_a_group_is_cut_between_characters() -> None:
    descriptor = create_slots(1, 1)
    writer, reader = SlotWriter(descriptor, 1), SlotReader(descriptor, ["q"])
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
                routes = reading.http.by_queue.get("q", {})
                assert len(routes) == reading.written_ns % 5
                for route in routes.values():
                    *counts, time = msgspec.structs.astuple(route)
                    assert {*counts, *time.buckets, time.max_ns, time.total_ns} == values
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
    with pytest.raises(ControlError, match=f"version 0; this is version {VERSION}"):
        SlotReader(descriptor, ["q"])
    os.close(descriptor)


def test_nothing_is_read_before_the_names_of_the_queues_are_known() -> None:
    """The memory is older than the application's import, which says how many there are."""
    descriptor = create_slots(5, 2)
    writer, reader = SlotWriter(descriptor, 2), SlotReader(descriptor)
    os.close(descriptor)
    written = msgspec.structs.replace(
        Reading.nothing(), written_ns=7, queues={"q": QueueReading(polls=1), "r": QueueReading(polls=2)}
    )
    for _ in range(2):
        writer.write(written, {1: RingReading(frames_sent=3)})
        assert (reader.read(), reader.read_rings()) == (Reading.nothing(), (RingReading(), RingReading()))
        assert reader.nonsense == ""
    for wrong in ((), ("q", "q"), tuple("abcdef")):
        with pytest.raises(ControlError):
            reader.declare(wrong)
        assert reader.read() == Reading.nothing()
    reader.declare(("q", "r"))
    assert (reader.read(), reader.read_rings()[1].frames_sent) == (written, 3)
    with pytest.raises(ControlError, match=r"its queues are \('x',\), and were \('q', 'r'\) before"):
        reader.declare(("x",))
    assert reader.read() == written
    writer.close()
    reader.close()


def test_there_is_room_for_so_many_queues_and_no_more() -> None:
    descriptor = create_slots(2, 2)
    SlotWriter(descriptor, 2).close()
    with pytest.raises(ControlError, match="no room for 3 queues, but for 2"):
        SlotWriter(descriptor, 3)
    os.close(descriptor)


@contextmanager
def slots(queues: int = 1, shards: int = 2) -> Iterator[tuple[int, SlotWriter, SlotReader]]:
    descriptor = create_slots(queues, shards)
    writer, reader = SlotWriter(descriptor, queues), SlotReader(descriptor, ["q", "r"][:queues])
    try:
        yield descriptor, writer, reader
    finally:
        os.close(descriptor)
        writer.close()
        reader.close()


def sane(value: int) -> Reading:
    calls = CallReading(*[value] * len(CallReading.__struct_fields__))
    queue = QueueReading(
        polls=value, poll_time=DurationStats((value, value), value, value), groups=Groups({"g": value})
    )
    route = RouteReading(*[value] * 10, DurationStats((value,), value, value))  # type: ignore[call-arg, arg-type]
    http = Requests({"q": {f"/{value % 3}": route, OTHER: route}})
    return Reading(
        value, ProcessReading(), LoopReading(turns=value), calls, {"q": queue}, Counters({"orders": value}), http
    )


def test_nonsense_leaves_what_was_there_before() -> None:
    with slots() as (descriptor, writer, reader):
        writer.write(sane(5), {1: RingReading(frames_sent=5)})
        before, rings = reader.read(), reader.read_rings()
        assert (before, reader.nonsense) == (sane(5), "")
        size = os.fstat(descriptor).st_size
        written = os.pread(descriptor, size, 0)
        os.pwrite(descriptor, b"\xff" * (size - 32), 32)
        os.pwrite(descriptor, b"\x02", 24)
        assert reader.read() == before
        assert reader.nonsense
        assert reader.read_rings() == rings
        os.pwrite(descriptor, written, 0)
        writer.write(sane(6))
        assert (reader.read(), reader.nonsense) == (sane(6), "")


def test_each_figure_has_a_bound() -> None:
    """Whichever word a shard gone mad writes over."""
    with slots() as (descriptor, writer, reader):
        size = os.fstat(descriptor).st_size
        writer.write(sane(5))
        writer.write(sane(5))
        written = os.pread(descriptor, size, 0)
        used = [at for at in range(32, size, 8) if written[at : at + 8] == (5).to_bytes(8, "little")]
        for at in used[: len(used) // 2]:
            os.pwrite(descriptor, b"\xff" * 8, at)
            os.pwrite(descriptor, bytes([written[24] ^ 2]), 24)  # something new to read, in the same set
            assert reader.read() in (sane(5), Reading.nothing(["q"]))
            assert reader.nonsense
            assert not re.search(r"\d{18}", reader.nonsense)
            os.pwrite(descriptor, written, 0)
            assert reader.read() == sane(5)
            assert not reader.nonsense


@pytest.mark.parametrize("name", ["clockworker_calls", "process_cpu", "a b", 'a{x="1"}', "", "\n"])
def test_a_counter_that_no_shard_would_have_is_nonsense(name: str) -> None:
    with slots() as (_, writer, reader):
        writer.write(msgspec.structs.replace(sane(5), counters=Counters({name: 1})))
        assert reader.read() == Reading.nothing(["q"])
        assert "a counter" in reader.nonsense


def test_a_route_of_a_queue_that_is_not_there_is_nonsense_and_so_are_too_many() -> None:
    with slots() as (descriptor, writer, reader):
        for number in (5, 6):
            writer.write(sane(number))
        first = 32 + 8 * (reader._layout.set * (os.pread(descriptor, 1, 24)[0] & 1) + reader._layout.routes)
        os.pwrite(descriptor, b"\x01", first)
        assert reader.read() == Reading.nothing(["q"])
        assert reader.nonsense == "a route's queue is more than it can be"
        os.pwrite(descriptor, b"\x00", first)
        os.pwrite(descriptor, b"\xff", first + 8 * (1 - reader._layout.routes))  # how many there are
        assert reader.read() == Reading.nothing(["q"])
        assert reader.nonsense == "routes is more than it can be"
        writer.write(sane(7))
        assert (reader.read(), reader.nonsense) == (sane(7), "")


def test_there_is_room_for_all_routes_that_can_be_and_what_is_beyond_is_left_out() -> None:
    rows = Requests.of((f"q{n}", f"/{n}", RouteReading(n)) for n in range(200))
    queues = [f"q{n}" for n in range(200)]
    assert len([*rows.rows()]) == 2 * MAX_ROUTES
    descriptor = create_slots(200, 1)
    writer, reader = SlotWriter(descriptor, 200), SlotReader(descriptor, queues)
    os.close(descriptor)
    reading = msgspec.structs.replace(Reading.nothing(queues), http=rows)
    writer.write(reading)
    assert reader.read() == reading
    many = {"q0": {f"/{n}": RouteReading(n) for n in range(200)}, "unknown": {"/": RouteReading()}}
    writer.write(msgspec.structs.replace(reading, http=Requests(many)))
    assert [*reader.read().http.by_queue["q0"]] == [f"/{n}" for n in range(2 * MAX_ROUTES)]
    writer.close()
    reader.close()


def test_what_has_not_changed_is_not_written_again() -> None:
    """Of each set by itself: a route that stands still costs a shard nothing, whatever the others do."""
    with slots() as (_, writer, reader):
        one, other = RouteReading(1), RouteReading(2)
        for number in range(4):
            http = Requests({"q": {"/a": one, "/b": other}})
            writer.write(msgspec.structs.replace(Reading.nothing(["q"]), written_ns=number, http=http))
            assert reader.read().http == http
        before = reader.read().http.by_queue["q"]["/a"]
        other = RouteReading(3)
        http = Requests({"q": {"/a": one, "/b": other}})
        writer.write(msgspec.structs.replace(Reading.nothing(["q"]), written_ns=9, http=http))
        assert reader.read().http == http
        assert reader.read().http.by_queue["q"]["/a"] is before, "nor is it read again"


def test_a_figure_that_no_word_takes_does_not_keep_the_others_from_being_written() -> None:
    with slots() as (_, writer, reader):
        odd = msgspec.structs.replace(
            sane(5),
            loop=LoopReading(turns=7, driver_ns=-3, lag=DurationStats((1, -1), -2, -2)),
            counters=Counters({"orders": 2, "back": -1}),
        )
        writer.write(odd)
        reading = reader.read()
        assert (reading.loop.turns, reading.loop.driver_ns, reading.loop.lag.buckets) == (7, 0, (1, 0))
        assert reading.counters == Counters({"orders": 2, "back": 0})
        assert reading.calls == sane(5).calls
        writer.write(msgspec.structs.replace(sane(5), loop=LoopReading(turns=2**70)))
        assert reader.read() == reading, "2**64 - 1 turns are not to be believed"


class Preempted:
    """The layout of a reader that is preempted, each time that it has asked where a set is, for so many sets of the writer."""

    def __init__(self, layout: Any, writer: SlotWriter, sets: int) -> None:
        self._layout = layout
        self._writer = writer
        self._sets = sets
        self.value = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layout, name)

    def first(self, sequence: int) -> int:
        for _ in range(self._sets):
            self.value += 1
            self._writer.write(sane(self.value))
        self._sets = max(0, self._sets - 1)
        return self._layout.first(sequence)  # type: ignore[no-any-return]


@pytest.mark.parametrize("sets", range(1, 6))
@pytest.mark.parametrize("first_read", [True, False])
def test_a_reader_that_is_preempted_gets_one_set(sets: int, first_read: bool) -> None:
    with slots() as (_, writer, reader):
        writer.write(sane(1))
        if not first_read:
            assert reader.read() == sane(1)
        preempted = Preempted(reader._layout, writer, sets)
        reader._layout = preempted  # type: ignore[assignment]
        seen = []
        for _ in range(10):
            reading = reader.read()
            assert reading == sane(reading.written_ns)
            seen.append(reading.written_ns)
        assert seen == sorted(seen)
        assert seen[-1] == preempted.value


def test_a_writer_that_does_nothing_else_is_not_waited_for() -> None:
    with slots() as (_, writer, reader):
        writer.write(sane(1))
        before = reader.read()
        layout = reader._layout

        class Endless:
            value = 1

            def __getattr__(self, name: str) -> Any:
                return getattr(layout, name)

            def first(self, sequence: int) -> int:
                self.value += 1
                writer.write(sane(self.value))
                return layout.first(sequence)

        reader._layout = Endless()  # type: ignore[assignment]
        assert reader.read() == before, "the last whole set rather than a torn one"


def test_the_summary_is_one_line() -> None:
    assert "\n" not in Reading.nothing(["q"]).summary()


def test_what_is_only_touched_keeps_its_figures() -> None:
    descriptor = create_slots(1, 1)
    writer, reader = SlotWriter(descriptor, 1), SlotReader(descriptor, ["q"])
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
