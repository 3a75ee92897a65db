from __future__ import annotations

from collections.abc import Iterator

import pytest
from kv_server import Server, start_kv, start_redis


@pytest.fixture(scope="session")
def shared_kv() -> Iterator[Server]:
    server = start_kv()
    yield server
    assert server.stop() == 0


@pytest.fixture
def kv(shared_kv: Server) -> Server:
    """A server of two shards, without keys."""
    with shared_kv.client() as client:
        client.execute_command("FLUSHALL")
    return shared_kv


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[Server]:
    server = start_redis()
    yield server
    assert server.stop() == 0


@pytest.fixture
def redis_server(shared_redis: Server) -> Server:
    """Redis itself, without keys."""
    with shared_redis.client() as client:
        client.execute_command("FLUSHALL")
    return shared_redis
