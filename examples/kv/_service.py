"""The service: each shard's keys, and the methods through which the other shards reach them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import msgspec

import clockworker as cw

from ._commands import run
from ._glob import compile_glob
from ._resp import Scalar
from ._store import Store

REPLY_BYTES = 4 << 20
"""A batch ends early once its replies are this large: they fit in one message even if the last is a value of 8 MiB."""

SWEEP_KEYS = 20
SWEEP_INTERVAL_S = 0.1


class ShardInfo(msgspec.Struct, frozen=True):
    """One shard's part of INFO. Commands are counted where they run, for a client here or one of another shard.

    `calls_*` count calls between shards, each of which may carry many commands.
    """

    shard: int
    pid: int
    keys: int
    expiring: int
    commands_local: int
    commands_crossed: int
    calls_sent: int
    calls_received: int


class KeyValue:
    def __init__(self, shard: cw.Shard) -> None:
        self.shard = shard
        self.store = Store(lambda: time.time_ns() // 1_000_000)
        self.commands_local = 0
        self.commands_crossed = 0

    def run_local(self, function: Callable[[Store, list[bytes]], Scalar], arguments: list[bytes]) -> Scalar:
        """Run a command of a client of this shard."""
        self.commands_local += 1
        return function(self.store, arguments)

    @cw.remote
    async def execute(self, commands: list[list[bytes]]) -> list[Scalar]:
        """Run commands of clients of another shard, in order. Fewer replies than commands: ask again for the rest."""
        replies: list[Scalar] = []
        size = 0
        for arguments in commands:
            reply = run(self.store, arguments)
            replies.append(reply)
            if isinstance(reply, bytes):
                size += len(reply)
                if size >= REPLY_BYTES:
                    break
        self.commands_crossed += len(replies)
        return replies

    @cw.remote
    async def size(self) -> int:
        return len(self.store)

    @cw.remote
    async def flush(self) -> None:
        self.store.clear()

    @cw.remote
    async def scan(self, bucket: int, count: int, pattern: bytes) -> tuple[int, int, list[bytes]]:
        """Look at about `count` keys from `bucket` on: where to go on, 0 at the end; how many it was; which match."""
        bucket, keys = self.store.scan(bucket, count)
        if pattern == b"*":
            return bucket, len(keys), keys
        matches = compile_glob(pattern).fullmatch
        return bucket, len(keys), [key for key in keys if matches(key)]

    @cw.remote
    async def info(self) -> ShardInfo:
        calls_sent, calls_received = _calls(self.shard)
        return ShardInfo(
            shard=self.shard.id,
            pid=os.getpid(),
            keys=len(self.store),
            expiring=self.store.expiring,
            commands_local=self.commands_local,
            commands_crossed=self.commands_crossed,
            calls_sent=calls_sent,
            calls_received=calls_received,
        )

    async def sweep_forever(self, everywhere: cw.Sharded[KeyValue]) -> None:
        """Remove what has expired, in steps small enough not to be felt."""
        while True:
            if not everywhere.is_here:  # the successor sweeps, if it gets the keys
                await asyncio.sleep(SWEEP_INTERVAL_S)
                continue
            due = self.store.sweep(SWEEP_KEYS) == SWEEP_KEYS
            await asyncio.sleep(0 if due else SWEEP_INTERVAL_S)


def _calls(shard: cw.Shard) -> tuple[int, int]:
    """Calls between shards that this one sent and received."""
    stats = shard.stats().mesh
    return stats.calls_sent, stats.calls_received
