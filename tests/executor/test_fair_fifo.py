"""FairFifo: against a model of lines and limits, and in an executor, where a queue whose tasks may not run rests and wakes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clockworker as cw
from clockworker.executor._schedulers_cy import ScheduledTask
from tests.conftest import Run
from tests.executor.fair_model import UNIT_NS, Claim, FairModel
from tests.executor.test_schedulers import PUSH_BITS, make_task, pop_all, push_all


class ModelJob:
    def __init__(self, number: int) -> None:
        self.number = number
        self.begun = False
        self.tasks: set[ScheduledTask] = set()


class ModelLine:
    """A group: who waits to begin, who is at work, and which of those are runnable."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.waiting: list[tuple[ScheduledTask, ModelJob]] = []
        self.runnable: list[tuple[int, int, int, ScheduledTask]] = []  # arrival, place, when pushed
        self.jobs: list[ModelJob] = []

    def has(self, limit: int) -> bool:
        at_work = sum(job.begun for job in self.jobs)
        return bool(self.runnable) or (bool(self.waiting) and at_work < limit)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32).map(random.Random), st.integers(1, 3))
def test_against_the_model(chance: random.Random, limit: int) -> None:
    scheduler = cw.FairFifo(limit)
    model = FairModel()
    lines: dict[Hashable, ModelLine] = {}
    jobs: dict[ScheduledTask, tuple[ModelLine, ModelJob]] = {}
    asleep: list[ScheduledTask] = []
    arrivals = 0
    pushes = 0

    def push(task: ScheduledTask) -> None:
        nonlocal pushes
        line, job = jobs[task]
        pushes += 1
        scheduler.push(task)
        if job.begun:
            line.runnable.append((task.arrival, task.tie >> PUSH_BITS, pushes, task))
        else:
            line.waiting.append((task, job))
        if not line.claim.active and line.has(limit):
            model.activate(line.claim)

    def come(group: Hashable, parent: ScheduledTask | None) -> None:
        nonlocal arrivals
        arrivals += 1
        task = make_task(arrivals if parent is None else parent.arrival, group)
        task.tie = arrivals << PUSH_BITS
        key = group if group is not None else ("alone", arrivals)
        if parent is not None and parent.group is group:
            line, job = jobs[parent]
        else:
            if key not in lines:
                lines[key] = ModelLine(model.add(key, 1))
            line = lines[key]
            job = ModelJob(arrivals)
            line.jobs.append(job)
        job.tasks.add(task)
        jobs[task] = (line, job)
        push(task)

    for _ in range(chance.randint(1, 100)):
        if chance.random() < 0.3:
            come(chance.choice(["a", "b", "c", None]), None)
        if asleep and chance.random() < 0.4:
            push(asleep.pop(chance.randrange(len(asleep))))
        if not len(scheduler) or chance.random() < 0.2:
            continue
        task: Any = scheduler.pop()
        if not model.active():
            assert task is None  # all are at their limits
            continue
        claim = model.pick()
        line = lines[claim.key]
        if line.runnable:
            line.runnable.sort(key=lambda entry: entry[:3])
            expected = line.runnable.pop(0)[3]
        else:
            expected, job = line.waiting.pop(0)
            job.begun = True
        assert task is expected
        if chance.random() < 0.2:
            come(task.group, task)
        ends = False
        match chance.choice(["yields", "sleeps", "ends"]):
            case "yields":
                push(task)
            case "sleeps":
                asleep.append(task)
            case "ends":
                ends = True
        elapsed = UNIT_NS * chance.randint(0, 3)
        scheduler.observe(task, elapsed)
        model.charge(claim, elapsed)
        if not line.has(limit):
            model.deactivate(claim)
        if ends:
            _, job = jobs[task]
            job.tasks.discard(task)
            if not job.tasks:
                line.jobs.remove(job)
            scheduler.forget_task(task)
            if not claim.active and line.has(limit):
                model.activate(claim)


