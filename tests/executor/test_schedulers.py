"""The schedulers against simple models. The executor's own contract is kept: push what is not inside, pop what is not empty."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pytest

import clockworker as cw
from clockworker.executor._heap_cy import KeyHeap
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


def test_arrival_fifo_against_a_model() -> None:
    rng = random.Random(5)
    scheduler = cw.ArrivalFifo()
    idle = [make_task(number % 60) for number in range(300)]
    inside: list[tuple[int, int, ScheduledTask]] = []
    for pushes in range(5_000):
        if idle and rng.random() < 0.5:
            task = idle.pop(rng.randrange(len(idle)))
            scheduler.push(task)
            inside.append((task.arrival, pushes, task))
        elif inside:
            expected = min(inside)
            inside.remove(expected)
            assert scheduler.pop() is expected[2]
            idle.append(expected[2])
        assert len(scheduler) == len(inside)


@pytest.mark.parametrize("start", ["create_task", "gather", "TaskGroup", "wait_for", "wait", "spawn", "group"])
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
        elif start == "wait_for":
            await asyncio.wait_for(child(depth), 60)
        elif start == "wait":
            await asyncio.wait([asyncio.ensure_future(child(depth))], timeout=60)
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


def test_the_oldest_job_is_not_behind_all_others_because_its_client_starts_tasks(run: Run) -> None:
    """30 jobs ask a server over sockets as client libraries do: each request is a task with a time-out in a task group, and
    opens a connection, which starts more. Without inheritance each request is the newest of all: then all jobs make their
    requests in turn, and the first ends when three quarters of all requests have been answered."""
    jobs, requests = 30, 4
    answered = 0
    answered_at_end: dict[int, int] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def ask(address: tuple[str, int], text: bytes) -> None:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), 60)
        writer.write(text)
        assert await asyncio.wait_for(reader.readline(), 60) == text
        nonlocal answered
        answered += 1
        writer.close()
        until = time.thread_time() + 0.001
        while time.thread_time() < until:
            pass

    async def job(number: int, address: tuple[str, int]) -> None:
        for _ in range(requests):
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(ask(address, b"job %d\n" % number))
        answered_at_end[number] = answered

    async def body() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        queues = [cw.Queue("jobs", scheduler=cw.ArrivalFifo()), cw.Queue("idle")]
        async with server, cw.Executor(queues) as executor:
            for handle in [executor.queue("jobs").spawn(job(number, address)) for number in range(jobs)]:
                await handle

    run(body)
    assert answered == jobs * requests
    # While the oldest waits for an answer others have the core; so it is not the only one that gets on.
    assert answered_at_end[0] < answered / 2
    assert sum(answered_at_end[number] for number in range(5)) / 5 < answered / 2


@pytest.mark.parametrize("make", [cw.ArrivalFifo, cw.LAS, cw.QLAS])
@pytest.mark.parametrize("what", ["made up", "not runnable", "of another queue", "twice", "taken away"])
def test_a_built_in_scheduler_in_others_hands(run: Run, make: Callable[[], cw.Scheduler], what: str) -> None:
    """The core calls into it in C, and is told at once if it gives what it was not given. No task is lost, or runs twice."""
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)
        await asyncio.sleep(0)
        ran.append(number)

    async def body() -> None:
        scheduler = make()
        queues = [cw.Queue("q", scheduler=scheduler), cw.Queue("other")]
        async with cw.Executor(queues) as executor:
            waits = executor.queue("q").spawn(asyncio.Event().wait())
            elsewhere = executor.queue("other").spawn(asyncio.Event().wait())
            await asyncio.sleep(0.01)
            handles = [executor.queue("q").spawn(note(number)) for number in range(20)]
            if what == "made up":
                scheduler.push(make_task(-1))
            elif what == "not runnable":
                scheduler.push(waits)  # type: ignore[arg-type]
            elif what == "of another queue":
                scheduler.push(elsewhere)  # type: ignore[arg-type]
            elif what == "twice":
                scheduler.push(handles[7])  # type: ignore[arg-type]
            else:
                scheduler.pop()
            for handle in handles:
                await handle
            waits.abort()
            elsewhere.abort()

    run(body)
    assert sorted(ran) == sorted([*range(20), *range(20)])
    reports = list(run.reports)
    run.reports.clear()
    if what in ("not runnable", "twice") and not reports:
        return  # by the time that it was popped it was runnable again, and so what the scheduler was holding
    (report,) = reports
    assert isinstance(report["exception"], cw.UsageError)
    assert f"{make.__name__}.pop() of queue 'q' returned" in str(report["exception"])  # type: ignore[attr-defined]


class Tricky:
    """A group's key that fails when it is told to."""

    fails = False

    def __hash__(self) -> int:
        if Tricky.fails:
            raise LookupError("hash")
        return 1


