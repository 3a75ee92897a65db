"""A shard that is replaced while other nodes call it: nobody notices. Whole nodes on one host."""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.servers import needs_server, one_server
from tests.cluster.whole import Node, wait_all

pytestmark = [needs_server, pytest.mark.once]


def beyond(node: Node) -> int:
    """The place of the other node's shard: who joined first has the lower one."""
    answer = node.wait_ok("all", r"x from \d+ \| x from \d+")[0]
    ours = node.wait_ok("echo 0 x", r"x from \d+")[0]
    (other,) = (int(each.split()[-1]) for each in answer.split(" | ") if each != ours)
    return other


def test_calls_of_other_nodes_do_not_notice_a_roll(tmp_path: Path) -> None:
    with one_server(tmp_path / "nats") as server:
        one, two = nodes = [Node(tmp_path, name, [server.url], node_timeout=20.0) for name in ("n1", "n2")]
        try:
            wait_all(nodes)
            far = beyond(one)
            over = tmp_path / "over"
            with ThreadPoolExecutor() as pool:
                slow = pool.submit(one.ask, f"slow {far} 6")
                storm = pool.submit(one.ask, f"storm {far} {over}")
                back = pool.submit(two.ask, f"storm {beyond(two)} {over}")
                try:
                    two.server.process.send_signal(signal.SIGHUP)
                    two.server.wait_log(r"shard 0 ready on", times=2)
                    assert slow.result() == "1", "the old incarnation answers what it was asked"
                    assert one.ask(f"slow {far} 0") == "2"
                finally:
                    over.touch()
                said = storm.result()
                assert re.fullmatch(r"\d+ by \[1, 2\] errors \[\]", said), said
                said = back.result()
                assert re.fullmatch(r"\d+ by \[1\] errors \[\]", said), said
            two.server.process.send_signal(signal.SIGHUP)
            two.server.wait_log(r"shard 0 ready on", times=3)
            assert one.wait_ok(f"slow {far} 0", "3")
        finally:
            for node in nodes:
                node.end()
