"""Two queues of equal work on a core that their thread does not have to itself: do they get as much done as their shares say?

What counts is the work, and beside it what the executor has booked. With a busy process on the same core; with one that wakes
again and again for 50 us, and takes the core in pieces; and with a CPU quota of half a core, in a cgroup that is made for it
(version 1 or 2; it wants the rights to, and is left out otherwise).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

import clockworker as cw
from bench._processes import together

SHARES = (8, 1)
WITHIN = 0.1  # of 8 times as much
# Until who started them has gone.
BUSY = "import os\nwhile os.getppid() == {parent}: pass"
WAKING = """
import os, time
while os.getppid() == {parent}:
    ends = time.perf_counter() + 50e-6
    while time.perf_counter() < ends:
        pass
    time.sleep(50e-6)
"""
QUOTA = 0.5
PERIOD_US = 100_000


class SharedCore(msgspec.Struct, frozen=True):
    """Of one set-up. core: how much of it the thread had. work, booked: how much more the first queue got than the second, as
    work done and in `busy_ns`."""

    name: str
    core: float = 0.0
    work: float = 0.0
    booked: float = 0.0
    skipped: str = ""  # why

    def holds(self) -> bool:
        wanted = SHARES[0] / SHARES[1]
        return bool(self.skipped) or abs(self.work - wanted) <= WITHIN * wanted


def measure_shared_core(seconds: float) -> list[SharedCore]:
    def case(name: str, prepare: Callable[[], object] = int, neighbour: str | None = None) -> SharedCore:
        (found,) = together([partial(_beside, name, seconds, prepare, neighbour)])
        return found

    cases = [
        case("alone"),
        case("beside a busy process", neighbour=BUSY),
        case("beside one that wakes for 50 us", neighbour=WAKING),
    ]
    name = f"with a CPU quota of {QUOTA:g}"
    try:
        with _quota() as enter:
            cases.append(case(name, prepare=enter))
    except OSError as error:
        cases.append(SharedCore(name, skipped=f"no cgroup with a quota can be made: {error}"))
    return cases


def _beside(name: str, seconds: float, prepare: Callable[[], object], neighbour: str | None) -> SharedCore:
    prepare()
    if neighbour is None:
        return cw.run(_main(name, seconds), queues=_queues())
    command = [sys.executable, "-c", neighbour.format(parent=os.getpid())]
    with subprocess.Popen(command) as process:
        try:
            time.sleep(0.2)
            return cw.run(_main(name, seconds), queues=_queues())
        finally:
            process.kill()


def _queues() -> list[cw.Queue]:
    return [cw.Queue(number, share) for number, share in enumerate(SHARES)]


async def _main(name: str, seconds: float) -> SharedCore:
    executor = cw.current_executor()
    work = [0 for _ in SHARES]

    async def worker(number: int) -> None:
        while True:
            sum(range(300))
            work[number] += 1
            await asyncio.sleep(0)

    handles = [executor.queue(number).spawn(worker(number)) for number in range(len(SHARES)) for _ in range(2)]
    wall, cpu = time.monotonic(), time.thread_time()
    await asyncio.sleep(seconds)
    core = (time.thread_time() - cpu) / (time.monotonic() - wall)
    stats = executor.queue_stats()
    done = list(work)
    for handle in handles:
        handle.abort()
    return SharedCore(name, core, done[0] / max(done[1], 1), stats[0].busy_ns / max(stats[1].busy_ns, 1))


@contextlib.contextmanager
def _quota() -> Iterator[Callable[[], object]]:
    """A cgroup with a quota, below that of this process. Gives what a process calls to enter. OSError if there can be none."""
    group, write = _new_cgroup()
    try:
        for file, text in write.items():
            (group / file).write_text(text)
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        with contextlib.suppress(OSError):  # the kernel may still know of who was in it
            group.rmdir()


def _new_cgroup() -> tuple[Path, dict[str, str]]:
    """And what is to be written where."""
    mine = {}  # my cgroup by its controllers, none for version 2
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mine[controllers] = path
    failure = OSError("no cgroup file system with CPU time is mounted")
    quota_us = round(QUOTA * PERIOD_US)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            files = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
            path = next(path for controllers, path in mine.items() if "cpu" in controllers.split(","))
        elif kind == "cgroup2":
            files = {"cpu.max": f"{quota_us} {PERIOD_US}"}
            path = mine[""]
        else:
            continue
        parent = Path(where) / path.lstrip("/")
        group = parent / f"clockworker-bench-{os.getpid()}"
        try:
            if kind == "cgroup2" and "cpu" not in (parent / "cgroup.subtree_control").read_text().split():
                (parent / "cgroup.subtree_control").write_text("+cpu")
            group.mkdir()
            return group, files
        except OSError as error:
            failure = error
    raise failure
