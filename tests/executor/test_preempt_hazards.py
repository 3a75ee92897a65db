"""What else could go wrong when a step is cut: of asyncio, of the interpreter, of the process."""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import DEADLINE, Run, until
from tests.executor.slices import (
    alarms,
    ask,
    compute_until,
    cuts,
    needs_slices,
    queues,
    refusals,
    rule,
    with_and_without,
)

pytestmark = [needs_slices, pytest.mark.usefixtures("by_hand")]


def pair(executor: cw.Executor, hog: Any, other: Any) -> Any:
    """Both at once, and wait for both."""

    async def both() -> None:
        handles = executor.queue("background").spawn(hog), executor.queue("foreground").spawn(other)
        for handle in handles:
            await handle

    return both()


@with_and_without
def test_the_current_task(run: Run, on: bool) -> None:
    seen: list[Any] = []

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            loop = asyncio.get_running_loop()

            async def hog() -> None:
                mine = asyncio.current_task()
                loop.call_soon(lambda: seen.append(asyncio.current_task()))
                compute_until(lambda: seen)
                assert asyncio.current_task() is mine
                async with asyncio.timeout(60):  # which asks for it
                    ask()
                    await asyncio.sleep(0)

            await executor.queue("background").spawn(hog())

    with rule("task", on):
        run(body)
    assert (seen == [None]) == on


VARIABLE = contextvars.ContextVar("variable", default="unset")


