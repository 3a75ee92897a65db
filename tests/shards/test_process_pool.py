"""Functions in processes of a pool, by itself, on both loops."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import clockworker as cw
from clockworker.ipc.calls._failure import RemoteTraceback
from clockworker.shards.worker import _places, _pool_process
from clockworker.shards.worker._pool_child import NICE
from clockworker.shards.worker._pool_frames import Setup
from clockworker.shards.worker._process_pool import ProcessPool
from tests.conftest import DEADLINE, Run, until
from tests.shards import pooled
from tests.shards.servers import is_alive

pytestmark = pytest.mark.once  # what is tested is Python in both kinds


@asynccontextmanager
async def pool_of(processes: int, **options: Any) -> AsyncIterator[ProcessPool]:
    pool = ProcessPool(processes, lambda: Setup("test", sys.path, **options))
    try:
        yield pool
    finally:
        pids = [process.pid for process in pool.processes]
        await pool.close()
        assert not any(map(is_alive, pids))
        assert not any(map(psutil.pid_exists, pids)), "nothing is left to be reaped"


def test_results_and_exceptions(run: Run) -> None:
    async def body() -> None:
        async with pool_of(1) as pool:
            assert await pool.run(pooled.call, 1, two=[2]) == ((1,), {"two": [2]})
            assert await pool.run(os.getpid) == await pool.run(os.getpid) != os.getpid()
            assert await pool.run(functools.partial(divmod, 7), 2) == (3, 1)
            with pytest.raises(pooled.Plain) as plain:
                await pool.run(pooled.fail, "plain")
            assert plain.value.args == ("plain", 1)
            with pytest.raises(pooled.Plain, match="deep") as deep:
                await pool.run(pooled.fail_deep, 3)
            cause = deep.value.__cause__
            assert isinstance(cause, RemoteTraceback)
            assert str(cause).count("in fail_deep") == 4
            assert "_pool_child" not in str(cause)
            with pytest.raises(ExceptionGroup) as group:
                await pool.run(pooled.fail, "group")
            assert [type(each) for each in group.value.exceptions] == [pooled.Plain, KeyError]
            assert pool.counts() == (0, 0, 7)
            await pool.drain()
        with pytest.raises(cw.UsageError, match=r"run_process\(\) was called after the shard had ended"):
            await pool.run(os.getpid)

    run(body)


async def coroutine() -> None: ...


# What is called -> what is said, and the type of it.
MISTAKES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], type[BaseException], str]] = {
    "lambda": (
        lambda: 1,
        (),
        cw.UsageError,
        r"<lambda> or its arguments cannot be sent to another process: .*<lambda>",
    ),
    "argument": (
        pooled.call,
        (threading.Lock(),),
        cw.UsageError,
        r"pooled\.call or its arguments cannot be sent .*lock",
    ),
    "async": (coroutine, (), cw.UsageError, r"takes an ordinary function, and .*\.coroutine is async"),
    "no function": (3, (), cw.UsageError, "takes a function and its arguments, and got 3"),  # type: ignore[dict-item]
    "unreadable there": (
        pooled.call,
        (pooled.OnlyHere(os.getpid()),),
        cw.UsageError,
        r"pooled\.call or its arguments cannot be read in another process: not here",
    ),
    "result": (pooled.lock, (), cw.UsageError, r"what .*pooled\.lock returned cannot be sent back: .*lock"),
    "unreadable here": (
        pooled.only_here,
        (),
        cw.UsageError,
        r"what .*pooled\.only_here returned .* be read here: not here",
    ),
    "exception": (pooled.fail, ("odd",), cw.RemoteError, r"pooled\.fail raised tests\.shards\.pooled\.Odd: code 3"),
    "exception's lock": (pooled.fail, ("lock",), cw.RemoteError, r"pooled\.fail raised tests\.shards\.pooled\.Plain"),
    "StopIteration": (pooled.fail, ("StopIteration",), RuntimeError, r"pooled\.fail raised StopIteration"),
    "GeneratorExit": (pooled.fail, ("GeneratorExit",), RuntimeError, r"pooled\.fail raised GeneratorExit"),
    "CancelledError": (pooled.fail, ("CancelledError",), RuntimeError, r"pooled\.fail raised CancelledError"),
    "SystemExit": (pooled.fail, ("SystemExit",), RuntimeError, r"pooled\.fail raised SystemExit"),
    "KeyboardInterrupt": (pooled.fail, ("KeyboardInterrupt",), RuntimeError, r"pooled\.fail raised KeyboardInterrupt"),
    "status": (
        pooled.leave,
        (3,),
        cw.ProcessDied,
        r"the process of .*pooled\.leave ended with status 3 after \d+\.\d s",
    ),
    "killed": (
        pooled.die,
        (signal.SIGKILL,),
        cw.ProcessDied,
        r"pooled\.die was killed by SIGKILL, as the kernel does when",
    ),
    "crash": (pooled.die, (signal.SIGSEGV,), cw.ProcessDied, r"pooled\.die was ended by SIGSEGV after"),
    "told": (pooled.die, (signal.SIGTERM,), cw.ProcessDied, r"pooled\.die was ended by SIGTERM after"),
}


def test_what_goes_wrong_is_said_and_costs_one_call(run: Run) -> None:
    async def body() -> None:
        async with pool_of(1) as pool:
            for name, (function, args, kind, said) in MISTAKES.items():
                with pytest.raises(kind, match=said) as raised:
                    await pool.run(function, *args)
                assert type(raised.value) is kind, name
                assert await pool.run(abs, -1) == 1, name
            assert pool.counts()[:2] == (0, 0)

    run(body)


def test_one_that_is_told_to_end_and_takes_its_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool_process, "_END_S", 0.05)

    async def body() -> None:
        async with pool_of(1) as pool:
            with pytest.raises(cw.ProcessDied, match="end_slowly was ended by SIGTERM after"):
                await pool.run(pooled.end_slowly)

    run(body)


def test_one_that_closes_what_it_answers_through(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool_process, "_END_S", 0.05)

    async def body() -> None:
        async with pool_of(1) as pool:
            with pytest.raises(cw.ProcessDied, match=r"close_all closed its connection .* and was killed after"):
                await pool.run(pooled.close_all, 100)
            assert await pool.run(abs, -1) == 1

    run(body)


def test_one_that_is_long_about_its_end_was_not_killed_by_us(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the kernel may take seconds to end what has been killed: its socket is closed before it is gone."""
    monkeypatch.setattr(_pool_process, "_END_S", 0.05)
    look = _pool_process.PoolProcess._reap

    def look_late(process: _pool_process.PoolProcess, again_s: float) -> None:
        asyncio.get_running_loop().call_later(0.3, look, process, again_s)

    monkeypatch.setattr(_pool_process.PoolProcess, "_reap", look_late)

    async def body() -> None:
        async with pool_of(1) as pool:
            with pytest.raises(cw.ProcessDied, match="die was killed by SIGKILL, as the kernel does"):
                await pool.run(pooled.die, signal.SIGKILL)

    run(body)


