"""Servers without the price of their start: a process that has imported the command forks, and the child is the server.

A server's supervisor is the same then, for a tenth of a second of CPU less, and hundreds of tests start one. So are its first
shards, for a fifth of a second each: before the supervisor does anything, it forks as many as `--shards` says (or one), which
wait for what a shard is told first. Those that come later (another incarnation, a spare) are fresh processes as ever. What
depends on how a process came to be (its variables at import, its command line, what the interpreter does before it, which of
its memory it has touched) is for the real command: `Serve(..., forked=False)`, which is also what a test gets that names a
command, or variables that are read before the first line of ours.

One launcher a process, started at the first call. It reads a request a message, with the descriptors that the server is to
have, and answers with the server's pid; asked for an ended one's status, it reaps it. It ends with the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clockworker.shards.protocol._birth import CONTROL_VARIABLE, SPARE_VARIABLE, SUPERVISOR_VARIABLE, held_back

if TYPE_CHECKING:
    from clockworker.shards.supervisor._spawn import Process

# Variables that the interpreter, the C library or this package read once, when they start.
_READ_ONCE = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_", "COVERAGE_", "CLOCKWORKER_P", "TESTS_")
# What servers of tests have of those, unless the test says something else. Unbuffered, a print() is two writes, and another
# process's line may come between. An application that is changed within a second, and is as long as before, would be read from
# its old bytecode.
ENVIRONMENT = {"PYTHONUNBUFFERED": "", "PYTHONDONTWRITEBYTECODE": "1"}
_HIGH = 200  # descriptors from there on are nobody's yet
_LARGEST = 1 << 17  # bytes of a message
_MOST_SHARDS = 4  # that are forked at once


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if value and name.startswith(_READ_ONCE)}


class Launched:
    """A server, as `subprocess.Popen` would have it."""

    def __init__(self, launcher: Launcher, pid: int) -> None:
        self._launcher = launcher
        self._pidfd = os.pidfd_open(pid)  # nobody reaps it but by `poll`
        self._reaping = threading.Lock()
        self.pid = pid
        self.returncode: int | None = None

    def __del__(self) -> None:
        os.close(self._pidfd)

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("clockworker-serve", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if poll.poll(None if timeout is None else timeout * 1000):
                with self._reaping:  # one thread may wait, and another look
                    if self.returncode is None:
                        self.returncode = self._launcher.status_of(self.pid)
        return self.returncode


class Launcher:
    def __init__(self) -> None:
        self._socket, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asking = threading.Lock()
        environment = {**os.environ, **ENVIRONMENT}
        self.variables = _read_once(environment)
        with child:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.shards.launcher", str(child.fileno())],
                cwd=Path(__file__).parents[2],
                env={**environment, SPARE_VARIABLE: "tests"},  # over which each shard writes its number, for all to see
                pass_fds=[child.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start(
        self, arguments: list[str], directory: Path, environment: Mapping[str, str], log: int, fds: list[int]
    ) -> Launched:
        """fds: they have the same numbers there."""
        request = {"arguments": arguments, "cwd": str(directory), "environment": {**environment}, "fds": fds}
        data = json.dumps(request).encode()
        assert len(data) < _LARGEST
        return Launched(self, self._ask(data, [log, *fds]))

    def status_of(self, pid: int) -> int:
        """Of one that has ended; asked for once."""
        return self._ask(json.dumps({"wait": pid}).encode(), [])

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def _ask(self, request: bytes, fds: list[int]) -> int:
        with self._asking:
            socket.send_fds(self._socket, [request], fds)
            answer = self._socket.recv(100)
        assert answer, "the launcher has ended"
        return int(answer)


@functools.cache
def _launcher(pid: int) -> Launcher:
    launcher = Launcher()
    atexit.register(launcher.close)
    return launcher


def launcher_for(environment: Mapping[str, str]) -> Launcher | None:
    """None if a server with these variables needs an interpreter of its own."""
    launcher = _launcher(os.getpid())
    return launcher if launcher.variables == _read_once(environment) else None


# The launcher's side


def main() -> None:
    from clockworker.shards import _cli
    from clockworker.shards.config._application import import_ahead
    from clockworker.shards.worker import _child  # noqa: F401  # for the shards

    import_ahead()
    connection = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()  # a child that has garbage collected copies none of it
    while True:
        data, fds, _, _ = socket.recv_fds(connection, _LARGEST, 64)
        if not data:
            os._exit(0)
        request: dict[str, Any] = json.loads(data)
        if "wait" in request:
            status = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
            connection.send(str(status).encode())
            continue
        begun, beginning = os.pipe()
        pid = os.fork()
        if pid == 0:
            connection.close()
            os.close(begun)
            os.setsid()
            _become(request, fds, beginning)
            break
        os.close(beginning)
        for fd in fds:
            os.close(fd)
        os.read(begun, 1)  # until it is as `exec` would have left it
        os.close(begun)
        connection.send(str(pid).encode())
    shards = FirstShards(request["arguments"], request["fds"])
    try:
        _cli.main()
    finally:
        shards.discard()


def _become(request: dict[str, Any], fds: list[int], beginning: int) -> None:
    """beginning: closed at the end."""
    *high, beginning_high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in (*fds, beginning)]
    for fd in (*fds, beginning):
        os.close(fd)
    for fd, target in zip(high, [2, *request["fds"]], strict=True):
        os.dup2(fd, target)
        os.close(fd)
    os.dup2(2, 1)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["clockworker-serve", *request["arguments"]]
    sys.path[0] = request["cwd"]  # as `python -m` has it
    os.close(beginning_high)


class FirstShards:
    """Forks of this process, which has neither loop nor thread yet, that wait to be told which shard each is.

    foreign: descriptors that no shard is to have. Returns from the constructor in this process alone."""

    def __init__(self, arguments: list[str], foreign: list[int]) -> None:
        from clockworker.shards.supervisor import _spares

        given = dict(itertools.pairwise(part for argument in arguments for part in argument.split("=", 1)))
        count = given.get("--shards", "")
        self._supervisor = os.getpid()
        self._waiting: list[tuple[int, int, socket.socket]] = []  # pid, pidfd, our end of its channel
        # Variables that the command reads from a file are not there yet.
        if "--env-file" not in given:
            for _ in range(min(int(count), _MOST_SHARDS) if count.isdecimal() else 1):
                self._fork(foreign)
        self._start_shard = _spares.start_shard  # type: ignore[attr-defined]
        _spares.start_shard = self._start  # type: ignore[attr-defined]

    def _start(self, shard: int, *, terminal: bool) -> Process:
        """As `_spawn.start_shard`."""
        from clockworker.shards.protocol._control_channel import ControlChannel
        from clockworker.shards.supervisor._spawn import adopt

        if terminal or not self._waiting:
            return self._start_shard(shard, terminal=terminal)
        pid, pidfd, channel = self._waiting.pop(0)
        return adopt(pid, pidfd, ControlChannel(channel))

    def discard(self) -> None:
        """Those that no shard has been made of: the server has not begun, or has fewer."""
        for pid, pidfd, channel in self._waiting:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            channel.close()
            os.close(pidfd)

    def _fork(self, foreign: list[int]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, held_back():
            pid = os.fork()
            if pid == 0:
                ours.close()
                for _, pidfd, channel in self._waiting:
                    os.close(pidfd)
                    channel.close()
                for fd in foreign:
                    os.close(fd)
                _be_shard(theirs.detach(), self._supervisor)
            self._waiting.append((pid, os.pidfd_open(pid), ours))


def _be_shard(descriptor: int, supervisor: int) -> NoReturn:
    """As if this process had been started as `python -P -m clockworker.shards.worker._child`."""
    from clockworker.shards.config import _application
    from clockworker.shards.protocol import _witness
    from clockworker.shards.worker import _child

    # What lies below it on the stack is no more the application's than the interpreter's start.
    _application._OURS += (__file__,)
    _witness._OURS += (__file__,)  # type: ignore[assignment]
    for name in ("tests.shards", "tests"):
        del sys.modules[name]
    os.environ[CONTROL_VARIABLE] = str(descriptor)
    os.environ[SUPERVISOR_VARIABLE] = str(supervisor)
    del sys.path[0]
    sys.argv = [str(_child.__file__)]
    sys.modules["__main__"] = _child
    _child.main()
    raise AssertionError("a shard ends its process")


if __name__ == "__main__":
    main()
