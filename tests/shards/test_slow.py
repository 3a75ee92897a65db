"""The log of slow steps, of a real shard."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.shards.servers import Serve, eventually

SLOW = """
import asyncio, time

async def nap(seconds, times):
    for _ in range(times):
        time.sleep(seconds)
        await asyncio.sleep(0)

async def main(shard):
    await shard.queue("strict").spawn(nap(0.02, 3), name="short")
    await shard.queue("lax").spawn(nap(0.2, 3), name="unnoticed")
    await shard.queue("plain").spawn(nap(0.2, 2), name="long")
    await shard.queue("never").spawn(nap(0.2, 1), name="forgiven")
    shard.ready()
    await shard.wait_stopped()
"""
FILE = """
slow_poll = 0.1

[[queue]]
name = "strict"
slow_poll = 0.01

[[queue]]
name = "lax"
slow_poll = 30

[[queue]]
name = "plain"

[[queue]]
name = "never"
slow_poll = 0
"""


def test_each_queue_has_its_own_limit_and_repeats_are_counted(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text(FILE)
    server = serve(SLOW, "--shards", "1", "--log-format", "json")
    server.wait_serving()
    lines = [json.loads(line) for line in server.log.splitlines()]
    slow = {line["queue"]: line for line in lines if "a step of" in line["message"]}
    assert set(slow) == {"strict", "plain"}
    for queue, task, limit in (("strict", "short", "0.01"), ("plain", "long", "0.1")):
        said = rf"a step of task '{task}' in queue '{queue}' took \d+\.\d+ s \(the limit is {limit}\)$"
        assert re.match(said, slow[queue]["message"])
    assert [(line["shard"], line["level"]) for line in slow.values()] == [(0, "warning")] * 2
    # One line each, though there were several.
    assert sum("a step of" in line["message"] for line in lines) == 2


def test_a_line_of_text_names_shard_and_queue(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text(FILE)
    server = serve(SLOW, "--shards", "1")
    server.wait_serving()
    assert eventually(lambda: re.search(r"WARNING \[shard 0 strict\] a step of task 'short'", server.log), "the line")


def test_a_wrong_limit_is_an_error(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text(FILE.replace("slow_poll = 0.01", "slow_poll = -1"))
    server = serve(SLOW, "--shards", "1")
    assert server.wait_exit() == 2
    assert "slow_poll is -1; give seconds from 0" in server.log
