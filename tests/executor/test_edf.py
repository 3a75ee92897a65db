"""EDF: against a sorted list, and where deadlines come from."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clockworker as cw
import clockworker.testing as testing
from clockworker.executor import _clock_cy as clock
from clockworker.executor._schedulers_cy import ScheduledTask, set_owner
from tests.conftest import Run
from tests.executor.test_fair_groups import Complaints
from tests.executor.test_schedulers import PUSH_BITS, make_task, pop_all, push_all


@pytest.fixture
def wound() -> Any:
    clock.begin_winding(1, 0)
    yield
    clock.end_winding()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32).map(random.Random))
def test_against_the_model(chance: random.Random) -> None:
    """A job is due so long after its first task came; what it starts has its deadline as long as it is not late."""
    within = {"a": 0.001, "b": 0.005, "c": 0.0}
    scheduler = cw.EDF(within)
    inside: list[tuple[int, int, int, ScheduledTask]] = []  # deadline, place, push
    deadlines: dict[ScheduledTask, int] = {}
    children: dict[ScheduledTask, int] = {}
    asleep: list[ScheduledTask] = []
    arrivals = pushes = 0
    never = (1 << 63) - 1

    def push(task: ScheduledTask) -> None:
        nonlocal pushes
        pushes += 1
        before = clock.wound_ns()
        scheduler.push(task)
        if task not in deadlines:
            # The clock moves by one at each reading; each first push of a task reads it once.
            now = clock.wound_ns()
            assert now == before + 1
            inherited = children.pop(task, 0)
            own = now + round(within[task.group] * 1e9) if task.group in within else never  # type: ignore[index]
            deadlines[task] = inherited if inherited > now else own
        inside.append((deadlines[task], task.tie >> PUSH_BITS, pushes, task))

    clock.begin_winding(1, 0)
    try:
        for _ in range(chance.randint(1, 100)):
            clock.wind(chance.randint(0, 1_000_000))
            if chance.random() < 0.4:
                arrivals += 1
                push(make_task(arrivals, chance.choice(["a", "b", "c", "d", None])))
            if asleep and chance.random() < 0.4:
                push(asleep.pop(chance.randrange(len(asleep))))
            if inside and chance.random() < 0.7:
                inside.sort(key=lambda entry: entry[:3])
                task = scheduler.pop()
                assert task is inside.pop(0)[3]
                if chance.random() < 0.2 and task.tie >> PUSH_BITS == task.arrival:
                    arrivals += 1
                    child = make_task(task.arrival, task.group)
                    child.tie = arrivals << PUSH_BITS
                    children[child] = deadlines[task]
                    push(child)
                scheduler.observe(task, 1_000)
                if chance.random() < 0.5:
                    asleep.append(task)
                else:
                    scheduler.forget_task(task)
            assert len(scheduler) == len(inside)
    finally:
        clock.end_winding()


def test_one_time_for_all_a_mapping_and_a_function(wound: None) -> None:
    groups: list[Hashable] = ["slow", "quick", None]
    for within, order in [
        (1.0, [1, 2, 3]),
        ({"quick": 0.5, "slow": 2}, [2, 1, 3]),
        (lambda group: {"quick": 0.5, None: 0.7}.get(group), [2, 3, 1]),
    ]:
        scheduler = cw.EDF(within)
        push_all(scheduler, [make_task(number, group) for number, group in enumerate(groups, 1)])
        assert pop_all(scheduler) == order


@pytest.mark.parametrize("within", [math.nan, -1, -math.inf, True, "1", [], {"a": math.nan}, {"a": "soon"}])
def test_what_is_no_time_is_refused(within: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match=r"within is .*; it must be seconds from 0"):
        cw.EDF(within)


@pytest.mark.parametrize("answer", [math.nan, -1.0, "soon", True, KeyError("who")])
def test_a_function_that_answers_wrong_means_no_deadline_and_is_reported_once(answer: Any) -> None:
    def within(group: Hashable) -> Any:
        if group == "fine":
            return 1.0
        if isinstance(answer, KeyError):
            raise answer
        return answer

    scheduler = cw.EDF(within)
    owner = Complaints()
    set_owner(scheduler, owner)
    push_all(scheduler, [make_task(1, "odd"), make_task(2, "odd"), make_task(3, "fine")])
    assert pop_all(scheduler) == [3, 1, 2]
    assert len(owner.heard) == 1
    set_owner(scheduler, None)


@pytest.mark.parametrize("within", [math.inf, 1e300, 0, None])
def test_times_without_end_and_without_length(within: Any) -> None:
    scheduler = cw.EDF(within)
    push_all(scheduler, [make_task(1), make_task(2)])
    assert pop_all(scheduler) == [1, 2]


# In an executor


def order_of(run: Run, spawn: Any, scheduler: cw.Scheduler | None = None) -> list[str]:
    """In which order tasks run that are runnable at once. `spawn` is given a function that notes a name."""
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)

    async def body() -> None:
        async with cw.Executor([cw.Queue("q", scheduler=cw.EDF() if scheduler is None else scheduler)]) as executor:
            for handle in await spawn(executor.queue("q"), note):
                await handle

    run(body)
    return ran


def test_the_deadline_in_which_a_task_was_started(run: Run) -> None:
    async def spawn(queue: cw.QueueHandle, note: Any) -> list[Any]:
        handles = [queue.spawn(note("none"))]
        for name, seconds in [("late", 10), ("soon", 5), ("first", 0), ("later", 20)]:
            with cw.deadline(seconds):
                handles.append(queue.spawn(note(name)))
        return handles

    assert order_of(run, spawn) == ["first", "soon", "late", "later", "none"]


def test_the_deadline_in_which_a_task_runs_now(run: Run) -> None:
    async def spawn(queue: cw.QueueHandle, note: Any) -> list[Any]:
        first, second = asyncio.Event(), asyncio.Event()

        async def inside(name: str, seconds: float) -> None:
            with cw.deadline(seconds):
                await first.wait()
                await note(name)
            await second.wait()
            await note(f"{name} is out")

        handles = [queue.spawn(inside("late", 10)), queue.spawn(inside("soon", 5))]
        await asyncio.sleep(0.01)
        for event in (first, second):
            event.set()
            await asyncio.sleep(0.01)
        return handles

    assert order_of(run, spawn) == ["soon", "late", "late is out", "soon is out"]


def test_of_a_group_and_of_a_deadline_the_earlier_holds(run: Run) -> None:
    async def spawn(queue: cw.QueueHandle, note: Any) -> list[Any]:
        handles = [queue.group("quick").spawn(note("quick"))]
        with cw.deadline(10):
            handles.append(queue.group("quick").spawn(note("quick, called late")))
            handles.append(queue.group("slow").spawn(note("slow, called late")))
        with cw.deadline(0.001):
            handles.append(queue.group("slow").spawn(note("slow, called soon")))
        return handles

    scheduler = cw.EDF({"quick": 1.0, "slow": 100.0})
    expected = ["slow, called soon", "quick", "quick, called late", "slow, called late"]
    assert order_of(run, spawn, scheduler) == expected


def test_what_a_job_starts_is_due_with_it(run: Run) -> None:
    async def spawn(queue: cw.QueueHandle, note: Any) -> list[Any]:
        async def job(name: str) -> None:
            await asyncio.create_task(asyncio.sleep(0))
            await note(name)

        handles = [queue.spawn(job(name)) for name in ("one", "two", "three")]
        return handles

    assert order_of(run, spawn, cw.EDF(60.0)) == ["one", "two", "three"]


def test_a_job_that_is_late_does_not_make_late_what_it_starts() -> None:
    """By a wound clock: a consumer that runs for ever starts a task for each message."""
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)

    async def main() -> None:
        queue = cw.current_executor().queue("q")

        async def consume() -> None:
            await asyncio.sleep(1)
            with cw.deadline(0.01):
                first = queue.spawn(note("soon"))
            second = queue.spawn(note("message"))
            await first
            await second

        await queue.spawn(consume())

    testing.run(main(), queues=[cw.Queue("main"), cw.Queue("q", scheduler=cw.EDF(0.1))])
    assert sorted(ran) == ["message", "soon"]


def test_a_call_brings_its_deadline_along(run: Run) -> None:
    """What a peer has sent is found before its first step: by `deadline_ns` of what the task runs."""

    class Dated:
        def __init__(self, name: str, deadline_ns: Any) -> None:
            self.name = name
            self.deadline_ns = deadline_ns

    async def spawn(queue: cw.QueueHandle, note: Any) -> list[Any]:
        core: Any = queue._core
        carrier = core.carrier("carrier")
        ended = asyncio.get_running_loop().create_future()
        started = []

        class Step(Dated):
            def __call__(self) -> None:
                started.append(asyncio.ensure_future(note(self.name)))
                if self.name == "last":
                    ended.set_result(None)

        now = clock.read()
        for name, deadline in [("last", 0), ("late", now + 10**10), ("soon", now + 10**9), ("odd", "x")]:
            core.spawn_step(queue._membership, carrier, Step(name, deadline))
        await ended
        await asyncio.sleep(0.01)
        return []

    ran = order_of(run, spawn)
    assert ran.index("soon") < ran.index("late") < ran.index("last")
