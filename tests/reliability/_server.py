"""The server that the checks of processes run: `python -m tests.reliability` starts it on real shards.

A line `call` asks the next shard, too; each request takes 2 ms and is answered with the pid of who answered.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time

import clockworker as cw

REQUEST_S = 0.002


def _fork(how: str) -> int:
    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,), daemon=True)
        process.start()
        assert process.pid is not None
        return process.pid
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        if how == "of a child" and os.fork():
            os._exit(0)
        os.write(writer, os.getpid().to_bytes(8, "little"))
        os.close(reader)
        os.close(writer)
        time.sleep(3600)
        os._exit(0)
    if how == "of a child":
        os.waitpid(child, 0)
    pid = int.from_bytes(os.read(reader, 8), "little")
    os.close(reader)
    os.close(writer)
    return pid


class Peer:
    """What shards ask of each other, and the checks of them."""

    def __init__(self, shard: cw.Shard) -> None:
        self.shard = shard
        self.all: cw.Sharded[Peer]

    @cw.remote
    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(3600)

    @cw.remote
    async def answer(self) -> int:
        await asyncio.sleep(REQUEST_S)
        return os.getpid()

    @cw.remote
    async def block(self) -> None:
        asyncio.get_running_loop().call_later(0.01, time.sleep, 3600)

    @cw.remote
    async def fork(self, how: str) -> int:
        """The pid of a child that stays: of `os.fork`, of multiprocessing, or of a child of the first kind."""
        return _fork(how)

    @cw.remote
    async def time_of_death(self, peer: int) -> float:
        """Seconds until a call to a peer that dies in it has ended."""
        started = time.monotonic()
        try:
            await self.all.on(peer).die()
        except cw.ShardDied:
            return time.monotonic() - started
        raise AssertionError("the call came back")


async def main(shard: cw.Shard) -> None:
    peers = await shard.start(Peer)
    peers.local.all = peers

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line == b"call\n":
                try:
                    await peers.on((shard.id + 1) % shard.count).answer()
                    said = "ok"
                except cw.CallError as error:
                    said = type(error).__name__
            else:
                await asyncio.sleep(REQUEST_S)
                said = "ok"
            writer.write(f"{os.getpid()} {said}\n".encode())
            await writer.drain()

    await shard.start_server(handle)
    await shard.wait_stopped()
