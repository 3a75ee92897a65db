"""Keys that outlive a replacement of their shard."""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest

from examples.kv._store import Store
from tests.examples.kv_server import DEADLINE_S, Server, eventually, start_kv

SHARDS = [1, 2]


def replace(server: Server, shards: int) -> None:
    before = {shard["pid"] for shard in server.shards()}
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.log().count(" stopped after ") >= shards, 2 * DEADLINE_S)
    assert not before & {shard["pid"] for shard in server.shards()}


@pytest.mark.parametrize("shards", SHARDS)
def test_keys_and_their_deadlines_outlive_a_replacement(shards: int) -> None:
    server = start_kv(shards, "keeping")
    with server.client() as client:
        for number in range(5_000):
            client.execute_command("SET", f"key:{number}", "x" * (number % 700))
        client.execute_command("SET", "lasts", "long", "EX", 1_000)
        client.execute_command("SET", "ends", "soon", "PX", 400)
    replace(server, shards)
    with server.client() as client:
        for number in range(5_000):
            assert client.execute_command("GET", f"key:{number}") == b"x" * (number % 700)
        assert 900 < client.execute_command("TTL", "lasts") <= 1_000
        eventually(lambda: client.execute_command("DBSIZE") == 5_001)
        cursor, found = b"0", set()
        while True:
            cursor, keys = client.execute_command("SCAN", cursor, "COUNT", 1_000)
            found |= set(keys)
            if cursor == b"0":
                break
        assert len(found) == 5_001
    assert server.stop() == 0


def test_every_increment_that_was_acknowledged_is_there_whoevers_key_it_is() -> None:
    """Pipelines on connections that stay open, with keys of both shards."""
    server = start_kv(2, "keeping")
    done = threading.Event()
    counts: dict[str, int] = {}
    wrong: list[str] = []

    def count(name: int) -> None:
        keys = [f"{name}:{number}" for number in range(20)]
        pick = random.Random(name)
        while not done.wait(0.003):
            try:
                with server.client() as client:
                    for _ in range(pick.randrange(1, 20)):
                        some = pick.sample(keys, 5)
                        pipeline = client.pipeline(transaction=False)
                        pipeline.response_callbacks.clear()
                        for key in some:
                            pipeline.execute_command("INCR", key)
                        for key, answer in zip(some, pipeline.execute(), strict=True):
                            counts[key] = counts.get(key, 0) + 1
                            if answer != counts[key]:
                                wrong.append(f"{key}: {answer}, and not {counts[key]}")
                                return
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
                return

    threads = [threading.Thread(target=count, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    replace(server, 2)
    done.set()
    for thread in threads:
        thread.join()
    # A client between two pipelines cannot know that its connection is just being closed.
    wrong = [each for each in wrong if not each.startswith(("ConnectionError", "ConnectionResetError"))]
    assert wrong == []
    with server.client() as client:
        for key, value in counts.items():
            assert int(client.execute_command("GET", key)) == value, key
    assert server.stop() == 0


def test_keys_of_the_plain_one_die_with_their_shard() -> None:
    server = start_kv(1)
    with server.client() as client:
        client.execute_command("SET", "key", "value")
    replace(server, 1)
    with server.client() as client:
        assert client.execute_command("GET", "key") is None
    assert server.stop() == 0


def test_a_store_is_taken_apart_and_put_together() -> None:
    now = 1_000
    store = Store(lambda: now)
    for number in range(1_000):
        store.set(b"%d" % number, b"x" * number)
        if number % 3 == 0:
            store.set_deadline(b"%d" % number, 1_000 + number + 1)
    parts = [*store.items(10_000)]
    assert len(parts) > 20
    assert all(sum(len(key) + len(value) for key, value in values.items()) < 11_100 for values, _ in parts)
    other = Store(lambda: now)
    for values, deadlines_ms in parts:
        other.load(values, deadlines_ms)
    assert len(other) == len(store) == 1_000
    assert other.expiring == store.expiring
    now = 1_500
    assert other.sweep(10_000) == store.sweep(10_000) == 167
    assert [other.get(b"%d" % number) for number in range(1_000)] == [
        store.get(b"%d" % number) for number in range(1_000)
    ]
    found, bucket = 0, 0
    while True:
        bucket, keys = other.scan(bucket, 100)
        found += len(keys)
        if not bucket:
            break
    assert found == len(other)