@pytest.mark.parametrize("make", [cw.LAS, cw.QLAS])
def test_a_key_that_fails_when_a_scheduler_first_sees_it(run: Run, make: Callable[[], cw.Scheduler]) -> None:
    """That is not done in C, where nothing may fail: a RunnableFifo takes over."""

    async def body() -> None:
        async with cw.Executor([cw.Queue("q", scheduler=make())]) as executor:
            key = Tricky()
            group = executor.queue("q").group(key)
            await group.spawn(asyncio.sleep(0))
            first = group.spawn(asyncio.Event().wait())
            await asyncio.sleep(0.01)
            second = group.spawn(asyncio.sleep(0, "ran"))
            Tricky.fails = True
            third = group.spawn(asyncio.sleep(0, "ran"))
            try:
                assert await second == "ran"
                assert await third == "ran"
            finally:
                Tricky.fails = False
            first.abort()

    run(body)
    run.reports.clear()


class Numbers(cw.RunnableFifo):
    """Uses `key` for something of its own."""

    def push(self, task: cw.ScheduledTask) -> None:
        task.key = 50_000_000
        super().push(task)


@pytest.mark.parametrize("make", [cw.ArrivalFifo, cw.LAS, cw.QLAS, Numbers])
def test_a_task_that_moves_has_attained_nothing_where_it_comes(run: Run, make: Callable[[], cw.Scheduler]) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("a", scheduler=make()), cw.Queue("b", scheduler=cw.LAS())]) as executor:

            async def moves() -> tuple[int, int]:
                until = time.thread_time() + 0.05
                while time.thread_time() < until:
                    pass
                await asyncio.sleep(0)
                attained = handle.key
                await executor.queue("b").switch_to()
                return attained, handle.key

            handle: Any = executor.queue("a").spawn(moves())
            before, after = await handle
            assert before > (0 if make is cw.ArrivalFifo else 40_000_000)  # of the former it is the arrival
            assert after == 0
            assert handle.service_ns > 40_000_000  # its own account goes with it

    run(body)


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


GROUPS: list[list[Hashable]] = [[None], ["a"], ["a", "b", "c", None, None]]
STINT_NS, STINT_STEPS = 5_000, 64


def account(task: ScheduledTask) -> object:
    return task if task.group is None else task.group


@pytest.mark.parametrize("times", [1, 4, 100])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("steps_ns", [[0, 1, 1_000, 50_000], [0, 1, 300, 700], [0], [20_000, 30_000]])
@pytest.mark.parametrize("yields", [0.5, 0.99])
def test_las_against_a_model(times: int, groups: list[Hashable], steps_ns: list[int], yields: float) -> None:
    rng = random.Random(3)
    scheduler = cw.LAS()
    idle = [make_task(arrival, group) for arrival, group in enumerate(groups * times)]
    service: dict[object, int] = {}
    entered: dict[object, int] = {}  # when the account last got in line: the tie
    waiting: dict[object, deque[ScheduledTask]] = {}
    turn = ran_turn = streak = 0
    ran: object = None

    def enter(of: object) -> None:
        nonlocal turn
        turn += 1
        entered[of] = turn

    def push(task: ScheduledTask) -> None:
        scheduler.push(task)
        line = waiting.setdefault(account(task), deque())
        if not line:
            enter(account(task))
        line.append(task)

    def place(of: object) -> tuple[int, int]:
        return service.get(of, 0), entered[of]

    for _ in range(4_000):
        if idle and rng.random() < (0.5 if yields < 0.9 else 0.02):
            push(idle.pop(rng.randrange(len(idle))))
            continue
        line_up = [of for of, line in waiting.items() if line]
        if not line_up:
            continue
        others = [of for of in line_up if of is not ran and of != ran]
        expected = min(line_up, key=place)
        if ran in line_up and others and turn == ran_turn + 1 == entered[ran]:  # only it has entered
            least = service.get(min(others, key=place), 0)
            if service.get(ran, 0) < least + STINT_NS and streak < STINT_STEPS:
                expected = ran
                streak += 1
            else:
                streak = 0
        else:
            streak = 0
        task = scheduler.pop()
        assert task is waiting[expected].popleft()
        ran, ran_turn = expected, turn
        if waiting[expected]:
            enter(expected)
        elapsed = rng.choice(steps_ns)
        while idle and rng.random() < 0.2:  # that the step wakes
            push(idle.pop(rng.randrange(len(idle))))
        if rng.random() < yields:  # runnable again before it is known what the step cost
            push(task)
        else:
            idle.append(task)
        scheduler.observe(task, elapsed)
        service[expected] = service.get(expected, 0) + elapsed


