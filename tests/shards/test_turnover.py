"""Shards that are replaced because they have grown old or large."""

from __future__ import annotations

import re

import pytest

from tests.shards.servers import ECHO, Serve

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

HOARDER = ECHO.replace(
    "        while line",
    """        global hoard
        if shard.id == 1:
            hoard = bytearray(64 << 20)
            hoard[::4096] = bytes(len(hoard) >> 12)
        while line""",
)


def test_an_old_shard_is_replaced(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "2", "--spares", "0", "--shard-lifetime", "2")
    server.wait_serving()
    first = {int(match[1]): int(match[2]) for match in server.wait_log(r"shard (\d) ready on .*, pid (\d+)", 2)[:2]}
    said = server.wait_log(r"shard (\d) \(pid (\d+)\) has lived for (\d+) s \(--shard-lifetime\): it is replaced", 2)[
        :2
    ]
    server.wait_log("shard . stopped", 2)
    assert {int(match[1]): int(match[2]) for match in said} == first
    assert all(int(match[3]) >= 2 for match in said)
    assert not set(first.values()) & set(server.shard_pids().values())
    assert server.stop() == 0
    assert " ERROR " not in server.log


def test_a_large_shard_is_replaced_once_in_a_while(serve: Serve) -> None:
    server = serve(HOARDER, "--shards", "2", "--spares", "0", "--shard-max-rss", "80MiB")
    server.wait_serving()
    before = server.shard_pids()
    server.connect_to(1).close()
    said = server.wait_log(
        r"shard 1 \(pid \d+\) has (\d+\.\d) MiB in memory, of 80MiB \(--shard-max-rss\): it is replaced"
    )
    server.wait_log("shard 1 stopped")
    assert float(said[0][1]) > 80
    assert server.shard_pids()[0] == before[0]
    server.connect_to(1).close()  # it grows at once again, and may for now
    assert server.stop() == 0
    assert len(re.findall("it is replaced", server.log)) <= 2, "each shard at most once in a minute"


@pytest.mark.parametrize(
    ("option", "value"), [("--shard-lifetime", "0"), ("--shard-max-rss", "1KiB"), ("--limit-max-requests", "0")]
)
def test_what_cannot_be(serve: Serve, option: str, value: str) -> None:
    server = serve(ECHO, option, value)
    assert server.wait_exit() == 2
    assert option in server.log