def step(scheduler: cw.FairFifo) -> ScheduledTask:
    task = scheduler.pop()
    scheduler.observe(task, 1_000)
    return task


def test_so_many_of_a_group_at_a_time() -> None:
    scheduler = cw.FairFifo(2)
    assert scheduler.limit == 2
    push_all(scheduler, [make_task(number, "g") for number in range(1, 5)])
    first, second = step(scheduler), step(scheduler)
    assert (first.arrival, second.arrival) == (1, 2)
    assert scheduler.pop() is None
    assert len(scheduler) == 2
    scheduler.push(second)  # it has slept; who is at work may always run
    assert step(scheduler) is second
    scheduler.forget_task(first)
    assert step(scheduler).arrival == 3
    assert scheduler.pop() is None


def test_the_oldest_of_those_at_work_goes_first() -> None:
    scheduler = cw.FairFifo(3)
    tasks = [make_task(number, "g") for number in range(1, 4)]
    push_all(scheduler, tasks)
    assert [step(scheduler).arrival for _ in tasks] == [1, 2, 3]
    push_all(scheduler, tasks[::-1])
    assert pop_all(scheduler) == [1, 2, 3]


@pytest.mark.parametrize("limit", [0, -1, 1.0, True, None, "2", 10**9])
def test_a_limit_is_a_number_of_jobs(limit: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match=r"limit is .*; it must be a whole number from 1 to 1,000,000"):
        cw.FairFifo(limit)


# In an executor


class Work:
    """Notes which jobs are at work."""

    def __init__(self) -> None:
        self.at_work: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.order: list[tuple[str, int]] = []

    async def job(self, group: str, number: int) -> int:
        self.order.append((group, number))
        self.at_work[group] = self.at_work.get(group, 0) + 1
        self.most[group] = max(self.most.get(group, 0), self.at_work[group])
        await asyncio.sleep(0.001)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(asyncio.sleep(0.001))
        self.at_work[group] -= 1
        return number


@pytest.mark.parametrize("limit", [1, 3])
def test_jobs_that_wait_for_others_and_for_their_own_tasks(run: Run, limit: int) -> None:
    work = Work()

    async def body() -> None:
        async with cw.Executor([cw.Queue("jobs", scheduler=cw.FairFifo(limit))]) as executor:
            queue = executor.queue("jobs")
            handles = [queue.group(group).spawn(work.job(group, number)) for group in ("a", "b") for number in range(8)]
            assert [await handle for handle in handles] == [*range(8)] * 2

    run(body)
    assert work.most == {"a": limit, "b": limit}
    for group in ("a", "b"):
        assert [number for each, number in work.order if each == group] == list(range(8))


def test_a_consumer_in_the_queue_starts_a_job_for_each_message(run: Run) -> None:
    """Its jobs are jobs, and not parts of its own."""
    work = Work()

    async def consume(queue: cw.QueueHandle) -> None:
        for handle in [queue.group("a").spawn(work.job("a", number)) for number in range(6)]:
            await handle

    async def body() -> None:
        async with cw.Executor([cw.Queue("jobs", scheduler=cw.FairFifo(2))]) as executor:
            queue = executor.queue("jobs")
            await queue.spawn(consume(queue))

    run(body)
    assert work.most == {"a": 2}


def test_a_job_that_spawns_into_its_own_group_waits_for_no_place(run: Run) -> None:
    async def parent(group: cw.GroupHandle, depth: int) -> int:
        return depth if depth == 0 else 1 + await group.spawn(parent(group, depth - 1))

    async def body() -> None:
        async with cw.Executor([cw.Queue("jobs", scheduler=cw.FairFifo(1))]) as executor:
            group = executor.queue("jobs").group("g")
            handles = [group.spawn(parent(group, 3)) for _ in range(3)]
            assert [await handle for handle in handles] == [3, 3, 3]

    run(body)


