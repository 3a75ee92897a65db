"""The schedulers against simple models. The executor's own contract is kept: push what is not inside, pop what is not empty."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pytest

import clockworker as cw
from clockworker.executor._schedulers_cy import ScheduledTask
from tests.conftest import Run

PUSH_BITS = 20  # below a task's place in its `tie`


def make_task(arrival: int, group: Hashable = None) -> ScheduledTask:
    unused: Any = None
    return ScheduledTask(unused, group, arrival)


def push_all(scheduler: cw.Scheduler, tasks: list[ScheduledTask]) -> None:
    for task in tasks:
        scheduler.push(task)


def pop_all(scheduler: cw.Scheduler) -> list[int]:
    return [scheduler.pop().arrival for _ in range(len(scheduler))]


ALL = [cw.RunnableFifo, cw.ArrivalFifo, cw.LAS, cw.QLAS, cw.FairGroups, cw.EDF, cw.FairSRPT, partial(cw.FairFifo, 50)]


@pytest.mark.parametrize("make", ALL)
def test_what_goes_in_comes_out_once(make: Callable[[], cw.Scheduler]) -> None:
    rng = random.Random(1)
    scheduler = make()
    outside = {arrival: make_task(arrival, rng.choice([None, "a", "b", 3])) for arrival in range(50)}
    inside: dict[int, ScheduledTask] = {}
    for _ in range(5_000):
        if outside and (not inside or rng.random() < 0.5):
            arrival, task = outside.popitem()
            scheduler.push(task)
            inside[arrival] = task
        else:
            task = scheduler.pop()
            assert inside.pop(task.arrival) is task
            scheduler.observe(task, rng.randrange(1_000_000))
            outside[task.arrival] = task
        assert len(scheduler) == len(inside)
    assert sorted(pop_all(scheduler)) == sorted(inside)


@pytest.mark.parametrize("make", ALL)
def test_equals_leave_in_the_order_in_which_they_came(make: Callable[[], cw.Scheduler]) -> None:
    scheduler = make()
    push_all(scheduler, [make_task(arrival) for arrival in range(10)])
    assert pop_all(scheduler) == list(range(10))


@pytest.mark.parametrize("make", ALL)
def test_pop_from_empty_raises_and_does_no_harm(make: Callable[[], cw.Scheduler]) -> None:
    scheduler = make()
    with pytest.raises(IndexError):
        scheduler.pop()
    push_all(scheduler, [make_task(1)])
    assert pop_all(scheduler) == [1]
    with pytest.raises(IndexError):
        scheduler.pop()
    assert len(scheduler) == 0


@pytest.mark.parametrize("make", ALL)
def test_what_is_no_task_is_refused(make: Callable[[], cw.Scheduler]) -> None:
    scheduler = make()
    nothing: Any = None
    for what in (nothing, object(), 7, "task"):
        if cw.compiled:
            with pytest.raises(TypeError):
                scheduler.push(what)
    assert len(scheduler) == 0


def test_a_task_in_two_hands(run: Run) -> None:
    """A task that its executor holds is pushed to others by hand: neither crashes, and the executor runs each as ever."""

    async def body() -> None:
        class Keeps(cw.RunnableFifo):
            def push(self, task: cw.ScheduledTask) -> None:
                kept.append(task)
                super().push(task)

        kept: list[cw.ScheduledTask] = []
        async with cw.Executor([cw.Queue("q"), cw.Queue("kept", scheduler=Keeps())]) as executor:
            handles = [queue.spawn(asyncio.sleep(0, 1)) for queue in executor.queues() for _ in range(30)]
            for make in ALL:
                scheduler, again = make(), make()
                for task in (*handles, *kept):
                    for each in (scheduler, again, scheduler):
                        # In a heap already, or known to a scheduler of another kind.
                        with contextlib.suppress(ValueError, TypeError, AttributeError):
                            each.push(task)  # type: ignore[arg-type]
                for each in (again, scheduler):
                    while len(each):
                        try:
                            if each.pop() is None:
                                break
                        except (IndexError, ValueError, TypeError, AttributeError):
                            break
            assert [await handle for handle in handles] == [1] * 60

    run(body)


def test_a_negative_observation_does_no_harm() -> None:
    for make in (cw.LAS, cw.QLAS):
        scheduler = make()
        task = make_task(1, "g")
        for elapsed in (-5, -(2**62), 2**62, 2**62, 2**62):
            scheduler.push(task)
            assert scheduler.pop() is task
            scheduler.observe(task, elapsed)


def test_runnable_fifo_goes_by_when_each_became_runnable() -> None:
    scheduler = cw.RunnableFifo()
    model: deque[int] = deque()
    rng = random.Random(2)
    for _ in range(2_000):
        if not model or rng.random() < 0.5:
            arrival = rng.randrange(1_000)
            scheduler.push(make_task(arrival))
            model.append(arrival)
        else:
            assert scheduler.pop().arrival == model.popleft()


def test_arrival_fifo_goes_by_when_each_was_spawned() -> None:
    scheduler = cw.ArrivalFifo()
    push_all(scheduler, [make_task(arrival) for arrival in (5, 2, 9)])
    assert scheduler.pop().arrival == 2
    push_all(scheduler, [make_task(1), make_task(7)])
    assert pop_all(scheduler) == [1, 5, 7, 9]


@pytest.mark.parametrize("start", ["create_task", "gather", "TaskGroup", "spawn", "group"])
@pytest.mark.parametrize("parents", ["outside", "one task"])
def test_what_a_task_starts_has_its_place(run: Run, start: str, parents: str) -> None:
    """The oldest job is not behind the others when it waits for a task that it has started."""
    ended: list[int] = []

    async def child(depth: int) -> None:
        await asyncio.sleep(0)
        if depth:
            await begin(depth - 1)

    async def begin(depth: int) -> None:
        queue = cw.current_executor().queue("jobs")
        if start == "create_task":
            await asyncio.create_task(child(depth))
        elif start == "gather":
            await asyncio.gather(child(depth), child(depth))
        elif start == "TaskGroup":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(child(depth))
        elif start == "spawn":
            await queue.spawn(child(depth))
        else:
            await queue.group("g").spawn(child(depth))

    async def job(number: int) -> None:
        await begin(2)
        for _ in range(20):
            await asyncio.sleep(0)
        ended.append(number)

    async def starts() -> list[cw.JoinHandle[None]]:
        return [cw.current_executor().queue("jobs").spawn(job(number)) for number in range(10)]

    async def body() -> None:
        async with cw.Executor([cw.Queue("jobs", scheduler=cw.ArrivalFifo())]) as executor:
            for handle in await (executor.queue("jobs").spawn(starts()) if parents == "one task" else starts()):
                await handle

    run(body)
    assert ended == list(range(10))


def test_the_arrival_that_schedulers_see(run: Run) -> None:
    seen: dict[str, int] = {}

    class Watches(cw.RunnableFifo):
        def push(self, task: cw.ScheduledTask) -> None:
            seen.setdefault(task.task.get_name(), task.arrival)
            super().push(task)

    async def starts(queue: cw.QueueHandle, other: cw.QueueHandle) -> None:
        await asyncio.create_task(asyncio.sleep(0), name="child")
        await other.spawn(asyncio.sleep(0), name="elsewhere")

    async def body() -> None:
        queues = [cw.Queue("q", scheduler=Watches()), cw.Queue("other", scheduler=Watches())]
        async with cw.Executor(queues) as executor:
            queue, other = executor.queues()
            handles = [queue.spawn(starts(queue, other), name="first"), queue.spawn(asyncio.sleep(0), name="second")]
            for handle in handles:
                await handle

    run(body)
    assert seen["first"] == 1
    assert seen["second"] == 2
    assert seen["child"] == 1
    assert seen["elsewhere"] > 2


def test_las_serves_the_group_with_least_service() -> None:
    scheduler = cw.LAS()
    fat = [make_task(1, "fat"), make_task(2, "fat")]
    thin, alone = make_task(3, "thin"), make_task(4)
    for task, service in [(fat[0], 500), (fat[1], 500), (thin, 999), (alone, 700)]:
        scheduler.push(task)
        assert scheduler.pop() is task
        scheduler.observe(task, service)
    push_all(scheduler, [*fat, thin, alone])
    assert pop_all(scheduler) == [4, 3, 1, 2]  # 700, 999, and 1000 for both fat ones together


def test_las_against_a_model() -> None:
    rng = random.Random(3)
    scheduler = cw.LAS()
    tasks = [make_task(arrival, group) for arrival, group in enumerate(["a", "b", "c", None, None] * 4)]
    service: dict[object, int] = {}
    entered: dict[object, int] = {}  # when the group last got in line: the tie
    waiting: dict[object, list[ScheduledTask]] = {}
    turn = 0

    def account(task: ScheduledTask) -> object:
        return task if task.group is None else task.group

    idle = list(tasks)
    for _ in range(5_000):
        if idle and rng.random() < 0.5:
            task = idle.pop(rng.randrange(len(idle)))
            scheduler.push(task)
            line = waiting.setdefault(account(task), [])
            if not line:
                turn += 1
                entered[account(task)] = turn
            line.append(task)
        elif any(waiting.values()):
            expected = min(
                (group for group, line in waiting.items() if line),
                key=lambda group: (service.get(group, 0), entered[group]),
            )
            task = scheduler.pop()
            assert task is waiting[expected].pop(0)
            if waiting[expected]:
                turn += 1
                entered[expected] = turn
            elapsed = rng.choice([0, 1, 1_000, 50_000])
            scheduler.observe(task, elapsed)
            service[expected] = service.get(expected, 0) + elapsed
            idle.append(task)


def test_qlas_prefers_the_lower_level_and_is_fair_within_one() -> None:
    scheduler = cw.QLAS()
    fat, thin, other = make_task(1), make_task(2), make_task(3)
    for task, service_us in [(fat, 1_000), (thin, 4), (other, 7)]:  # levels 10, 3, 3
        scheduler.push(task)
        scheduler.observe(scheduler.pop(), service_us * 1_000)
    push_all(scheduler, [fat, other, thin])
    assert pop_all(scheduler) == [3, 2, 1]  # 7 µs before 4 µs: it came first, and the level is the same


def test_qlas_starves_nobody() -> None:
    # Thin tasks that are always runnable would keep a fat one out of plain LAS for ever.
    scheduler = cw.QLAS()
    fats = [make_task(0), make_task(1)]
    for fat, service_us in zip(fats, (10_000, 1_000_000), strict=True):
        scheduler.push(fat)
        scheduler.observe(scheduler.pop(), service_us * 1_000)
    push_all(scheduler, fats)
    served = dict.fromkeys(range(6), 0)
    push_all(scheduler, [make_task(arrival) for arrival in range(2, 6)])
    for _ in range(1_600):
        task = scheduler.pop()
        served[task.arrival] += 1
        scheduler.push(task)
    # Every 16th pop goes round the three occupied levels.
    assert served[0] == pytest.approx(1_600 / 16 / 3, abs=2)
    assert served[1] == pytest.approx(1_600 / 16 / 3, abs=2)


@pytest.mark.parametrize("service_ns", [0, 999, 1_000, 2**40, 2**62])
def test_qlas_takes_any_service(service_ns: int) -> None:
    scheduler = cw.QLAS()
    task = make_task(1)
    scheduler.push(task)
    scheduler.observe(scheduler.pop(), service_ns)
    scheduler.push(task)
    assert scheduler.pop() is task


@pytest.mark.parametrize("make", [cw.LAS, cw.QLAS])
def test_a_forgotten_group_starts_anew(make: Callable[[], cw.Scheduler]) -> None:
    scheduler = make()
    first = make_task(1, "group")
    scheduler.push(first)
    scheduler.observe(scheduler.pop(), 10**9)
    scheduler.forget_task(first)
    scheduler.forget_group("group")
    assert first.slot is None
    rival = make_task(2, "rival")
    scheduler.push(rival)
    scheduler.observe(scheduler.pop(), 10**6)
    push_all(scheduler, [rival, make_task(3, "group")])
    assert pop_all(scheduler) == [3, 2]


def test_forgetting_the_unknown_is_harmless() -> None:
    for make in ALL:
        scheduler = make()
        scheduler.forget_task(make_task(1))
        scheduler.forget_group("never seen")
        push_all(scheduler, [make_task(2), make_task(3)])
        assert sorted(pop_all(scheduler)) == [2, 3]


def test_a_scheduler_that_lacks_a_method_says_which() -> None:
    class Lazy(cw.Scheduler):
        pass

    with pytest.raises(NotImplementedError, match=r"Lazy must define push\(task\)"):
        Lazy().push(make_task(1))
    with pytest.raises(NotImplementedError, match=r"Lazy must define pop\(\)"):
        Lazy().pop()
    with pytest.raises(NotImplementedError, match=r"Lazy must define __len__\(\)"):
        len(Lazy())
