"""Members: whose tasks are whose, and that none is lost and nothing kept of any."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
import uvloop

import clockworker as cw
from tests.conftest import Run, until

QUEUES = [cw.Queue("foreground", 8), cw.Queue("background")]


def queue_key() -> object:
    queue = cw.current_executor().current_queue()
    return None if queue is None else queue.key


async def report_queue() -> object:
    await asyncio.sleep(0)
    return queue_key()


def test_tasks_that_a_task_starts_are_in_its_queue(run: Run) -> None:
    async def start_more() -> list[object]:
        loop = asyncio.get_running_loop()
        seen = [queue_key(), await asyncio.create_task(report_queue())]
        seen += await asyncio.gather(report_queue(), report_queue())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(report_queue()) for _ in range(2)]
        seen += [task.result() for task in tasks]
        async with asyncio.timeout(60):
            seen.append(await report_queue())
        seen.append(await asyncio.wait_for(report_queue(), 60))
        await loop.run_in_executor(None, int)
        seen.append(queue_key())
        assert await asyncio.to_thread(int) == 0
        seen.append(queue_key())
        return seen

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            for key in ("background", "foreground"):
                assert set(await executor.queue(key).spawn(start_more())) == {key}
            assert queue_key() is None
            assert await asyncio.create_task(report_queue()) is None

    run(body)


def test_groups_are_inherited(run: Run) -> None:
    seen: list[object] = []

    class Recorder(cw.RunnableFifo):
        def push(self, task: cw.ScheduledTask) -> None:
            seen.append(task.group)
            super().push(task)

    async def parent() -> None:
        await asyncio.create_task(asyncio.sleep(0))

    async def body() -> None:
        async with cw.Executor([cw.Queue("q", scheduler=Recorder())]) as executor:
            await executor.queue("q").group("tenant").spawn(parent())

    run(body)
    assert seen == ["tenant"] * 4  # both start, the child goes on, the parent wakes


def test_a_context_brings_callbacks_into_a_queue(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            context = executor.queue("background").context()
            task = asyncio.get_running_loop().create_task(report_queue(), context=context)
            assert await task == "background"
            assert await asyncio.create_task(report_queue()) is None

    run(body)


def test_a_loop_with_an_executor_puts_the_rest_in_the_first_queue(run: Run) -> None:
    def with_executor() -> asyncio.AbstractEventLoop:
        return cw.new_event_loop(QUEUES, loop_factory=run.loop_factory)

    async def body() -> None:
        assert await report_queue() == "foreground"
        executor = cw.current_executor()
        assert await asyncio.create_task(report_queue()) == "foreground"
        assert await executor.queue("background").spawn(report_queue()) == "background"

    run(body, loop_factory=with_executor)


class Faulty(cw.RunnableFifo):
    """Fails for good in one method, once it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.broken = False

    def _fail(self, where: str) -> None:
        if self.broken and where == self.where:
            raise LookupError(f"in {where}")

    def push(self, task: cw.ScheduledTask) -> None:
        self._fail("push")
        if not (self.broken and self.where == "lose"):
            super().push(task)

    def pop(self) -> cw.ScheduledTask:
        self._fail("pop")
        return super().pop()

    def observe(self, task: cw.ScheduledTask, elapsed_ns: int) -> None:
        self._fail("observe")

    def forget_task(self, task: cw.ScheduledTask) -> None:
        self._fail("forget_task")

    def forget_group(self, group: object) -> None:
        self._fail("forget_group")


@pytest.mark.parametrize("where", ["push", "lose", "pop", "observe", "forget_task", "forget_group"])
def test_a_scheduler_that_fails_for_good_is_replaced_and_no_task_is_lost(run: Run, where: str) -> None:
    async def body() -> None:
        faulty = Faulty(where)
        async with cw.Executor([cw.Queue("faulty", scheduler=faulty), cw.Queue("other")]) as executor:
            done: list[int] = []

            async def work(number: int) -> None:
                for _ in range(3):
                    await asyncio.sleep(0)
                done.append(number)

            group = executor.queue("faulty").group("tenant")
            handles = [group.spawn(work(number)) for number in range(10)]
            await until(lambda: executor.stats().polls > 3)
            faulty.broken = True
            handles += [group.spawn(work(number)) for number in range(10, 20)]
            handles.append(executor.queue("other").spawn(work(20)))
            for handle in handles:
                await handle
            assert sorted(done) == list(range(21))
            assert executor.stats().tasks == executor.stats().runnable == 0

    run(body)
    (report,) = run.reports
    run.reports.clear()
    assert "the scheduler Faulty of queue 'faulty' failed; a RunnableFifo has taken its place" in report["message"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [cw.RunnableFifo, cw.ArrivalFifo, cw.LAS, cw.QLAS])
def test_finished_tasks_leave_nothing(run: Run, make: Any) -> None:
    import gc
    import weakref

    count = 25_000 if cw.compiled else 5_000

    async def work(number: int) -> None:
        if number % 3:
            await asyncio.sleep(0)

    async def body() -> None:
        async with cw.Executor([cw.Queue("q", scheduler=make()), cw.Queue("other")]) as executor:
            queue = executor.queue("q")
            watched: list[weakref.ref[Any]] = []
            for number in range(count):
                place = queue.group(number % 1_000) if number % 2 else queue
                handle = place.spawn(work(number))
                if number % 100 == 0:
                    watched.append(weakref.ref(handle.task))
                del handle
                if number % 500 == 0:
                    await asyncio.sleep(0)
            await executor.drain()
            await asyncio.sleep(0)
            gc.collect()
            assert [task() for task in watched if task() is not None] == []
            core = executor._core
            assert core.tasks() == []
            state = core.queues["q"]
            assert state.groups == {}
            assert (state.live, state.runnable, len(state.scheduler)) == (0, 0, 0)
            assert executor.stats().spawned == count

    run(body)


def test_a_pending_task_is_never_collected(run: Run) -> None:
    import gc

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            done: list[str] = []

            async def wait_for_own_future() -> None:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                keep.append(future)
                await future
                done.append("done")

            keep: list[asyncio.Future[None]] = []
            executor.queue("background").spawn(wait_for_own_future())
            await until(lambda: keep)
            gc.collect()
            keep.pop().set_result(None)
            await until(lambda: done)

    run(body)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks(run: Run) -> None:
    async def at_once() -> object:
        return queue_key()

    async def nothing() -> None:
        pass

    async def body() -> None:
        loop: Any = asyncio.get_running_loop()
        if isinstance(loop, uvloop.Loop) and (3, 13) <= sys.version_info < (3, 13, 3):
            pytest.skip("uvloop passes eager_start to task factories, which asyncio's takes from 3.13.3 on")
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        eager = asyncio.create_task(nothing()).done()  # under 3.14 uvloop 0.23 passes `eager_start=None`, and it is not
        async with cw.Executor(QUEUES) as executor:
            queue = executor.queue("background")
            handle = queue.spawn(asyncio.sleep(0, "slept"))
            assert await handle == "slept"
            handle = queue.spawn(at_once())  # type: ignore[arg-type]
            assert handle.done() is eager
            await handle
            assert await queue.spawn(report_queue()) == "background"
            await executor.drain()
            assert executor.stats().tasks == 0

    run(body)
