"""What more has come than is parsed at once: connections take turns, tasks have most of the time, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from clockworker.http import _backlog
from clockworker.http._backlog import SLICE_NS, Backlog
from tests.conftest import Run, until


class Clock:
    """A microsecond goes by at each look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        monkeypatch.setattr(_backlog, "now_ns", self._read)

    def _read(self) -> int:
        self.now += 1_000
        return self.now


def test_connections_take_turns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    turns: list[str] = []

    async def body() -> None:
        backlog = Backlog(lambda: False)

        def connection(name: str, times: int) -> None:
            def go_on() -> None:
                nonlocal times
                turns.append(name)
                clock.now += SLICE_NS // 2
                times -= 1
                if times:
                    backlog.add(go_on)

            backlog.add(go_on)

        connection("a", 4)
        connection("b", 3)
        connection("c", 1)
        assert turns == []
        await asyncio.sleep(0)
        assert turns == ["a", "b"]  # a slice is over
        await asyncio.sleep(0)
        assert turns == ["a", "b", "c", "a"]
        await until(lambda: len(turns) == 8)
        assert turns == ["a", "b", "c", "a", "b", "a", "b", "a"]
        connection("again", 1)
        await until(lambda: turns[-1] == "again")

    run(body)


def test_while_tasks_are_runnable_they_have_most_of_the_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    busy = True
    spent = 0

    async def body() -> None:
        nonlocal busy
        backlog = Backlog(lambda: busy)

        def go_on() -> None:
            nonlocal spent
            spent += SLICE_NS
            clock.now += SLICE_NS
            backlog.add(go_on)

        backlog.add(go_on)
        for _ in range(1_000):
            clock.now += 10_000  # a step of a task
            await asyncio.sleep(0)
        assert 0.1 < spent / clock.now < 0.25
        busy = False
        before, at = spent, clock.now
        for _ in range(1_000):
            clock.now += 10_000
            await asyncio.sleep(0)
        assert (spent - before) / (clock.now - at) > 0.9

    run(body)


def test_one_that_raises_keeps_nobody_waiting(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        told: list[object] = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        backlog = Backlog(lambda: False)
        went_on: list[str] = []

        def fail() -> None:
            raise ValueError("a connection's own")

        backlog.add(fail)
        backlog.add(lambda: went_on.append("b"))
        backlog.add(fail)
        backlog.add(lambda: went_on.append("d"))
        await until(lambda: went_on == ["b", "d"])
        assert [str(error) for error in told] == ["a connection's own"] * 2

    run(body)


def test_an_empty_one_does_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        backlog = Backlog(lambda: True)
        looks = 0
        look = backlog._look

        def counted() -> None:
            nonlocal looks
            looks += 1
            look()

        monkeypatch.setattr(backlog, "_look", counted)
        backlog.add(lambda: None)
        for _ in range(10):
            await asyncio.sleep(0)
        assert looks == 1

    run(body)
