"""The seam: what it takes, what it lets pass, and how it leaves the loop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
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


# Membership


def test_tasks_that_a_task_starts_are_in_its_queue(run: Run) -> None:
    async def start_more() -> list[object]:
        loop = asyncio.get_running_loop()
        seen = [queue_key(), await asyncio.create_task(report_queue())]
        seen += await asyncio.gather(report_queue(), report_queue())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(report_queue()) for _ in range(2)]
        seen += [task.result() for task in tasks]
        async with asyncio.timeout(10):
            seen.append(await report_queue())
        seen.append(await asyncio.wait_for(report_queue(), 10))
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


# What passes


def test_callbacks_of_others_pass_through(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        seen: list[Any] = []
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outer")

        def remember(*args: Any) -> None:
            seen.append((args, variable.get()))

        context = contextvars.copy_context()
        context.run(variable.set, "inner")
        async with cw.Executor(QUEUES) as executor:
            for args in [(), (1,), (1, 2, 3)]:
                handle = loop.call_soon(remember, *args)
                assert isinstance(handle, asyncio.Handle) or hasattr(handle, "cancel")
            loop.call_soon(remember, "context", context=context)
            loop.call_soon(remember, "never").cancel()
            await until(lambda: len(seen) >= 4)
            assert executor.stats().polls == 0
        assert seen == [((), "outer"), ((1,), "outer"), ((1, 2, 3), "outer"), (("context",), "inner")]

    run(body)


def test_methods_of_tasks_are_no_steps(run: Run) -> None:
    """call_soon is given bound methods of member tasks that are not their steps."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("background").spawn(asyncio.Event().wait())
            await asyncio.sleep(0)
            called: list[Any] = []
            loop.call_soon(handle.task.set_name, "renamed")
            loop.call_soon(handle.task.add_done_callback, called.append)
            await until(lambda: handle.task.get_name() == "renamed")
            assert not handle.done()
            loop.call_soon(handle.task.cancel)
            with pytest.raises(cw.TaskCancelled, match="renamed was aborted"):
                await handle
            await until(lambda: called)
            assert called == [handle.task]

    run(body)


def test_a_call_from_another_thread_safely(run: Run) -> None:
    async def wait_for(future: asyncio.Future[str]) -> tuple[str, object]:
        return await future, queue_key()

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with cw.Executor(QUEUES) as executor:
            future: asyncio.Future[str] = loop.create_future()
            handle = executor.queue("background").spawn(wait_for(future))
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, "news"))
            thread.start()
            assert await handle == ("news", "background")
            thread.join()

    run(body)


