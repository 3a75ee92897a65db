"""What an application has made before it serves is out of the collector's way; what it makes then is not."""

from __future__ import annotations

import pytest

from tests.shards.servers import Serve, ask

pytestmark = pytest.mark.once

SOURCE = """
import gc
import weakref

class Node:
    def __init__(self):
        self.me = self

made = [Node() for _ in range(10_000)]

async def main(shard):
    kept = Node()  # before it serves

    async def handle(reader, writer):
        later = weakref.ref(Node())
        gc.collect()
        looked_at = {id(each) for each in gc.get_objects()}
        here = sum(id(node) in looked_at for node in (*made, kept))
        writer.write(b"%d %d %d\\n" % (gc.get_freeze_count() > 10_000, here, later() is None))
        await writer.drain()
        writer.close()

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


def test_what_was_there_before_it_served_is_not_gone_through(serve: Serve) -> None:
    server = serve(SOURCE, "--shards", "1")
    server.wait_serving()
    with server.connect() as client:
        assert ask(client, b"x") == b"1 0 1"
    assert server.stop() == 0
