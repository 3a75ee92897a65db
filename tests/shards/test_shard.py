"""What an application sees: owners, queues, servers, statistics, the stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.ipc.calls._owners import Owners
from clockworker.shards import Shard
from clockworker.shards.worker._recorder import EVERY_S
from tests.shards.servers import ECHO, Serve, ask

KEYS: list[bytes | str | int] = [b"a", "a", "ä", "key:000000000012", 0, 1, -1, 10**30, b""]


def owner(key: bytes | str | int, count: int) -> int:
    return Shard.owner(cast(Shard, SimpleNamespace(_mesh=SimpleNamespace(owners=Owners(0, count)))), key)


def test_owners_never_change() -> None:
    """These values are part of the interface: data on disk or in other processes may depend on them."""
    assert [owner(key, 7) for key in KEYS] == [6, 6, 3, 4, 5, 4, 6, 2, 0]


def test_owners_are_the_same_in_another_process() -> None:
    program = f"from clockworker.ipc.calls._owners import Owners\nprint([Owners(0, 5).of(key) for key in {KEYS!r}])"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
    assert json.loads(printed) == [owner(key, 5) for key in KEYS]


@given(st.binary() | st.text() | st.integers(), st.integers(1, 1024))
def test_an_owner_is_a_shard(key: bytes | str | int, count: int) -> None:
    assert 0 <= owner(key, count) < count


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("pattern", ["key:%012d", "user:%d", "%d"])
def test_keys_are_spread_evenly(pattern: str, count: int) -> None:
    shares = Counter(owner(pattern % number, count) for number in range(20_000))
    assert all(abs(shares[shard] / (20_000 / count) - 1) < 0.1 for shard in range(count)), shares


def query(serve: Serve, source: str, *arguments: str, question: bytes = b"?") -> Any:
    """Start the application on one shard, ask it for one line of JSON."""
    server = serve(source, "--shards", "1", *arguments)
    server.wait_serving()
    with server.connect() as client:
        return json.loads(ask(client, question))


STATS = """
import json

async def main(shard):
    async def handle(reader, writer):
        while await reader.readline():
            stats = shard.stats()
            spawned = {key: queue.spawned for key, queue in shard.executor.queue_stats().items()}
            answer = {
                "id": stats.id, "pid": stats.pid, "cpu": stats.cpu, "open": stats.connections_open,
                "accepted": stats.connections_accepted, "spawned": spawned,
                "polls": stats.executor.polls, "sent": stats.mesh.calls_sent,
            }
            writer.write(json.dumps(answer).encode() + b"\\n")

    await shard.start_server(handle, queue=QUEUE)
    await shard.wait_stopped()
"""
QUEUES = ("--queue", "first:1", "--queue", "second:8:las")


def test_handlers_run_in_the_queue_asked_for(serve: Serve) -> None:
    answer = query(serve, "QUEUE = 'second'\n" + STATS, *QUEUES)
    assert answer["spawned"]["second"] >= 1
    before = answer["spawned"]["first"]
    assert before <= 1  # main


def test_handlers_run_in_the_first_queue_unless_told(serve: Serve) -> None:
    answer = query(serve, "QUEUE = None\n" + STATS, *QUEUES)
    assert answer["spawned"]["first"] >= 2
    assert answer["spawned"]["second"] == 0


def test_stats(serve: Serve) -> None:
    answer = query(serve, "QUEUE = None\n" + STATS)
    assert answer["id"] == 0
    assert os.sched_getaffinity(answer["pid"]) == {answer["cpu"]}
    assert answer["open"] == answer["accepted"] == 1
    assert answer["polls"] > 0
    assert answer["sent"] == 0


PROTOCOL = """
import asyncio, json

async def main(shard):
    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.task = asyncio.get_running_loop().create_task(self.answer())

        async def answer(self):
            await asyncio.sleep(0)
            polls = {key: queue.polls for key, queue in shard.executor.queue_stats().items()}
            self.transport.write(json.dumps(polls).encode() + b"\\n")

    await shard.create_server(Protocol, queue="second")
    before = shard.executor.queue_stats()["second"].polls
    await shard.wait_stopped()
