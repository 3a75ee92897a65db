"""What an application sees of the shard that it runs in: `async def main(shard: Shard)`.

Stopping, from the inside. When the shard is told to stop it first lets the loop accept what is already in the listening
sockets' queues, closes its copies of those sockets, and then wakes `wait_stopped()`. `main` finishes what it wants to
finish; then the handlers of open connections do (see `_streams`). Only when every shard has come so far do they leave,
because open work may need a peer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from clockworker._errors import UsageError
from clockworker.executor import Executor, ExecutorStats, QueueHandle
from clockworker.ipc import Mesh, MeshStats, Sharded
from clockworker.shards._blocking import BlockingPool
from clockworker.shards._counters import Counts
from clockworker.shards._streams import Handler, StreamServer

T = TypeVar("T")
Awaited = TypeVar("Awaited", bound=Coroutine[Any, Any, Any] | AsyncIterator[Any])
P = ParamSpec("P")


class ShardStats(msgspec.Struct, frozen=True):
    """One shard's numbers since it was started. `cpu` is None where shards are not pinned. The connections are those of
    `Shard.start_server`; a protocol's are its own to count."""

    id: int
    pid: int
    cpu: int | None
    connections_accepted: int
    connections_open: int
    handler_errors: int
    executor: ExecutorStats
    mesh: MeshStats


