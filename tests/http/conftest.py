from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shards.servers import Serve


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    serve = Serve(tmp_path, spares=False)
    yield serve
    serve.clean_up()
