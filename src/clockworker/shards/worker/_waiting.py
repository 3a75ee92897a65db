"""What a spare does: it waits for the message that tells it which shard it is (`_spares` says what for).

It may wait for weeks. Meanwhile somebody may have upgraded a library, this package or Python itself, and then sends HUP: the
shards are to run what is installed now. So when the message comes, and before it is read, a spare looks whether what it has
imported is what is on the disk, and whether other packages have been installed (a `.pth` file changes `sys.path`). If not so it
begins anew, by exec: the same process, the channel and all that is in it, and a fresh interpreter. Then it is a process that is
started now, as if there had been no spare.

The application's own modules are none of that: they are imported afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib
import os
import select
import site
import sys
from pathlib import Path
from typing import TypeAlias

from clockworker.shards.machine._host import set_process_title
from clockworker.shards.protocol._birth import (
    CONTROL_VARIABLE,
    SHARD_VARIABLE,
    SPARE_VARIABLE,
    SUPERVISOR_VARIABLE,
    command,
    held_back,
)
from clockworker.shards.protocol._control_channel import ControlChannel

_ENV_START = 47  # of /proc/PID/stat, which counts from 1 and begins with two more


# By path: what tells one state of a file or directory from another.
Imports: TypeAlias = dict[str, tuple[int, ...] | None]


def wait(channel: ControlChannel, app: str, imported: Imports | None = None) -> None:
    """For the first message, which stays unread. imported: as it was when that was imported, if not just now."""
    set_process_title("spare", app)
    wait_on_disk(channel, imported or state_of_imports(), SPARE_VARIABLE, app)
    importlib.invalidate_caches()


def wait_on_disk(channel: ControlChannel, imported: Imports, role: str, app: str) -> None:
    """For a message, which stays unread; and begin anew, in the role of that variable, if the disk has changed meanwhile."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    poll.poll()
    if any(_state(path) != state for path, state in imported.items()):
        with contextlib.suppress(OSError):  # the interpreter is gone; this one is here
            _begin_anew(channel, role, app)


def be_shard(number: int) -> None:
    """In the environment; a process that was started as this shard is it."""
    if SHARD_VARIABLE in os.environ:
        return
    os.environ[SHARD_VARIABLE] = str(number)
    show(f"{SHARD_VARIABLE}={number}", SPARE_VARIABLE)


def show(entry: str, over: str) -> None:
    """In /proc/PID/environ, by which tools know a shard: what a process was started with stays there unless it is overwritten.
    over: the variable of an entry that is never needed again, and is as long or longer."""
    with contextlib.suppress(OSError, ValueError):  # there is no /proc, or somebody has written over all of it
        _, _, fields = Path("/proc/self/stat").read_bytes().rpartition(b")")
        start, end = map(int, fields.split()[_ENV_START : _ENV_START + 2])
        block = ctypes.string_at(start, end - start)
        at = block.index(f"{over}=".encode())
        room = block.index(b"\0", at) - at
        # What is left over is no variable, and not empty: for some readers an empty one is the last.
        ctypes.memmove(start + at, f"{entry}\0".encode().ljust(room, b"_"), room)


def _begin_anew(channel: ControlChannel, role: str, app: str) -> None:
    """Does not return."""
    environment = {
        CONTROL_VARIABLE: str(channel.fileno()),
        SUPERVISOR_VARIABLE: str(os.getppid()),
        role: app,
    }
    with held_back():
        os.set_inheritable(channel.fileno(), True)
        try:
            os.execve(sys.executable, command(), os.environ | environment)
        finally:
            os.set_inheritable(channel.fileno(), False)


def state_of_imports() -> Imports:
    directories = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    paths = {sys.executable, *directories}
    for directory in directories:
        paths.update(glob.iglob(os.path.join(glob.escape(directory), "*.pth")))
    for module in list(sys.modules.values()):
        if isinstance(path := getattr(module, "__file__", None), str):
            paths.add(path)
    return {path: _state(path) for path in paths}


def _state(path: str) -> tuple[int, ...] | None:
    try:
        now = os.stat(path)
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns
