"""What the tests of the key-value server share: servers started as a user starts them, and ways to talk to them."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil
import pytest
import redis

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SERVE = Path(sys.executable).with_name("clockworker-serve")
DEADLINE_S = 120.0


def eventually(condition: Callable[[], object], within_s: float = DEADLINE_S) -> None:
    """Return once `condition()` is true; fail when it has not been within the time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {condition.__doc__ or condition}"
        time.sleep(0.01)


def needs(tool: str) -> str:
    """The path of a program of Redis, or the test is skipped."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed (Debian: apt-get install redis-server redis-tools)")
    return path


class Server:
    """A server on a free port of 127.0.0.1."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
        self.process = process
        self.port = port
        self._log = log

    @classmethod
    def start(cls, command: list[str], port: int) -> Server:
        log = tempfile.TemporaryFile()  # noqa: SIM115  as long as the server
        server = cls(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log), port, log)
        try:
            eventually(server._answers)
        except BaseException:
            server.process.kill()
            server.stop()
            raise
        return server

    def _answers(self) -> bool:
        """Whether it says how many keys it has, and so whether each of its shards is up."""
        assert self.process.poll() is None, self.log()
        try:
            return exchange(self.port, b"DBSIZE\r\n").startswith(b":")
        except ConnectionRefusedError:
            return False

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def stop(self, killed: int = 0) -> int:
        """TERM, and the exit status. No process may have died by a signal, but for those that a test has killed."""
        processes = self.processes()
        self.process.terminate()
        try:
            status = self.process.wait(DEADLINE_S)
            assert self.log().count("killed by") == killed
            return status
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()
            print(self.log())
            self._log.close()

    def processes(self) -> list[psutil.Process]:
        """The first process and all that it started, if it runs."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def client(self, protocol: int = 2) -> redis.Redis:
        """A redis-py client of one connection, which gives replies as they come."""
        client = redis.Redis(
            port=self.port, protocol=protocol, single_connection_client=True, socket_timeout=DEADLINE_S
        )
        client.response_callbacks.clear()
        return client

    def shards(self) -> list[dict[str, str]]:
        """The lines of INFO's section on shards."""
        with self.client() as client:
            lines = client.execute_command("INFO", "shards").decode().splitlines()
        return [dict(item.split("=") for item in line.partition(":")[2].split(",")) for line in lines[1:]]


def start_kv(shards: int = 2, application: str = "main") -> Server:
    port = free_port()
    bind = ["--shards", str(shards), "--bind", f"127.0.0.1:{port}"]
    return Server.start([str(SERVE), f"examples.kv:{application}", *bind], port)


def start_redis() -> Server:
    port = free_port()
    options = ["--port", str(port), "--save", "", "--appendonly", "no", "--dir", tempfile.gettempdir()]
    return Server.start([needs("redis-server"), *options], port)


def exchange(port: int, data: bytes) -> bytes:
    """All that a server answers to `data`, after which the sending half of the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as sock:
        answer = b""
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(1 << 16):
                answer += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass  # closed by the server with data on the way to it
        return answer


def request(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in arguments])
