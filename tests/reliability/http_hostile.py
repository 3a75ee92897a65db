"""Clients that hold connections for as long as they can, thousands at once: each is ended at its limit, none costs much, and
others are answered meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.http import hostile
from tests.http.hostile import Client, allow_descriptors, drain, many, memory, never_reading
from tests.reliability._checks import Result, Unavailable, check
from tests.shards.servers import Serve

_CLIENTS: list[Client] = [
    hostile.slow_head,
    hostile.slow_line,
    hostile.silent_body,
    hostile.slow_chunk_sizes,
    hostile.idle,
    hostile.idle_after_an_answer,
    hostile.empty_lines,
]
_READERS = 20  # of the clients at once one in so many asks for what it does not take
_EACH = 48 * 1024  # bytes that a connection may cost
_BESIDE = 40 * 1024 * 1024


@check(
    "slow heads, bodies and readers are ended, and others answered meanwhile", ci=300, release=10_000, pure=300, pace=60
)
def http_hostile(trials: int) -> Result:
    """Trials are the clients of a kind that are there at once."""
    if not allow_descriptors(trials):
        raise Unavailable(f"{trials + 500:,} descriptors: raise the hard limit (ulimit -Hn)")
    figures = []
    with tempfile.TemporaryDirectory() as directory:
        serve = Serve(Path(directory), forked=False)
        try:
            server = serve(hostile.APPLICATION, "--spares", "0", "--shards", "1", *hostile.OPTIONS, app="app:app")
            server.wait_serving()
            shard = server.shard_pids()[0]
            started_with = memory(shard)
            for client in _CLIENTS:
                answers, longest = asyncio.run(many(server.address, client, trials))
                if len(answers) != trials:
                    raise AssertionError(f"{len(answers):,} of {trials:,} clients of {client.__name__} were ended")
                figures.append(f"{client.__name__} {longest * 1e3:.0f} ms")
                _look(shard, started_with, trials, client.__name__)
            connections = never_reading(server.address, trials // _READERS)
            _look(shard, started_with, trials + 3 * len(connections), "never_reading")
            taken = [drain(connection)[0] for connection in connections]
            for connection in connections:
                connection.close()
            if server.shard_pids() != {0: shard}:
                raise AssertionError(f"the shard has died:\n{server.log}")
        finally:
            serve.clean_up()
    return Result(trials, f"an answer beside them at the latest after: {', '.join(figures)}; {len(taken)} readers")


def _look(shard: int, before: int, connections: int, what: str) -> None:
    now = memory(shard)
    if now > before + _BESIDE + connections * _EACH:
        raise AssertionError(f"{now - before:,} bytes more for {connections:,} connections after {what}")
