"""Shards that call each other, while they are killed, restarted and stopped: what the supervisor wires together."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.shards.servers import Serve, ask, eventually

# A line `SHARD METHOD ARGUMENT` calls that shard and answers with the result or the name of the error; `after S` before
# it waits first.
CALLS = """
import asyncio, os
from clockworker import ChannelFull
from clockworker.ipc import remote

if os.path.exists("broken") and os.environ["CLOCKWORKER_SHARD_ID"] == "1":
    os._exit(1)

class Service:
    def __init__(self, shard):
        self.shard = shard

    @remote
    async def who(self, argument: str) -> str:
        return f"{self.shard.id} {argument} {os.getpid()}"

    @remote
    async def scribble(self, argument: str) -> str:
        ring = self.shard._mesh.links[int(argument)].connection
        ring.producer.push(99, 0, 0, 0, b"no such kind of frame")
        ring.doorbell.announce()
        return "not read"

    @remote
    async def round(self, argument: str) -> str:
        await asyncio.sleep(float(argument))
        return f"{self.shard.id} {await self.all.on(1 - self.shard.id).back(argument)}"

    @remote
    async def back(self, argument: str) -> str:
        return f"{self.shard.id} {await self.all.on(1 - self.shard.id).third(argument)}"

    @remote
    async def round_by_child(self, argument: str) -> str:
        await asyncio.sleep(float(argument))
        return f"{self.shard.id} {await self.all.on(1 - self.shard.id).back_by_child(argument)}"

    @remote
    async def back_by_child(self, argument: str) -> str:
        async with asyncio.TaskGroup() as group:
            child = group.create_task(self.third_of_the_other(argument))
        return f"{self.shard.id} {child.result()}"

    async def third_of_the_other(self, argument):
        return await self.all.on(1 - self.shard.id).third(argument)

    @remote
    async def note(self, argument: str) -> None:
        await asyncio.sleep(0.05)
        with open("notes", "a") as notes:
            notes.write(argument + "\\n")

    @remote
    async def third(self, argument: str) -> str:
        return f"{self.shard.id} and back"

    @remote
    async def slow(self, argument: str) -> str:
        await asyncio.sleep(float(argument))
        return f"{self.shard.id} {argument}"

async def main(shard):
    service = await shard.start(Service)
    service.local.all = service

    async def handle(reader, writer):
        while line := await reader.readline():
            words = line.decode().split()
            if words == ["hello"]:
                writer.write(b"%d hello\\n" % shard.id)
                continue
            if words[0] == "notes":
                try:
                    for number in range(int(words[1])):
                        service.send_nowait(1 - shard.id, Service.note, str(number))
                        await asyncio.sleep(0.005)
                    writer.write(b"sent\\n")
                except ChannelFull as error:
                    writer.write(f"{error}\\n".encode())
                continue
            if words[0] == "after":
                await asyncio.sleep(float(words[1]))
                words = words[2:]
            peer, method, argument = words
            try:
                result = await getattr(service.on(int(peer)), method)(argument)
            except Exception as error:
                result = type(error).__name__
            writer.write(result.encode() + b"\\n")

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


def test_every_shard_can_call_every_shard(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "3")
    server.wait_serving()
    pids = server.shard_pids()
    for source in range(3):
        with server.connect_to(source) as client:
            for destination in range(3):
                question = b"%d who from-%d" % (destination, source)
                assert ask(client, question) == b"%d from-%d %d" % (destination, source, pids[destination])
    assert server.stop() == 0
    assert server.log.count(" stopped after ") == 3, server.log
    sent = [int(m[1]) for m in re.finditer(r"(\d+) sent", server.log)]
    assert sent == [2, 2, 2], "the counters of the rings reach the supervisor"
    assert "missed wake-ups: 0" in server.log


def test_calls_obey_the_limits_of_the_configuration(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "2", "--max-message", "1KiB", "--credit", "1")
    with server.connect_to(0) as client:
        assert ask(client, b"1 who " + b"x" * 1000).startswith(b"1 xxx")
        assert ask(client, b"1 who " + b"x" * 1024) == b"MessageTooLarge"
        assert ask(client, b"notes 2").startswith(b"1 calls are in flight to shard 1")


