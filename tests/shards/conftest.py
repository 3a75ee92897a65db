from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shards.forked import ForkedCommand
from tests.shards.servers import Serve

# Whose servers are started as users start them, for they are about what a process has from its start.
STARTED = {
    "behaviour", "hostile_environment", "processes", "small_errors", "sockets", "spares", "supervisor", "terminal", "umask",
}  # fmt: skip


@pytest.fixture
def serve(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Serve]:
    serve = Serve(tmp_path, forked=request.path.stem.removeprefix("test_") not in STARTED)
    yield serve
    serve.clean_up()


@pytest.fixture(scope="session")
def command() -> Iterator[ForkedCommand]:
    command = ForkedCommand()
    yield command
    command.close()
