"""Claims about what is forked from a shard: by `os.fork`, by multiprocessing, and by a child of the first."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from clockworker.shards.testing import Server, serving
from tests.reliability._checks import Result, check
from tests.reliability._server import Peer, main
from tests.reliability.processes import is_alive, wait

ENDS = ("TERM", "HUP", "the shard killed", "the supervisor killed")
WAYS = ("os.fork", "multiprocessing", "of a child")


@check(
    "forked children and what they fork: descriptors of ours kept 0, whoever dies first",
    ci=8,
    release=400,
    pure=0,
    pace=0.7,
)
def forked_children(trials: int) -> Result:
    """Of each end there are equally many. Every other server accepts by itself, the others' shards do."""
    children = 0
    for trial in range(trials):
        end = ENDS[trial % len(ENDS)]
        distribution = ("kernel", "least-connections")[trial // len(ENDS) % 2]
        with (
            serving(main, shards=1, options=["--distribution", distribution]) as server,
            server.connect() as client,
        ):
            client.sendall(b"who\n")
            assert client.recv(100)
            forked = {way: server.call(0, Peer.fork, way) for way in WAYS}
            try:
                _judge(server, client, forked, end)
            finally:
                for child in filter(is_alive, forked.values()):
                    os.kill(child, signal.SIGKILL)
        children += len(forked)
    return Result(trials, f"{children} children, 0 descriptors")


def _judge(server: Server, client: socket.socket, forked: dict[str, int], end: str) -> None:
    for way, child in forked.items():
        wait(server, lambda: not kept(child), f"{way}, {end}: nothing is kept")  # noqa: B023
    _end(server, end)
    client.settimeout(60)
    assert client.recv(100) == b"", f"{end}: the connection is still open"
    for way in ("os.fork", "of a child"):
        assert is_alive(forked[way]), f"{way}, {end}: it was killed"
    wait(server, lambda: not is_alive(forked["multiprocessing"]), f"{end}: multiprocessing's ends with the shard")


def kept(pid: int) -> list[str]:
    """What a process has beside its standard streams, pipes of its own and what is nothing."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:  # it is being taken
            continue
        if int(descriptor.name) > 2 and not target.startswith(("/dev/null", "pipe:")):
            found.append(target)
    return found


def _end(server: Server, end: str) -> None:
    shard, supervisor, address = server.pid(0), server.supervisor_pid, server.address
    if end == "HUP":
        server.replace()
    elif end == "the shard killed":
        server.kill(0)
    else:
        os.kill(supervisor, signal.SIGTERM if end == "TERM" else signal.SIGKILL)
        wait(server, lambda: not is_alive(supervisor), f"{end}: the supervisor ends")
    wait(server, lambda: not is_alive(shard), f"{end}: the shard ends")
    if end in ("TERM", "the supervisor killed"):
        # A thread of the shard's may be there when its first is a zombie, and ends next.
        wait(server, lambda: _refuses(address), f"{end}: nobody listens")
    else:
        with server.connect() as late:
            started = time.monotonic()
            late.sendall(b"who\n")
            assert late.recv(100), f"{end}: no answer after {time.monotonic() - started:.1f} s"


def _refuses(address: tuple[str, int]) -> bool:
    with socket.socket() as late:
        return late.connect_ex(address) != 0