def test_a_job_that_is_aborted_while_it_waits_ends_at_once(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("jobs", scheduler=cw.FairFifo(1))]) as executor:
            group = executor.queue("jobs").group("g")
            gate = asyncio.Event()
            first, second, third = (group.spawn(gate.wait()) for _ in range(3))
            await asyncio.sleep(0.01)
            assert executor.stats().runnable == 2
            assert second.abort()
            with pytest.raises(cw.TaskCancelled):
                await asyncio.wait_for(_wait(second), 60)
            assert not first.done()
            assert not third.done()
            gate.set()
            assert await first is True
            assert await third is True

    run(body)


async def _wait(handle: cw.JoinHandle[Any]) -> Any:
    return await handle


def test_what_waits_at_the_end_is_cancelled_with_the_rest(run: Run) -> None:
    ended: list[int] = []

    async def job(number: int) -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            ended.append(number)

    async def body() -> None:
        async with cw.Executor([cw.Queue("jobs", scheduler=cw.FairFifo(1))]) as executor:
            handles = [executor.queue("jobs").group("g").spawn(job(number)) for number in range(5)]
            await asyncio.sleep(0.01)
        assert all(handle.done() for handle in handles)

    run(body)
    assert ended == [0]


def test_the_loops_own_tasks_hold_no_place_any_more(run: Run) -> None:
    """What an executor was holding when it left goes on as the loop's own."""

    async def body() -> None:
        executor = cw.Executor([cw.Queue("jobs", scheduler=cw.FairFifo(1))])

        async def use() -> list[cw.JoinHandle[int]]:
            group = executor.queue("jobs").group("g")
            handles = [group.spawn(asyncio.sleep(0.02, number)) for number in range(4)]
            await asyncio.sleep(0.01)
            return handles

        async def work_again() -> None:
            assert [await handle for handle in await use()] == [0, 1, 2, 3]

        handles = await executor.run_until(use())
        executor._core.detach()
        assert await asyncio.gather(*[handle.task for handle in handles]) == [0, 1, 2, 3]
        # The same scheduler holds again in the next life of the executor.
        await executor.run_until(work_again())
        await executor.close()

    run(body)


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_by_a_seed(seed: int) -> None:
    import clockworker.testing as testing

    work = Work()

    async def main() -> None:
        queue = cw.current_executor().queue("jobs")
        handles = [queue.group("a").spawn(work.job("a", number)) for number in range(6)]
        assert [await handle for handle in handles] == list(range(6))

    testing.run(main(), queues=[cw.Queue("main"), cw.Queue("jobs", scheduler=cw.FairFifo(2))], seed=seed)
    assert work.most["a"] <= 2


def test_a_scheduler_of_the_users_may_not_return_none(run: Run) -> None:
    class Forgets(cw.RunnableFifo):
        def pop(self) -> Any:
            super().pop()

    reported: list[Any] = []

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with cw.Executor([cw.Queue("q", scheduler=Forgets())]) as executor:
            assert await executor.queue("q").spawn(asyncio.sleep(0, 1)) == 1

    run(body)
    assert "returned None" in str(reported[0]["exception"])


@pytest.mark.parametrize("kind", ["spawn", "switch"])
def test_a_queue_that_rests_wakes_for_a_task_of_another(run: Run, kind: str) -> None:
    """The place is free when its job leaves the queue by `switch_to`."""

    async def body() -> None:
        queues = [cw.Queue("jobs", scheduler=cw.FairFifo(1)), cw.Queue("other")]
        async with cw.Executor(queues) as executor:
            jobs, other = executor.queues()
            left = asyncio.Event()

            async def leaves() -> None:
                await asyncio.sleep(0.005)
                if kind == "switch":
                    await other.switch_to()
                else:
                    other.spawn(asyncio.sleep(0))
                left.set()
                if kind == "switch":
                    await asyncio.sleep(3_600)

            group = jobs.group("g")
            group.spawn(leaves())
            second = group.spawn(left.wait())
            assert await asyncio.wait_for(_wait(second), 60) is True

    run(body)
