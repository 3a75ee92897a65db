"""FairSRPT: against a model of jobs with histories, and with jobs that lie, are aborted and never end."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clockworker as cw
from clockworker.executor import _clock_cy as clock
from clockworker.executor._schedulers_cy import ScheduledTask
from tests.conftest import Run
from tests.executor.test_schedulers import PUSH_BITS, make_task, pop_all, push_all


@pytest.fixture
def wound() -> Iterator[None]:
    clock.begin_winding(0, 0)
    yield
    clock.end_winding()


class ModelJob:
    def __init__(self, group: Hashable, order: int) -> None:
        self.group = group
        self.order = order
        self.service = self.waited = self.entered = self.left = 0
        self.due: float = 0
        self.tasks = 1
        self.runnable: deque[ScheduledTask] = deque()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32).map(random.Random), st.sampled_from([1.0, 3.0, 20.0, math.inf]))
def test_against_the_model(chance: random.Random, slowdown: float) -> None:
    scheduler = cw.FairSRPT(slowdown)
    histories: dict[Hashable, deque[int]] = {}
    jobs: dict[ScheduledTask, ModelJob] = {}
    asleep: list[ScheduledTask] = []
    arrivals = 0

    def remaining(job: ModelJob) -> int:
        longer = [total - job.service for total in histories.get(job.group, ()) if total > job.service]
        return sum(longer) // len(longer) if longer else job.service

    def rank(job: ModelJob) -> None:
        job.left = remaining(job)
        patience = (slowdown - 1) * (job.service + job.left) - job.waited
        job.due = job.entered + max(0, math.floor(patience)) if patience < 1 << 56 else math.inf

    def push(task: ScheduledTask) -> None:
        job = jobs[task]
        scheduler.push(task)
        job.runnable.append(task)
        if len(job.runnable) == 1:
            job.entered = clock.wound_ns()
            rank(job)

    clock.begin_winding(0, 0)
    try:
        for _ in range(chance.randint(1, 150)):
            clock.wind(chance.randint(0, 2_000_000))
            if chance.random() < 0.4:
                arrivals += 1
                task = make_task(arrivals, chance.choice(["a", "b", None]))
                jobs[task] = ModelJob(task.group, arrivals)
                push(task)
            if asleep and chance.random() < 0.4:
                push(asleep.pop(chance.randrange(len(asleep))))
            waiting = {job.order: job for job in jobs.values() if job.runnable}
            if not waiting or chance.random() < 0.2:
                continue
            now = clock.wound_ns()
            expected = min(waiting.values(), key=lambda job: (job.left, job.order))
            if slowdown != math.inf:
                overdue = min(waiting.values(), key=lambda job: (job.due, job.order))
                expected = overdue if overdue.due <= now else expected
            task = scheduler.pop()
            assert task is expected.runnable.popleft()
            expected.waited += now - expected.entered
            if expected.runnable:
                expected.entered = now
                rank(expected)
            if chance.random() < 0.2:
                arrivals += 1
                child = make_task(task.arrival, task.group)
                child.tie = arrivals << PUSH_BITS
                jobs[child] = expected
                expected.tasks += 1
                push(child)
            fate = chance.choice(["yields", "sleeps", "ends"])
            if fate == "yields":
                push(task)
            elapsed = chance.choice([0, 100_000, 250_000, 1_000_000])
            clock.wind(elapsed)
            scheduler.observe(task, elapsed)
            expected.service += elapsed
            if expected.runnable:
                rank(expected)
            if fate == "sleeps":
                asleep.append(task)
            elif fate == "ends":
                scheduler.forget_task(task)
                del jobs[task]
                expected.tasks -= 1
                if expected.tasks == 0 and expected.service:
                    history = histories.setdefault(expected.group, deque(maxlen=32))
                    history.append(expected.service)
            assert len(scheduler) == sum(len(job.runnable) for job in {id(j): j for j in jobs.values()}.values())
    finally:
        clock.end_winding()


def teach(scheduler: cw.FairSRPT, group: Hashable, totals: list[int], first: int = 1_000) -> None:
    for number, total in enumerate(totals, first):
        task = make_task(number, group)
        scheduler.push(task)
        assert scheduler.pop() is task
        scheduler.observe(task, total)
        scheduler.forget_task(task)
        scheduler.forget_group(group)


def test_who_is_expected_to_be_done_soonest_goes_first(wound: None) -> None:
    scheduler = cw.FairSRPT()
    teach(scheduler, "report", [5_000_000] * 3)
    teach(scheduler, "ping", [100_000] * 3)
    report, ping = make_task(1, "report"), make_task(2, "ping")
    push_all(scheduler, [report, ping])
    assert pop_all(scheduler) == [2, 1]
    # A report that is nearly done goes before a ping.
    scheduler.observe(report, 4_950_000)
    push_all(scheduler, [ping, report])
    assert pop_all(scheduler) == [1, 2]


def test_a_job_that_is_longer_than_any_goes_back_as_it_grows(wound: None) -> None:
    scheduler = cw.FairSRPT(math.inf)
    teach(scheduler, "ping", [100_000] * 40)
    long = make_task(1, "ping")
    scheduler.push(long)
    scheduler.observe(scheduler.pop(), 10_000_000)
    push_all(scheduler, [long, make_task(2, "ping")])
    assert pop_all(scheduler) == [2, 1]


def test_a_group_with_two_sizes_expects_the_long_one_of_who_has_outlived_the_short(wound: None) -> None:
    scheduler = cw.FairSRPT(math.inf)
    teach(scheduler, "mixed", [100_000] * 16 + [8_000_000] * 16)
    teach(scheduler, "middle", [4_100_000] * 4)
    mixed, middle = make_task(1, "mixed"), make_task(2, "middle")
    push_all(scheduler, [mixed, middle])
    assert scheduler.pop() is mixed  # (0.1 + 8) / 2 = 4.05 ms
    scheduler.observe(mixed, 200_000)
    scheduler.push(mixed)
    assert scheduler.pop() is middle  # 7.8 ms are left


def test_nobody_is_slowed_down_by_more_than_the_limit(wound: None) -> None:
    """Pings that would keep a report waiting for ever do not."""
    for slowdown, starved in ((math.inf, True), (5.0, False)):
        scheduler = cw.FairSRPT(slowdown)
        teach(scheduler, "report", [1_000_000] * 4)
        teach(scheduler, "ping", [100_000] * 4, 2_000)
        report = make_task(1, "report")
        began = clock.wound_ns()
        scheduler.push(report)
        for number in range(2, 200):
            scheduler.push(make_task(number, "ping"))
            task = scheduler.pop()
            if task is report:
                assert not starved
                assert clock.wound_ns() - began == pytest.approx(4_000_000, abs=100_000)
                break
            clock.wind(100_000)
            scheduler.observe(task, 100_000)
            scheduler.forget_task(task)
        else:
            assert starved


def test_what_never_ends_has_its_small_part_and_no_more(wound: None) -> None:
    scheduler = cw.FairSRPT(10.0)
    teach(scheduler, "ping", [100_000] * 4, 100_000)
    endless = make_task(1, "server")
    scheduler.push(endless)
    steps = 0
    began = clock.wound_ns()
    for number in range(2, 20_000):
        scheduler.push(make_task(number, "ping"))
        task = scheduler.pop()
        clock.wind(100_000)
        scheduler.observe(task, 100_000)
        if task is endless:
            steps += 1
            scheduler.push(endless)
        else:
            scheduler.forget_task(task)
    # Pings alone are as much as there is time for, and have limits of their own.
    assert 0.005 < steps * 100_000 / (clock.wound_ns() - began) < 0.12


def test_so_many_histories_are_kept(wound: None) -> None:
    scheduler = cw.FairSRPT()
    for number in range(1, 1_500):
        teach(scheduler, f"client {number}", [1_000_000], number)
    teach(scheduler, "report", [9_000_000])
    push_all(scheduler, [make_task(2_001, "report"), make_task(2_002, "client 1499"), make_task(2_003, "client 1")])
    assert pop_all(scheduler) == [2_003, 2_002, 2_001]  # the first of all is unknown by now


@pytest.mark.parametrize("slowdown", [0, 0.9, -1, math.nan, True, "20", None])
def test_a_limit_is_a_number_from_one(slowdown: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match=r"slowdown is .*; it must be a number from 1"):
        cw.FairSRPT(slowdown)
    assert cw.FairSRPT(2).slowdown == 2


def test_observations_that_are_not_true(wound: None) -> None:
    scheduler = cw.FairSRPT()
    task = make_task(1, "g")
    for elapsed in (-5, -(2**62), 2**62, 2**62, 2**62):
        scheduler.push(task)
        assert scheduler.pop() is task
        scheduler.observe(task, elapsed)
    scheduler.forget_task(task)
    scheduler.push(make_task(2, "g"))
    assert pop_all(scheduler) == [2]


def test_an_aborted_job_teaches_nothing(run: Run) -> None:
    scheduler = cw.FairSRPT()
    ran: list[str] = []

    async def long(name: str) -> None:
        until = asyncio.get_running_loop().time() + 0.02
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0)
        ran.append(name)

    async def body() -> None:
        async with cw.Executor([cw.Queue("q", scheduler=scheduler)]) as executor:
            queue = executor.queue("q")
            await queue.group("known").spawn(long("first"))
            aborted = queue.group("aborted").spawn(asyncio.sleep(3_600))
            await asyncio.sleep(0.005)
            aborted.abort()
            with pytest.raises(cw.TaskCancelled):
                await aborted
            # Without history it would be expected to be done at once.
            handles = [queue.group("known").spawn(long("known")), queue.group("aborted").spawn(asyncio.sleep(0))]
            await handles[1]
            ran.append("aborted")
            await handles[0]

    run(body)
    assert ran == ["first", "aborted", "known"]