@pytest.mark.parametrize("times", [1, 4, 100])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("steps_ns", [[0, 900, 1_000, 50_000], [0, 1, 300, 700], [0]])
@pytest.mark.parametrize("yields", [0.5, 0.99])
def test_qlas_against_a_model(times: int, groups: list[Hashable], steps_ns: list[int], yields: float) -> None:
    rng = random.Random(4)
    scheduler = cw.QLAS()
    idle = [make_task(arrival, group) for arrival, group in enumerate(groups * times)]
    service: dict[object, int] = {}
    waiting: dict[object, deque[ScheduledTask]] = {}
    levels: list[deque[object]] = [deque() for _ in range(64)]
    pops, last = 0, 63
    ran: object = None
    again: list[object] = []  # has run last, and is in line, but in no level yet
    others, goes_on_to = False, 0

    def line_up(of: object) -> None:
        levels[(service.get(of, 0) // 1_000).bit_length()].append(of)

    def enter(of: object) -> None:
        nonlocal others
        if of == ran and not again:
            again.append(of)
            return
        others = True
        if again:
            line_up(again.pop())
        line_up(of)

    def push(task: ScheduledTask) -> None:
        scheduler.push(task)
        line = waiting.setdefault(account(task), deque())
        if not line:
            enter(account(task))
        line.append(task)

    for _ in range(4_000):
        if idle and rng.random() < (0.5 if yields < 0.9 else 0.02):
            push(idle.pop(rng.randrange(len(idle))))
            continue
        if not any(waiting.values()):
            continue
        pops += 1
        if again and service.get(again[0], 0) < goes_on_to and pops % 16 and not others:
            expected = again.pop()
        else:
            if again:
                line_up(again.pop())
            lowest = level = next(number for number, line in enumerate(levels) if line)
            if pops % 16 == 0:
                level = last = next(number % 64 for number in range(last + 1, last + 65) if levels[number % 64])
            expected = ran = levels[level].popleft()
            others = False
            goes_on_to = min(service.get(expected, 0) + STINT_NS, 1_000 << level) if level == lowest else 0
        task = scheduler.pop()
        assert task is waiting[expected].popleft()
        if waiting[expected]:
            enter(expected)
        elapsed = rng.choice(steps_ns)
        while idle and rng.random() < 0.2:
            push(idle.pop(rng.randrange(len(idle))))
        if rng.random() < yields:
            push(task)
        else:
            idle.append(task)
        scheduler.observe(task, elapsed)
        service[expected] = service.get(expected, 0) + elapsed


@pytest.mark.parametrize("make", [cw.LAS, cw.QLAS])
def test_a_stint_is_of_short_steps_and_ends_when_somebody_comes(make: Callable[[], cw.Scheduler]) -> None:
    scheduler = make()
    tasks = [make_task(number) for number in range(3)]
    push_all(scheduler, tasks)

    def runs(step_ns: int) -> int:
        task = scheduler.pop()
        scheduler.push(task)
        scheduler.observe(task, step_ns)
        return task.arrival

    longer = [runs(20_000) for _ in range(9)]
    assert all(sorted(longer[i : i + 3]) == [0, 1, 2] for i in (0, 3, 6))
    shorter = [runs(500) for _ in range(60)]
    changes = sum(one != other for one, other in itertools.pairwise(shorter))
    assert 2 <= changes <= 20
    first = scheduler.pop()
    scheduler.push(make_task(9))  # has attained nothing
    scheduler.push(first)
    scheduler.observe(first, 500)
    assert scheduler.pop().arrival == 9


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


@pytest.mark.skipif(cw.compiled, reason="its methods are C's; the schedulers' models try them")
@pytest.mark.parametrize("seed", range(20))
def test_a_heap_of_keys_against_a_model(seed: int) -> None:
    rng = random.Random(seed)
    heap = KeyHeap()
    model: list[tuple[int, int, object]] = []
    for tie in range(2_000):
        entry = (rng.randrange(50), tie, object())
        choice = rng.random()
        if choice < 0.4 or not model:
            heap.make_room()
            heap.push(*entry)
            model.append(entry)
        elif choice < 0.6:
            model.sort()
            assert heap.pop() is model.pop(0)[2]
        elif choice < 0.8:
            model.sort()
            assert heap.nodes[heap.places[0].slot] is model[0][2]
            heap.replace_top(*entry)
            model[0] = entry
        else:
            model.sort()
            key, tie, node = model[0]
            key += rng.randrange(10)
            heap.move_top(key)
            model[0] = (key, tie, node)
        assert heap.count == len(model)
        if model:
            least = min(model)
            assert (*heap.places[0][:2], heap.nodes[heap.places[0].slot]) == least
    model.sort()
    assert [heap.pop() for _ in model] == [node for _, _, node in model]


def test_the_fields_of_a_task_say_what_they_are() -> None:
    fields = ("task", "group", "arrival", "service_ns", "slot", "key", "tie", "position")
    for field in fields:
        assert f"{field}: " in str(cw.ScheduledTask.__doc__)
        if cw.compiled:
            assert f"{field}: {getattr(cw.ScheduledTask, field).__doc__}\n" in str(cw.ScheduledTask.__doc__)