def test_context_variables(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            seen: list[str] = []

            async def hog() -> None:
                VARIABLE.set("hog")
                compute_until(lambda: seen)
                assert VARIABLE.get() == "hog"
                contextvars.copy_context().run(inside)
                assert VARIABLE.get() == "hog"

            def inside() -> None:
                VARIABLE.set("inside")
                had = len(seen)
                compute_until(lambda: len(seen) > had)
                assert VARIABLE.get() == "inside"

            async def other() -> None:
                VARIABLE.set("other")
                while len(seen) < 100:
                    seen.append(VARIABLE.get())
                    await asyncio.sleep(0)

            await pair(executor, hog(), other())
            assert set(seen) == {"other"}
            assert VARIABLE.get() == "unset"

    run(body)


def test_the_exception_that_is_handled(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            seen: list[Any] = []

            async def hog() -> None:
                for kind in (KeyError, IndexError):
                    try:
                        raise kind("hog's")
                    except LookupError:
                        had = len(seen)
                        compute_until(lambda had=had: len(seen) > had)  # type: ignore[misc]
                        assert isinstance(sys.exc_info()[1], kind)
                        with pytest.raises(kind):
                            raise
                        try:
                            raise ValueError
                        except ValueError as error:
                            ask()
                            context = error.__context__
                        assert isinstance(context, kind)
                assert sys.exc_info() == (None, None, None)
                seen.append("end")

            async def other() -> None:
                while "end" not in seen:
                    seen.append(sys.exc_info()[1])
                    try:
                        raise OSError
                    except OSError as error:
                        seen.append(error.__context__)
                        await asyncio.sleep(0)

            await pair(executor, hog(), other())
            assert set(seen) == {None, "end"}

    run(body)


def test_depth_of_recursion(run: Run) -> None:
    def deep(levels: int, then: Any) -> int:
        if levels == 0:
            then()
            return 0
        return 1 + deep(levels - 1, then)

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            seen: list[int] = []
            levels = sys.getrecursionlimit() - 400

            async def hog() -> None:
                assert deep(levels, lambda: compute_until(lambda: len(seen) > 3)) == levels
                with pytest.raises(RecursionError):
                    deep(2 * levels, ask)

            async def other() -> None:
                for _ in range(10):
                    seen.append(deep(levels, lambda: None))
                    await asyncio.sleep(0)

            await pair(executor, hog(), other())
            assert seen == [levels] * 10

    run(body)


def test_generators(run: Run) -> None:
    def numbers(count: int) -> Iterator[int]:
        for number in range(count):
            try:
                ask()
                yield number
            finally:
                ask()

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            seen: list[int] = []

            async def asynchronous() -> Any:
                for number in numbers(20):
                    ask()
                    yield number
                    await asyncio.sleep(0)

            async def hog() -> None:
                assert list(numbers(100)) == list(range(100))
                assert [number async for number in asynchronous()] == list(range(20))
                assert [x + y for x in numbers(5) for y in numbers(5)] == [x + y for x in range(5) for y in range(5)]
                running = numbers(3)
                assert next(running) == 0
                running.close()  # type: ignore[attr-defined]
                assert cuts(executor) > 250

            async def other() -> None:
                for number in numbers(300):
                    seen.append(number)
                    await asyncio.sleep(0)

            await pair(executor, hog(), other())
            assert seen == list(range(300))

    run(body)


def test_a_timeout_and_a_task_group(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            log: list[str] = []

            async def fail() -> None:
                log.append("failing")
                raise LookupError

            async def hog() -> None:
                loop = asyncio.get_running_loop()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001) as timeout:
                        compute_until(lambda: timeout._state.name == "EXPIRING")  # type: ignore[attr-defined]
                        log.append("goes on to its next await")
                        await asyncio.sleep(60)
                with pytest.raises(ExceptionGroup):
                    async with asyncio.TaskGroup() as group:
                        task = loop.create_task(asyncio.sleep(0))
                        executor.queue("foreground").spawn(asyncio.sleep(0))
                        group.create_task(fail(), context=executor.queue("foreground").context())
                        compute_until(lambda: "failing" in log)
                        await asyncio.sleep(60)
                await task

            await executor.queue("background").spawn(hog())
            assert log == ["goes on to its next await", "failing"]

    run(body)


def test_nested_greenlets(run: Run) -> None:
    """A step that has greenlets of its own is cut in whichever it is."""
    import greenlet

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            seen: list[int] = []

            async def hog() -> None:
                def inner(number: int) -> str:
                    had = len(seen)
                    compute_until(lambda: len(seen) > had)
                    got = outer.switch(number)
                    ask()
                    return f"inner {got}"

                outer = greenlet.getcurrent()
                child = greenlet.greenlet(inner)
                assert child.switch(1) == 1
                had = len(seen)
                compute_until(lambda: len(seen) > had)
                assert child.switch(2) == "inner 2"
                assert greenlet.getcurrent() is outer
                seen.append(-1)

            async def other() -> None:
                mine = greenlet.getcurrent()
                while -1 not in seen:
                    seen.append(len(seen))
                    await asyncio.sleep(0)
                    assert greenlet.getcurrent() is mine

            await pair(executor, hog(), other())

    run(body)


def test_sqlalchemys_asyncio_extension(run: Run) -> None:
    """Which runs its synchronous part in greenlets, that await in the middle."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("aiosqlite")
    from sqlalchemy.ext.asyncio import create_async_engine

    async def body() -> None:
        with tempfile.TemporaryDirectory() as folder:
            engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/test.db")

            @sqlalchemy.event.listens_for(engine.sync_engine, "before_cursor_execute")
            def before(*args: object) -> None:
                ask()

            async with cw.Executor(queues()) as executor:

                async def rows(first: int) -> int:
                    async with engine.begin() as connection:
                        for number in range(first, first + 10):
                            await connection.execute(sqlalchemy.text("insert into t values (:n)"), {"n": number})
                            ask()
                    async with engine.connect() as connection:
                        ask()
                        result = await connection.execute(sqlalchemy.text("select count(*) from t"))
                        return int(result.scalar_one())

                async def create() -> None:
                    async with engine.begin() as connection:
                        await connection.execute(sqlalchemy.text("create table t (n integer)"))

                await executor.queue("background").spawn(create())
                handles = [
                    executor.queue("foreground" if number % 3 == 0 else "background").spawn(rows(100 * number))
                    for number in range(9)
                ]
                counted = [await handle for handle in handles]
                assert max(counted) == 90
                assert cuts(executor) > 30
            await engine.dispose()

    run(body)


def test_fork_in_a_step(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                lock = threading.Lock()
                child = os.fork()
                if child == 0:
                    try:
                        had = cuts(executor)
                        with lock:
                            ask()
                        for _ in range(1000):
                            ask()
                        assert cuts(executor) == had
                        assert signal.getsignal(signal.SIGRTMAX) is signal.SIG_DFL
                        again = asyncio.new_event_loop()
                        asyncio._set_running_loop(None)
                        again.run_until_complete(in_the_child())
                        os._exit(0)
                    finally:
                        os._exit(1)
                ask()
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # noqa: ASYNC222
                ask()

            await executor.queue("background").spawn(hog())
            assert cuts(executor) == 2

    async def in_the_child() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                ask()

            await executor.queue("background").spawn(hog())
            assert cuts(executor) == 1

    run(body)


def test_programs_that_are_started(run: Run) -> None:
    """They inherit no handler and no timer."""
    code = "import signal, time; print(signal.getsignal(signal.SIGRTMAX).name); time.sleep(0.01)"

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                done = subprocess.run(  # noqa: ASYNC221
                    [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE
                )
                assert (done.returncode, done.stdout) == (0, "SIG_DFL\n"), done

            await executor.queue("background").spawn(hog())

    with alarms():
        run(body)


@with_and_without
def test_a_trace_function_is_not_cut(run: Run, on: bool) -> None:
    """While one runs, the thread traces nothing else."""
    lines: list[str] = []

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            def trace(frame: Any, event: str, argument: object) -> Any:
                if frame.f_code.co_name in ("traced", "beside"):
                    lines.append(frame.f_code.co_name)
                    if frame.f_code.co_name == "traced" and event == "line":
                        ask()
                    return trace
                return None

            def traced() -> None:
                a = 1
                b = 2
                assert a < b

            def beside() -> None:
                pass

            async def hog() -> None:
                sys.settrace(trace)
                try:
                    traced()
                finally:
                    sys.settrace(None)

            async def other() -> None:
                while "traced" not in lines:
                    await asyncio.sleep(0)
                beside()

            await pair(executor, hog(), other())
            assert ("tracing" in refusals(executor)) == on

    before = sys.gettrace()
    try:
        with rule("tracing", on):
            run(body)
    finally:
        sys.settrace(before)
    assert lines.count("traced") >= 4


COVERED = """
import asyncio, sys
import clockworker as cw
from clockworker.executor import _fiber_cy

def compute(x):
    if x % 2:
        y = x + 1
    else:
        y = x - 1
    _fiber_cy.ask()
    return y

async def main():
    async with cw.Executor([cw.Queue("f"), cw.Queue("b", preemptive=True)]) as executor:
        async def hog():
            return [compute(x) for x in range(2000)]
        async def other():
            for _ in range(200):
                compute(3)
                await asyncio.sleep(0)
        handle = executor.queue("f").spawn(other())
        await executor.queue("b").spawn(hog())
        await handle
        assert executor.queue_stats()["b"].cuts >= 2000

asyncio.run(main())
print("end")
"""


def test_under_coverage(tmp_path: Any) -> None:
    pytest.importorskip("coverage")
    script = tmp_path / "covered.py"
    script.write_text(COVERED)
    data = f"--data-file={tmp_path / 'data'}"
    measured = subprocess.run(
        [sys.executable, "-m", "coverage", "run", data, "--branch", f"--include={script}", str(script)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert measured.returncode == 0, measured.stderr
    report = subprocess.run(
        [sys.executable, "-m", "coverage", "report", data], capture_output=True, text=True, timeout=DEADLINE
    )
    assert "100%" in report.stdout, report.stdout + report.stderr


def test_stacks_are_dumped_while_a_step_is_suspended(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            dumps: list[str] = []

            async def hog() -> None:
                compute_until(lambda: len(dumps) > 20)

            async def other() -> None:
                for _ in range(30):
                    with tempfile.TemporaryFile("w+") as file:
                        faulthandler.dump_traceback(file)
                        file.seek(0)
                        dumps.append(file.read())
                    await asyncio.sleep(0)

            await pair(executor, hog(), other())
            assert all("in other" in dump and "in hog" not in dump for dump in dumps)

    run(body)


def test_the_applications_own_signal_handlers(run: Run) -> None:
    log: list[str] = []

    def on_user_1(number: int, frame: object) -> None:
        log.append("one begins")
        compute_until(lambda: "two" in log)
        log.append("one ends")

    def on_user_2(number: int, frame: object) -> None:
        log.append("two")

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                signal.raise_signal(signal.SIGUSR1)
                ask()

            async def other() -> None:
                await until(lambda: log)
                signal.raise_signal(signal.SIGUSR2)  # while the handler of the other one is suspended

            await pair(executor, hog(), other())

    before = signal.signal(signal.SIGUSR1, on_user_1), signal.signal(signal.SIGUSR2, on_user_2)
    try:
        run(body)
    finally:
        signal.signal(signal.SIGUSR1, before[0])
        signal.signal(signal.SIGUSR2, before[1])
    assert log == ["one begins", "two", "one ends"]


def test_signal_handlers_of_the_loop(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            loop = asyncio.get_running_loop()
            log: list[str] = []
            loop.add_signal_handler(signal.SIGUSR1, log.append, "signal")
            try:

                async def hog() -> None:
                    os.kill(os.getpid(), signal.SIGUSR1)
                    compute_until(lambda: log)

                await executor.queue("background").spawn(hog())
            finally:
                loop.remove_signal_handler(signal.SIGUSR1)
            assert log == ["signal"]

    run(body)


def test_threads_beside(run: Run) -> None:
    """They have locks of their own, and take the interpreter's at any moment."""

    async def body() -> None:
        async with cw.Executor([queues()[0], cw.Queue("background", preemptive=True, slice=0.0001)]) as executor:
            stop = threading.Event()
            shared = threading.Lock()
            total = 0

            def work() -> None:
                nonlocal total
                while not stop.is_set():
                    with shared:
                        total += 1
                        sum(range(100))

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()

            async def hog() -> None:
                nonlocal total
                for _ in range(300):
                    with shared:
                        total += 1
                        sum(range(1000))
                    ask()

            async def other() -> None:
                while not handle.done():
                    with shared:
                        pass
                    await asyncio.sleep(0)

            handle = executor.queue("background").spawn(hog())
            watching = executor.queue("foreground").spawn(other())
            try:
                await handle
                await watching
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            assert cuts(executor) >= 300

    with alarms():
        run(body)
