"""An executor with nothing to do leaves the process asleep: no CPU time, not one system call."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

PROGRAM = """
import asyncio, sys, uvloop
import clockworker as cw

QUEUES = [cw.Queue("first", scheduler=cw.LAS()), cw.Queue("second", share=8)]

async def work():
    await asyncio.sleep(0.001)

async def main(executor):
    for queue in executor.queues():
        for _ in range(100):
            await queue.spawn(work())
        queue.spawn(asyncio.Event().wait())  # one that waits for good
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), told.set)
    await asyncio.sleep(0.1)
    print("idle", flush=True)
    await told.wait()

async def with_executor():
    async with cw.Executor(QUEUES) as executor:
        await main(executor)

async def on_loop():
    await main(cw.current_executor())

loop_factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[sys.argv[1]]
if sys.argv[2] == "attached":
    with asyncio.Runner(loop_factory=lambda: cw.new_event_loop(QUEUES, loop_factory=loop_factory)) as runner:
        runner.run(on_loop())
else:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(with_executor())
"""


def _spent(process: psutil.Process) -> tuple[int, int, float]:
    """Nanoseconds on a CPU, times it was put on one, and CPU seconds as `times` has them."""
    on_cpu, _, times = Path(f"/proc/{process.pid}/schedstat").read_text().split()
    return int(on_cpu), int(times), sum(process.cpu_times()[:2])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("how", "seconds"), [("entered", 1), ("attached", 1), pytest.param("attached", 5, marks=pytest.mark.slow)]
)
def test_idle_is_asleep(loop: str, how: str, seconds: float) -> None:
    if not os.path.exists("/proc/self/schedstat"):
        pytest.skip("this kernel does not count the times that a process was put on a CPU (/proc/self/schedstat)")
    program = [sys.executable, "-c", PROGRAM, loop, how]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"idle\n"
        process = psutil.Process(child.pid)
        # It has said that it is idle before it is.
        while process.status() != psutil.STATUS_SLEEPING:
            assert child.poll() is None
        before = _spent(process)
        assert not select.select([child.stdout], [], [], seconds)[0]
        after = _spent(process)
        child.stdin.write(b"\n")
        child.stdin.close()
        assert child.wait(60) == 0
    # Whoever makes a system call, or wakes from one, has been put on a CPU.
    assert after == before
