"""The table of behaviour: what an operator may rely on, a test a row, in the table's order, against real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.shards.servers import ECHO, Serve, Server, ask, at_best, children, eventually, is_alive, shared_memory
from tests.shards.threads import Threads

# `sleep S` answers after S seconds, `block S` keeps the loop for as long, `call PEER` asks that shard; else as ECHO.
WORK = """
import asyncio, time
from clockworker import remote

class Service:
    def __init__(self, shard):
        self.shard = shard

    @remote
    async def who(self) -> int:
        await asyncio.sleep(0.002)
        return self.shard.id

async def block(seconds):
    time.sleep(seconds)

async def main(shard):
    service = await shard.start(Service)

    async def handle(reader, writer):
        while line := await reader.readline():
            match line.split():
                case [b"sleep", seconds]:
                    await asyncio.sleep(float(seconds))
                case [b"block", seconds]:
                    await shard.queue("background").spawn(block(float(seconds)), name="compaction")
                case [b"call", peer]:
                    try:
                        assert await service.on(int(peer)).who() == int(peer)
                    except Exception as error:
                        line = type(error).__name__.encode() + b"\\n"
            writer.write(b"%d %s" % (shard.id, line))
            await writer.drain()

    await shard.start_server(handle)
    await shard.wait_stopped()