def test_no_more_at_once_than_there_are_processes_and_who_waits_may_leave(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with pool_of(2) as pool:
            gate = tmp_path / "gate"
            tasks = [asyncio.create_task(pool.run(pooled.wait_for, str(gate))) for _ in range(5)]
            await until(lambda: pool.counts() == (2, 3, 0))
            tasks[3].cancel()
            await until(tasks[3].done)
            assert pool.counts() == (2, 2, 0)
            draining = asyncio.create_task(pool.drain())
            gate.touch()
            pids = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(pids.pop(3), asyncio.CancelledError)
            assert 1 <= len(set(pids)) <= 2
            await draining
            assert pool.counts() == (0, 0, 4)
            assert len(pool.processes) == 2

    run(body)


def test_a_timeout_ends_the_function_and_its_finally_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool_process, "_END_S", DEADLINE)  # on a busy CPU it has less than others
    path = tmp_path / "began"
    ended = Path(f"{path}.finally").exists

    async def body() -> None:
        async with pool_of(1) as pool:
            task = asyncio.create_task(pool.run(pooled.touch_and_wait, str(path)))
            await until(lambda: path.exists() and path.read_text())
            pid = int(path.read_text())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await task
            assert pool.counts() == (1, 0, 0)  # until it is gone
            assert await pool.run(os.getpid) != pid
            assert ended()
            assert not is_alive(pid)
            assert pool.counts() == (0, 0, 2)

    run(body)


def test_one_that_does_not_end_is_killed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool_process, "_END_S", 0.2)
    path = tmp_path / "began"

    async def body() -> None:
        async with pool_of(1) as pool:
            task = asyncio.create_task(pool.run(pooled.stubborn, str(path)))
            await until(lambda: path.exists() and path.read_text())
            task.cancel()  # what it makes of that, it may not live to see: on a busy CPU it has less than others
            await pool.drain()
            assert not is_alive(int(path.read_text()))

    run(body)


def test_cancelled_before_it_has_begun_and_just_as_it_ends(run: Run) -> None:
    """Whenever: the place is given back, and the next call is answered with what is its own."""

    async def body() -> None:
        async with pool_of(1) as pool:
            for turn in range(12):
                task = asyncio.create_task(pool.run(pooled.call, "old", turn))
                await asyncio.sleep(0 if turn < 2 else 0.0002 * turn)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                assert await pool.run(pooled.call, turn) == ((turn,), {})

    run(body)


