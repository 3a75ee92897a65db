"""Load on a server: clients that keep a rate, and what became of each of their requests."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Self

import msgspec

from clockworker.shards.worker._connections import FIRST_S


class Outcome(msgspec.Struct, frozen=True):
    """One request. `said` is what the server answered, or the error of a connection that ended without an answer; `pid` is
    that of the shard at the other end, 0 if it has not answered on this connection. Times are monotonic, in seconds."""

    started: float
    ended: float
    pid: int
    said: str


class Load:
    """Runs in a thread while the block lasts: `rate` requests a second, `each` of them on a connection."""

    def __init__(self, address: tuple[str, int], rate: int, *, each: int, line: bytes = b"request\n") -> None:
        self.outcomes: list[Outcome] = []
        self.refused = 0  # connections that were not accepted
        # Requests that found their connection closed, since it was of earlier ones, or since its client has not come to ask for
        # longer than a server that stops waits for that; clients ask again.
        self.closed: list[Outcome] = []
        self._address = address
        self._interval = each / rate
        self._each = each
        self._line = line
        self._done = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def bad(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.said != "ok"]

    def rate(self) -> float:
        """Requests that were answered, a second."""
        outcomes = self.outcomes
        return len(outcomes) / (outcomes[-1].ended - outcomes[0].started)

    async def _run(self) -> None:
        clients: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not self._done.is_set():
            task = asyncio.create_task(self._client())
            clients.add(task)
            task.add_done_callback(clients.discard)
            due += self._interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*clients)

    async def _client(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(*self._address)
        except OSError:
            self.refused += 1
            return
        pid = 0
        for _ in range(self._each):
            started, answer = time.monotonic(), b""
            try:
                async with asyncio.timeout(10):
                    answer = await self._ask(reader, writer)
                said = "no answer"
                if answer:
                    text, said = answer.decode().split()
                    pid = int(text)
            except OSError as error:
                said = type(error).__name__
            outcome = Outcome(started, time.monotonic(), pid, said)
            if answer:
                self.outcomes.append(outcome)
                continue
            too_late = not pid and started - began >= FIRST_S and said in ("no answer", "ConnectionResetError")
            (self.closed if pid or too_late else self.outcomes).append(outcome)
            break
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """One request's answer, the pid and `ok` or what went wrong; empty if there is none."""
        writer.write(self._line)
        return await reader.readline()


class HttpLoad(Load):
    """The same of HTTP: the answer is the body."""

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.read(10_000)
        return head.partition(b"\r\n\r\n")[2] if head.startswith(b"HTTP/1.1 200 ") else head
