"""What fails, and what is seen of it, row by row: nodes on hosts of their own, in network namespaces, so that a cable can be
pulled.

The bounds are those that are promised, with what a busy machine adds.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, hosts, needs_hosts
from tests.cluster.servers import NatsServer, needs_server, three_servers
from tests.cluster.whole import Node, key_of, owner_of, wait_all
from tests.shards.servers import eventually

pytestmark = [needs_server, pytest.mark.once, pytest.mark.slow]

TIMEOUT = 4.0  # node_timeout; half of it was too short for a shard beside a whole test run
BUSY = 4.0  # what other tests beside this may take
NAMES = ("n1", "n2", "n3")


class Cluster:
    """Three nodes on a host each, and a NATS server on a fourth."""

    def __init__(self, directory: Path, places: list[Host]) -> None:
        self.hosts = dict(zip((*NAMES, "nats"), places, strict=True))
        at = self.hosts["nats"]
        self.server = NatsServer(directory / "nats", host=at.address, port=4222, prefix=at.command)
        self.server.start()
        self.nodes = {
            name: Node(directory, name, [self.server.url], node_timeout=TIMEOUT, host=self.hosts[name])
            for name in NAMES
        }

    def end(self) -> None:
        for node in self.nodes.values():
            node.end()
        self.server.kill()

    def logs(self) -> str:
        return "".join(f"\n{name}:\n{node.log}" for name, node in self.nodes.items())

    def stood_still(self, *names: str) -> bool:
        """Whether the machine gave one of these nodes no time, so that it was rightly cut off, or confirmed nobody."""
        return any("this process stood still" in self.nodes[name].log for name in names)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    needs_hosts()
    with hosts(4) as places:
        cluster = Cluster(tmp_path, places)
        try:
            wait_all([*cluster.nodes.values()])
            yield cluster
        finally:
            cluster.end()


class Asker:
    """One line again and again, in a thread, with when it was asked, when answered, and the answer."""

    def __init__(self, node: Node, line: str) -> None:
        self.answers: list[tuple[float, float, str]] = []
        self._began = 0.0  # the one that is under way
        self._node = node
        self._line = line
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.is_set():
            began = self._began = time.monotonic()
            answer = self._node.ask(self._line)
            self.answers.append((began, time.monotonic(), answer))
            self._ended.wait(0.01)

    def waits(self) -> float:
        """For how long there was no answer."""
        return time.monotonic() - self._began

    def after(self, moment: float) -> list[str]:
        return [answer for began, _, answer in self.answers if began >= moment]

    def longest(self) -> float:
        return max(ended - began for began, ended, _ in self.answers)


@contextmanager
def asking(node: Node, line: str) -> Iterator[Asker]:
    asker = Asker(node, line)
    asker._thread.start()
    try:
        yield asker
    finally:
        asker._ended.set()
        asker._thread.join()


def place_of(node: Node, name: str) -> int:
    """Of the first shard of the node of this name, which has a key."""
    return int(node.ask(f"where {key_of(node, name)}"))


def test_a_shard_is_killed(cluster: Cluster) -> None:
    one, two = cluster.nodes["n1"], cluster.nodes["n2"]
    place = place_of(one, "n2")
    with asking(one, f"echo {place} x") as asker:
        eventually(lambda: asker.answers, "an answer")
        pid = two.server.shard_pids()[0]
        os.kill(pid, signal.SIGSTOP)  # so that a question is under way
        eventually(lambda: asker.waits() > 1.0, "a question that is not answered")
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: any("x from" not in a for _, end, a in asker.answers if end >= killed), "an error")
        two.server.wait_log("shard 0 ready on", times=2)
        healed = time.monotonic()
        eventually(lambda: any("x from" in a for a in asker.after(healed)), "an answer again")
        assert time.monotonic() - healed < TIMEOUT + 0.5 + BUSY
    errors = {a.partition(":")[0] for _, _, a in asker.answers if "x from" not in a}
    assert errors <= {"ShardDied", "ShardDown"}
    assert asker.longest() < TIMEOUT + 0.5 + BUSY


def test_a_node_is_cut_off(cluster: Cluster) -> None:
    one, two = cluster.nodes["n1"], cluster.nodes["n2"]
    place, key, own = place_of(one, "n2"), key_of(one, "n2"), key_of(one, "n1")
    count = int(one.ask(f"count {key}").split()[0])
    with asking(one, f"echo {place} x") as asker, asking(one, f"count {own}") as others:
        eventually(lambda: asker.answers, "an answer")
        cut = time.monotonic()
        cluster.hosts["n2"].cut()
        eventually(lambda: any("NodeDown" in a for a in asker.after(cut)), "NodeDown")
        # There it is not served any more, though the node lives.
        two.wait_ok(f"count {key}", "NodeIsolated.*")
        assert time.monotonic() - cut < TIMEOUT + BUSY
        # Here it is, by another, in twice node_timeout and a write.
        moved = one.wait_ok(f"count {key}", r"1 (n1|n3) 0 \d+")[1]
        assert time.monotonic() - cut < 2 * TIMEOUT + 1.0 + BUSY
        assert "n2" not in one.view()[1]
        assert two.ask(f"count {key}").startswith("NodeIsolated")
        cluster.hosts["n2"].heal()
        wait_all([*cluster.nodes.values()])
    assert count >= 1
    assert moved != "n2"
    errors = [a.partition(":")[0] for _, _, a in asker.answers if "x from" not in a]
    assert {*errors} <= {"ShardDied", "NodeDied", "NodeDown", "ShardDown"}
    assert asker.longest() < TIMEOUT + 0.5 + BUSY
    noticed = [a for _, _, a in others.answers if " n1 0 " not in a]  # who is not cut off notices nothing
    if not (cluster.stood_still("n1", "n3") and all(a.startswith("NodeIsolated") for a in noticed)):
        assert noticed == [], cluster.logs()


def test_a_node_that_hears_nothing(cluster: Cluster) -> None:
    """The server's answers do not reach it: one way alone."""
    one, two = cluster.nodes["n1"], cluster.nodes["n2"]
    key = key_of(one, "n2")
    cluster.hosts["nats"].deafen(cluster.hosts["n2"])
    two.wait_ok(f"count {key}", "NodeIsolated.*")
    one.wait_ok(f"count {key}", r"1 (n1|n3) 0 \d+")
    cluster.hosts["nats"].undeafen(cluster.hosts["n2"])
    wait_all([*cluster.nodes.values()])


