from __future__ import annotations

import os
import random
import signal
import socket
import threading
from zlib import crc32

import psutil
import pytest
import redis
from kv_server import DEADLINE_S, Server, eventually, exchange, request, start_kv

from examples.kv._request import MAX_BULK
from tests.shards.servers import shared_memory

SHARDS = 2
KEYS = [b"key:%d" % number for number in range(200)]


def connect(server: Server, shard: int) -> redis.Redis:
    """A client whose connection is that shard's: connections are numbered so that it shows."""
    while True:
        client = server.client()
        if client.execute_command("CLIENT", "ID") % SHARDS == shard:
            return client
        client.close()


def test_a_pipeline_is_answered_in_order(kv: Server) -> None:
    """Commands on one key, on many, on all shards and on the connection, all as if there were one shard."""
    rng = random.Random(3)
    requests, expected, counts = [], [], dict.fromkeys(KEYS, 0)
    for number in range(2_000):
        key = rng.choice(KEYS)
        match rng.randrange(20):
            case 0:
                requests.append(request(b"DBSIZE"))
                expected.append(b":%d\r\n" % sum(count > 0 for count in counts.values()))
            case 1:
                requests.append(request(b"ECHO", b"%03d" % (number % 1000)))
                expected.append(b"$3\r\n%03d\r\n" % (number % 1000))
            case 2:
                keys = rng.choices(KEYS, k=3)
                requests.append(request(b"EXISTS", *keys))
                expected.append(b":%d\r\n" % sum(counts[key] > 0 for key in keys))
            case 3:
                requests.append(request(b"WHAT"))
                expected.append(b"-ERR unknown command 'WHAT', with args beginning with: \r\n")
            case 4:
                requests.append(request(b"DEL", key))
                expected.append(b":%d\r\n" % (counts[key] > 0))
                counts[key] = 0
            case _:
                counts[key] += 1
                requests.append(request(b"INCR", key))
                expected.append(b":%d\r\n" % counts[key])
    assert exchange(kv.port, b"".join(requests)) == b"".join(expected)


def test_hello_changes_the_protocol_for_what_comes_after_it(kv: Server) -> None:
    answer = exchange(kv.port, b"GET missing\r\nHELLO 3\r\nGET missing\r\nHELLO 2\r\nGET missing\r\n")
    assert answer.startswith(b"$-1\r\n%7\r\n")
    assert b"_\r\n*14\r\n" in answer
    assert answer.endswith(b"$-1\r\n")


def test_large_values_cross_shards(kv: Server) -> None:
    values = {key: bytes([number]) * (1 << 20) for number, key in enumerate(KEYS[:8])}
    with connect(kv, 0) as first, connect(kv, 1) as second:
        first.execute_command("MSET", *[item for key in list(values)[:4] for item in (key, values[key])])
        for key in list(values)[4:]:
            first.execute_command("SET", key, values[key])
        assert second.execute_command("MGET", *values) == list(values.values())
        with second.pipeline(transaction=False) as pipeline:
            for key in values:
                pipeline.execute_command("GET", key)
            assert pipeline.execute() == list(values.values())


def test_the_largest_values_cross_shards(kv: Server) -> None:
    """Together more than fits in a message, one of them at a time."""
    with connect(kv, 0) as first, connect(kv, 1) as second:
        for key in KEYS[:6]:
            first.execute_command("SET", key, key.ljust(MAX_BULK))
        assert second.execute_command("MGET", *KEYS[:6]) == [key.ljust(MAX_BULK) for key in KEYS[:6]]


def test_keys_and_scan_reach_all_shards(kv: Server) -> None:
    with kv.client() as client:
        client.execute_command("MSET", *[item for key in KEYS for item in (key, b"")])
        assert sorted(client.execute_command("KEYS", "*")) == sorted(KEYS)
        assert sorted(client.execute_command("KEYS", "key:1[0-2]")) == [b"key:10", b"key:11", b"key:12"]
        assert client.execute_command("DBSIZE") == len(KEYS)
        found, cursor = [], b"0"
        while not found or cursor != b"0":
            cursor, keys = client.execute_command("SCAN", cursor, "COUNT", 7)
            found += keys
        assert sorted(found) == sorted(KEYS)
        assert client.execute_command("SCAN", 0, "COUNT", 1000, "TYPE", "hash") == [b"0", []]
        assert client.execute_command("SCAN", 2**64 - 1) == [b"0", []]
        client.execute_command("FLUSHALL")
        assert [shard["keys"] for shard in kv.shards()] == ["0", "0"]


