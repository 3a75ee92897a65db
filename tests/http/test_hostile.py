"""A server over sockets, and clients that want it to be wrong: to answer what is no request, to wait for them for ever, to keep
what they send. What is refused, and how it is told, is in `test_connection`; here the client must get to see it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http import hostile
from tests.http.hostile import Client, ask, drain, many, memory, never_reading
from tests.http.test_connection import BROKEN_BODIES, GET, REFUSED, head
from tests.shards.servers import DEADLINE, Serve, Server, eventually

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that is asked all of this."""
    serve = Serve(tmp_path_factory.mktemp("hostile"), forked=False)  # its memory is looked at
    server = serve(hostile.APPLICATION, "--spares", "0", "--shards", "1", *hostile.OPTIONS, app="app:app")
    server.wait_serving()
    yield server
    assert server.process.poll() is None
    serve.clean_up()


@pytest.fixture(scope="module")
def shard(server: Server) -> Iterator[int]:
    """Its pid, which stays."""
    pid = server.shard_pids()[0]
    yield pid
    assert server.shard_pids() == {0: pid}


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """All that is answered until the connection ends. A reset fails: it may have taken an answer with it."""
    with socket.create_connection(address, timeout=DEADLINE) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
        return answer


def statuses(answer: bytes) -> list[int]:
    return [int(line[:3]) for line in answer.split(b"HTTP/1.1 ")[1:]]


def test_what_is_smuggled_is_not_run_and_the_refusal_is_seen(server: Server) -> None:
    smuggled = head("GET /smuggled HTTP/1.1", "Host: a")
    broken = [
        head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + body for body in BROKEN_BODIES.values()
    ]
    for request in [*REFUSED.values(), *broken]:
        answer = exchange(server.address, request + smuggled * 3)
        assert statuses(answer)[-1:] in ([400], [200]), (request, answer)
        assert len(statuses(answer)) == 1, (request, answer)
    assert b"/smuggled" not in asyncio.run(ask(server.address, "/seen")).split()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head("GET / HTTP/1.1", "Host: a", "X: " + "a" * 65_536), 431),
        (head("GET / HTTP/1.1", "Host: a", *["X: a"] * 1_000), 431),
        (head("GET /" + "a" * 65_536 + " HTTP/1.1", "Host: a"), 414),
        (head("GET / HTTP/1.1", "Host: a") + b"X: " + b"a" * 10_000_000, 200),
        (head("POST / HTTP/1.1", "Host: a", "Content-Length: 10000000", "Connection: close") + b"x" * 10_000_000, 200),
    ],
    ids=["long header", "many headers", "long target", "long header behind a request", "body that nobody reads"],
)
def test_what_is_too_large_is_answered(server: Server, request_: bytes, status: int) -> None:
    """A client that goes on sending sees the answer all the same."""
    with socket.create_connection(server.address, timeout=DEADLINE) as connection:
        answer = b""
        try:
            connection.sendall(request_)
        except (BrokenPipeError, ConnectionResetError):
            assert len(request_) > 5_000_000, "only a client that sends very much is not listened to"
            return
        while part := connection.recv(65_536):
            answer += part
    assert statuses(answer)[0] == status


def test_an_answer_is_whole_though_its_connection_ends_before_all_was_read(server: Server) -> None:
    """What a client has sent behind its last request is unread when the answer has been written. To close then would be a
    reset, which takes the rest of the answer with it."""
    last = head("GET /large/200 HTTP/1.0")
    answer = exchange(server.address, head("GET /large/1 HTTP/1.1", "Host: a") + last + GET * 3_000)
    assert answer.count(b"x" * 65_536) == 201


@pytest.mark.parametrize(
    ("client", "answer"),
    [
        (hostile.slow_head, b"HTTP/1.1 408 "),
        (hostile.slow_line, b"HTTP/1.1 408 "),
        (hostile.silent_body, b""),
        (hostile.slow_chunk_sizes, b""),
        (hostile.idle, b""),
        (hostile.idle_after_an_answer, b"HTTP/1.1 200 "),
        (hostile.empty_lines, b""),
    ],
)
def test_clients_that_take_their_time_are_ended_and_others_answered(
    server: Server, shard: int, client: Client, answer: bytes
) -> None:
    before = memory(shard)
    answers, _ = asyncio.run(asyncio.wait_for(many(server.address, client, 100), DEADLINE))
    assert all(each.startswith(answer) for each in answers if each != b"reset"), set(answers)
    assert not answer or b"reset" not in answers
    assert memory(shard) < before + 20 * MIB


def test_clients_that_take_nothing_are_ended_and_cost_little(server: Server, shard: int) -> None:
    before = memory(shard)
    connections = never_reading(server.address, 30)
    try:
        assert asyncio.run(ask(server.address)) == b"ok"
        assert memory(shard) < before + 20 * MIB  # of 2 GB
        eventually(lambda: open_connections(shard, server) == 0, "the end of connections whose client takes nothing")
        assert all(drain(connection)[0] < 1_000 * 65_536 for connection in connections)
    finally:
        for connection in connections:
            connection.close()


def open_connections(shard: int, server: Server) -> int:
    """Of the shard's sockets those that have a client."""
    inodes = {
        Path(f"/proc/{shard}/fd/{fd}").readlink().name
        for fd in (entry.name for entry in Path(f"/proc/{shard}/fd").iterdir())
        if Path(f"/proc/{shard}/fd/{fd}").exists() or Path(f"/proc/{shard}/fd/{fd}").is_symlink()
    }
    port = f":{server.address[1]:04X} "
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(
        f"socket:[{line.split()[9]}]" in inodes and port in f"{line.split()[1]} " and line.split()[3] == "01"
        for line in lines
    )


@pytest.mark.parametrize(
    "piece",
    [b"X: y\r\n", b"a" * 65_536, b"X: " + b"a" * 65_536],
    ids=["trailers", "a trailer's name", "trailers' values"],
)
def test_what_never_ends_is_not_kept(server: Server, shard: int, piece: bytes) -> None:
    start = head("POST /read HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + b"0\r\n"
    before = memory(shard)
    with socket.create_connection(server.address, timeout=DEADLINE) as connection:
        try:
            connection.sendall(start)
            for _ in range(50 * MIB // len(piece)):
                connection.sendall(piece)
            answer = connection.recv(65_536)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert answer[:13] in (b"HTTP/1.1 431 ", b"HTTP/1.1 400 ", b"")
    assert memory(shard) < before + 10 * MIB


def test_a_flood_of_pipelined_requests_is_answered_and_not_kept(server: Server, shard: int) -> None:
    before = memory(shard)
    count = 20_000

    async def flood() -> int:
        reader, writer = await asyncio.open_connection(*server.address)

        async def send() -> None:
            for _ in range(count // 100):
                writer.write(GET * 100)
                await writer.drain()

        sending = asyncio.create_task(send())
        answered = 0
        tail = b""
        most = 0
        while answered < count:
            data = tail + await reader.read(65_536)
            assert len(data) > len(tail), f"the connection ended after {answered} answers"
            answered += data.count(b"HTTP/1.1 200 OK\r\n")
            tail = data[data.rfind(b"HTTP/1.1") :] if b"HTTP/1.1" in data[-200:] else data[-16:]
            answered -= tail.count(b"HTTP/1.1 200 OK\r\n")
            if answered + 1 >= count:
                break
            most = max(most, memory(shard))
        await sending
        writer.close()
        return most

    assert asyncio.run(asyncio.wait_for(flood(), DEADLINE)) < before + 20 * MIB