def test_a_node_is_stopped_and_goes_on(cluster: Cluster) -> None:
    """All of it, for longer than it takes to be written out: it looks before it does anything."""
    one, two = cluster.nodes["n1"], cluster.nodes["n2"]
    key = key_of(one, "n2")
    two.stop()
    one.wait_ok(f"count {key}", r"1 (n1|n3) 0 \d+")
    with asking(one, f"count {key}") as asker:
        two.go_on()
        went_on = time.monotonic()
        wait_all([*cluster.nodes.values()])
    assert asker.after(went_on)
    two.server.wait_log("this node was written out of the cluster")


def test_a_supervisor_is_stopped_and_its_shards_are_not(cluster: Cluster) -> None:
    """Nobody says that the node is alive: its shards stop by the word in their memory."""
    one, two = cluster.nodes["n1"], cluster.nodes["n2"]
    key = key_of(one, "n2")
    stopped = time.monotonic()
    two.stop(shards=False)
    two.wait_ok(f"count {key}", "NodeIsolated.*")
    assert time.monotonic() - stopped < TIMEOUT + BUSY
    one.wait_ok(f"count {key}", r"1 (n1|n3) 0 \d+")
    assert two.ask(f"count {key}").startswith("NodeIsolated")
    two.go_on()
    wait_all([*cluster.nodes.values()])


