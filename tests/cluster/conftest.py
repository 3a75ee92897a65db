"""What the tests of a cluster take from those of one machine: `tests/ipc` has no package, its modules are found by a path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.servers import NatsServer, one_server
from tests.cluster.whole import Node

sys.path.append(str(Path(__file__).parent.with_name("ipc")))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[NatsServer]:
    """A server with nothing in it."""
    with one_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def start(tmp_path: Path, own: NatsServer) -> Iterator[Callable[..., Node]]:
    """Starts a node of this name at that server; it ends with the test."""
    nodes: list[Node] = []

    def start(name: str, **changes: object) -> Node:
        node = Node(tmp_path, name, [own.url], **changes)  # type: ignore[arg-type]
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.end()