class Shard:
    """Made by `clockworker-serve` in each of its processes. Everything here belongs to the thread of the event loop.

    id: 0 to count - 1. The same after a restart.
    count: how many shards there are.
    cpu: the CPU that this process is pinned to, or None.
    executor: the running executor, whose queues are those of the command line.
    is_ready: whether `ready()` has been called.
    """

    def __init__(
        self,
        id: int,
        count: int,
        cpu: int | None,
        executor: Executor,
        mesh: Mesh,
        listening: list[socket.socket],
        announce_ready: Callable[[], None],
        blocking_threads: int,
    ) -> None:
        self.id = id
        self.count = count
        self.cpu = cpu
        self.executor = executor
        self._mesh = mesh
        self._listening = listening
        self._servers: list[asyncio.AbstractServer] = []
        self._streams: StreamServer | None = None
        self._announce_ready = announce_ready
        self._blocking = BlockingPool(blocking_threads)
        self.is_ready = False
        self._stopped = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    def queue(self, name: str) -> QueueHandle:
        """The executor's queue of that name. Raises as `Executor.queue` does if there is none."""
        return self.executor.queue(name)

    async def start(self, service: Callable[Concatenate[Shard, P], T], *args: P.args, **kwargs: P.kwargs) -> Sharded[T]:
        """Make this shard's instance, `service(shard, *args)`, and open it to calls from the others.

        Every shard should start the same services; calls wait at a shard that has not come to it yet.
        """
        if not isinstance(service, type):
            raise UsageError(
                f"{service!r} is no class; a service is a class that takes the shard as its first argument"
            )
        instance = service(self, *args, **kwargs)
        return self._mesh.start(service, instance)

    def call(self, shard: int, function: Callable[P, Awaited], /, *args: P.args, **kwargs: P.kwargs) -> Awaited:
        """Call a module's function that is marked `@remote` on a shard: `await shard.call(1, compact, 10)`. One that yields is
        iterated: `async for row in shard.call(1, rows)`.

        Raises what a call of a service does (see `Sharded.on`). `with deadline(seconds):` sets how long it may take.
        """
        return self._mesh.function_caller(shard, function)(*args, **kwargs)  # type: ignore[no-any-return]

    def call_threadsafe(
        self, shard: int, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """The same from any other thread. The future's `result()` waits for the answer, and `cancel()` cancels the call."""
        call = self._mesh.function_caller(shard, function)
        return self._mesh.run_threadsafe(lambda: call(*args, **kwargs))

    async def run_blocking(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an ordinary function that blocks in a thread, and wait for its result: reading files, talking to a database
        by a library that knows no asyncio.

        A few run at once, and the rest wait. A caller that is cancelled leaves a function that has begun running. When the
        shard stops, it waits for all of them, within the time of the graceful shutdown.
        """
        return await self._blocking.run(function, *args, **kwargs)

    def owner(self, key: bytes | str | int) -> int:
        """The shard that `key` belongs to: the same in every shard, run and machine, for the same number of shards.

        A text key is its UTF-8 bytes; a number is itself, and not the text that shows it.
        """
        if isinstance(key, str):
            key = key.encode()
        elif isinstance(key, int):
            key = key.to_bytes(key.bit_length() // 8 + 1, "little", signed=True)
        return zlib.crc32(key) * self.count >> 32

    async def start_server(self, client_connected_cb: Handler, *, queue: str | None = None, limit: int = 2**16) -> None:
        """Serve asyncio streams on this shard's listening sockets, until the shard stops.

        client_connected_cb: `async def handle(reader, writer)`, run as a task of `queue` (the first queue unless given)
        for each connection. The connection is closed when it returns; an exception is logged.
        limit: bytes; the reader's, as in `asyncio.start_server`.

        When the shard stops, a handler that waits for data with nothing left to read reads an end of file; the others
        go on. Raises `UsageError` if the sockets are served already.
        """
        handle = self._queue_or_first(queue)
        streams = StreamServer(client_connected_cb, handle.spawn, limit)
        await self._serve(streams.protocol, handle)
        self._streams = streams

    async def create_server(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *, queue: str | None = None
    ) -> None:
        """Serve a protocol on this shard's listening sockets, until the shard stops.

        The protocol's callbacks run on the loop; the tasks that they start run in `queue` (the first queue unless
        given). Its connections are the application's to finish: after `wait_stopped()`, close those that are idle and
        wait for the rest before `main` returns. What is still open then is cut. Raises `UsageError` if the sockets are
        served already.
        """
        await self._serve(protocol_factory, self._queue_or_first(queue))

    def ready(self) -> None:
        """Tell the supervisor that this shard serves. Waiting for the stop says it too."""
        if not self.is_ready:
            self.is_ready = True
            self._announce_ready()

    async def wait_stopped(self) -> None:
        """Return when the shard is told to stop. What `main` does then has the graceful shutdown's time."""
        self.ready()
        await self._stopped.wait()

    @property
    def stopping(self) -> bool:
        """Whether this shard has been told to stop."""
        return self._stopping is not None

    def stats(self) -> ShardStats:
        streams = self._streams
        return ShardStats(
            self.id,
            os.getpid(),
            self.cpu,
            streams.accepted if streams else 0,
            streams.open if streams else 0,
            streams.errors if streams else 0,
            self.executor.stats(),
            self._mesh.stats(),
        )

    def _queue_or_first(self, name: str | None) -> QueueHandle:
        return self.executor.queues()[0] if name is None else self.executor.queue(name)

    async def _serve(self, factory: Callable[[], asyncio.BaseProtocol], queue: QueueHandle) -> None:
        if self._servers:
            raise UsageError("this shard's listening sockets are served already; one server a shard")
        if not self._listening:
            return  # told to stop before it came to this
        # uvloop runs a server's callbacks in the context of the task that made it: hence a task of the queue.
        self._servers = await queue.spawn(self._create_servers(factory), name="listen")

    async def _create_servers(self, factory: Callable[[], asyncio.BaseProtocol]) -> list[asyncio.AbstractServer]:
        loop = asyncio.get_running_loop()
        servers: list[asyncio.AbstractServer] = []
        for sock in self._listening:
            create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
            servers.append(await create(factory, sock=sock))
        return servers

    # For the shard's process only.

    def _stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop_accepting(), name="stop")

    async def _stop_accepting(self) -> None:
        for _ in range(2):  # one whole turn of the loop: what waits to be accepted is accepted
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        for sock in self._listening:
            sock.close()
        self._listening.clear()
        self._stopped.set()

    async def _drain(self) -> None:
        await self._stopped.wait()
        if self._streams is not None:
            await self._streams.drain()
        await self._blocking.drain()

    def _counts(self) -> Counts:
        """What goes into the memory that the supervisor reads."""
        stats = self.stats()
        return Counts(
            written_ns=time.monotonic_ns(),
            connections_accepted=stats.connections_accepted,
            connections_open=stats.connections_open,
            handler_errors=stats.handler_errors,
            polls=stats.executor.polls,
            busy_ns=stats.executor.busy_ns,
            calls_local=stats.mesh.calls_local,
            calls_sent=stats.mesh.calls_sent,
            calls_received=stats.mesh.calls_received,
            bytes_sent=stats.mesh.bytes_sent,
            bytes_received=stats.mesh.bytes_received,
            missed_wakeups=stats.mesh.missed_wakeups,
        )
