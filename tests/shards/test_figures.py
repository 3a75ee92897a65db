"""What a field says of itself, and that all the rest follows from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from clockworker import DurationStats
from clockworker.shards.protocol._figures import Family, Kind, Section, counter, fields, gauge, peak
from clockworker.shards.protocol._reading import CallReading, LoopReading, ProcessReading, QueueReading, RingReading
from tests.mutations import Mutation, copy_package, mutate

SECTIONS: list[type[Section]] = [ProcessReading, LoopReading, CallReading, QueueReading, RingReading]

WORK = Family("work", "Work done, and left.", "state")


class Work(Section, frozen=True):
    done: Annotated[int, counter(WORK, "done", of="work_done")] = 0
    open: Annotated[int, gauge("work_open", "Work that is open.")] = 0
    longest_ns: Annotated[int, peak()] = 0
    took: Annotated[DurationStats, counter("work_seconds", "How long it took.")] = DurationStats()


def test_each_kind_is_summed_by_its_rule() -> None:
    dead, now = Work(7, 3, 9, DurationStats((4,), 2, 5)), Work(1, 2, 5, DurationStats((1, 1), 1, 1))
    over_incarnations = Work(8, 2, 5, DurationStats((5, 1), 2, 6))
    assert dead.then(now) == over_incarnations
    assert over_incarnations.since(dead).done == 1
    assert over_incarnations.since(dead).took.buckets == (1, 1)
    assert (over_incarnations.since(dead).open, over_incarnations.since(dead).longest_ns) == (2, 5)
    assert Work.total([dead, now]) == Work(8, 5, 9, DurationStats((5, 1), 2, 6))
    assert Work.total([]) == Work()


class Counts:
    work_done = 5
    open = 2


class Times:
    open = 99
    longest_ns = 8


def test_a_figure_is_taken_where_it_is_counted() -> None:
    work = Work.of(Counts(), Times(), took=DurationStats((1,), 1, 1))
    assert work == Work(5, 2, 8, DurationStats((1,), 1, 1)), "of several places the first"
    with pytest.raises(AttributeError, match="longest_ns"):
        Work.of(Counts(), took=DurationStats())


def test_a_field_says_what_it_is() -> None:
    done, opened, longest, took = fields(Work)
    assert (done.name, done.type, done.figure.kind, done.figure.family) == ("done", int, Kind.COUNTER, WORK)
    assert opened.figure.family == Family("work_open", "Work that is open.")
    assert longest.figure.family is None
    assert [field.in_ns for field in (done, longest, took)] == [False, True, True]

    class Silent(Section, frozen=True):
        refused: int = 0

    with pytest.raises(TypeError, match=r"Silent\.refused must be Annotated with one of counter, gauge and peak"):
        fields(Silent)


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_shown_has_the_names_that_prometheus_wants(section: type[Section]) -> None:
    families: dict[str, Family] = {}
    for field in fields(section):
        family = field.figure.family
        if family is not None:
            assert families.setdefault(family.name, family) == family, "one family has one help and one label"
            assert bool(family.label) == bool(field.figure.value)
            assert family.name.endswith("_seconds") == field.in_ns, "the page converts nanoseconds"
            assert family.help.endswith(".")
            assert not family.name.endswith("_total"), "which counters have by themselves"


# What one who adds a counter writes: its field, and the line that counts.
FIELD = Mutation(
    "shards/protocol/_reading",
    "    local: Annotated[",
    '    refused: Annotated[int, counter("calls_refused", "Calls that were refused.", of="calls_refused")] = 0\n'
    "    local: Annotated[",
)
SCENARIO = """
import asyncio, os, sys
import msgspec
import clockworker as cw
from clockworker.ipc import Mesh, create_doorbell
from clockworker.shards.observe._ledger import Ledger
from clockworker.shards.observe._metrics import Metrics, Snapshot
from clockworker.shards.protocol._reading import Counters
from clockworker.shards.observe._view import Presence
from clockworker.shards.protocol._slots import SlotReader, SlotWriter, VERSION, create_slots
from clockworker.shards.worker._recorder import Recorder

async def main():
    descriptor = create_slots(1, 2)
    reader = SlotReader(descriptor, ["q"])
    async with cw.Executor([cw.Queue("q")]) as executor:
        mesh = Mesh(0, 2, executor, create_doorbell(2))
        mesh.calls_refused = 20  # COUNTED
        recorder = Recorder(SlotWriter(descriptor, 1), executor, mesh, lambda: (0, 0, 0), Counters)
        recorder.write()
        mesh.close()
    ledger = Ledger(1)
    ledger.died(0, reader.read())
    totals = ledger.totals([reader.read()])
    page, _ = Metrics(lambda: Snapshot([Presence(0, "ready", 1, None, 1.0)], totals, 0.0, 1)).page("")
    return {"page": page.decode(), "json": msgspec.json.encode(totals[0].reading).decode(), "version": VERSION}

sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(main())))
"""


def test_a_new_counter_is_its_field_and_the_line_that_counts(tmp_path: Path) -> None:
    """From there it goes through slots and sums to the page and to JSON, and slots of others are not taken for its own."""
    found = []
    for name in ("before", "after"):
        package = copy_package(tmp_path / name)
        if name == "after":
            mutate(package, FIELD)
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
        done = subprocess.run(
            [sys.executable, "-c", SCENARIO], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    before, after = found
    assert "refused" not in before["page"] + before["json"]
    families = {family.name: family for family in parse(after["page"])}
    refused = families["clockworker_calls_refused"]
    assert (refused.type, refused.documentation) == ("counter", "Calls that were refused.")
    assert [(sample.labels, sample.value) for sample in refused.samples] == [({"shard": "0"}, 40.0)]
    assert json.loads(after["json"])["calls"]["refused"] == 40
    assert set(families) == {*(family.name for family in parse(before["page"])), refused.name}
    assert before["version"] != after["version"]