def test_expired_keys_are_swept_without_being_asked_for(kv: Server) -> None:
    with kv.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(1_000):
            pipeline.execute_command("SET", f"passing:{number}", "", "PX", 50)
        pipeline.execute_command("SET", "staying", "")
        pipeline.execute()
        eventually(lambda: client.execute_command("DBSIZE") == 1)
        assert client.execute_command("INFO", "keyspace") == b"# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n"


def test_a_protocol_error_closes_that_connection_only(kv: Server) -> None:
    with kv.client() as client:
        client.execute_command("PING")
        assert (
            exchange(kv.port, b"PING\r\n*x\r\nPING\r\n")
            == b"+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n"
        )
        assert client.execute_command("PING") == b"PONG"


@pytest.mark.parametrize("data", [b"PING\r\nQUIT\r\nPING\r\n", b"HELLO 3\r\nQUIT\r\n"])
def test_quit_answers_and_closes(kv: Server, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", kv.port), DEADLINE_S) as sock:
        sock.sendall(data)
        answer = b""
        while chunk := sock.recv(1 << 16):
            answer += chunk
    assert answer.endswith(b"+OK\r\n")


class Load:
    """A client of shard 0 that counts on all keys without pause, in a thread. Remembers how it was answered."""

    def __init__(self, server: Server) -> None:
        self.client = connect(server, 0)
        self.own = [key for key in KEYS if crc32(key) * SHARDS >> 32 == 0]
        self.answered = 0
        self.refused: set[str] = set()
        self.failed_own: list[object] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self.client, self.client.pipeline(transaction=False) as pipeline:
            while not self._stop.wait(0.003):
                for key in KEYS:
                    pipeline.execute_command("INCR", key)
                for key, reply in zip(KEYS, pipeline.execute(raise_on_error=False), strict=True):
                    if isinstance(reply, int):
                        self.answered += 1
                    elif key in self.own:
                        self.failed_own.append(reply)
                    else:
                        self.refused.add(str(reply))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


def test_a_killed_shard_comes_back_and_the_other_goes_on() -> None:
    server = start_kv(SHARDS)
    try:
        load = Load(server)
        try:
            eventually(lambda: load.answered > 1_000)
            before = server.shards()
            os.kill(int(before[1]["pid"]), signal.SIGKILL)
            with connect(server, 0) as client:
                assert client.execute_command("GET", load.own[0]) is not None
                other = next(key for key in KEYS if key not in load.own)

                def shard_1_answers() -> bool:
                    try:
                        return isinstance(client.execute_command("INCR", other), int)
                    except redis.ResponseError:
                        return False

                eventually(shard_1_answers)
            eventually(lambda: server.shards()[1]["status"] == "up")
            after = server.shards()
            answered = load.answered
            eventually(lambda: load.answered > answered + 1_000)
        finally:
            load.stop()
        assert load.failed_own == []
        assert load.refused <= {
            "shard 1 is down",
            "CLUSTERDOWN shard 1 is down",
            "shard 1 died with the command in flight; it may or may not have run",
        }
        assert after[0]["pid"] == before[0]["pid"]
        assert after[1]["pid"] != before[1]["pid"]
        with connect(server, 1) as client:  # which accepts again
            assert client.execute_command("EXISTS", *KEYS) == len(KEYS)
    finally:
        assert server.stop(killed=1) == 0


def test_term_leaves_nothing() -> None:
    before = shared_memory()
    server = start_kv(SHARDS)
    with server.client() as client:  # open, and idle
        client.execute_command("SET", "a", "b")
        processes = server.processes()
        assert server.stop() == 0
    assert [process for process in processes if psutil.pid_exists(process.pid)] == []
    assert shared_memory() <= before
