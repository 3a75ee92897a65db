"""A cache that Redis clients can use, its keys spread over the shards.

    clockworker-serve examples.kv:main --shards 2 --port 6380

A connection belongs to the shard that accepted it; a command on a key of another shard crosses to it and back.
Clients are served in the queue `foreground`, expired keys are swept in `background`: `main` declares both. Keys live in
memory, in one database, and die with their shard. Those of `examples.kv:keeping` outlive a replacement (SIGHUP): the shard
hands them over to its successor.

In reading order: `_server` (the connection), `_request` (bytes to commands), `_table` (which commands there are),
`_commands` (on keys), `_session` (on the connection), `_everywhere` (on all shards), `_pipeline` (who runs what),
`_service` (what a shard answers to the others), `_keeping` (the same, and it hands over its keys), `_store` (its keys and
their expiry), `_scan_index` and `_glob` (for SCAN and KEYS), `_resp` (replies to bytes).
"""

from __future__ import annotations

import clockworker as cw

from ._keeping import KeepingKeyValue
from ._server import Server
from ._service import KeyValue


@cw.application(queues=[cw.Queue("foreground", share=8), cw.Queue("background")])
async def main(shard: cw.Shard) -> None:
    await _serve(shard, await shard.start(KeyValue))


@cw.application(queues=[cw.Queue("foreground", share=8), cw.Queue("background")])
async def keeping(shard: cw.Shard) -> None:
    await _serve(shard, await shard.start(KeepingKeyValue))


async def _serve(shard: cw.Shard, service: cw.Sharded[KeyValue]) -> None:
    shard.queue("background").spawn(service.local.sweep_forever(service), name="sweep")
    await shard.start_server(Server(shard, service).handle, queue="foreground")
    await shard.wait_stopped()