"""


def test_what_a_protocol_starts_runs_in_the_queue_asked_for(serve: Serve) -> None:
    server = serve(PROTOCOL, "--shards", "1", *QUEUES)
    server.wait_serving()
    with server.connect() as client:
        first = json.loads(ask(client, b"?"))["second"]
        assert json.loads(ask(client, b"?"))["second"] > first


def test_a_second_server_and_an_unknown_queue_are_errors(serve: Serve) -> None:
    source = ECHO.replace(
        "    await shard.wait_stopped()",
        """
    for attempt in (shard.start_server(handle), shard.create_server(object, queue="nowhere"), shard.start(42)):
        try:
            await attempt
        except Exception as error:
            print(f'{type(error).__name__} {error}', flush=True)
    await shard.wait_stopped()
""",
    )
    server = serve(source, "--shards", "1")
    server.wait_log("UsageError this shard's listening sockets are served already")
    server.wait_log("UnknownQueue there is no queue 'nowhere', only 'default'; add --queue nowhere:1,")
    server.wait_log("UsageError 42 is no class")


def test_an_exception_in_a_handler_is_logged_and_ends_that_connection_only(serve: Serve) -> None:
    source = ECHO.replace("            await writer.drain()", "            1 / (line != b'boom\\n')")
    server = serve(source, "--shards", "1")
    with server.connect() as one, server.connect() as two:
        assert ask(one, b"hello") == b"0 hello"
        two.sendall(b"boom\n")
        assert two.recv(100) == b"0 boom\n"
        assert two.recv(100) == b""
        server.wait_log(r"ERROR .*\[shard 0 default\] a connection's handler raised\n(.*\n)+ZeroDivisionError")
        assert ask(one, b"still there") == b"0 still there"


CANCELS = "import asyncio\n" + ECHO.replace(
    "            await writer.drain()",
    """
            if line == b"awaits\\n":
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future
            if line == b"next\\n":
                cancel_the_next(set(asyncio.all_tasks()))""",
).replace(
    "async def main(shard):",
    """
def cancel_the_next(seen):
    if new := asyncio.all_tasks() - seen:
        new.pop().cancel()
    else:
        asyncio.get_running_loop().call_soon(cancel_the_next, seen)

