"""Whole nodes: `clockworker-serve` with a cluster, on this host or on one of its own (`hosts`). They are asked over a Unix
socket, which does not care on which network they are."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.hosts import Host
from tests.shards.servers import Server, eventually

ROOT = Path(__file__).parents[2]
ANSWER_S = 60.0


class Node:
    """directory: for its socket and its log. options: of the command, beside those of the cluster."""

    def __init__(
        self,
        directory: Path,
        name: str,
        urls: Sequence[str],
        *,
        node_timeout: float = 4.0,  # beside other tests a loop may stand still for a second
        shards: int = 1,
        host: Host | None = None,
        options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        app: str = "tests.cluster.counting:main",
    ) -> None:
        self.name = name
        self.path = directory / f"{name}.sock"
        self.directory = directory
        command = [*host.command, sys.executable, "-P", "-m", "clockworker.shards._cli"] if host else None
        self._start = lambda: Server(
            directory,
            [
                *(f"--cluster-url={url}" for url in urls),
                "--cluster-name=t",
                f"--cluster-node={name}",
                f"--cluster-node-timeout={node_timeout}",
                "--cluster-partitions=64",
                f"--bind=unix:{self.path}",
                f"--shards={shards}",
                "--no-pin",
                "--spares=0",
                f"--control={directory / name}.control",
                "--app-dir",
                str(ROOT),
                *options,
                app,
            ],
            {"PYTHONPATH": "", **(environment or {})},
            [],
            command,
        )
        self.server = self._start()

    @property
    def log(self) -> str:
        return self.server.log

    def again(self) -> None:
        """Start it anew, under its name."""
        self.server = self._start()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(str(self.path))
        except BaseException:
            sock.close()
            raise
        return sock

    def ask(self, line: str) -> str:
        with self.connect() as sock, sock.makefile("rw") as stream:
            stream.write(f"{line}\n")
            stream.flush()
            return stream.readline().strip()

    def view(self) -> tuple[int, list[str]]:
        """Epoch and nodes, as its shard knows them."""
        epoch, *nodes = self.ask("view").split()
        return int(epoch), nodes

    def wait_nodes(self, *names: str, beside: Sequence[Node] = ()) -> None:
        """beside: whose logs are shown, too, if they do not come together."""
        self.server.wait_serving()

        def logs() -> str:
            return "".join(f"\n{node.name}:\n{node.log}" for node in {self: 0} | dict.fromkeys(beside, 0))

        eventually(lambda: self.view()[1] == [*names], f"{self.name}: nodes {names}", shown=logs)

    def wait_ok(self, line: str, pattern: str) -> re.Match[str]:
        """Ask until the answer is of this form."""
        said: list[str] = []

        def ask() -> re.Match[str] | None:
            said.append(self.ask(line))
            return re.fullmatch(pattern, said[-1])

        return eventually(ask, f"{self.name}: {line}", shown=lambda: f": {said[-3:]}\n{self.log}")

    def kill(self) -> None:
        """All of it, without a word."""
        self.server.process.send_signal(signal.SIGKILL)
        self.server.process.wait()

    def terminate(self) -> int:
        self.server.process.send_signal(signal.SIGTERM)
        return self.server.process.wait(ANSWER_S)

    def stop(self, *, shards: bool = True) -> None:
        """SIGSTOP to the supervisor, and to its shards."""
        for pid in self.pids(shards=shards):
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGCONT)

    def pids(self, *, shards: bool = True) -> list[int]:
        own = [self.server.pid]
        return [*own, *self.server.shard_pids().values()] if shards else own

    def end(self) -> None:
        """Whatever it does."""
        if self.server.process.poll() is None:
            self.go_on()
            self.kill()


def wait_all(nodes: Sequence[Node]) -> None:
    """Until each sees all, and serves: a call of some key to each is answered."""
    names = sorted(node.name for node in nodes)
    for node in nodes:
        node.wait_nodes(*names, beside=nodes)
    eventually(lambda: len({node.view()[0] for node in nodes}) == 1, "one epoch")
    for node in nodes:
        for key in range(8):
            node.wait_ok(f"count warm{key}", r"\d+ \w+ \d+ \d+")


def owner_of(node: Node, key: str) -> str:
    """The name of the node that counts it."""
    return node.wait_ok(f"count {key}", r"\d+ (\w+) \d+ \d+")[1]


def key_of(node: Node, owner: str, prefix: str = "k") -> str:
    """A key that this node owns."""
    end = time.monotonic() + ANSWER_S
    for number in range(10_000):
        if owner_of(node, key := f"{prefix}{number}") == owner:
            return key
        assert time.monotonic() < end
    raise AssertionError(owner)
