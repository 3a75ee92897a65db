"""Real servers for the tests: `clockworker-serve` in a process of its own, on a free port, always cleaned up."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from clockworker.shards.protocol._birth import FORK_SERVER_VARIABLE, SPARE_VARIABLE
from tests.shards.launcher import ENVIRONMENT, Launched, launcher_for

T = TypeVar("T")

COMMAND = [sys.executable, "-m", "clockworker.shards._cli"]

DEADLINE = 120.0  # generous: the machine may be busy with other things

ECHO = """
async def main(shard):
    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(b"%d %s" % (shard.id, line))
            await writer.drain()

    await shard.start_server(handle)
    await shard.wait_stopped()
"""

# The same, with room for so many connections.
ROOM = 20
STARVED = ECHO.replace(
    "    await shard.start_server(handle)",
    f"""
    import os, resource
    await shard.start_server(handle)
    limit = len(os.listdir("/proc/self/fd")) + {ROOM}
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
""",
)


def eventually(condition: Callable[[], T], what: str, deadline: float = DEADLINE, shown: Callable[[], str] = str) -> T:
    """The first true value of `condition`; fails, with `what` and what is `shown` then, if there is none in `deadline`
    seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline:g} s: {what}{shown()}")
        time.sleep(0.005)
    return value


def at_best(attempt: Callable[[], T], wanted: T, times: int = 5) -> T:
    """What `attempt` returns, `wanted` if it does so in one of so many times. For what is so unless a shard looks for a moment
    as if it stood still, as on a busy machine each may: it is spared then."""
    for _ in range(times - 1):
        if attempt() == wanted:
            return wanted
    return attempt()


class Server:
    """A running `clockworker-serve`."""

    def __init__(
        self,
        directory: Path,
        arguments: list[str],
        environment: dict[str, str],
        fds: list[int],
        command: list[str] | None,
    ) -> None:
        """command: None is clockworker-serve, by the launcher."""
        self._log_path = directory / f"log-{time.monotonic_ns()}"
        environment = {**os.environ, **ENVIRONMENT, **environment}
        launcher = launcher_for(environment) if command is None else None
        with self._log_path.open("wb") as log:
            self.process: subprocess.Popen[bytes] | Launched
            if launcher is not None:
                self.process = launcher.start(arguments, directory, environment, log.fileno(), fds)
            else:
                self.process = subprocess.Popen(
                    [*(command or COMMAND), *arguments],
                    cwd=directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=fds,
                    start_new_session=True,
                )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def warnings(self) -> list[str]:
        """What the log warns of, but for stalls: on a busy machine any shard has them."""
        return [
            line for line in self.log.splitlines() if " WARNING " in line and "not come back to its loop" not in line
        ]

    def wait_log(self, pattern: str, times: int = 1, deadline: float = DEADLINE) -> list[re.Match[str]]:
        """Wait until the log has `times` matches. An end of the server with fewer fails."""

        def look() -> list[re.Match[str]] | None:
            ended = self.process.poll()  # before the log is read: what is said until then counts
            matches = list(re.finditer(pattern, self.log))
            if len(matches) < times and ended is not None:
                pytest.fail(f"the server ended with {ended} without logging {pattern!r} {times} times:\n{self.log}")
            return matches if len(matches) >= times else None

        return eventually(look, f"{pattern!r} {times} times in the log", deadline, lambda: f":\n{self.log}")

    def wait_serving(self) -> None:
        self.wait_log("serving with")

    @property
    def address(self) -> tuple[str, int]:
        match = self.wait_log(r"listening on 127\.0\.0\.1:(\d+)")[0]
        return "127.0.0.1", int(match[1])

    def shard_pids(self) -> dict[int, int]:
        """The pid of each shard's newest incarnation that was ready."""
        return {int(m[1]): int(m[2]) for m in re.finditer(r"shard (\d+) ready on .*, pid (\d+)", self.log)}

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=DEADLINE)

    def connect_to(self, shard: int) -> socket.socket:
        """A connection to an echo server that this shard has accepted."""
        end = time.monotonic() + DEADLINE  # until it is ready, others have its connections
        while time.monotonic() < end:
            connection = self.connect()
            if ask(connection, b"hello").startswith(b"%d " % shard):
                return connection
            connection.close()
        pytest.fail(f"no connection in {DEADLINE:g} s at shard {shard}")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_exit(self, deadline: float = DEADLINE) -> int:
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {deadline:g} s:\n{self.log}")
        finally:
            assert not re.search("SIG(SEGV|BUS|ABRT|ILL|FPE)", self.log), self.log

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.wait_exit()

    def members(self) -> list[psutil.Process]:
        """Every process of the server's session that is there; zombies included while the supervisor is there to collect them:
        later they are init's, which does so in its own time."""
        found = []
        is_over = self.process.poll() is not None
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with suppress(ProcessLookupError, psutil.NoSuchProcess):
                    if os.getsid(int(name)) == self.pid:
                        process = psutil.Process(int(name))
                        if not is_over or process.status() != psutil.STATUS_ZOMBIE:
                            found.append(process)
        return found

    def clean_up(self) -> None:
        for process in self.members():
            with suppress(psutil.NoSuchProcess):  # one that ended with another
                process.kill()
        self.process.wait(DEADLINE)