def test_debug_mode_refuses_another_thread(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with cw.Executor(QUEUES) as executor:
            future: asyncio.Future[str] = loop.create_future()

            async def wait() -> str:
                return await future

            handle = executor.queue("background").spawn(wait())
            await until(lambda: future._callbacks)  # type: ignore[attr-defined]
            ((wakeup, context),) = future._callbacks  # type: ignore[attr-defined]

            def wake() -> None:
                with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                    loop.call_soon(wakeup, future, context=context)
                refused.append(True)

            refused: list[bool] = []
            await asyncio.to_thread(wake)
            assert refused
            future.set_result("right")
            assert await handle == "right"

    run(body, debug=True)


# Attaching, detaching


@pytest.mark.parametrize("fails", [False, True])
def test_detaching_leaves_the_loop_as_it_was(run: Run, fails: bool) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        before = dict(vars(loop))
        try:
            async with cw.Executor(QUEUES) as executor:
                assert "call_soon" in vars(loop)
                await executor.queue("background").spawn(asyncio.sleep(0))
                if fails:
                    raise LookupError("out of the body")
        except LookupError:
            assert fails
        assert "call_soon" not in vars(loop)
        assert vars(loop).keys() == before.keys()
        with pytest.raises(cw.UsageError):
            cw.current_executor()
        async with cw.Executor(QUEUES) as again:
            assert cw.current_executor() is again

    run(body)


def test_an_attribute_that_was_there_is_restored(run: Run) -> None:
    async def body() -> None:
        loop: Any = asyncio.get_running_loop()
        original, calls = loop.call_soon, []

        def counting(callback: Any, *args: Any, context: Any = None) -> Any:
            calls.append(callback)
            return original(callback, *args, context=context)

        loop.call_soon = counting
        async with cw.Executor(QUEUES) as executor:
            await executor.queue("background").spawn(asyncio.sleep(0))
        assert loop.call_soon is counting
        assert calls
        del loop.call_soon

    run(body)


def test_two_executors_on_one_loop(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as first:
            with pytest.raises(cw.UsageError, match="this loop has an executor already"):
                await cw.Executor(QUEUES).__aenter__()
            assert cw.current_executor() is first
            assert await first.queue("background").spawn(report_queue()) == "background"

    run(body)


def test_two_executors_on_two_loops(run: Run) -> None:
    async def body() -> object:
        async with cw.Executor(QUEUES) as executor:
            return await executor.queue("background").spawn(report_queue())

    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(run(body)))
    thread.start()
    seen.append(run(body))
    thread.join()
    assert seen == ["background", "background"]


def test_a_loop_that_cannot_take_the_seam() -> None:
    class Fixed(asyncio.SelectorEventLoop):
        @property
        def call_soon(self) -> Any:  # type: ignore[override]
            return super().call_soon

    with pytest.raises(cw.UsageError, match="does not let its call_soon be replaced"):
        cw.new_event_loop(QUEUES, loop_factory=Fixed)


def test_current_executor_needs_a_running_loop(run: Run) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        cw.current_executor()


# The pump


def test_the_loop_has_its_turn_between_steps(run: Run) -> None:
    """A task that never waits for anything does not keep timers and other callbacks from running."""

    async def spin(stop: list[bool]) -> int:
        polls = 0
        while not stop:
            polls += 1
            await asyncio.sleep(0)
        return polls

    async def body() -> None:
        async with cw.Executor(QUEUES, max_polls_per_yield=5) as executor:
            stop: list[bool] = []
            handle = executor.queue("background").spawn(spin(stop))
            asyncio.get_running_loop().call_later(0.01, stop.append, True)
            polls = await handle
            assert polls + 1 <= executor.stats().turns * 5

    run(body)


def test_an_idle_executor_takes_no_turns(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            await executor.queue("background").spawn(asyncio.sleep(0))
            await asyncio.sleep(0.01)
            before = executor.stats().turns
            for _ in range(10):
                await asyncio.sleep(0.001)
            assert executor.stats().turns == before

    run(body)


def test_a_scheduler_in_plain_python_drives_an_executor(run: Run) -> None:
    class Lifo(cw.Scheduler):
        def __init__(self) -> None:
            self.stack: list[cw.ScheduledTask] = []
            self.log: list[str] = []

        def push(self, task: cw.ScheduledTask) -> None:
            self.stack.append(task)

        def pop(self) -> cw.ScheduledTask:
            return self.stack.pop()

        def observe(self, task: cw.ScheduledTask, elapsed_ns: int) -> None:
            assert elapsed_ns >= 0
            self.log.append(f"observe {task.arrival}")

        def forget_task(self, task: cw.ScheduledTask) -> None:
            self.log.append(f"forget {task.arrival}")

        def forget_group(self, group: object) -> None:
            self.log.append(f"forget {group}")

        def __len__(self) -> int:
            return len(self.stack)

    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    async def body() -> None:
        lifo = Lifo()
        async with cw.Executor([cw.Queue("q", scheduler=lifo), *QUEUES]) as executor:
            group = executor.queue("q").group("g")
            handles = [group.spawn(note(number)) for number in (1, 2, 3)]
            for handle in handles:
                await handle
        assert lifo.log == ["observe 3", "forget 3", "observe 2", "forget 2", "observe 1", "forget 1", "forget g"]

    run(body)
    assert order == [3, 2, 1]


class Breakable(cw.RunnableFifo):
    """Returns what it should not, once."""

    def __init__(self) -> None:
        super().__init__()
        self.instead: list[Any] = []

    def pop(self) -> cw.ScheduledTask:
        return self.instead.pop() if self.instead else super().pop()


@pytest.mark.parametrize("foreign", ["nothing", "made up", "not runnable", "of another queue"])
def test_a_scheduler_that_returns_what_it_was_not_given(run: Run, foreign: str) -> None:
    async def body() -> None:
        broken, other = Breakable(), Breakable()
        queues = [cw.Queue("broken", scheduler=broken), cw.Queue("other", scheduler=other)]
        async with cw.Executor(queues) as executor:
            waiting = executor.queue("broken").spawn(asyncio.Event().wait())
            await asyncio.sleep(0)
            await until(lambda: executor.stats().polls == 1)
            if foreign == "nothing":
                broken.instead = [None]
            elif foreign == "made up":
                broken.instead = [cw.ScheduledTask(waiting.task, None, 1)]
            else:
                victim = waiting
                if foreign == "of another queue":
                    victim = executor.queue("other").spawn(asyncio.Event().wait())
                broken.instead = [victim]
            handle = executor.queue("broken").spawn(asyncio.sleep(0, "ran"))
            # The error goes to the loop; the task is not lost.
            assert await handle == "ran"
            waiting.abort()

    run(body)
    (report,) = run.reports
    run.reports.clear()
    assert isinstance(report["exception"], cw.UsageError)
    assert "Breakable.pop() of queue 'broken' returned" in str(report["exception"])


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


# Nothing is left


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

    if sys.version_info[:2] == (3, 13) and run.loop_factory is not asyncio.new_event_loop:
        pytest.skip("uvloop passes `eager_start`, which the eager factory of 3.13's first releases does not take")

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
