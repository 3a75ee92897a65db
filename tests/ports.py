"""Ports for servers that cannot be given 0."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_FIRST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """One that nobody has, and that the kernel gives nobody who asks for any: what that has given and taken back may be
    another test's by the time at which a server begins to listen."""
    chance = random.SystemRandom()
    below = int(_RANGE.read_text().split()[0])
    for _ in range(1_000):
        port = chance.randrange(_FIRST, below)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free from {_FIRST} to {below - 1}")