def shared_memory() -> set[str]:
    """What has a name in shared memory, but semaphores: those of `multiprocessing` come and go in other processes."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children(supervisor: int, *, spare: bool = False) -> list[psutil.Process]:
    """A supervisor's, zombies included, but for spare processes and who forks them; or the spare ones alone."""
    wanted = "spare" if spare else "shard"
    return [child for child in psutil.Process(supervisor).children() if _role(child) == wanted]


def fork_servers(supervisor: int) -> list[psutil.Process]:
    """What forks its spare processes: one or none."""
    return [child for child in psutil.Process(supervisor).children() if _role(child) == "fork server"]


def _role(process: psutil.Process) -> str:
    try:
        environment = process.environ()
    except psutil.Error:  # a zombie has no environment
        return "shard"
    if FORK_SERVER_VARIABLE in environment:
        return "fork server"
    return "spare" if SPARE_VARIABLE in environment else "shard"


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


def ask(connection: socket.socket, line: bytes) -> bytes:
    connection.sendall(line + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        data = connection.recv(4096)
        if not data:
            raise ConnectionError(f"closed after {answer!r}")
        answer += data
    return answer[:-1]


class Serve:
    """Writes the application to app.py and starts it: `serve(source, "--shards", "2")`.

    forked: by the launcher, unless the test names a command. Where it is False, tests are about what that leaves out.
    spares: whether there are spare processes where the test does not say so. One costs a fifth of a second of CPU, more than
    the rest of a server that the launcher forks.
    """

    def __init__(self, directory: Path, *, forked: bool = True, spares: bool = True) -> None:
        self._directory = directory
        self._forked = forked
        self._spares = spares
        self._servers: list[Server] = []

    def __call__(
        self,
        source: str | None,
        *arguments: str,
        app: str | None = "app:main",
        bind: tuple[str, ...] = ("--port", "0"),
        environment: dict[str, str] | None = None,
        fds: list[int] | None = None,
        command: list[str] | None = None,
        under: tuple[str, ...] = (),
    ) -> Server:
        """`under` is a command that is to run the server, such as taskset."""
        if source is not None:
            (self._directory / "app.py").write_text(source)
        if under or command or not self._forked:
            command = [*under, *(command or COMMAND)]
        given = [*([app] if app else []), *bind, *arguments, *_share_cpus(arguments)]
        if not (self._spares or "--spares" in arguments):
            given += ["--spares", "0"]
        server = Server(self._directory, given, environment or {}, fds or [], command)
        self._servers.append(server)
        return server

    def clean_up(self) -> None:
        for server in self._servers:
            server.clean_up()


def _share_cpus(arguments: tuple[str, ...]) -> list[str]:
    """Tests with more shards than this machine has CPUs are about something else."""
    given = dict(itertools.pairwise(arguments))
    count = given.get("--shards", "")
    return ["--no-pin"] if count.isdecimal() and int(count) > len(os.sched_getaffinity(0)) else []
