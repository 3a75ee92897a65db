"""What a server needs of its machine, asked before anything starts: a chroot or a sandbox may lack the strangest things, and
the first call that fails would be a traceback in the middle of a start.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from clockworker._errors import ConfigurationError
from clockworker.ipc.rings._memory_cy import create_memory, is_sealed

LARGEST = (
    33 << 20
)  # bytes: no memory that processes share is larger from the start. Pages that nobody touches cost nothing.


def check_machine() -> None:
    """Raises `ConfigurationError`."""
    if sys.platform != "linux":
        raise ConfigurationError(
            f"a server needs Linux, and this is {sys.platform}; the executor (clockworker.Executor, clockworker.run) works here"
        )
    for need, try_it in _needs():
        try:
            try_it()
        except OSError as error:
            raise ConfigurationError(f"{need}, and cannot be had here: {error.strerror}") from None


def _needs() -> Iterator[tuple[str, Callable[[], object]]]:
    yield "/proc is needed (mount -t proc proc /proc)", lambda: os.stat("/proc/self/statm")
    yield f"{os.devnull} is needed", _open_null
    yield (
        f"memory that processes share is needed (memfd_create, with seals, {LARGEST >> 20} MiB; `ulimit -f` limits it, too)",
        _make_memory,
    )
    yield "Linux 5.3 or later is needed (pidfd_open, pidfd_send_signal)", _use_pidfd
    yield "an eventfd is needed", lambda: os.close(os.eventfd(0, os.EFD_NONBLOCK))
    yield "epoll is needed", lambda: select.epoll().close()
    yield "Unix sockets of type SOCK_SEQPACKET are needed", _make_channel
    yield "the interpreter is needed a second time (sys.executable)", lambda: os.stat(sys.executable or "")


def _open_null() -> None:
    os.close(os.open(os.devnull, os.O_RDWR))


def _make_memory() -> None:
    with ExitStack() as opened:
        descriptor = create_memory("check", LARGEST)
        opened.callback(os.close, descriptor)
        if not is_sealed(descriptor):
            raise OSError(0, "it is not sealed")


def _use_pidfd() -> None:
    with ExitStack() as opened:
        descriptor = os.pidfd_open(os.getpid())
        opened.callback(os.close, descriptor)
        signal.pidfd_send_signal(descriptor, 0)


def _make_channel() -> None:
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
        end.close()
