"""Stalls and hangs of real shards, and what only looks like one."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from clockworker.shards.protocol._pulse import _PACE
from clockworker.shards.protocol._rest import BEAT_S
from tests.shards.servers import Serve, Server, ask, eventually

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

# A line `KIND SECONDS` keeps the loop: asleep in the kernel, in Python code, in C code that keeps the interpreter's lock (for
# longer than anybody waits), or from a callback that belongs to no task.
STALLS = """
import asyncio, re, time

def hold(kind, seconds):
    end = time.monotonic() + seconds
    if kind == b"sleep":
        time.sleep(seconds)
    elif kind == b"spin":
        while time.monotonic() < end:
            pass
    elif kind == b"lock":
        re.match("(a*)*b", "a" * 40)

async def crunch(kind, seconds):
    hold(kind, seconds)

async def main(shard):
    async def handle(reader, writer):
        while line := await reader.readline():
            match line.split():
                case [b"callback", seconds]:
                    asyncio.get_running_loop().call_soon(hold, b"sleep", float(seconds))
                case [kind, seconds]:
                    await shard.queue("background").spawn(crunch(kind, float(seconds)), name="crunching")
            writer.write(line)
            await writer.drain()

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


CALLBACK = """
import asyncio, time

class Blocking(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        time.sleep(100)
        self.transport.write(data)

async def main(shard):
    await shard.create_server(Blocking)
    await shard.wait_stopped()
"""


def started(serve: Serve, limit: str = "200") -> Server:
    arguments = ("--shards", "1", "--queue", "foreground:8", "--queue", "background:1")
    server = serve(STALLS, *arguments, "--timeout-shard-healthcheck", limit)
    server.wait_serving()
    return server


@pytest.mark.parametrize(("kind", "line"), [("sleep", "time.sleep(seconds)"), ("spin", "time.monotonic() < end")])
def test_a_stall_is_reported_while_it_lasts(serve: Serve, kind: str, line: str) -> None:
    server = started(serve)
    with server.connect() as client:
        client.sendall(b"%s 100\n" % kind.encode())
        [report] = server.wait_log(
            r"WARNING .*shard 0 \(pid (\d+)\) has not come back to its loop for .*\n((?:  .*\n)+)"
        )
        assert report[1] == str(server.shard_pids()[0])
        assert "queue 'background', task 'crunching'" in report[0]
        assert line in report[2]
        assert report[2].count("File ") == 2, "crunch and hold, and nothing of ours"
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_a_callback_without_a_task(serve: Serve) -> None:
    server = started(serve)
    with server.connect() as client:
        client.sendall(b"callback 100\n")
        [report] = server.wait_log(r"has not come back to its loop for .* s: no task, .*\n((?:  .*\n)+)")
        assert "in hold" in report[1]


def test_code_that_keeps_the_interpreters_lock(serve: Serve) -> None:
    server = started(serve, "2")
    with server.connect() as client:
        client.sendall(b"lock 1\n")
        server.wait_log(r"code that keeps the interpreter's lock.*\n(.*\n)*  File \".*/app.py\", line \d+ in hold\n")
        server.wait_log(r"--timeout-shard-healthcheck 2\) and is running: killed")
    server.wait_log("shard 0 ready", 2)


def at_rest(server: Server, shard: int = 0) -> int:
    """Waits until the shard rests, which is seen in the memory of its pulse. Its pid."""
    pid = server.shard_pids()[shard]
    [mapping] = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "clockworker-pulse" in line]
    address = int(mapping.partition("-")[0], 16)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:

        def pace() -> float:
            memory.seek(address + 8 * _PACE)
            return int.from_bytes(memory.read(8), sys.byteorder) / 1e9

        eventually(lambda: pace() > BEAT_S, "it rests")
    return pid


def test_a_shard_that_is_stopped_while_it_rests(serve: Serve) -> None:
    server = started(serve, "2")
    pid = at_rest(server)
    os.kill(pid, signal.SIGSTOP)
    server.wait_log(rf"shard 0 \(pid {pid}\) has not come back to its loop .*, the process is stopped by a signal")
    server.wait_log(rf"shard 0 \(pid {pid}\) .*--timeout-shard-healthcheck 2\) and is stopped by a signal: killed")
    server.wait_log("shard 0 ready", 2)


def test_a_stall_that_ends_a_rest(serve: Serve) -> None:
    server = started(serve)
    with server.connect() as client:
        assert ask(client, b"sleep 0") == b"sleep 0"
        at_rest(server)
        client.sendall(b"sleep 100\n")
        server.wait_log("queue 'background', task 'crunching'.*\n(.*\n)*.*in hold\n")
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_a_callback_that_ends_a_rest_and_keeps_the_loop(serve: Serve) -> None:
    """No task and no executor have anything to do with it."""
    server = serve(CALLBACK, "--shards", "1", "--timeout-shard-healthcheck", "200")
    server.wait_serving()
    with server.connect() as client:
        at_rest(server)
        client.sendall(b"x")
        server.wait_log("has not come back to its loop for .* s: no task, .*\n(.*\n)*.*in data_received\n")
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_0_is_no_limit(serve: Serve) -> None:
    server = started(serve, "0")
    os.kill(server.shard_pids()[0], signal.SIGSTOP)
    server.wait_log("no Python stack to be had, the process is stopped by a signal")
    os.kill(server.shard_pids()[0], signal.SIGCONT)
    with server.connect() as client:
        assert ask(client, b"hello") == b"hello"
    assert server.stop() == 0


def test_a_nap_of_all_is_nobodys_fault(serve: Serve) -> None:
    """Ctrl-Z, a frozen container, a suspended machine. The supervisor is the first to wake up."""
    server = started(serve, "4")
    pids = server.shard_pids()
    os.killpg(server.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    eventually(lambda: time.monotonic() - stopped > 5.0, "more than the limit")
    server.send(signal.SIGCONT)
    resumed = time.monotonic()
    eventually(lambda: time.monotonic() - resumed > 0.15, "it has looked")
    os.killpg(server.pid, signal.SIGCONT)
    resumed = time.monotonic()
    with server.connect() as client:
        while time.monotonic() - resumed < 1.0:
            assert ask(client, b"hello") == b"hello"
    assert server.shard_pids() == pids
    assert "killed" not in server.log


def test_a_shard_that_is_traced_is_not_killed(serve: Serve) -> None:
    server = started(serve, "3")
    pid = server.shard_pids()[0]
    with Tracer(pid):
        server.wait_log(rf"shard 0 does not turn its loop, but pid {os.getpid()} traces it: not killed")
    with server.connect() as client:
        assert ask(client, b"hello") == b"hello"
    assert server.shard_pids()[0] == pid
    assert server.stop() == 0


class Tracer:
    """Stops a process as a debugger does."""

    SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self._ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._ptrace.restype = ctypes.c_long

    def __enter__(self) -> None:
        if self._ptrace(self.SEIZE, self._pid, None, None) != 0:
            pytest.skip(f"this user may not trace processes: {os.strerror(ctypes.get_errno())}")
        self._ptrace(self.INTERRUPT, self._pid, None, None)
        os.waitpid(self._pid, 0)

    def __exit__(self, *_: object) -> None:
        self._ptrace(self.DETACH, self._pid, None, None)