async def main(shard):""",
)


def test_what_a_handler_awaits_is_cancelled_and_nobody_has_cancelled_the_handler(serve: Serve) -> None:
    server = serve(CANCELS, "--shards", "1")
    with server.connect() as client:
        client.sendall(b"awaits\n")
        assert client.recv(100) == b"0 awaits\n"
        assert client.recv(100) == b""
    server.wait_log(r"ERROR .*\[shard 0 default\] something that a connection's handler awaited was cancelled\n")
    assert server.stop() == 0


def test_a_handler_that_is_cancelled_before_its_first_step_ends_its_connection(serve: Serve) -> None:
    server = serve(CANCELS, "--shards", "1")
    with server.connect() as client:
        assert ask(client, b"next") == b"0 next"
        with server.connect() as cancelled:
            cancelled.settimeout(60)
            assert cancelled.recv(100) == b""
        assert ask(client, b"hello") == b"0 hello"
    assert server.stop() == 0
    assert "(0 open)" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_code_that_cancels_all_tasks_but_its_own_at_the_end_holds_nothing_up(serve: Serve, how: signal.Signals) -> None:
    """Of ours, one waits for `main`."""
    source = "import asyncio\n" + ECHO.replace(
        "    await shard.wait_stopped()",
        """
    await shard.wait_stopped()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)""",
    )
    server = serve(source, "--shards", "2", "--timeout-graceful-shutdown", "600")
    server.wait_serving()
    with server.connect() as client:
        assert ask(client, b"hello").endswith(b" hello")
        if how == signal.SIGHUP:
            server.send(signal.SIGHUP)
            for shard in (0, 1):
                server.wait_log(rf"shard {shard} ready", 2)
        assert server.stop() == 0
    assert "killed" not in server.log
    assert "Traceback" not in server.log


def test_a_client_that_leaves_is_no_error(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1")
    with server.connect() as client:
        client.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: a reset instead of an end
        ask(client, b"hello")
    with server.connect() as client:
        ask(client, b"hello")
    assert server.stop() == 0
    assert "ERROR" not in server.log


def test_ready_is_said_once_and_can_be_said_early(serve: Serve) -> None:
    source = (
        "import asyncio\nasync def main(shard):\n    shard.ready()\n    shard.ready()\n    await asyncio.sleep(3600)\n"
    )
    server = serve(source, "--shards", "1", "--timeout-graceful-shutdown", "0.3")
    server.wait_serving()
    assert server.log.count("shard 0 ready") == 1
    assert server.stop() == 0
    assert "killed" in server.log  # main does not look whether it should stop


def test_the_counters_of_a_killed_shard_are_reported(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1")
    server.wait_serving()
    with server.connect() as client:
        started, asked = time.monotonic(), 0
        while time.monotonic() - started < 3 * EVERY_S or asked < 300:
            ask(client, b"hello")
            asked += 1
        os.kill(server.shard_pids()[0], signal.SIGKILL)
        [report] = server.wait_log(r"killed by SIGKILL after .*: (\d+) connections \((\d+) open\), (\d+) polls")
    assert (report[1], report[2]) == ("1", "1")
    assert int(report[3]) > 100


LEFT_OVER = """
import asyncio
from clockworker.ipc import remote

class Service:
    def __init__(self, shard):
        pass

    @remote
    async def wait(self) -> None:
        await asyncio.sleep(3600)

async def left_over(service, peer):
    try:
        await service.on(peer).wait()
    finally:
        print("left over task ended", flush=True)

async def main(shard):
    service = await shard.start(Service)
    shard.queue("default").spawn(left_over(service, 1 - shard.id))
    shard.queue("default").spawn(left_over(service, shard.id))
    asyncio.get_running_loop().create_task(left_over(service, 1 - shard.id))
    await shard.wait_stopped()
"""


def test_tasks_that_are_left_when_a_shard_leaves_are_cancelled(serve: Serve) -> None:
    """Also while they wait for a peer: nothing touches the rings after the last of them is gone."""
    server = serve(LEFT_OVER, "--shards", "2")
    server.wait_serving()
    assert server.stop() == 0
    assert server.log.count("left over task ended") == 6
    assert server.log.count(" stopped after ") == 2


def test_half_a_request_is_waited_for_when_stopping(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1")
    with server.connect() as client:
        ask(client, b"hello")
        client.sendall(b"first ha")
        ask_again = server.connect()  # its answer proves that the half line has been read as well
        ask(ask_again, b"hello")
        server.send(signal.SIGTERM)
        assert ask_again.recv(100) == b""
        ask_again.close()
        client.sendall(b"lf\n")
        assert client.recv(100) == b"0 first half\n"
        assert client.recv(100) == b""
    assert server.wait_exit() == 0


def test_every_line_of_the_log_says_who_wrote_it(serve: Serve) -> None:
    source = "import logging\n" + ECHO.replace("    await shard.wait", "    logging.info('mine')\n    await shard.wait")
    server = serve(source, "--shards", "2")
    server.wait_serving()
    server.stop()
    assert sorted(re.findall(r"INFO +\[(shard \d) default\] mine", server.log)) == ["shard 0", "shard 1"]
    assert all(re.search(r"\[(supervisor|shard \d( default)?)\]", line) for line in server.log.splitlines())


def test_a_factory(serve: Serve) -> None:
    server = serve(ECHO + "\ndef make():\n    return main\n", "--factory", "--shards", "1", app="app:make")
    server.connect_to(0).close()
    assert server.stop() == 0
