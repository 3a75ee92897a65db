"""Which control sockets are of servers that live."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from clockworker.shards.observe._query_paths import sweep

LONG_AGO = 1_000_000_000


def left(path: Path, at: float | None = None) -> Path:
    """A socket that nobody listens at, since then."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    if at is not None:
        os.utime(path, (at, at))
    return path


def gone() -> int:
    """A pid that no process has."""
    return next(pid for pid in range(2**22 - 1, 0, -1) if not os.path.exists(f"/proc/{pid}"))


def test_what_is_left_goes_though_another_process_has_its_number(tmp_path: Path) -> None:
    stale = [left(tmp_path / "1.sock", LONG_AGO), left(tmp_path / f"{gone()}.sock")]
    young = left(tmp_path / f"{os.getpid()}.sock")  # perhaps it is being bound
    other = left(tmp_path / "mine.sock", LONG_AGO)
    assert sweep(tmp_path) == [young]
    assert not any(path.exists() for path in stale)
    assert other.exists()


def test_a_server_that_stands_still_is_there_and_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "1.sock"
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(path))
        listening.listen(1)
        os.utime(path, (LONG_AGO, LONG_AGO))
        full = False
        while not full:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                full = True
        assert sweep(tmp_path) == [path]
        assert path.exists()
