from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shards.forked import ForkedCommand
from tests.shards.servers import Serve


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    serve = Serve(tmp_path)
    yield serve
    serve.clean_up()


@pytest.fixture(scope="session")
def command() -> Iterator[ForkedCommand]:
    command = ForkedCommand()
    yield command
    command.close()
