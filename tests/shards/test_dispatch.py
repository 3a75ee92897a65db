"""Least connections: the supervisor accepts and hands over, and no connection is lost on the way."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.shards.servers import ECHO, ROOM, STARVED, Serve, Server, ask, at_best, eventually

HANDED = ("--distribution", "least-connections")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(serve: Serve, *arguments: str, source: str = ECHO, shards: int = 2) -> Server:
    server = serve(source, "--shards", str(shards), *HANDED, *arguments)
    server.wait_serving()
    return server


def connect(server: Server, opened: ExitStack, count: int) -> list[socket.socket]:
    return [opened.enter_context(server.connect()) for _ in range(count)]


def where(connection: socket.socket) -> int:
    return int(ask(connection, b"hello").split()[0])


def test_the_shard_with_the_fewest_is_next(serve: Serve) -> None:
    server = started(serve, shards=3)

    def counts() -> list[int]:
        with ExitStack() as opened:
            shards = [where(connection) for connection in connect(server, opened, 30)]
        return [shards.count(shard) for shard in range(3)]

    assert at_best(counts, [10, 10, 10]) == [10, 10, 10]


def test_every_kind_of_socket(serve: Serve, opened: ExitStack, tmp_path: object) -> None:
    inherited = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    binds = ("--port", "0", "--bind", f"unix:{tmp_path}/s", "--fd", str(inherited.fileno()))
    server = serve(ECHO, "--shards", "2", *HANDED, bind=binds, fds=[inherited.fileno()])
    server.wait_serving()

    def counts() -> list[int]:
        with ExitStack() as opened:
            connections = connect(server, opened, 2)
            for _ in range(2):
                connections.append(opened.enter_context(socket.socket(socket.AF_UNIX)))
                connections[-1].connect(f"{tmp_path}/s")
                connections.append(opened.enter_context(socket.create_connection(inherited.getsockname())))
            shards = [where(connection) for connection in connections]
        return [shards.count(shard) for shard in range(2)]

    assert at_best(counts, [3, 3]) == [3, 3]
    assert server.stop() == 0


def test_what_a_killed_shard_had_not_taken_goes_to_another(serve: Serve, opened: ExitStack) -> None:
    server = started(serve)
    pid = server.shard_pids()[1]
    os.kill(pid, signal.SIGSTOP)
    connections = connect(server, opened, 4)  # soon enough after it that two of them are handed to the stopped one
    os.kill(pid, signal.SIGKILL)
    assert {where(connection) for connection in connections} <= {0, 1}


def test_a_shard_that_stalls_is_spared(serve: Serve, opened: ExitStack) -> None:
    server = started(serve)
    os.kill(server.shard_pids()[1], signal.SIGSTOP)
    server.wait_log("shard 1 .* the process is stopped by a signal")
    assert {where(connection) for connection in connect(server, opened, 5)} == {0}
    os.kill(server.shard_pids()[1], signal.SIGCONT)
    eventually(lambda: where(connect(server, opened, 1)[0]) == 1, "it is spared no longer")


def test_at_the_limit_connections_wait_until_there_is_room(serve: Serve, opened: ExitStack) -> None:
    server = started(serve, "--max-connections", "3")
    first = connect(server, opened, 6)
    assert sorted(map(where, first)) == [0, 0, 0, 1, 1, 1]
    late = connect(server, opened, 1)[0]
    late.sendall(b"late\n")
    late.settimeout(0.3)
    with pytest.raises(TimeoutError):
        late.recv(100)
    freed = where(first[0])
    first[0].close()
    late.settimeout(60)
    assert late.recv(100) == b"%d late\n" % freed


def test_what_waits_while_all_are_full_is_served_before_the_stop(serve: Serve, opened: ExitStack) -> None:
    """More than the lines to the shards hold: they are read, whatever the limit."""
    server = started(serve, "--max-connections", "2")
    first = connect(server, opened, 4)
    assert sorted(map(where, first)) == [0, 0, 1, 1]
    late = connect(server, opened, 600)
    for connection in late:
        connection.sendall(b"late\n")
    assert server.stop() == 0
    assert {connection.recv(100) for connection in late} <= {b"0 late\n", b"1 late\n"}
    assert [connection.recv(100) for connection in (*first, *late)] == [b""] * 604
    assert server.warnings() == []


def test_what_no_shard_takes_before_the_stop_is_closed_and_counted(serve: Serve, opened: ExitStack) -> None:
    server = started(serve, "--timeout-graceful-shutdown", "0.5", shards=1)
    os.kill(server.shard_pids()[0], signal.SIGSTOP)
    server.wait_log("shard 0 .* the process is stopped by a signal")
    late = connect(server, opened, 3)
    server.stop()
    assert [connection.recv(100) for connection in late] == [b""] * 3
    assert "3 connections that waited were closed: no shard took them" in server.log


def test_the_time_of_handing_over_is_a_part_of_the_grace(serve: Serve, opened: ExitStack) -> None:
    server = started(serve, "--timeout-graceful-shutdown", "5", shards=1)
    os.kill(server.shard_pids()[0], signal.SIGSTOP)
    server.wait_log("shard 0 .* the process is stopped by a signal")
    late = connect(server, opened, 3)
    server.send(signal.SIGTERM)
    server.wait_log("connections that waited were closed")  # after the whole grace
    closed = time.monotonic()
    server.wait_log("shard 0 still had work 5 s after it was told to stop: killed")
    assert time.monotonic() - closed < 4.0, "and not another one"
    assert server.wait_exit() == 0
    assert len(late) == 3


def test_a_shard_without_descriptors_leaves_connections_to_wait(serve: Serve, opened: ExitStack) -> None:
    server = started(serve, source=STARVED, shards=1)
    clients = connect(server, opened, 2 * ROOM)
    for client in clients:
        client.sendall(b"hello\n")
    server.wait_log("no connection can be accepted: Too many open files")
    for client in clients:
        assert client.recv(100) == b"0 hello\n"
        client.close()


def test_without_descriptors_the_rest_is_served_before_the_stop_as_they_become_free(
    serve: Serve, opened: ExitStack
) -> None:
    server = started(serve, source=STARVED, shards=1)
    clients = connect(server, opened, 4 * ROOM)
    for client in clients:
        client.sendall(b"hello\n")
    server.wait_log("no connection can be accepted: Too many open files")
    assert server.stop() == 0
    for client in clients:
        assert client.recv(100) == b"0 hello\n"
        assert client.recv(100) == b""
    assert server.warnings() == []


def test_a_supervisor_without_descriptors_accepts_the_rest_before_the_stop_as_it_hands_them_over(
    serve: Serve, opened: ExitStack
) -> None:
    few = ("sh", "-c", 'ulimit -n 100; exec "$@"', "sh")
    server = serve(ECHO, "--shards", "1", *HANDED, "--max-connections", "2", under=few)
    server.wait_serving()
    assert list(map(where, connect(server, opened, 2))) == [0, 0]
    late = connect(server, opened, 200)
    for connection in late:
        connection.sendall(b"late\n")
    assert server.stop() == 0
    assert {connection.recv(100) for connection in late} == {b"0 late\n"}


def test_hup_and_kill_under_load(serve: Serve) -> None:
    server = started(serve)
    failed: list[Exception] = []
    answered = 0
    done = threading.Event()

    def requests() -> None:
        nonlocal answered
        while not done.wait(0.003):
            try:
                with server.connect() as client:
                    ask(client, b"hello")
                answered += 1
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=requests) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        server.send(signal.SIGHUP)
        server.wait_log("shard . ready", 4)
        assert failed == []
        eventually(lambda: answered > 100, "some load")
        assert server.stop() == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert all(isinstance(error, ConnectionRefusedError) for error in failed), failed


PROTOCOL = """
import asyncio

