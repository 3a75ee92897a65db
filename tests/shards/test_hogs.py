"""Who is said to compute without an await. Queues are played: their numbers are what the watch goes by."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from clockworker.shards.worker._hogs import AGAIN, LONG_S, NAME_BYTES, HogWatch

S = 10**9


class Task:
    def __init__(self, name: str) -> None:
        self._name = name

    def get_name(self) -> str:
        return self._name


class Played:
    """A queue that has one step going on, if any."""

    def __init__(self, name: str, *, preemptive: bool = True) -> None:
        self.key = name
        self._queue = SimpleNamespace(preemptive=preemptive, suspended=None, polls=0, busy_ns=0, cuts=0, runnable=0)

    def compute(self, name: str, ns: int) -> None:
        self._queue.suspended = SimpleNamespace(task=Task(name))
        self._queue.busy_ns += ns
        self._queue.cuts += ns // 10**6
        self._queue.runnable = 3

    def end(self, watch: HogWatch, whole_ns: int) -> None:
        """Of its step, which is told of as a long one."""
        task = self._queue.suspended.task
        self._queue.suspended = None
        self._queue.polls += 1
        watch.was_long(self.key, task, whole_ns)


@pytest.fixture
def played() -> Played:
    return Played("reports")


@pytest.fixture
def watch(played: Played) -> HogWatch:
    handles: Any = [played, Played("web", preemptive=False)]
    return HogWatch(handles)


def test_a_step_is_counted_once_whether_it_is_seen_or_told_of(played: Played, watch: HogWatch) -> None:
    played.compute("/a", S)
    played.end(watch, S)  # between two looks
    assert watch.hogs("reports").service_ns == {"/a": S}
    for _ in range(4):  # over several
        played.compute("/b", S)
        watch.look(0.0)
    assert watch.hogs("reports").service_ns == {"/a": S, "/b": 3 * S}
    played.end(watch, 4 * S)
    assert watch.hogs("reports").service_ns == {"/a": S, "/b": 4 * S}
    watch.look(0.0)
    # One that begins and ends after another was seen has nothing of that.
    played.compute("/c", S)
    watch.look(0.0)
    played._queue.polls += 1
    played.compute("/a", S)
    played.end(watch, S)
    assert watch.hogs("reports").service_ns == {"/b": 4 * S, "/a": 2 * S}
    assert watch.hogs("web").service_ns == watch.hogs("unknown").service_ns == {}


def test_the_latest_are_kept_and_names_have_room(played: Played, watch: HogWatch) -> None:
    for number in range(20):
        played.compute(f"/{number}", S)
        played.end(watch, S)
    assert list(watch.hogs("reports").service_ns) == [f"/{number}" for number in range(12, 20)]
    for end in "xy":
        played.compute("ä" * 20 + end, S)
        played.end(watch, S)
    *_, (name, ns) = watch.hogs("reports").service_ns.items()
    assert (name, ns) == ("ä" * (NAME_BYTES // 2), 2 * S)


def test_a_step_that_goes_on_is_said_at_growing_intervals(
    played: Played, watch: HogWatch, caplog: pytest.LogCaptureFixture
) -> None:
    for now in range(12):
        played.compute("/a", S)
        watch.look(1000.0 * now)  # calm enough to be said each time
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0] == (
        "task '/a' in queue 'reports' has computed for 1.0 s without an await, in 1000 slices so far: others run in between, "
        "but none of its own queue, where 2 wait"
    )
    assert re.search(rf"for {AGAIN * LONG_S:.1f} s", said[1])
    assert [record.__dict__["queue"] for record in caplog.records] == ["reports"] * 2


def test_the_log_is_limited(played: Played, watch: HogWatch, caplog: pytest.LogCaptureFixture) -> None:
    for step in range(50):
        for _ in range(3):
            played.compute("/a", S)
            watch.look(step / 10)
        played.end(watch, 3 * S)
    assert len(caplog.records) == 1