def test_a_call_in_flight_to_a_killed_shard_ends_and_later_ones_reach_its_successor(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    with server.connect_to(0) as client:
        client.sendall(b"1 slow 3600\n")
        with server.connect_to(0) as other:  # its answer proves that the call before it has been sent
            assert ask(other, b"1 who x").startswith(b"1 x")
        os.kill(server.shard_pids()[1], signal.SIGKILL)
        killed = time.monotonic()
        assert client.recv(100) == b"ShardDied\n"
        print(f"ShardDied after {1000 * (time.monotonic() - killed):.1f} ms")
        server.wait_log("shard 1 ready", 2)
        assert ask(client, b"1 who x") == b"1 x %d" % server.shard_pids()[1]
    with server.connect_to(1) as client:
        assert ask(client, b"0 who x") == b"0 x %d" % server.shard_pids()[0]


def test_a_call_to_a_shard_that_is_starting_waits_for_it(serve: Serve) -> None:
    source = CALLS.replace("async def main(shard):", "async def main(shard):\n    await asyncio.sleep(0.3 * shard.id)")
    server = serve(source, "--shards", "2")
    with server.connect_to(0) as client:
        assert ask(client, b"1 who x").startswith(b"1 x")


def test_calls_to_a_shard_that_does_not_come_back_do_not_hang(serve: Serve, tmp_path: object) -> None:
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    answers = set()
    with server.connect_to(0) as client:
        open(f"{tmp_path}/broken", "w").close()
        os.kill(server.shard_pids()[1], signal.SIGKILL)
        server.wait_log(r"shard 1 \(pid \d+\) killed by SIGKILL")
        while "shard 1 is restarted in 0.4 s" not in server.log:
            answers.add(ask(client, b"1 who x"))
        eventually(lambda: answers.add(ask(client, b"1 who x")) or b"ShardDown" in answers, "a call finds it down")
    assert answers <= {b"ShardDied", b"ShardDown"}
    assert server.wait_exit() == 1


def test_restarts_of_both_sides_again_and_again(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    for round in range(1, 4):
        for shard in (0, 1):
            os.kill(server.shard_pids()[shard], signal.SIGKILL)
            server.wait_log(f"shard {shard} ready", round + 1)
        for source, destination in ((0, 1), (1, 0)):
            with server.connect_to(source) as client:
                pid = server.shard_pids()[destination]
                assert ask(client, b"%d who x" % destination) == b"%d x %d" % (destination, pid)


def test_a_drained_shard_answers_while_others_finish(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    with server.connect_to(1) as client:
        client.sendall(b"after 0.7 0 who x\n")
        server.send(signal.SIGTERM)
        assert client.recv(100).startswith(b"0 x ")
        assert server.wait_exit() == 0


def test_calls_of_peers_survive_a_replacement(serve: Serve) -> None:
    """Those in flight are answered by the old incarnation, those that come meanwhile by the new one."""
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    old = server.shard_pids()[1]
    with server.connect_to(0) as slow, server.connect_to(0) as other:
        slow.sendall(b"1 slow 1\n")
        assert ask(other, b"1 who x") == b"1 x %d" % old  # its answer proves that the call before it has been sent
        os.kill(old, signal.SIGTERM)
        answers = [ask(other, b"1 who x")]
        while answers[-1] == b"1 x %d" % old:
            answers.append(ask(other, b"1 who x"))
        assert slow.recv(100) == b"1 1\n"
        server.wait_log("shard 1 ready", 2)
        assert answers[-1] == b"1 x %d" % server.shard_pids()[1]


@pytest.mark.parametrize("method", [b"round", b"round_by_child"])
def test_a_shard_that_is_replaced_is_still_called_by_those_that_serve_it(serve: Serve, method: bytes) -> None:
    """Shard 1 waits for shard 0 before it can leave, and shard 0 for shard 1: `round` calls back, itself or on a task that it
    has started."""
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    with server.connect_to(0) as client:
        client.sendall(b"1 %s 0.5\n" % method)
        with server.connect_to(0) as other:
            assert ask(other, b"1 who x").startswith(b"1 x")
        os.kill(server.shard_pids()[1], signal.SIGTERM)
        assert client.recv(100) == b"1 0 1 and back\n"
        server.wait_log("shard 1 ready", 2)


def test_a_call_that_takes_too_long_does_not_hold_up_a_replacement_for_ever(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "2", "--timeout-graceful-shutdown", "3")
    server.wait_serving()
    with server.connect_to(0) as slow, server.connect_to(0) as other:
        slow.sendall(b"1 slow 3600\n")
        assert ask(other, b"1 who x").startswith(b"1 x")
        os.kill(server.shard_pids()[1], signal.SIGTERM)
        assert slow.recv(100) == b"ShardDied\n"
        server.wait_log("shard 1 was still waited for by its peers 3 s after it was told to stop: killed")
        server.wait_log("shard 1 ready", 2)
        assert ask(other, b"1 who x") == b"1 x %d" % server.shard_pids()[1]


def test_one_way_requests_survive_a_replacement(serve: Serve, tmp_path: Path) -> None:
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    with server.connect_to(0) as client:
        client.sendall(b"notes 200\n")
        eventually((tmp_path / "notes").exists, "the first is done")
        os.kill(server.shard_pids()[1], signal.SIGTERM)
        assert client.recv(100) == b"sent\n"
    server.wait_log("shard 1 ready", 2)

    def notes() -> list[int]:
        return sorted(map(int, (tmp_path / "notes").read_text().split()))

    eventually(lambda: notes() == list(range(200)), "each is done once")


def test_a_stop_in_the_middle_of_a_replacement(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    with server.connect_to(0) as slow, server.connect_to(0) as waiting:
        slow.sendall(b"1 slow 1\n")
        assert ask(waiting, b"1 who x").startswith(b"1 x")
        os.kill(server.shard_pids()[1], signal.SIGTERM)
        waiting.sendall(b"after 0.3 1 who x\n")  # by then it is held
        server.send(signal.SIGTERM)
        assert slow.recv(100) == b"1 1\n"
        assert waiting.recv(100).startswith(b"1 x")
        assert server.wait_exit() == 0


LOAD = 4


def test_hup_under_load_fails_no_call_of_a_peer(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    before = server.shard_pids()
    answers: Counter[str] = Counter()
    done = threading.Event()

    def requests() -> None:
        while not done.wait(0.003):
            # A handler that waits for the next line reads its end when the shard stops: a client that is late comes again. What
            # a call raises closes a connection, too, and is in the log.
            with server.connect() as client, contextlib.suppress(ConnectionError):
                for peer in (0, 1):
                    answers[ask(client, b"%d slow 0.002" % peer).decode()] += 1

    threads = [threading.Thread(target=requests) for _ in range(LOAD)]
    for thread in threads:
        thread.start()
    try:
        for round in (2, 3):
            server.send(signal.SIGHUP)
            server.wait_log("shard 1 ready", round)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {"0 0.002", "1 0.002"}
    assert sum(answers.values()) > 20
    assert all(before[shard] != pid for shard, pid in server.shard_pids().items())
    assert server.stop() == 0
    assert "killed" not in server.log
    assert "Traceback" not in server.log


def test_a_crash_loop_of_one_shard_leaves_nothing_mapped_in_the_other(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()

    def held(pid: int) -> tuple[int, int]:
        with open(f"/proc/{pid}/maps") as maps:
            return len(os.listdir(f"/proc/{pid}/fd")), sum("memfd" in line for line in maps)

    with server.connect_to(0) as client:
        ask(client, b"1 who x")
        before = held(server.shard_pids()[0])
        for round in range(3):
            os.kill(server.shard_pids()[1], signal.SIGKILL)
            server.wait_log("shard 1 ready", round + 2)
            assert ask(client, b"1 who x").startswith(b"1 x")
        assert held(server.shard_pids()[0]) == before


# With room for so many connections; and for no descriptor at all while there is a file of the name "none".
STARVED_CALLS = CALLS.replace(
    "    await shard.start_server(handle)",
    """
    import resource, threading, time
    await shard.start_server(handle)
    limit, (_, hard) = len(os.listdir("/proc/self/fd")) + 30, resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

    def limit_to_none():
        while not os.path.exists("none"):
            time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        print("none", flush=True)
        while os.path.exists("none"):
            time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        print("some", flush=True)

    if shard.id == 0:
        threading.Thread(target=limit_to_none, daemon=True).start()
""",
)


def test_a_flood_that_takes_every_descriptor_does_not_part_a_shard_from_its_neighbours(serve: Serve) -> None:
    server = serve(STARVED_CALLS, "--shards", "2", "--distribution", "least-connections")
    server.wait_serving()
    with server.connect_to(0) as client, contextlib.ExitStack() as stack:
        before = server.shard_pids()
        flood = [stack.enter_context(server.connect()) for _ in range(100)]
        server.wait_log(r"\[shard 0\] no connection can be accepted: Too many open files")
        for round in range(3):  # more often than any reserve would last that is not filled again
            os.kill(server.shard_pids()[1], signal.SIGKILL)
            server.wait_log("shard 1 ready", round + 2)
            assert ask(client, b"1 who x").startswith(b"1 x")  # while it lasts
        for connection in flood:
            connection.close()
        assert ask(client, b"1 who x").startswith(b"1 x")
        assert ask(client, b"1 round 0") == b"1 0 1 and back"  # and back again
        assert server.shard_pids()[0] == before[0]
    assert server.stop() == 0


def test_a_link_for_which_there_is_no_descriptor_at_all_is_made_as_soon_as_there_is(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(STARVED_CALLS, "--shards", "2")
    server.wait_serving()
    none = tmp_path / "none"
    with server.connect_to(0) as client, server.connect_to(0) as other:
        none.touch()
        server.wait_log("none\\n")
        os.kill(server.shard_pids()[1], signal.SIGKILL)
        server.wait_log("shard 1 ready", 2)
        server.wait_log("no descriptor is left for what Connect brings")
        assert ask(client, b"1 who x") == b"ShardDown"
        none.unlink()
        eventually(lambda: ask(client, b"1 who x").startswith(b"1 x"), "the link is made")
        with server.connect_to(1) as newcomer:
            assert ask(newcomer, b"0 who y").startswith(b"0 y")
        assert ask(other, b"1 round 0") == b"1 0 1 and back"
    assert server.stop() == 0


def test_a_pair_whose_ring_is_broken_gets_new_ones(serve: Serve) -> None:
    server = serve(CALLS, "--shards", "3")
    server.wait_serving()
    pids = server.shard_pids()
    with server.connect_to(0) as client, server.connect_to(1) as other:
        # Shard 1 breaks its ring to 0. Whoever waits at either end is told.
        client.sendall(b"1 slow 30\n")
        other.sendall(b"0 slow 30\n")
        with server.connect_to(1) as witness:  # its answer proves that the call before it has been sent
            assert ask(witness, b"0 who x").startswith(b"0 x")
        with server.connect_to(0) as breaker:
            assert ask(breaker, b"1 scribble 0") == b"ShardDied"
        server.wait_log("shard 1 broke the rules of its ring to shard 0")
        assert client.recv(100) == b"ShardDied\n"
        assert other.recv(100) == b"ShardDied\n"
        for source, connection in enumerate((client, other)):
            for destination in range(3):
                assert ask(connection, b"%d who again" % destination).startswith(b"%d again" % destination), source
    assert server.shard_pids() == pids, "nobody was restarted"
    assert server.stop() == 0


def test_a_shard_that_runs_another_version_of_a_service_says_so(serve: Serve, tmp_path: Path) -> None:
    """As it is while shards are replaced one by one: the file has changed, and shard 1 alone has read it again."""
    server = serve(CALLS, "--shards", "2")
    server.wait_serving()
    (tmp_path / "app.py").write_text(
        CALLS.replace("who(self, argument: str) -> str", "who(self, argument: bytes, more: int = 1) -> str")
    )
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    server.wait_log("shard 1 ready", 2)
    told = r"shard {} and shard {} run different versions of app.Service: who differs: who\(argument: {}\) -> str here"
    server.wait_log(told.format(0, 1, "str"))
    server.wait_log(told.format(1, 0, "bytes, more: int = 1"))
    for source in (0, 1):
        with server.connect_to(source) as client:
            assert ask(client, b"%d who x" % (1 - source)) == b"SchemaMismatch"
            assert ask(client, b"%d slow 0" % (1 - source)) == b"%d 0" % (1 - source), "other methods are the same"
    (tmp_path / "app.py").write_text(CALLS)
    server.send(signal.SIGHUP)
    server.wait_log("shard 0 ready", 2)
    server.wait_log("shard 1 ready", 3)
    with server.connect_to(0) as client:
        assert ask(client, b"1 who x").startswith(b"1 x")
    assert server.stop() == 0


# A line is evaluated: `there` is the service on the other shard.
OLD = """
import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple
import msgspec
import clockworker as cw

class Row(msgspec.Struct):
    a: int

class Size(NamedTuple):
    width: int
    height: int

class Service:
    def __init__(self, shard):
        self.notes = []

    @cw.remote
    async def get(self, key: int) -> int:
        return key

    @cw.remote
    async def suspended(self, key: int) -> int:
        await asyncio.sleep(0)
        return key

    @cw.remote
    async def less(self, key: int, fallback: int = 7) -> int:
        return key + fallback

    @cw.remote
    async def row(self, row: Row) -> Row:
        return row

    @cw.remote
    async def rows(self, count: int) -> AsyncIterator[Row]:
        for number in range(count):
            yield Row(number)

    @cw.remote
    async def note(self, key: int) -> None:
        self.notes.append(key)

    @cw.remote
    async def noted(self) -> list[int]:
        return self.notes

    @cw.remote
    async def wide(self, key: int) -> int:
        return key

    @cw.remote
    async def size(self, size: Size) -> int:
        return size.width

@cw.remote
async def function(x: int) -> list[int]:
    return [x]

async def main(shard):
    service = await shard.start(Service)

    async def handle(reader, writer):
        there, peer, send = service.on(1 - shard.id, timeout=10), 1 - shard.id, service.send
        async def listed(stream):
            return [each async for each in stream]
        def call(*args, **kwargs):
            return shard.call(peer, function, *args, **kwargs)
        while line := await reader.readline():
            try:
                if line == b"hello\\n":
                    answer = f"{shard.id} hello"
                else:
                    answer = await eval(line, {**globals(), **locals()})
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            writer.write(f"{answer}\\n".encode())

    await shard.start_server(handle)
    await shard.wait_stopped()
"""
NEW = (
    OLD.replace("    a: int\n", "    a: int\n    b: int = 3\n")
    .replace("get(self, key: int)", "get(self, key: int, default: int = 5, *, extra: str = 'x')")
    .replace("        return key\n", "        return key + default\n", 1)
    .replace("suspended(self, key: int)", "suspended(self, first: int = 1, *, key: int)")
    .replace("        return key\n", "        return 10 * key + first\n", 1)
    .replace("less(self, key: int, fallback: int = 7)", "less(self, key: int)")
    .replace("key + fallback", "key")
    .replace("rows(self, count: int)", "rows(self, count: int, more: int = 1)")
    .replace("range(count)", "range(count + more)")
    .replace("note(self, key: int)", "note(self, key: int, times: int = 2)")
    .replace("self.notes.append(key)", "self.notes.extend([key] * times)")
    .replace("wide(self, key: int)", "wide(self, key: int | None)")
    .replace("    width: int\n    height: int\n", "    height: int\n    width: int\n")
    .replace("function(x: int)", "function(x: int, y: int = 1)")
    .replace("return [x]", "return [x] * y")
)

FROM_OLD = {
    "there.get(1)": "6",
    "there.suspended(1)": "11",
    "there.less(1)": "1",
    "there.less(1, 7)": "1",
    "there.less(1, 8)": "SchemaMismatch: Service.less was given fallback, which shard 0 knows",
    "there.less(1, fallback=True)": "SchemaMismatch: Service.less was given fallback",
    "there.row(Row(1))": "Row(a=1)",
    "listed(there.rows(1))": "[Row(a=0), Row(a=1)]",
    "send(peer, Service.note, 4)": "None",
    "there.noted()": "[4, 4]",
    "there.wide(1)": "1",
    "there.size(Size(1, 2))": "SchemaMismatch: app.Service: size differs",
    "call(3)": "[3]",
}
FROM_NEW = {
    "there.get(1)": "1",
    "there.get(1, 5, extra='x')": "1",
    "there.get(1, 6)": "SchemaMismatch: Service.get was given default, which shard 1 knows",
    "there.get(1, extra='y')": "SchemaMismatch: Service.get was given extra, which shard 1 knows and the shard that it called "
    "does not; that has Service.get(key: int) -> int",
    "there.suspended(key=2)": "2",
    "there.less(1)": "8",
    "there.row(Row(1, 9))": "Row(a=1, b=3)",
    "listed(there.rows(1))": "[Row(a=0, b=3)]",
    "listed(there.rows(1, 5))": "SchemaMismatch: Service.rows was given more",
    "send(peer, Service.note, 4)": "None",
    "send(peer, Service.note, 4, 3)": "None",
    "there.noted()": "[4]",
    "there.wide(1)": "SchemaMismatch: app.Service: wide differs",
    "there.size(Size(1, 2))": "SchemaMismatch: app.Service: size differs",
    "call(3)": "[3]",
    "call(3, 2)": "SchemaMismatch: app.function was given y, which shard 1 knows",
}


def test_versions_that_understand_each_other(serve: Serve, tmp_path: Path) -> None:
    """Shard 1 runs the new one. Whatever is answered means the same on both."""
    server = serve(OLD, "--shards", "2")
    server.wait_serving()
    (tmp_path / "app.py").write_text(NEW)
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    server.wait_log("shard 1 ready", 2)
    for source, cases in ((0, FROM_OLD), (1, FROM_NEW)):
        with server.connect_to(source) as client:
            for line, answer in cases.items():
                said = ask(client, line.encode()).decode()
                assert said == answer or (answer.startswith("SchemaMismatch") and said.startswith(answer)), line
    server.wait_log("Service.note, sent by shard 1, failed")
    server.wait_log("Service.note was given times, which shard 1 knows")
    differ = r"shard 0 and shard 1 run different versions of app.Service: (\w+) differs"
    assert set(re.findall(differ, server.log)) == {"size", "wide"}
    assert server.stop() == 0


FUNCTIONS = """
import asyncio, os, threading, time
import clockworker as cw

@cw.remote
async def made_here(text: str) -> str:
    return f"{os.environ['CLOCKWORKER_SHARD_ID']} {text}"

async def main(shard):
    def in_a_thread(peer):
        return shard.call_threadsafe(peer, made_here, "from a thread").result(10)

    def slow(seconds):
        time.sleep(seconds)
        print("the blocking function is done", flush=True)
        return threading.current_thread() is threading.main_thread()

    async def handle(reader, writer):
        while line := await reader.readline():
            match line.split():
                case [b"hello"]:
                    answer = f"{shard.id} hello"
                case [b"call", peer]:
                    answer = await shard.call(int(peer), made_here, "a call")
                case [b"thread", peer]:
                    answer = await shard.run_blocking(in_a_thread, int(peer))
                case [b"block", seconds]:
                    answer = await shard.run_blocking(slow, float(seconds))
                case [b"leave", seconds]:
                    task = asyncio.ensure_future(shard.run_blocking(slow, float(seconds)))
                    await asyncio.sleep(0.02)
                    task.cancel()
                    answer = "left"
            writer.write(f"{answer}\\n".encode())

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


def test_functions_and_threads(serve: Serve) -> None:
    server = serve(FUNCTIONS, "--shards", "2")
    server.wait_serving()
    with server.connect_to(0) as client:
        for peer in (0, 1):
            assert ask(client, b"call %d" % peer) == b"%d a call" % peer
            assert ask(client, b"thread %d" % peer) == b"%d from a thread" % peer
        assert ask(client, b"block 0") == b"False"
    assert server.stop() == 0


def test_what_blocks_is_waited_for_at_the_stop_even_if_its_caller_has_left(serve: Serve) -> None:
    server = serve(FUNCTIONS, "--shards", "1")
    server.wait_serving()
    with server.connect_to(0) as client:
        assert ask(client, b"leave 0.5") == b"left"
    assert server.stop() == 0
    assert "the blocking function is done" in server.log


LINE_OF_THREADS = """
import asyncio, time
import clockworker as cw

def never():
    time.sleep(1000)

class Files:
    def __init__(self, shard):
        self.shard = shard

    @cw.remote
    async def read(self, number: int) -> int:
        await self.shard.run_blocking(time.sleep, 0.1)
        return number

async def main(shard):
    files = await shard.start(Files)

    async def call(number):
        try:
            print("ANSWER", await files.on(1).read(number), flush=True)
        except Exception as error:
            print("ANSWER", repr(error), flush=True)

    async def handle(reader, writer):
        while line := await reader.readline():
            if line == b"never\\n":
                asyncio.ensure_future(shard.run_blocking(never))
                writer.write(b"it runs\\n")

    await shard.start_server(handle)
    calls = [asyncio.create_task(call(number)) for number in range(6)] if shard.id == 0 else []
    await shard.wait_stopped()
    if calls:
        await asyncio.wait(calls)
        await call(6)  # of a peer that may have drained already
"""


def test_calls_that_wait_for_a_thread_are_answered_at_the_stop(serve: Serve) -> None:
    server = serve(LINE_OF_THREADS, "--shards", "2", "--blocking-threads", "1")
    server.wait_serving()
    assert server.stop() == 0
    assert re.findall(r"ANSWER (.*)", server.log) == [str(number) for number in range(7)]


def test_a_function_that_never_returns_is_named_and_ends_with_the_grace(serve: Serve) -> None:
    server = serve(LINE_OF_THREADS, "--shards", "1", "--timeout-graceful-shutdown", "4")
    server.wait_serving()
    with server.connect() as client:
        assert ask(client, b"never") == b"it runs"
    assert server.stop() == 0
    assert re.search(r"\[shard 0\] the stop waits for threads: app\.never \(.* s, at app.py:6\)", server.log)
    assert "shard 0 still had work 4 s after it was told to stop: killed" in server.log