async def main(shard):
    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(b"%d %s" % (shard.id, data))

    class Slots(asyncio.Protocol):
        __slots__ = ("transport",)
        connection_made, data_received = Echo.connection_made, Echo.data_received

    class Upgrades(Echo):
        def data_received(self, data):
            echo = Echo()
            echo.connection_made(self.transport)
            self.transport.set_protocol(echo)
            echo.data_received(data)

    await shard.create_server(KIND)
    await shard.wait_stopped()
"""


@pytest.mark.parametrize("kind", ["Echo", "Slots", "Upgrades"])
def test_the_connections_of_a_protocol_count_too(serve: Serve, opened: ExitStack, kind: str) -> None:
    """Whether or not it can be altered, and though it gives its connection to another."""
    server = started(serve, source=PROTOCOL.replace("KIND", kind))

    def evenly_connected() -> dict[socket.socket, int] | None:
        """A shard that the machine leaves no time stands still for a moment, and then gets none."""
        found = {connection: where(connection) for connection in connect(server, opened, 10)}
        if [*found.values()].count(0) == 5:
            return found
        for connection in found:
            connection.close()
        return None

    connections = eventually(evenly_connected, "five at each shard")
    for connection, shard in connections.items():
        if shard == 0:
            connection.close()
    eventually(lambda: {where(connection) for connection in connect(server, opened, 3)} == {0}, "its places are free")
