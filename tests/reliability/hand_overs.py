"""Claims about state that moves when shards are replaced: under load, while whoever takes part in it is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator

import psutil

import clockworker as cw
from clockworker.shards.testing import Server, serving
from tests.reliability._checks import Result, check

CLIENTS = 4
KEYS = 16  # of each client
FILLING = 20_000  # keys that nobody counts, so that to hand over takes a while
HUNG_S = 60.0


class Tally:
    """Counts by key. life: what the state was called when it began, empty."""

    def __init__(self, shard: cw.Shard) -> None:
        self.life = secrets.token_hex(4)
        self.counts: dict[str, int] = {f"filling {shard.id} {number}": 1 for number in range(FILLING)}

    @cw.remote
    async def add(self, key: str) -> tuple[str, int]:
        self.counts[key] = self.counts.get(key, 0) + 1
        return self.life, self.counts[key]

    @cw.remote
    async def add_slowly(self, key: str) -> tuple[str, int]:
        before = self.counts.get(key, 0)
        await asyncio.sleep(0.005)
        self.counts[key] = before + 1
        return self.life, self.counts[key]

    async def hand_over(self) -> AsyncIterator[str | list[tuple[str, int]]]:
        yield self.life
        items = [*self.counts.items()]
        for start in range(0, len(items), 500):
            yield items[start : start + 500]
            await asyncio.sleep(0.001)

    async def take_over(self, parts: AsyncIterator[str | list[tuple[str, int]]]) -> None:
        self.counts = {}
        async for part in parts:
            if isinstance(part, str):
                self.life = part
            else:
                self.counts.update(part)


async def tallying(shard: cw.Shard) -> None:
    tally = await shard.start(Tally)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            key = line.decode().strip()
            place = tally.on(shard.owner(key))
            try:
                life, count = await (place.add_slowly(key) if len(key) % 2 else place.add(key))
                writer.write(f"{life} {count}\n".encode())
            except (cw.ShardDied, cw.ShardDown) as error:
                writer.write(f"{type(error).__name__}\n".encode())

    await shard.start_server(handle)
    await shard.wait_stopped()


class _Journal:
    """Clients that count, and what they were told of each key: the state's life, and the least and most that its count may be
    by now. An answer that did not come may have been counted or not."""

    def __init__(self, server: Server) -> None:
        self.acked = 0
        self.unanswered = 0
        self.lives: set[str] = set()
        self.wrong: list[str] = []
        self.progress = [time.monotonic()] * CLIENTS
        self._server = server
        self._done = threading.Event()
        self._known: dict[str, tuple[str, int, int]] = {}
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        assert not self.wrong, "\n".join([*self.wrong[:10], self._server.log])
        late = time.monotonic() - min(self.progress)
        assert late < HUNG_S, f"a client has waited for {late:.0f} s\n{self._server.log}"

    def _run(self, number: int) -> None:
        for key in itertools.cycle([f"{number} {'x' * at}" for at in range(KEYS)]):
            if self._done.wait(0.002):
                return
            self._count(key)
            self.progress[number] = time.monotonic()

    def _count(self, key: str) -> None:
        life, least, most = self._known.get(key, ("", 0, 0))
        try:
            with socket.create_connection(self._server.address, timeout=HUNG_S) as client:
                client.sendall(f"{key}\n".encode())
                answer = client.makefile().readline().split()
        except TimeoutError:
            self.wrong.append(f"{key!r}: no answer in {HUNG_S:g} s")
            return
        except OSError:
            answer = []
        if len(answer) != 2:  # of a shard that was killed
            self.unanswered += 1
            self._known[key] = (life, least, most + 1)
            return
        now, count = answer[0], int(answer[1])
        if now == life and not least < count <= most + 1:
            self.wrong.append(f"{key!r}: {count}, and not {least + 1} to {most + 1}, of life {life}")
        if now != life and count > most - least + 1 + 1_000:
            self.wrong.append(f"{key!r}: {count} of a life that has just begun")
        self.lives.add(now)
        self.acked += 1
        self._known[key] = (now, count, count)


@check(
    "kill -9 of whoever takes part while state moves, under load: acked writes lost or done twice 0, hung calls 0; lost as a "
    "whole only with the shard that had it",
    ci=8,
    release=200,
    pace=0.15,
)
def kills_while_state_moves(trials: int) -> Result:
    """A trial is a HUP, and in two of three of them a kill at a random moment: of a shard, or of a successor."""
    chance = random.Random()
    killed_with_state = 0
    moved = 0
    with serving(tallying, shards=2, options=["--timeout-hand-over", "60"], timeout=180) as server:
        journal = _Journal(server)
        try:
            for trial in range(trials):
                before = {shard: server.pid(shard) for shard in range(2)}
                os.kill(server.supervisor_pid, signal.SIGHUP)
                if trial % 3:
                    time.sleep(chance.uniform(0.0, 3.0))
                    killed_with_state += _kill(server, chance)
                _wait_calm(server, before if trial % 3 == 0 else {})
                journal.check()
        finally:
            journal.close()
        journal.check()
        moved = server.log.count("has handed over its state")
        # Each shard begins with one.
        assert len(journal.lives) <= 2 + killed_with_state, f"{journal.lives}, {killed_with_state} killed\n{server.log}"
        assert moved >= trials // 3, server.log
        assert server.stop() == 0, server.log
    return Result(
        trials,
        f"{journal.acked:,} acked, 0 lost, {journal.unanswered} without an answer; moved {moved} times, "
        f"{killed_with_state} killed that had it",
    )


def _kill(server: Server, chance: random.Random) -> int:
    """Somebody. 1 if it may have had the state of a shard."""
    places = {server.pid(shard) for shard in range(2)}
    found = [child for child in psutil.Process(server.supervisor_pid).children() if _is_shard(child)]
    victim = chance.choice([child.pid for child in found] or [*places])
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def _is_shard(process: psutil.Process) -> bool:
    try:
        return "CLOCKWORKER_SHARD_ID" in process.environ()
    except psutil.Error:
        return False


def _wait_calm(server: Server, gone: dict[int, int]) -> None:
    """Until there is one process of each shard, ready, and none of those that are to be gone."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        pids = {server.pid(shard) for shard in range(2)}
        found = {child.pid for child in psutil.Process(server.supervisor_pid).children() if _is_shard(child)}
        if found == pids and not found & set(gone.values()):
            time.sleep(0.5)  # a roll whose next successor is just being started
            if {child.pid for child in psutil.Process(server.supervisor_pid).children() if _is_shard(child)} == found:
                return
        time.sleep(0.02)
    raise AssertionError(f"the server does not come to rest\n{server.log}")
