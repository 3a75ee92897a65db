"""What nodes, their callers and their broker do to each other: each is one clear line, and nothing hangs or is lost. Whole
nodes on one host."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.servers import NatsServer, needs_server, one_server
from tests.cluster.whole import Node, key_of, wait_all
from tests.shards.servers import eventually

pytestmark = [needs_server, pytest.mark.once]

HOSTILE = "tests.cluster.hostile:main"


def other_of(node: Node) -> str:
    """The place of the other node's shard, once a call there is answered."""
    place = node.wait_ok("others", r"\d+")[0]
    node.wait_ok(f"call {place} ping", "pong")
    return place


def two(start: Callable[..., Node], **changes: object) -> list[Node]:
    nodes = [start(name, app=HOSTILE, **changes) for name in ("n1", "n2")]
    for node in nodes:
        node.wait_nodes("n1", "n2", beside=nodes)
    return nodes


# Calls.


def test_two_releases_of_an_application(start: Callable[..., Node]) -> None:
    """What has changed is refused where it is called, and says so; all else goes on."""
    nodes = [start(f"n{release}", app=HOSTILE, environment={"RELEASE": str(release)}) for release in (1, 2)]
    for node in nodes:
        node.wait_nodes("n1", "n2", beside=nodes)
    places = {node.name: other_of(node) for node in nodes}
    for node in nodes:
        place = places[node.name]
        assert node.ask(f"call {place} changed").startswith("SchemaMismatch: ")
        other = "shard 0 of node n2" if node is nodes[0] else "shard 0 of node n1"
        assert re.search(rf"Hostile: changed differs: .* on {other}: ", node.ask(f"call {place} changed"))
        assert node.ask(f"call {place} ping") == "pong"
    said = nodes[1].ask(f"call {places['n2']} added")
    assert said.startswith("SchemaMismatch: ")
    assert "added" in said
    assert not any("Traceback" in node.log for node in nodes)


def test_messages_beyond_what_the_broker_carries_and_beyond_the_limit(start: Callable[..., Node]) -> None:
    one, other = two(start)
    place = other_of(one)
    for size in (0, 1 << 20, (1 << 20) + 1, 9_000_000):
        assert one.ask(f"big {place} {size}") == "same"
    assert one.ask(f"big {place} 100000000").startswith("MessageTooLarge: ")
    assert one.ask(f"call {place} ping") == "pong"
    assert "lost its connection" not in one.log + other.log


def test_a_consumer_that_stops_reading_holds_nobody_up(start: Callable[..., Node]) -> None:
    one, other = two(start)
    place = other_of(one)
    for _ in range(20):
        assert one.ask(f"hold {place}") == str(64 * 1024)
    produced, streams = map(int, one.ask(f"held {place}").split())
    assert streams == 20
    for _ in range(100):
        assert one.ask(f"call {place} ping") == "pong"
    assert one.ask(f"big {place} 3000000") == "same"
    again = eventually(
        lambda: (held := one.ask(f"held {place}")) == one.ask(f"held {place}") and held, "streams that wait"
    )
    assert int(again.split()[0]) < 20 * 500, "what is not read is bounded"
    assert produced <= int(again.split()[0])
    one.kill()  # with all its streams
    eventually(lambda: other.ask("held 0").split()[1] == "0", "an end of the streams of who has died")
    assert "Traceback" not in other.log


def test_calls_that_are_given_up_in_thousands_leave_nothing(start: Callable[..., Node]) -> None:
    one, other = two(start)
    place = other_of(one)
    given_up, hanging = map(int, one.ask(f"storm {place} 30").split())
    assert given_up == 3000
    assert hanging == 0
    assert one.ask(f"big {place} 3000000") == "same"
    assert "Traceback" not in one.log + other.log


# The broker.


