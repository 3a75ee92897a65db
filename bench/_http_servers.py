"""Servers of ASGI to compare, each as its users start it: on uvloop where it has the choice, without an access log."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bench._processes import stop

ROOT = Path(__file__).parents[1]
START_S = 60.0
OURS = "clockworker"
PEERS = ("uvicorn", "gunicorn", "granian", "hypercorn")
# What a server at rest may use of a core.
IDLE = 0.05


def command(name: str, app: str, port: int, workers: int, options: Sequence[str] = ()) -> list[str]:
    """options: ours."""
    at = f"127.0.0.1:{port}"
    python = [sys.executable, "-W", "ignore", "-m"]
    if name == "uvicorn":
        where = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
        return [*python, "uvicorn", app, *where, "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    if name == "gunicorn":
        return [*python, "gunicorn", app, "-k", "uvicorn.workers.UvicornWorker", "-b", at, "-w", str(workers)]
    if name == "granian":
        where = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
        return [*python, "granian", app, "--interface", "asgi", *where, "--loop", "uvloop"]
    if name == "hypercorn":
        return [*python, "hypercorn", app, "-b", at, "-w", str(workers), "-k", "uvloop"]
    serve = [str(Path(sys.executable).with_name("clockworker-serve")), app, "--bind", at, "--shards", str(workers)]
    return [*serve, "--spares", "0", "--no-access-log", *options]


class Server:
    """A running one, with all its processes."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.port = port
        self.pid = process.pid
        self._process = process

    def cpu_s(self) -> float:
        """CPU time of all processes since their start."""
        used = 0.0
        first = psutil.Process(self._process.pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def wait_ready(self, path: str) -> None:
        """Until it answers, and none of its processes is still starting."""
        deadline = time.monotonic() + START_S
        while not answers(self.port, path):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit(f"{self.name} did not start")
            time.sleep(0.05)
        used = self.cpu_s()
        while time.monotonic() < deadline:
            time.sleep(0.4)
            before, used = used, self.cpu_s()
            if used - before <= 0.4 * IDLE:
                return


def answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), START_S) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        return sock.recv(13) == b"HTTP/1.1 200 "
    return False


@contextlib.contextmanager
def serving(
    name: str, app: str, workers: int, *, ready: str, options: Sequence[str] = (), cores: Sequence[int] = ()
) -> Iterator[Server]:
    """ready: a path that is answered with 200. options: ours. cores: that its processes may use; none given: all."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    with tempfile.TemporaryFile() as log:
        with allowed(cores):
            # A session of its own: Ctrl-C is for the benchmark, which then stops the server. It has its cores before others.
            process = subprocess.Popen(
                command(name, app, port, workers, options),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            prefer(process.pid)
            server = Server(name, port, process)
            server.wait_ready(ready)
            yield server
        except SystemExit:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            stop(process)


def prefer(session: int) -> None:
    """To those of other sessions, where that is permitted, and sessions do not share cores as processes do."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{session}/autogroup").write_text("-20")


@contextlib.contextmanager
def allowed(cores: Sequence[int]) -> Iterator[None]:
    """What is started meanwhile may use these cores only."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