def test_a_shard_is_stopped(cluster: Cluster) -> None:
    one, two = cluster.nodes["n1"], cluster.nodes["n2"]
    place = place_of(one, "n2")
    pid = two.server.shard_pids()[0]
    with asking(one, f"echo {place} x") as asker:
        eventually(lambda: asker.answers, "an answer")
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        eventually(lambda: any("ShardDied" in a or "ShardDown" in a for a in asker.after(stopped - 5)), "an error")
        assert time.monotonic() - stopped < TIMEOUT + 0.5 + BUSY
        os.kill(pid, signal.SIGCONT)
        went_on = time.monotonic()
        eventually(lambda: any("x from" in a for a in asker.after(went_on)), "an answer again")
    assert asker.longest() < TIMEOUT + 0.5 + BUSY
    assert one.view()[1] == [*NAMES]


def test_the_server_dies_and_comes_back(cluster: Cluster) -> None:
    one = cluster.nodes["n1"]
    keys = {name: key_of(one, name) for name in NAMES}
    place = place_of(one, "n2")
    cluster.server.kill()
    killed = time.monotonic()
    one.wait_ok(f"echo {place} x", "ShardDown.*|NodeDown.*")
    for name, node in cluster.nodes.items():
        node.wait_ok(f"count {keys[name]}", "NodeIsolated.*")
    assert time.monotonic() - killed < TIMEOUT + BUSY
    assert "x from" in one.ask("echo 0 x")  # calls of one's own go on
    cluster.server.start()
    for name, node in cluster.nodes.items():
        node.wait_ok(f"count {keys[name]}", rf"\d+ {name} 0 \d+")
    assert one.view()[1] == [*NAMES]


def test_the_whole_cluster_is_killed(cluster: Cluster) -> None:
    """Nobody is left to write anybody out."""
    key = key_of(cluster.nodes["n1"], "n2")
    for node in cluster.nodes.values():
        node.kill()
    for node in cluster.nodes.values():
        node.again()
    wait_all([*cluster.nodes.values()])
    assert owner_of(cluster.nodes["n1"], key) in NAMES


def test_two_of_three_cannot_go_on_alone(cluster: Cluster) -> None:
    """One is left: it serves nothing, and writes out nobody."""
    one = cluster.nodes["n1"]
    key = key_of(one, "n1")
    cluster.hosts["n2"].cut()
    cluster.hosts["n3"].cut()
    one.wait_ok(f"count {key}", "NodeIsolated.*")
    time.sleep(3 * TIMEOUT)
    assert one.ask(f"count {key}").startswith("NodeIsolated")
    assert one.view()[1] == [*NAMES]
    cluster.hosts["n3"].heal()
    one.wait_ok(f"count {key}", r"\d+ n1 0 \d+")
    cluster.hosts["n2"].heal()
    wait_all([*cluster.nodes.values()])


def test_servers_of_three_die_one_by_one(tmp_path: Path) -> None:
    """Of one that dies nodes find another. With one left the view cannot be written: nobody joins, and all serve on."""
    with three_servers(tmp_path / "nats") as servers:
        urls = [server.url for server in servers]
        nodes = {name: Node(tmp_path, name, urls, node_timeout=TIMEOUT) for name in NAMES}
        try:
            wait_all([*nodes.values()])
            keys = {name: key_of(nodes["n1"], name) for name in NAMES}
            epoch = nodes["n1"].view()[0]
            for left in (2, 1):
                servers[left].kill()
                time.sleep(TIMEOUT)
                for asked in nodes.values():
                    for owner, key in keys.items():
                        asked.wait_ok(f"count {key}", rf"\d+ {owner} 0 \d+")
            other = Node(tmp_path, "n4", urls, node_timeout=TIMEOUT)
            nodes["n4"] = other
            other.server.wait_serving()
            time.sleep(3 * TIMEOUT)
            assert nodes["n1"].view() == (epoch, [*NAMES])
            for owner, key in keys.items():
                nodes["n2"].wait_ok(f"count {key}", rf"\d+ {owner} 0 \d+")
            assert other.view()[1] != [*NAMES, "n4"]
            servers[1].start()
            wait_all([*nodes.values()])
        finally:
            for node in nodes.values():
                node.end()
