"""What a server should survive: bytes that mean nothing, or almost something."""

from __future__ import annotations

import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from kv_server import DEADLINE_S, Server, exchange, request

STRINGS = 10_000
WARM_UP = 2_000
CONNECTIONS = 4  # at a time
GROWTH_BYTES = 8 << 20  # allowed for each process, after the warm-up

VALID = [
    request(b"SET", b"key", b"value", b"EX", b"100"),
    request(b"GET", b"key"),
    request(b"MSET", b"a", b"1", b"b", b"2", b"c", b"3"),
    request(b"MGET", b"a", b"b", b"c"),
    request(b"INCRBY", b"a", b"10"),
    request(b"SCAN", b"0", b"MATCH", b"*[a-c]*", b"COUNT", b"100"),
    request(b"HELLO", b"3", b"SETNAME", b"me"),
    request(b"CLIENT", b"SETINFO", b"lib-name", b"noise"),
    request(b"COMMAND", b"INFO", b"get", b"set"),
    b"SET key 'a value' PX 1000\r\nGET key\r\n",
]
PIECES = [
    b"*",
    b"$",
    b"\r\n",
    b"\n",
    b"-1",
    b"0",
    b"1048576",
    b"99999999999999999999",
    b"\0",
    b'"',
    b"'",
    b"*3\r\n$3\r\n",
]


def noise(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(300))
    data = bytearray(b"".join(rng.choices(VALID, k=rng.randrange(1, 5))))
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                data[at:at] = rng.choice(PIECES)
            case 2:
                del data[at : at + rng.randrange(1, 10)]
            case 3:
                data = data[at:] + data[:at]
    return bytes(data)


def throw(server: Server, seed: int, count: int) -> None:
    rng = random.Random(seed)
    for number in range(count):
        data = noise(rng)
        try:
            exchange(server.port, data)
        except OSError as error:
            pytest.fail(f"seed {seed}, string {number}, {data!r}: {error!r}")


def throw_at_once(server: Server, first_seed: int, count: int) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for done in [
            pool.submit(throw, server, first_seed + number, count // CONNECTIONS) for number in range(CONNECTIONS)
        ]:
            done.result()
    with server.client() as client:
        client.execute_command("FLUSHALL")


def test_random_bytes_leave_the_server_alive_and_its_memory_flat(kv: Server) -> None:
    throw_at_once(kv, 0, WARM_UP)
    before = {process.pid: process.memory_info().rss for process in kv.processes()}
    throw_at_once(kv, 100, STRINGS)
    after = {process.pid: process.memory_info().rss for process in kv.processes()}
    assert before.keys() == after.keys()
    assert {pid: after[pid] - before[pid] for pid in after if after[pid] - before[pid] > GROWTH_BYTES} == {}
    assert exchange(kv.port, b"PING\r\n") == b"+PONG\r\n"


def test_a_client_that_does_not_read_is_made_to_wait(kv: Server) -> None:
    """Replies of 512 MiB are asked for and not read: the server stops reading requests instead of piling replies up."""
    with kv.client() as client:
        client.execute_command("SET", "big", bytes(1 << 20))
    before = sum(process.memory_info().rss for process in kv.processes())
    with socket.create_connection(("127.0.0.1", kv.port), DEADLINE_S) as sock:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.sendall(request(b"GET", b"big") * 1_000_000)
        assert exchange(kv.port, b"PING\r\n") == b"+PONG\r\n"
        assert sum(process.memory_info().rss for process in kv.processes()) - before < 1 << 30
