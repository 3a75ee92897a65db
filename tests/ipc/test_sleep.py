"""When a sleeping shard looks by itself, by a clock that the test winds; and that it finds what was lost, by a real one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

import clockworker as cw
from clockworker.ipc._sleep import Sleep
from clockworker.ipc.rings._doorbell_cy import Doorbell
from clockworker.ipc.rings._memory_cy import SharedMemory
from tests.conftest import Run, until

_NEWS_AT = 64


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Stands still until it is wound."""

    def __init__(self) -> None:
        self.now = 100.3
        self.timers: list[Timer] = []
        self.looks: list[float] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(at, callback))
        return self.timers[-1]

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self.call_at(self.now + delay, callback)

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        pass

    def remove_reader(self, descriptor: int) -> None:
        pass

    def wind(self, until: float) -> None:
        while True:
            self.timers = [timer for timer in self.timers if not timer.cancelled]
            due = min(self.timers, key=lambda timer: timer.at, default=None)
            if due is None or due.at > until:
                break
            self.now = due.at
            self.timers.remove(due)
            self.looks.append(self.now)
            due.callback()
        self.now = until


class Shard:
    """What a sleep needs of its shard: the doorbell, and to be woken."""

    def __init__(self) -> None:
        self.memory, self.eventfd = cw.create_doorbell(2)
        self.shared = SharedMemory(self.memory)
        self.doorbell = Doorbell(self.memory, self.eventfd)
        self.looks_seldom = False
        self.wakes = 0
        self.core = self
        self.loop = Loop()
        self.sleep = Sleep(cast(Any, self), cast(Any, self.loop), self.eventfd, 0)

    def wake(self) -> None:
        self.wakes += 1
        self.doorbell.wake()
        self.doorbell.news()

    def rung(self) -> None:
        """The loop of this shard never says so."""

    def fall_asleep(self) -> None:
        """As `Traffic.prepare_sleep` does."""
        if self.looks_seldom:
            self.sleep.look_soon()
        assert self.doorbell.sleep()

    def lose_a_wake_up(self) -> None:
        """Peer 1 tells of news, and does not ring."""
        self.shared.store(_NEWS_AT + 8, self.shared.load(_NEWS_AT + 8) + 1)

    def close(self) -> None:
        self.sleep.close()
        self.doorbell.close()
        self.shared.close()
        os.close(self.memory)


@pytest.fixture
def shard() -> Iterator[Shard]:
    shard = Shard()
    yield shard
    shard.close()


def test_it_looks_less_and_less_often_while_nothing_happens(shard: Shard) -> None:
    shard.fall_asleep()
    shard.loop.wind(200)
    assert shard.loop.looks == [101, 105, 121, 151, 181]
    assert (shard.wakes, shard.sleep.missed_wakeups) == (0, 0)


def test_a_new_sleep_is_looked_at_within_a_second(shard: Shard) -> None:
    shard.fall_asleep()
    shard.loop.wind(130.6)
    shard.doorbell.wake()
    shard.fall_asleep()
    shard.loop.looks.clear()
    shard.loop.wind(136)
    assert shard.loop.looks == [131, 135]


def test_sleeps_that_follow_each_other_cost_no_timers(shard: Shard) -> None:
    shard.fall_asleep()
    for _ in range(1000):
        shard.doorbell.wake()
        shard.fall_asleep()
    assert len(shard.loop.timers) == 1


@pytest.mark.parametrize(("slept", "within"), [(0.0, 1.5), (0.9, 4.5), (3.0, 16.5), (40.0, 30.5), (5000.0, 30.5)])
def test_a_lost_wake_up_is_found_in_bounded_time_and_counted(
    shard: Shard, caplog: pytest.LogCaptureFixture, slept: float, within: float
) -> None:
    shard.fall_asleep()
    shard.loop.wind(shard.loop.now + slept)
    shard.lose_a_wake_up()
    shard.loop.wind(shard.loop.now + within)
    assert (shard.wakes, shard.sleep.missed_wakeups) == (1, 1)
    assert "a wake-up was lost" in caplog.text


def test_a_bell_on_its_way_is_none_that_is_lost(shard: Shard) -> None:
    shard.fall_asleep()
    shard.lose_a_wake_up()
    shard.loop.wind(101.2)
    os.eventfd_write(shard.eventfd, 1)
    shard.loop.wind(102)
    assert (shard.wakes, shard.sleep.missed_wakeups) == (1, 0)


def test_another_sleep_is_suspected_anew(shard: Shard) -> None:
    shard.fall_asleep()
    shard.lose_a_wake_up()
    shard.loop.wind(101.2)
    shard.wake()
    shard.fall_asleep()
    shard.lose_a_wake_up()
    shard.loop.wind(101.6)
    assert shard.sleep.missed_wakeups == 0
    shard.loop.wind(102.1)
    assert shard.sleep.missed_wakeups == 1


def test_a_mesh_that_sleeps_on_news_finds_them(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("foreground")]) as executor:
            memory, eventfd = cw.create_doorbell(2)
            shared = SharedMemory(memory)
            mesh = cw.Mesh(0, 2, executor, (memory, eventfd))
            executor.wake()
            await until(mesh.doorbell.asleep)
            shared.store(_NEWS_AT + 8, 1)
            await until(lambda: mesh.stats().missed_wakeups == 1, "the loss was noticed")
            await until(lambda: mesh.doorbell.asleep() and not mesh.doorbell.has_news(), "taken in, and asleep again")
            mesh.close()
            shared.close()

    run(body)
    assert "shard 0 slept on news" in caplog.text
