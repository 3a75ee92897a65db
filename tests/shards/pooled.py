"""Functions for the processes of a pool, which find them under their names."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn


class Plain(Exception):
    """One that pickle takes."""


class Odd(Exception):
    """One that pickle takes apart, and cannot put together."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class OnlyHere:
    """What can be unpickled in one process alone."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> tuple[Any, ...]:
        return _only_in, (self.pid,)


def _only_in(pid: int) -> OnlyHere:
    if os.getpid() != pid:
        raise Plain("not here")
    return OnlyHere(pid)


RAISES: dict[str, BaseException] = {
    "plain": Plain("plain", 1),
    "odd": Odd(code=3),
    "lock": Plain(threading.Lock()),
    "StopIteration": StopIteration(1),
    "GeneratorExit": GeneratorExit(),
    "CancelledError": asyncio.CancelledError(),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "group": ExceptionGroup("some", [Plain("inner"), KeyError("k")]),
}


def fail(what: str) -> NoReturn:
    raise RAISES[what]


def fail_deep(depth: int) -> NoReturn:
    if depth:
        fail_deep(depth - 1)
    raise Plain("deep")


def call(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def lock() -> Any:
    return threading.Lock()


def only_here() -> OnlyHere:
    return OnlyHere(os.getpid())


def die(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    signal.pause()
    raise AssertionError


def end_slowly() -> NoReturn:
    atexit.register(time.sleep, 100)
    die(signal.SIGTERM)


def leave(status: int) -> NoReturn:
    os._exit(status)


def close_all(seconds: float) -> None:
    """Descriptors, among them what it answers through."""
    os.closerange(3, 100)
    time.sleep(seconds)


def touch_and_wait(path: str, seconds: float = 100) -> None:
    """`path` is there while it waits; when that is cut short, `path.finally`."""
    Path(path).write_text(str(os.getpid()))
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
    finally:
        Path(f"{path}.finally").touch()


def stubborn(path: str) -> NoReturn:
    Path(path).write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(1)
        except BaseException:
            Path(f"{path}.finally").touch()


def wait_for(path: str) -> int:
    """Until the file is there."""
    while not Path(path).exists():
        time.sleep(0.002)
    return os.getpid()


def size(data: bytes) -> int:
    return len(data)


def make(size: int) -> bytes:
    return bytes(size)


def about() -> dict[str, Any]:
    """This process."""
    descriptors = {
        int(number): os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is(number)
    }
    return {
        "pid": os.getpid(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "policy": os.sched_getscheduler(0),
        "cpus": os.sched_getaffinity(0),
        "descriptors": descriptors,
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "path": list(sys.path),
        "argv": sys.argv,
    }


def _is(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")
