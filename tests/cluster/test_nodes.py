"""Whole nodes on one host: the same application file on one, two and three."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from clockworker.shards.observe._view import ServerStats
from tests.cluster.servers import NatsServer, needs_server, one_server
from tests.cluster.whole import ROOT, Node, key_of, owner_of, wait_all
from tests.shards.servers import eventually

pytestmark = [needs_server, pytest.mark.once]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with one_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


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


def get(address: str, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}/{page}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_what_is_shown_of_it(start: Callable[..., Node], tmp_path: Path) -> None:
    nodes = [start(name, options=["--metrics=127.0.0.1:0"]) for name in ("n1", "n2")]
    wait_all(nodes)
    one = nodes[0]
    address = one.server.wait_log(r"metrics on http://([\d.:]+)/metrics")[0][1]
    assert get(address, "ready") == (200, "ready: 1 of 1 shards, in cluster t as n1\n")
    stats = msgspec.json.decode(get(address, "stats")[1], type=ServerStats).cluster
    assert stats is not None
    assert (stats.name, stats.node, stats.epoch, stats.joined, stats.owns) == ("t", "n1", one.view()[0], True, True)
    assert sorted((node.name, node.silent) for node in stats.nodes) == [("n1", False), ("n2", False)]
    assert eventually(
        lambda: msgspec.json.decode(get(address, "stats")[1], type=ServerStats).cluster.calls > 0,  # type: ignore[union-attr]
        "calls to n2",
    )
    page = get(address, "metrics")[1]
    figures = {name: float(value) for name, value in re.findall(r"(?m)^clockworker_cluster_(\S+) (\S+)$", page)}
    assert (figures["nodes"], figures["owns"], figures["joined"], figures["connected"]) == (2, 1, 1, 1)
    assert figures['calls_sent_total{shard="0"}'] > 0
    assert any(name.startswith("sessions_ended_total") and 'reason="silence"' in name for name in figures)
    top = [sys.executable, "-P", "-m", "clockworker.shards.tools._top", "--once", str(tmp_path / "n1.control")]
    nodes_shown = subprocess.run([*top, "--cluster"], capture_output=True, text=True, check=True).stdout
    assert "cluster t  node n1" in nodes_shown
    assert re.search(r"n2 +\d +1 heard", nodes_shown)
    assert "cluster t: 2 nodes, 0 silent" in subprocess.run(top, capture_output=True, text=True, check=True).stdout
    nodes[1].kill()
    eventually(lambda: "SILENT" in subprocess.run([*top, "--cluster"], capture_output=True, text=True).stdout, "silent")
    # Of two a majority is both: what is left serves nothing, and says so.
    eventually(lambda: re.search(r"(?m)^clockworker_cluster_owns 0", get(address, "metrics")[1]), "no owner")
    assert "SERVES NO KEYS" in subprocess.run(top, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_of_two_the_lowest_goes_on_if_that_was_chosen(start: Callable[..., Node]) -> None:
    lowest = ["--cluster-two-nodes=lowest"]
    one = start("n1", options=lowest)
    one.wait_nodes("n1")
    two = start("n2", options=lowest)
    wait_all([one, two])
    key = key_of(one, "n2")
    two.kill()
    one.wait_ok(f"count {key}", r"1 n1 0 \d+")
    two.again()
    wait_all([one, two])
    keys = [key_of(two, "n2"), key_of(two, "n1")]
    one.kill()
    for key in keys:
        two.wait_ok(f"count {key}", "(NodeIsolated|NodeDown|NotOwner).*")


PERMISSIONS = """
authorization {{
  users: [ {users} ]
}}
"""
USER = """
    {{ user: {node}, password: p-{node}, permissions: {{
        publish: ["cw.t.to.*.*.{node}.>", "cw.t.alive.{node}", "cw.t.topic.{node}.>",
                  "$KV.cw_t.view", "$JS.API.STREAM.INFO.KV_cw_t", "$JS.API.STREAM.CREATE.KV_cw_t",
                  "$JS.API.STREAM.MSG.GET.KV_cw_t"],
        subscribe: ["cw.t.to.{node}.>", "cw.t.alive.*", "cw.t.topic.>", "_INBOX.cw.t.{node}.>"] }} }}
"""


def test_one_user_for_each_node(tmp_path: Path) -> None:
    """With the permissions that docs/cluster.md shows nodes have all that they need, and no secret is in a log."""
    guide = (ROOT / "docs" / "cluster.md").read_text()
    for name in ("cw.shop.to.*.*.n1.>", "$JS.API.STREAM.MSG.GET.KV_cw_shop", "_INBOX.cw.shop.n1.>"):
        assert name in guide
    more = PERMISSIONS.format(users="\n".join(USER.format(node=name) for name in ("n1", "n_5f2")))
    more = more.replace("user: n_5f2, password: p-n_5f2", "user: n2, password: p-n2")
    nodes: list[Node] = []
    with one_server(tmp_path / "nats", more=more) as server:
        try:
            for name, user in (("n1", "n1"), ("n_2", "n2")):
                secrets = {"CLOCKWORKER_CLUSTER_USER": user, "CLOCKWORKER_CLUSTER_PASSWORD": f"p-{user}"}
                nodes.append(Node(tmp_path, name, [server.url], environment=secrets))
            wait_all(nodes)
            assert nodes[0].ask("all").count("x from") == 2
            # One that says that it is another.
            secrets = {"CLOCKWORKER_CLUSTER_USER": "n1", "CLOCKWORKER_CLUSTER_PASSWORD": "p-n1"}
            nodes.append(Node(tmp_path, "n3", [server.url], environment=secrets))
            nodes[-1].server.wait_log("(?i)permissions violation")
            assert nodes[0].view()[1] == ["n1", "n_2"]
            assert all("p-n" not in node.log for node in nodes)
        finally:
            for node in nodes:
                node.end()


@pytest.mark.slow
def test_a_view_that_is_deleted_while_nodes_run_makes_no_second_cluster(tmp_path: Path, own: NatsServer) -> None:
    nats = pytest.importorskip("nats")

    async def delete() -> None:
        client = await nats.connect(own.url)
        await (await client.jetstream().key_value("cw_t")).delete("view")
        await client.close()

    nodes = [Node(tmp_path, name, [own.url]) for name in ("n1", "n2")]
    try:
        wait_all(nodes)
        epoch = nodes[0].view()[0]
        asyncio.run(delete())
        nodes[0].server.wait_log("the view was deleted, and nodes run at epoch")
        nodes.append(Node(tmp_path, "n3", [own.url]))
        nodes[2].server.wait_serving()
        time.sleep(6.0)  # node_timeout, and more
        assert nodes[0].view() == (epoch, ["n1", "n2"])
        assert nodes[2].ask("view") == "0"
        for node in nodes:
            node.kill()
        for node in nodes:
            node.again()
        wait_all(nodes)
        assert nodes[0].view()[0] > epoch
    finally:
        for node in nodes:
            node.end()


def test_a_server_that_comes_later_is_found(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    nodes = [Node(tmp_path, name, [server.url]) for name in ("n1", "n2")]
    try:
        for node in nodes:
            node.server.wait_serving()
            node.server.wait_log("the cluster's broker cannot be used, tried again and again")
            assert "NodeIsolated" in node.ask("where k")
        server.start()
        wait_all(nodes)
        keys = {node.name: key_of(node, node.name) for node in nodes}
        server.kill()
        for node in nodes:
            node.wait_ok(f"count {keys[node.name]}", "NodeIsolated.*")
        server.start()
        wait_all(nodes)
    finally:
        for node in nodes:
            node.end()
        server.kill()
