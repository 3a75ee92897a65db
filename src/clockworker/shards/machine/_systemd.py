"""What systemd and its like say to a service, and what a service says to them: sockets passed at the start
(sd_listen_fds(3)) and notices of its state (sd_notify(3)). Both are a few variables and a datagram; there is no library to
need.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.shards.config._config import InheritedSocket, ServeConfig

_FIRST = 3  # SD_LISTEN_FDS_START


def activated_sockets(environment: MutableMapping[str, str]) -> tuple[InheritedSocket, ...]:
    """The listening sockets that this process was started with, which is said once: the variables are taken out, so that
    no process started later takes them for its own. Raises `ConfigurationError` for variables that make no sense."""
    pid = environment.pop("LISTEN_PID", None)
    count = environment.pop("LISTEN_FDS", None)
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if count is None or pid != str(os.getpid()):
        return ()
    if not count.isdecimal():
        raise ConfigurationError(f"LISTEN_FDS is {count!r}; it should be how many sockets were passed")
    sockets = []
    for index in range(int(count)):
        with contextlib.suppress(OSError):  # that it is not open is said when it is to be used
            os.set_inheritable(_FIRST + index, False)
        sockets.append(InheritedSocket(_FIRST + index, names[index] if index < len(names) else ""))
    return tuple(sockets)


def with_activated_sockets(
    config: ServeConfig, environment: MutableMapping[str, str], *, asked_for: bool
) -> ServeConfig:
    """Serve the sockets that were passed: beside the addresses that were asked for, or instead of the default one. One that
    was asked for by its number has the name that it has there."""
    sockets = activated_sockets(environment)
    if not sockets:
        return config
    given = config.addresses if asked_for else ()
    numbers = {address.fd for address in given if isinstance(address, InheritedSocket)}
    passed = (sock for sock in sockets if sock.fd not in numbers)
    return msgspec.structs.replace(config, addresses=(*given, *passed))


class Notifier:
    """Sends notices to where NOTIFY_SOCKET says, which is taken out of the environment; without it does nothing."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._path = environment.pop("NOTIFY_SOCKET", "")
        watchdog, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", None)
        ours = self._path and watchdog.isdecimal() and pid in (None, str(os.getpid()))
        # Seconds between two signs of life: half of what systemd waits for one, as its manual advises. None: not wanted.
        self.watchdog_interval = int(watchdog) / 2e6 if ours and int(watchdog) > 0 else None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def reloading(self, status: str) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, notice: str) -> None:
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        # Whoever should listen may be gone or busy, and there may be no descriptor. That is no reason not to serve.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock,
        ):
            sock.sendto(notice.encode(), address)
