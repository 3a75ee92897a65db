"""Hosts of their own for nodes and servers: network namespaces, joined by a bridge in one more. A host's cable can be pulled,
which no process hears of: no RST, no FIN, nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest


def why_not() -> str | None:
    """Why there can be none here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    try:
        with hosts(1):
            return None
    except (subprocess.CalledProcessError, OSError) as error:
        return f"network namespaces cannot be made here: {error}"


def needs_hosts() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Host:
    """address: in the network that all share. command: what a command begins with that is to run there."""

    def __init__(self, tag: str, number: int) -> None:
        self.number = number
        self.namespace = f"cw{tag}h{number}"
        self.address = f"10.213.0.{number}"
        self.command = ["ip", "netns", "exec", self.namespace]
        self._switch = f"cw{tag}s"
        self._port = f"p{number}"

    def make(self) -> None:
        ip("netns", "add", self.namespace)
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip(
            "-n",
            self._switch,
            "link",
            "add",
            self._port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.namespace,
        )
        ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "eth0", "up")
        ip("-n", self._switch, "link", "set", self._port, "master", "br0", "up")

    def cut(self) -> None:
        ip("-n", self._switch, "link", "set", self._port, "nomaster")

    def heal(self) -> None:
        ip("-n", self._switch, "link", "set", self._port, "master", "br0")

    def deafen(self, other: Host) -> None:
        """What this host sends to the other is lost; the other way it goes on."""
        ip("-n", self.namespace, "route", "add", "blackhole", f"{other.address}/32")

    def undeafen(self, other: Host) -> None:
        ip("-n", self.namespace, "route", "del", "blackhole", f"{other.address}/32")


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Numbered from 1."""
    tag = f"{os.getpid() % 100_000}"
    switch = f"cw{tag}s"
    made = [Host(tag, number) for number in range(1, count + 1)]
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for host in made:
            host.make()
        yield made
    finally:
        for name in (switch, *(host.namespace for host in made)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