@pytest.mark.slow
def test_a_server_whose_store_is_lost_makes_no_second_cluster(start: Callable[..., Node], own: NatsServer) -> None:
    """Who serves goes on; nobody joins, and the log says what to do, which helps."""
    nodes = [start(name) for name in ("n1", "n2")]
    wait_all(nodes)
    keys = {node.name: key_of(node, node.name) for node in nodes}
    epoch = nodes[0].view()[0]
    own.kill()
    own.wipe()
    own.start()
    for node in nodes:
        node.wait_ok(f"count {keys[node.name]}", rf"\d+ {node.name} 0 {epoch}")
        node.server.wait_log(
            r"its store has epoch 0, and nodes run at epoch \d+: it was lost, or is an old copy. If it does not come back, "
            "stop all nodes, then start them"
        )
    late = start("n3")
    late.server.wait_serving()
    late.server.wait_log("its store has epoch 0, and nodes run at epoch")
    assert nodes[0].view() == (epoch, ["n1", "n2"])
    nodes.append(late)
    for node in nodes:
        assert node.terminate() == 0
    for node in nodes:
        node.again()
    wait_all(nodes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_two_clusters_in_a_store_that_was_lost_one_goes_on(
    start: Callable[..., Node], own: NatsServer, count: int
) -> None:
    """Those who know better stand still meanwhile. Two have come to epoch 2: a second cluster of one is below that, and yields;
    one of two has the same, and began later; one of three is above. On a machine that is busy they may have come further."""
    old = [start(name) for name in ("n1", "n2")]
    wait_all(old)
    keys = {node.name: key_of(node, node.name) for node in old}
    epoch = old[0].view()[0]
    for node in old:
        node.stop()
    own.kill()
    own.wipe()
    own.start()
    new = [start(f"n{number}") for number in range(3, 3 + count)]
    wait_all(new)
    lower = new[0].view()[0]
    for node in old:
        node.go_on()
    if lower < epoch:
        new[0].wait_ok("count k", "NodeIsolated.*")
        new[0].server.wait_log(
            rf"nodes run at epoch {epoch}: .* This node, at epoch {lower}, yields to them\. If it does not come back"
        )
        for _ in range(2):
            for node in old:
                node.wait_ok(f"count {keys[node.name]}", rf"\d+ {node.name} 0 {epoch}")
            assert new[0].ask("count k").startswith("NodeIsolated")
        return
    wait_all([*old, *new])
    keys = {node.name: key_of(node, node.name) for node in (*old, *new)}
    for node in (*old, *new):
        for name, key in keys.items():
            assert node.wait_ok(f"count {key}", r"\d+ (n\d) 0 \d+")[1] == name


def test_a_view_that_makes_no_sense_ends_nobody_who_serves(start: Callable[..., Node], own: NatsServer) -> None:
    node = start("n1")
    wait_all([node])
    put(own, b"{}")
    node.server.wait_log("the view in the broker's store makes no sense")
    assert node.wait_ok("count k", r"\d+ n1 0 \d+")
    late = start("n2")
    assert late.server.process.wait(60) == 2
    assert "the view in the broker's store makes no sense" in late.log


def put(server: NatsServer, value: bytes) -> None:
    """As somebody does by hand."""
    import asyncio

    from clockworker.cluster._nats import NatsWire
    from clockworker.shards.config._cluster import ClusterConfig

    async def main() -> None:
        wire = NatsWire(ClusterConfig(url=(server.url,), node="n9", name="t"), "test", 5.0, {})
        await wire.connect()
        bucket = await wire.bucket("cw_t")
        found = await bucket.get("view")
        assert found is not None
        assert await bucket.update("view", value, found.revision)
        await wire.close()

    asyncio.run(main())


def test_wrong_credentials_are_said_in_a_line_and_the_right_ones_help(tmp_path: Path) -> None:
    more = "authorization {{ user: n1, password: {} }}"
    server = NatsServer(tmp_path / "nats", more=more.format("right"))
    server.start()
    secrets = {"CLOCKWORKER_CLUSTER_USER": "n1", "CLOCKWORKER_CLUSTER_PASSWORD": "wr0ng"}
    node = Node(tmp_path, "n1", [server.url], environment=secrets)
    try:
        node.server.wait_serving()
        node.server.wait_log(
            r"the cluster's broker cannot be used, tried again and again: nats://\S+: Authorization Violation"
        )
        time.sleep(1.0)  # some more tries
        assert node.log.count("the cluster's broker cannot be used") == 1
        assert "wr0ng" not in node.log
        assert "NodeIsolated" in node.ask("where k")
        server.kill()
        server = NatsServer(tmp_path / "nats", port=server.port, more=more.format("wr0ng"))
        server.start()
        wait_all([node])
    finally:
        node.end()
        server.kill()


def test_a_server_without_jetstream_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    with one_server(tmp_path / "nats", store=False) as server:
        node = Node(tmp_path, "n1", [server.url])
        try:
            node.server.wait_serving()
            node.server.wait_log("the server has no JetStream, which keeps the view; start it with -js")
        finally:
            node.end()


@pytest.mark.slow
def test_a_node_is_rolled_and_ended_while_the_broker_is_away(start: Callable[..., Node], own: NatsServer) -> None:
    nodes = [start("n1"), start("n2")]
    wait_all(nodes)
    keys = {node.name: key_of(node, node.name) for node in nodes}
    own.kill()
    nodes[0].server.process.send_signal(signal.SIGHUP)
    nodes[0].server.wait_log("shard 0 ready on", times=2)
    nodes[0].wait_ok("echo 0 x", r"x from \d+")
    own.start()
    wait_all(nodes)
    for asked in nodes:
        for name, key in keys.items():
            asked.wait_ok(f"count {key}", rf"\d+ {name} 0 \d+")
    own.kill()
    assert [node.terminate() for node in nodes] == [0, 0]
    own.start()
    for node in nodes:
        node.again()
    wait_all(nodes)


# The machine.


def test_a_node_that_stands_still_for_half_of_node_timeout_loses_nothing(start: Callable[..., Node]) -> None:
    """When it goes on, what came meanwhile waits in its sockets: neither the broker nor other nodes were silent."""
    one, other = two(start, node_timeout=6.0)
    place = other_of(one)
    with one.connect() as sock, sock.makefile("rw") as stream:
        stream.write(f"later {place}\n")
        stream.flush()
        eventually(lambda: one.ask(f"waits {place}") == "1", "a call under way")
        other.stop()
        time.sleep(3.2)
        other.go_on()
        one.wait_ok(f"call {place} answer", "answered")
        assert stream.readline() == "answered\n"
    other.server.wait_log("this process stood still for 2|this process stood still for 3")
    assert "was silent" not in other.log


AHEAD = ["unshare", "--time", "--boottime", "1000000", "--monotonic", "500000", "--"]


class Ahead:
    """A host that was started days before the others."""

    command = AHEAD


def has_clocks_of_its_own() -> bool:
    try:
        uptime = subprocess.run([*AHEAD, "cat", "/proc/uptime"], capture_output=True, text=True, check=True).stdout
    except (subprocess.CalledProcessError, OSError):
        return False
    return float(uptime.split()[0]) > 1_000_000


@pytest.mark.skipif(not has_clocks_of_its_own(), reason="time namespaces need root and unshare")
def test_clocks_that_show_other_times(start: Callable[..., Node]) -> None:
    """Rates are what counts: no time of one machine is compared with another's."""
    nodes = [start("n1"), start("n2", host=Ahead()), start("n3")]
    wait_all(nodes)
    for node in nodes:
        key = key_of(nodes[0], node.name)
        assert nodes[1].ask(f"count {key}").split()[1] == node.name
    place = nodes[0].ask(f"where {key_of(nodes[0], 'n2')}")
    assert nodes[0].ask(f"slow {place} 0.5") == "1"  # with what is left of its deadline


# Starts and ends.


def test_all_leave_and_others_come(start: Callable[..., Node]) -> None:
    """As with containers, whose names are others each time."""
    nodes = [start(name) for name in ("n1", "n2")]
    wait_all(nodes)
    for node in nodes:
        node.server.process.send_signal(signal.SIGTERM)
    for node in nodes:
        assert node.server.wait_exit() == 0
    wait_all([start(name, node_timeout=5.0) for name in ("n3", "n4")])


def test_another_node_timeout_is_refused(start: Callable[..., Node]) -> None:
    wait_all([start("n1")])
    other = start("n2", node_timeout=8.0)
    assert other.server.process.wait(60) == 2
    assert "[cluster] node_timeout is 8.0, and cluster t was started with 4.0; give 4.0, or stop all nodes first" in (
        other.log
    )


def test_two_of_one_name_that_start_at_once_are_one(
    tmp_path: Path, start: Callable[..., Node], own: NatsServer
) -> None:
    (tmp_path / "other").mkdir()
    twins = [start("n1"), Node(tmp_path / "other", "n1", [own.url])]
    try:
        ended = eventually(lambda: [node for node in twins if node.server.process.poll() is not None], "an end of one")
        assert [node.server.process.poll() for node in ended] == [2]
        (stays,) = (node for node in twins if node not in ended)
        wait_all([stays])
        assert "another process is node n1 of cluster t" in ended[0].log
    finally:
        twins[1].end()
