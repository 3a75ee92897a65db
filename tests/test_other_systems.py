"""Where there is no Linux: the executor works, and the server says what it needs.

Such a system is simulated: a process that has imported what it needs of others takes out of the standard library what only
Linux has, and then imports the package. The compiled modules call C of Linux, so that this is the pure version's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once  # pure in both

# By the libraries' own documentation, "Availability". The libraries that choose by the system are imported before.
WITHOUT_LINUX = """
import asyncio, ctypes, errno, fcntl, logging.handlers, multiprocessing, os, resource, select, selectors, signal, socket
import subprocess, sys, threading
import msgspec, psutil, uvloop

TAKEN = {
    os: ("eventfd", "EFD_", "sched_", "SCHED_", "memfd_create", "MFD_", "pidfd_", "PIDFD_", "setns", "splice", "SPLICE_"),
    select: ("epoll", "EPOLL"),
    signal: ("SIGRT", "SIGPWR", "SIGSTKFLT", "SIGPOLL", "pidfd_", "sigwaitinfo", "sigtimedwait"),
    fcntl: ("F_SEAL_", "F_ADD_SEALS", "F_GET_SEALS", "F_SETPIPE", "F_GETPIPE"),
    resource: ("RUSAGE_THREAD", "prlimit"),
    socket: ("SO_PEERCRED", "SO_INCOMING_CPU", "TCP_DEFER_ACCEPT", "TCP_INFO", "TCP_USER_TIMEOUT", "SOCK_CLOEXEC",
             "SOCK_NONBLOCK", "MSG_CMSG_CLOEXEC"),
    errno: ("ENONET",),
}
for module, prefixes in TAKEN.items():
    for name in list(vars(module)):
        if name.startswith(prefixes):
            delattr(module, name)


class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name in ("prctl", "mallopt", "malloc_trim", "sched_getcpu"):
            raise AttributeError(f"symbol {name} not found")
        return super().__getattr__(name)


ctypes.CDLL = Library
sys.platform = "darwin"
"""


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CLOCKWORKER_PURE": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_LINUX + code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
        check=False,
    )


def test_the_executor_divides_a_loop(tmp_path: Path) -> None:
    code = """
import clockworker as cw

async def spin(done):
    while not done.is_set():
        end = asyncio.get_running_loop().time() + 0.0005
        while asyncio.get_running_loop().time() < end:
            pass
        await cw.yield_maybe()

async def main():
    queues = [cw.Queue("foreground", share=8, scheduler=cw.LAS()), cw.Queue("background")]
    async with cw.Executor(queues) as executor:
        done = asyncio.Event()
        for name in ("foreground", "background"):
            executor.queue(name).spawn(spin(done))
        while sum(queue.busy_ns for queue in executor.queue_stats().values()) < 400_000_000:
            await asyncio.sleep(0.01)
        done.set()
        stats = executor.queue_stats()
    print(stats["foreground"].busy_ns / stats["background"].busy_ns)

asyncio.run(main())

async def answer():
    return 42

print(cw.run(answer(), queues=[cw.Queue("only")]))
import clockworker.testing
print(cw.switched_off() is not None)
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    ratio, answer, _ = done.stdout.split()
    assert 6 < float(ratio) < 10
    assert answer == "42"


def test_a_preemptive_queue_says_what_it_lacks(tmp_path: Path) -> None:
    code = """
import clockworker as cw

async def main():
    async with cw.Executor([cw.Queue("reports", preemptive=True)]):
        pass

try:
    asyncio.run(main())
except cw.ConfigurationError as error:
    print(error)
"""
    done = run(code, tmp_path)
    assert re.search("queue 'reports' is preemptive, which needs", done.stdout), done


@pytest.mark.parametrize(
    "start",
    [
        "from clockworker.shards._cli import main; main(['app:main'])",
        "import runpy; sys.argv = ['clockworker', 'app:main']; runpy.run_module('clockworker', run_name='__main__')",
    ],
)
def test_the_command_says_in_one_line_that_it_needs_linux(start: str, tmp_path: Path) -> None:
    done = run(start, tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "clockworker-serve: a server needs Linux, and this is darwin; the executor (clockworker.Executor, clockworker.run) "
        "works here\n"
    )


def test_so_does_serve(tmp_path: Path) -> None:
    code = """
import clockworker as cw

try:
    cw.serve("app:main")
except cw.ConfigurationError as error:
    print(error)
"""
    assert run(code, tmp_path).stdout.startswith("a server needs Linux, and this is darwin"), run(code, tmp_path).stderr


def test_the_command_helps_and_tells_its_version(tmp_path: Path) -> None:
    for option, said in (("--help", "usage: clockworker-serve"), ("--version", "clockworker ")):
        done = run(f"from clockworker.shards._cli import main; main(['{option}'])", tmp_path)
        assert done.returncode == 0
        assert done.stdout.startswith(said)


@pytest.mark.parametrize(
    "program", ["import clockworker", "import runpy; runpy.run_path('setup.py', run_name='__main__')"]
)
def test_a_free_threaded_python_is_refused_in_one_line(program: str) -> None:
    """Where it is imported, and where pip would compile it."""
    root = Path(__file__).parents[1]
    if not (root / "setup.py").exists():
        pytest.skip("there are no sources to install")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.abiflags = 't'; {program}"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "relies on CPython's interpreter lock, and this is a free-threaded Python" in last