"""
QUEUES = ("--queue", "foreground:8", "--queue", "background:1")


def started(serve: Serve, *arguments: str) -> Server:
    server = serve(WORK, "--shards", "2", *QUEUES, *arguments)
    server.wait_serving()
    return server


def open_request(server: Server, line: bytes, shard: int | None = None) -> socket.socket:
    """A connection whose request has reached its handler: the one on another connection after it is answered."""
    client = server.connect() if shard is None else server.connect_to(shard)
    [at, *_] = ask(client, b"hello").split()
    client.sendall(line + b"\n")
    if not line.startswith(b"block"):
        with server.connect_to(int(at)):
            pass
    return client


class Clients(Threads):
    """Clients that connect, ask once, and leave, again and again while the block runs."""

    def __init__(self, server: Server, line: bytes, count: int = 4) -> None:
        super().__init__(*[self._ask] * count)
        self.answers: list[bytes] = []
        self.failed: list[Exception] = []
        self._server = server
        self._line = line

    def _ask(self) -> None:
        while not self.over.wait(0.002):  # what is tested has the rest of the CPU
            try:
                with self._server.connect() as client:
                    self.answers.append(ask(client, self._line))
            except Exception as error:
                self.failed.append(error)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_or_int_when_idle(serve: Serve, number: signal.Signals) -> None:
    server = started(serve)
    assert server.stop(number) == 0
    assert not server.members()


def test_exception_on_import(serve: Serve) -> None:
    server = serve("1 / 0\n", "--shards", "3")
    assert server.wait_exit() == 3
    assert server.log.count("Traceback") == server.log.count("ZeroDivisionError: ") == 1


def test_application_start_up_fails(serve: Serve) -> None:
    server = serve("async def main(shard):\n    raise RuntimeError('no database')\n", "--shards", "2")
    assert server.wait_exit() == 3
    assert server.log.count("RuntimeError: no database") == 1


def test_address_in_use(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        server = serve("print('imported', flush=True)\n", "--shards", "2", bind=("--bind", address))
        assert server.wait_exit() == 1
    assert f"{address} is already in use" in server.log
    assert "imported" not in server.log
    assert "Traceback" not in server.log


def test_bad_option(serve: Serve) -> None:
    server = serve(ECHO, "--queue", "foreground:0")
    assert server.wait_exit() == 2
    assert "foreground:0" in server.log
    assert "Traceback" not in server.log


def test_kill_of_a_worker(serve: Serve) -> None:
    server = started(serve)
    before = server.shard_pids()
    with server.connect_to(0) as witness:
        os.kill(before[1], signal.SIGKILL)
        calls = []
        while server.shard_pids()[1] == before[1]:
            assert ask(witness, b"still there") == b"0 still there"
            calls.append(ask(witness, b"call 1"))
        assert set(calls) <= {b"0 call 1", b"0 ShardDied", b"0 ShardDown"}
        eventually(lambda: ask(witness, b"call 1") == b"0 call 1", "calls reach the successor")
    assert server.shard_pids()[0] == before[0]
    server.connect_to(1).close()
    print("shard 1", server.wait_log(r"shard 1 ready on .* \((.*)\)", 2)[1][1])


def test_crash_again_and_again(serve: Serve) -> None:
    server = serve("import os\nos.write(2, b'boot\\n')\nos._exit(7)\n", "--shards", "1")
    assert server.wait_exit() == 1
    assert server.log.count("boot\n") == 5
    assert "crashes again and again" in server.log


def test_request_shorter_than_the_grace(serve: Serve) -> None:
    server = started(serve, "--timeout-graceful-shutdown", "60")
    with open_request(server, b"sleep 1") as client:
        server.send(signal.SIGTERM)
        assert client.recv(100).endswith(b" sleep 1\n")
    assert server.wait_exit() == 0
    assert "killed" not in server.log


def test_request_longer_than_the_grace(serve: Serve) -> None:
    server = started(serve, "--timeout-graceful-shutdown", "3")
    with open_request(server, b"sleep 3600"):
        assert server.stop() == 0
    assert server.log.count("still had work 3 s after it was told to stop: killed") == 1


def test_kill_of_the_supervisor(serve: Serve, tmp_path: Path) -> None:
    before = shared_memory()
    server = serve(WORK, "--shards", "2", *QUEUES, "--bind", f"unix:{tmp_path}/s")
    server.wait_serving()
    pids = list(server.shard_pids().values())
    with open_request(server, b"block 3600"):
        server.send(signal.SIGKILL)
        server.wait_exit()
        killed = time.monotonic()
        eventually(lambda: not any(map(is_alive, pids)), "the shards are gone")
        print(f"gone after {time.monotonic() - killed:.3f} s")
    assert shared_memory() <= before
    again = serve(None, "--shards", "1", *QUEUES, "--bind", f"unix:{tmp_path}/s")
    again.wait_serving()  # the stale socket is in nobody's way


def test_worker_stopped(serve: Serve) -> None:
    server = started(serve, "--timeout-shard-healthcheck", "3")
    pid = server.shard_pids()[1]
    with server.connect_to(0) as witness:
        os.kill(pid, signal.SIGSTOP)
        server.wait_log("shard 1 ready", 2)
        assert ask(witness, b"hello") == b"0 hello"
    assert re.search(
        rf"shard 1 \(pid {pid}\) .* no Python stack to be had, the process is stopped by a signal", server.log
    )
    [age] = server.wait_log(rf"shard 1 \(pid {pid}\) has not come back to its loop for (\S+) s .*: killed")
    print(f"killed at {age[1]} s")
    assert float(age[1]) >= 3
    assert not is_alive(pid)


def test_loop_blocked(serve: Serve) -> None:
    server = started(serve, "--timeout-shard-healthcheck", "4")
    with open_request(server, b"block 3600", 1):
        [report] = server.wait_log(r"shard 1 .*for (\S+) s: queue 'background', task 'compaction'.*\n(.*\n.*)")
        assert "killed" not in server.log, "it is reported while it lasts"
        assert re.search(r'File ".*app\.py", line \d+, in block\n +time\.sleep\(seconds\)', report[2])
        server.wait_log(r"shard 1 .* \(--timeout-shard-healthcheck 4\).*: killed")
        server.wait_log("shard 1 ready", 2)
    assert server.shard_pids()[1] != server.shard_pids()[0]
    assert server.stop() == 0


def test_slow_import(serve: Serve) -> None:
    server = serve("import time\ntime.sleep(3)\n" + ECHO, "--shards", "1", "--timeout-shard-healthcheck", "2.5")
    server.wait_serving()
    assert "killed" not in server.log
    slow = serve("import time\ntime.sleep(3600)\n", "--shards", "1", "--timeout-startup", "0.5")
    assert slow.wait_exit() == 3
    assert "not ready within 0.5 s (--timeout-startup)" in slow.log


def test_hup(serve: Serve) -> None:
    server = started(serve)
    before = server.shard_pids()
    with server.connect_to(0) as kept, Clients(server, b"call 0") as clients, Clients(server, b"call 1") as others:
        kept.sendall(b"sleep 0.5\n")
        server.send(signal.SIGHUP)
        assert kept.recv(100) == b"0 sleep 0.5\n"
        server.wait_log("shard . stopped after", 2)
        eventually(lambda: len(clients.answers) > 50 < len(others.answers), "some load")
    assert clients.failed == others.failed == []
    assert {answer[2:] for answer in clients.answers + others.answers} == {b"call 0", b"call 1"}
    assert all(before[shard] != pid for shard, pid in server.shard_pids().items())
    order = re.findall(r"shard (\d) (stopped|ready)", server.log)[2:]
    assert order == [("0", "ready"), ("0", "stopped"), ("1", "ready"), ("1", "stopped")]


def test_hup_with_a_broken_application(serve: Serve, tmp_path: Path) -> None:
    server = started(serve)
    before = server.shard_pids()
    (tmp_path / "app.py").write_text("def main(:\n")
    server.send(signal.SIGHUP)
    server.wait_log(r"the shards are not replaced: app:main cannot be imported\n(.*\n)+SyntaxError")
    server.connect_to(1).close()
    assert server.shard_pids() == before
    (tmp_path / "app.py").write_text(WORK)
    server.send(signal.SIGHUP)
    server.wait_log("shard . ready", 4)
    assert server.stop() == 0


def test_second_int(serve: Serve) -> None:
    server = started(serve)
    with open_request(server, b"sleep 3600"):
        server.send(signal.SIGINT)
        server.wait_log("SIGINT: stopping")
        first = time.monotonic()
        eventually(lambda: time.monotonic() - first > 0.15, "long enough to be another signal")
        server.send(signal.SIGINT)
        assert server.wait_exit() == 0
    assert "SIGINT again: stopping at once" in server.log
    assert server.log.count("killed by SIGKILL") >= 1


def test_usr1_usr2_quit(serve: Serve, tmp_path: Path) -> None:
    server = started(serve)
    for name in ("USR1", "USR2"):
        server.send(getattr(signal, f"SIG{name}"))
        server.wait_log(f"SIG{name}")
    server.connect_to(0).close()
    with open_request(server, b"sleep 3600"):
        assert server.stop(signal.SIGQUIT) == 0


def test_ttin_ttou(serve: Serve) -> None:
    server = started(serve)
    for name in ("TTIN", "TTOU"):
        server.send(getattr(signal, f"SIG{name}"))
        server.wait_log(f"SIG{name} ignored: the number of shards is fixed")
    eventually(lambda: len(children(server.pid)) == 2, "two shards")
    assert server.stop() == 0


def test_cpu_affinity(serve: Serve) -> None:
    server = started(serve)
    for shard, pid in server.shard_pids().items():
        [line] = server.wait_log(rf"shard {shard} ready on CPU (\d+), pid {pid} ")
        assert os.sched_getaffinity(pid) == {int(line[1])} <= os.sched_getaffinity(0)


def test_stable_worker_id(serve: Serve) -> None:
    server = serve("import logging\nlogging.warning('imported')\n" + WORK, "--shards", "2", *QUEUES)
    server.wait_serving()
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    server.wait_log("shard 1 ready", 2)
    assert sorted(match[1] for match in server.wait_log(r"\[(shard \d)\] imported", 3)) == [
        "shard 0",
        "shard 1",
        "shard 1",
    ]
    for shard, pid in server.shard_pids().items():
        process = psutil.Process(pid)
        assert process.environ()["CLOCKWORKER_SHARD_ID"] == str(shard)
        assert process.cmdline()[0].startswith(f"clockworker shard {shard} [app:main]")
    assert psutil.Process(server.pid).cmdline()[0].startswith("clockworker supervisor [app:main]")


def test_accept_skew(serve: Serve) -> None:
    """What is promised of the choice that promises something: with N connections open, no shard has one more than N / 2."""
    server = started(serve, "--distribution", "least-connections")
    with ExitStack() as opened:
        clients: list[socket.socket] = []
        shards: list[bytes] = []

        def counts() -> list[int]:
            opened.close()
            clients[:] = [opened.enter_context(server.connect()) for _ in range(40)]
            shards[:] = [ask(client, b"hello")[:1] for client in clients]
            return [shards.count(b"0"), shards.count(b"1")]

        assert at_best(counts, [20, 20]) == [20, 20]
        for client, shard in zip(clients, shards, strict=True):
            if shard == b"1":
                client.close()

        def next_one() -> bytes:
            with server.connect() as client:
                return ask(client, b"hello")[:1]

        eventually(lambda: {next_one() for _ in range(3)} == {b"1"}, "its places are given again")


def test_queued_connections_of_a_dead_worker(serve: Serve) -> None:
    server = serve(WORK, "--shards", "1", *QUEUES)
    server.wait_serving()
    pid = server.shard_pids()[0]
    os.kill(pid, signal.SIGSTOP)
    clients = [server.connect() for _ in range(20)]
    for client in clients:
        client.sendall(b"hello\n")
    os.kill(pid, signal.SIGKILL)
    for client in clients:
        assert client.recv(100) == b"0 hello\n"
        client.close()
