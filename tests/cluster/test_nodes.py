"""Whole nodes on one host: the same application file on one, two and three."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("nats")

from tests.cluster.nodes import Node, key_of, owner_of, wait_all
from tests.cluster.servers import NatsServer, needs_server, one_server

pytestmark = [needs_server, pytest.mark.once]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with one_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[NatsServer]:
    """A server with nothing in it."""
    with one_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def start(tmp_path: Path, own: NatsServer) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(name: str, **changes: object) -> Node:
        node = Node(tmp_path, name, [own.url], **changes)  # type: ignore[arg-type]
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.end()


def test_two_nodes_answer_each_others_calls(start: Callable[..., Node]) -> None:
    nodes = [start("n1", shards=2), start("n2", shards=2)]
    wait_all(nodes)
    one, two = nodes
    places = one.ask("all")
    assert places == two.ask("all")
    assert places.count("x from") == 4
    for node in nodes:
        key = key_of(one, node.name)
        first = int(one.ask(f"count {key}").split()[0])
        assert two.ask(f"count {key}").split()[:2] == [str(first + 1), node.name]
    with one.connect() as sock, sock.makefile("rw") as stream:
        stream.write("sub\n")
        stream.flush()
        assert stream.readline() == "subscribed\n"
        assert two.ask("pub hello there") == "published"
        assert stream.readline() == "hello there\n"


def test_who_leaves_is_out_before_it_has_drained(start: Callable[..., Node]) -> None:
    nodes = [start(name) for name in ("n1", "n2", "n3")]
    wait_all(nodes)
    key = key_of(nodes[0], "n2")
    assert nodes[1].terminate() == 0
    # At once: nobody waits for node_timeout.
    assert owner_of(nodes[0], key) != "n2"
    nodes[0].wait_nodes("n1", "n3")
    nodes[2].wait_nodes("n1", "n3")


def test_who_is_killed_loses_its_keys_in_time_and_takes_its_place_again(start: Callable[..., Node]) -> None:
    nodes = [start(name) for name in ("n1", "n2", "n3")]
    wait_all(nodes)
    key = key_of(nodes[0], "n2")
    nodes[1].kill()
    nodes[0].wait_ok(f"count {key}", r"1 n[13] \d+ \d+")
    nodes[0].wait_nodes("n1", "n3")
    nodes[1].again()
    wait_all(nodes)


def test_a_killed_node_that_comes_back_at_once_takes_its_place(start: Callable[..., Node]) -> None:
    node = start("n1")
    wait_all([node])
    node.ask("count k")
    node.kill()
    node.again()
    node.server.wait_serving()
    assert node.wait_ok("count k", r"\d+ n1 0 \d+")[0].startswith("1 ")


def test_a_name_that_is_heard_is_refused(start: Callable[..., Node], tmp_path: Path, own: NatsServer) -> None:
    node = start("n1")
    wait_all([node])
    (tmp_path / "other").mkdir()
    other = Node(tmp_path / "other", "n1", [own.url])
    try:
        assert other.server.process.wait(60) == 2
        assert "another process is node n1 of cluster t; give this one another name" in other.log
    finally:
        other.end()
    assert node.ask("count k").split()[1] == "n1"


def test_hup_changes_nothing(start: Callable[..., Node]) -> None:
    nodes = [start("n1"), start("n2")]
    wait_all(nodes)
    epoch = nodes[0].view()[0]
    key = key_of(nodes[0], "n2")
    nodes[1].server.process.send_signal(1)
    nodes[1].server.wait_log(r"shard 0 ready on", times=2)
    assert owner_of(nodes[0], key) == "n2"
    assert nodes[0].view()[0] == epoch


def test_another_number_of_partitions_is_refused(start: Callable[..., Node]) -> None:
    wait_all([start("n1")])
    other = start("n2", options=["--cluster-partitions=128"])
    assert other.server.process.wait(60) == 2
    assert "[cluster] partitions is 128, and cluster t was started with 64; give 64" in other.log


def test_a_server_that_comes_later_is_found(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    node = Node(tmp_path, "n1", [server.url])
    try:
        node.server.wait_serving()
        node.server.wait_log("the cluster's broker cannot be used, tried again and again")
        assert "NodeIsolated" in node.ask("where k")
        server.start()
        wait_all([node])
        server.kill()
        node.wait_ok("count k", "NodeIsolated.*")
        server.start()
        wait_all([node])
    finally:
        node.end()
        server.kill()