def test_one_that_dies_while_it_is_free_costs_nothing(run: Run) -> None:
    async def body() -> None:
        async with pool_of(1) as pool:
            pid = await pool.run(os.getpid)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not is_alive(pid))
            assert await pool.run(os.getpid) != pid

    run(body)


def test_large_arguments_and_results(run: Run) -> None:
    async def body() -> None:
        async with pool_of(1) as pool:
            assert await pool.run(pooled.size, bytes(20_000_000)) == 20_000_000
            assert await pool.run(pooled.make, 20_000_001) == bytes(20_000_001)

    run(body)


def test_what_a_process_has_of_its_parent(run: Run, tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))

    async def body() -> None:
        async with pool_of(2, cpus=(cpus[-1],)) as pool:
            with (tmp_path / "open").open("w") as file:
                os.set_inheritable(file.fileno(), True)
                about = await pool.run(pooled.about)
            beside = [
                target
                for number, target in about["descriptors"].items()
                if number > 2 and not os.path.basename(target).startswith("libffi.so")  # which keeps its own file open
            ]
            assert len(beside) == 1
            assert beside[0].startswith("socket:")
            assert about["descriptors"][0] == "/dev/null"
            assert about["nice"] == min(os.getpriority(os.PRIO_PROCESS, 0) + NICE, 19)
            assert about["policy"] == os.SCHED_BATCH
            assert about["cpus"] == {cpus[-1]}
            assert about["blocked"] == set()
            assert about["path"] == sys.path
            assert len(about["argv"]) == 1

    run(body)


def test_where_no_process_can_be_started(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start = subprocess.Popen

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async def body() -> None:
        async with pool_of(2) as pool:
            monkeypatch.setattr(subprocess, "Popen", refuse)
            with pytest.raises(RuntimeError, match=r"no process can be started for builtins\.abs: .*temporarily"):
                await pool.run(abs, -1)
            assert pool.counts() == (0, 0, 0)
            monkeypatch.setattr(subprocess, "Popen", start)
            gate = tmp_path / "gate"
            first = asyncio.create_task(pool.run(pooled.wait_for, str(gate)))
            await until(lambda: pool.running == 1)
            monkeypatch.setattr(subprocess, "Popen", refuse)
            second = asyncio.create_task(pool.run(os.getpid))  # waits for the process that there is
            await until(lambda: pool.waiting == 1)
            gate.touch()
            assert await first == await second
            monkeypatch.setattr(subprocess, "Popen", start)

    run(body)


def test_a_long_wait_and_a_stop_that_waits_are_said(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_places, "LONG_WAIT_S", 0.02)
    gate = tmp_path / "gate"

    async def body() -> None:
        async with pool_of(1) as pool:
            calls = [asyncio.create_task(pool.run(each, str(gate))) for each in (pooled.wait_for, len)]
            await until(lambda: "has waited" in caplog.text)
            said = r"run_process\(builtins\.len\) has waited \d+\.\d s for a process, as 1 calls do; --processes is 1, and in "
            assert re.search(said + r"them are: .*pooled\.wait_for \(\d+\.\d s, in process \d+\)", caplog.text)
            draining = asyncio.create_task(pool.drain())
            await until(lambda: "the stop waits for processes: " in caplog.text)
            gate.touch()
            await asyncio.gather(*calls)
            await draining

    with caplog.at_level(logging.WARNING):
        run(body)


MAIN = """
import asyncio, os, sys
from clockworker.shards.worker._pool_frames import Setup
from clockworker.shards.worker._process_pool import ProcessPool

def here():
    return __name__, os.getpid()

class Mine(Exception):
    pass

def fail():
    raise Mine("mine")

async def main():
    pool = ProcessPool(1, lambda: Setup("test", sys.path))
    name, pid = await pool.run(here)
    try:
        await pool.run(fail)
    except Mine as error:
        print(name, pid != os.getpid(), error, await pool.run(here) == (name, pid))
    await pool.close()

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("by_name", [False, True])
def test_functions_of_the_program_itself(tmp_path: Path, by_name: bool) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(MAIN))
    command = [sys.executable, *(["-m", "program"] if by_name else ["program.py"])]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("__mp_main__ True mine True\n", "")


def test_killed_at_once_where_the_loop_is_about_to_end(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool_process, "_END_S", DEADLINE)  # on a busy CPU it has less than others
    path = tmp_path / "began"

    async def body() -> None:
        pool = ProcessPool(1, lambda: Setup("test", sys.path))
        first, second = (asyncio.create_task(pool.run(pooled.touch_and_wait, str(path))) for _ in range(2))
        await until(lambda: path.exists() and path.read_text())
        pool.kill()
        assert not psutil.pid_exists(int(path.read_text()))
        with pytest.raises(cw.ProcessDied):
            await first
        with pytest.raises(cw.UsageError, match="after the shard had ended"):
            await second
        assert not pool.processes

    run(body)
