"""`shard.peers()`: who is there, who has come, died, been replaced."""

from __future__ import annotations

import asyncio
import os
import re
import signal

from clockworker import PeerChange
from clockworker.shards.worker._peers import Peers
from tests.shards.servers import Serve

FOLLOWS = """
async def main(shard):
    async def follow():
        async for change in shard.peers():
            print(f"{shard.id}.{shard.incarnation} hears: {change.shard} {change.kind} {change.incarnation}", flush=True)

    shard.executor.queues()[0].spawn(follow())
    await shard.wait_stopped()
"""


def test_a_shard_hears_of_its_peers(serve: Serve) -> None:
    server = serve(FOLLOWS, "--shards", "3", bind=("--bind", "none"))
    server.wait_serving()
    for shard in range(3):
        for peer in range(3):
            if peer != shard:
                server.wait_log(f"(?m)^{shard}.1 hears: {peer} came 1$")
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    for shard in (0, 2):
        server.wait_log(f"(?m)^{shard}.1 hears: 1 (came|replaced) 2$")
    server.wait_log("(?m)^1.2 hears: 0 came 1$")
    server.wait_log("(?m)^1.2 hears: 2 came 1$")
    server.send(signal.SIGHUP)
    server.wait_log(r"shard \d stopped after", 3)
    for shard, incarnation in ((0, 2), (1, 3), (2, 2)):
        for peer in range(3):
            if peer < shard:  # which was replaced before, by one that is heard of as such, or as one that is there
                server.wait_log(rf"(?m)^{shard}.{incarnation} hears: {peer} (came|replaced) \d$")
    server.wait_log("(?m)^2.1 hears: 0 replaced 2$")
    server.wait_log("(?m)^0.2 hears: 2 replaced 2$")
    assert not re.search(r"(\d)\.\d hears: \1 ", server.log), "not of itself"
    assert server.stop() == 0


async def take(changes: object, count: int) -> list[tuple[int, str, int]]:
    found = []
    for _ in range(count):
        change = await asyncio.wait_for(anext(changes), 10)  # type: ignore[call-overload]
        assert isinstance(change, PeerChange)
        found.append((change.shard, change.kind, change.incarnation))
    return found


def test_what_is_comes_first_and_of_each_only_the_latest_waits() -> None:
    async def main() -> None:
        peers = Peers(0)
        peers.connected(2, 1, beside=False)
        peers.connected(1, 1, beside=False)
        peers.connected(0, 2, beside=False)  # another incarnation of this shard
        changes = peers.changes()
        assert await take(changes, 2) == [(1, "came", 1), (2, "came", 1)]
        peers.disconnected(1, beside=False)
        assert await take(changes, 1) == [(1, "died", 1)]
        peers.connected(1, 2, beside=False)
        peers.connected(1, 2, beside=False)  # with rings made anew
        assert await take(changes, 1) == [(1, "came", 2)]
        peers.connected(1, 3, beside=True)
        peers.changed(1)
        peers.disconnected(1, beside=True)
        assert await take(changes, 1) == [(1, "replaced", 3)]
        for incarnation in range(4, 1_000):
            peers.disconnected(1, beside=False)
            peers.connected(1, incarnation, beside=False)
        peers.disconnected(2, beside=False)
        assert await take(changes, 2) == [(1, "replaced", 999), (2, "died", 1)]
        peers.connected(2, 2, beside=False)
        peers.disconnected(2, beside=False)  # and was never heard of
        peers.connected(3, 1, beside=False)
        assert await take(changes, 1) == [(3, "came", 1)]
        await changes.aclose()  # type: ignore[attr-defined]
        assert not peers._listening

    asyncio.run(main())


def test_a_successor_that_fails_is_no_news() -> None:
    async def main() -> None:
        peers = Peers(0)
        peers.connected(1, 1, beside=False)
        changes = peers.changes()
        assert await take(changes, 1) == [(1, "came", 1)]
        peers.connected(1, 2, beside=True)
        peers.disconnected(1, beside=True)
        peers.connected(1, 3, beside=True)
        peers.changed(1)
        assert await take(changes, 1) == [(1, "replaced", 3)]

    asyncio.run(main())
