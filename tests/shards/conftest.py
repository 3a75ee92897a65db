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
# Whose servers have spare processes all the same.
WITH_SPARES = {"roll", "turnover", "preemption"}


@pytest.fixture
def serve(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Serve]:
    module = request.path.stem.removeprefix("test_")
    serve = Serve(tmp_path, forked=module not in STARTED, spares=module in STARTED | WITH_SPARES)
    yield serve
    serve.clean_up()


@pytest.fixture(scope="session")
def command() -> Iterator[ForkedCommand]:
    command = ForkedCommand()
    yield command
    command.close()
