"""What an application sees of the shard that it runs in: `async def main(shard: Shard)`.

A shard gets its listening sockets when it is ready, and now and then those of others that cannot accept (`_lending`).

Stopping, from the inside. When the shard is told to stop it first lets the loop accept what is already in the listening
sockets' queues, unless a successor will, closes its copies of those sockets, and then wakes `wait_stopped()`. `main`
finishes what it wants to finish; then the handlers of open connections do (see `_streams`). Without descriptors enough to
accept all, `wait_stopped()` returns before that, and the rest is accepted as connections end. Only when every shard has
come so far do they leave, because open work may need a peer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from clockworker._errors import UnknownQueue, UsageError
from clockworker.executor import Executor, ExecutorStats, QueueHandle
from clockworker.ipc import Mesh, MeshStats, Sharded
from clockworker.ipc._remote import RemoteMethod, remote_function, remote_methods
from clockworker.shards._accept import Accepting, Acceptor, LoopServers, ProtocolFactory
from clockworker.shards._blocking import BlockingPool
from clockworker.shards._counter import Counter, CounterBook
from clockworker.shards._handover import receive
from clockworker.shards._sockets import HANDSHAKE_S
from clockworker.shards._streams import LOOK_S, Handler, StreamServer

T = TypeVar("T")
Awaited = TypeVar("Awaited", bound=Coroutine[Any, Any, Any] | AsyncIterator[Any])
P = ParamSpec("P")


class Handover(msgspec.Struct, frozen=True):
    """Where the supervisor hands connections over, and who is told how many have been taken and are open."""

    sock: socket.socket
    changed: Callable[[int, int], None]


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
        announce_ready: Callable[[bool], None],
        announce_serving: Callable[[], None],
        blocking_threads: int,
        *,
        backlog: int = 2048,
        handover: Handover | None = None,
        max_connections: int | None = None,
        access_log: bool = False,
    ) -> None:
        self.id = id
        self.count = count
        self.cpu = cpu
        self.executor = executor
        self._mesh = mesh
        self._listening: dict[int, list[socket.socket]] = {}  # by the shard whose they are
        self._changing = asyncio.Lock()  # what is accepted from
        self._closed = False
        self._handover = handover
        self._max_connections = max_connections
        self._backlog = backlog
        self._accepting: Accepting | None = None
        self._streams: StreamServer | None = None
        self._announce_ready = announce_ready
        self._announce_serving = announce_serving
        self._access_log = access_log
        self._blocking = BlockingPool(blocking_threads)
        self._counters = CounterBook()
        self.is_ready = False
        self._changes: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    def queue(self, name: str) -> QueueHandle:
        """The executor's queue of that name. Another one raises `UnknownQueue`, which says how to declare it; where `main`
        does not catch it, the server says that in one line and exits with status 3."""
        try:
            return self.executor.queue(name)
        except KeyError:
            known = [repr(queue.key) for queue in self.executor.queues()]
            raise UnknownQueue(
                f"there is no queue {name!r}, only {', '.join(known)}; add --queue {name}:1, and one for each other queue that "
                "the application names, or [[queue]] tables in the file"
            ) from None

    def counter(self, name: str) -> Counter:
        """A counter of the application's own, the same for the same name: `orders = shard.counter("shop_orders")`, and
        `orders.add()` for each. Prometheus finds `shop_orders_total` with a series a shard on the page of metrics.

        name: letters, digits and `_`, without the ending `_total`, which is added. Raises `UsageError` for another one.
        """
        return self._counters.get(name)

    async def start(self, service: Callable[Concatenate[Shard, P], T], *args: P.args, **kwargs: P.kwargs) -> Sharded[T]:
        """Make this shard's instance, `service(shard, *args)`, and open it to calls from the others.

        Every shard should start the same services; calls wait at a shard that has not come to it yet. A method's
        `@remote(queue=...)` that this shard does not have raises `UnknownQueue`.
        """
        if not isinstance(service, type):
            raise UsageError(
                f"{service!r} is no class; a service is a class that takes the shard as its first argument"
            )
        instance = service(self, *args, **kwargs)
        try:
            return self._mesh.start(service, instance)
        except KeyError:
            self._check_queues(remote_methods(service).values())
            raise

    def call(self, shard: int, function: Callable[P, Awaited], /, *args: P.args, **kwargs: P.kwargs) -> Awaited:
        """Call a module's function that is marked `@remote` on a shard: `await shard.call(1, compact, 10)`. One that yields is
        iterated: `async for row in shard.call(1, rows)`.

        Raises what a call of a service does (see `Sharded.on`). `with deadline(seconds):` sets how long it may take.
        """
        return self._function_caller(shard, function)(*args, **kwargs)  # type: ignore[no-any-return]

    def call_threadsafe(
        self, shard: int, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """The same from any other thread. The future's `result()` waits for the answer, and `cancel()` cancels the call."""
        call = self._function_caller(shard, function)
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

    async def start_server(
        self,
        client_connected_cb: Handler,
        *,
        queue: str | None = None,
        limit: int = 2**16,
        max_connections: int | None = None,
        read_timeout: float | None = None,
    ) -> None:
        """Serve asyncio streams on this shard's listening sockets, until the shard stops.

        client_connected_cb: `async def handle(reader, writer)`, run as a task of `queue` (the first queue unless given)
        for each connection. The connection is closed when it returns; an exception is logged.
        limit: bytes; the reader's, as in `asyncio.start_server`.
        max_connections: how many this shard holds open at once; more wait in the backlog. Unless given it is
        `--max-connections`, without which as many are taken as come.
        read_timeout: seconds that one read of the handler (a line, so many bytes) may take from its call to its return,
        however steadily the client trickles. Then it raises `TimeoutError`, and the connection is closed unless the
        handler catches that. A client that is silent between two requests is in a read, too.

        When the shard stops, a handler that waits for data with nothing left to read reads an end of file; the others
        go on. Raises `UsageError` if the sockets are served already.
        """
        handle = self._queue_or_first(queue)
        if max_connections is not None and max_connections < 1:
            raise UsageError(f"max_connections is {max_connections}; give a whole number from 1, or None")
        if read_timeout is not None and not read_timeout > 0:
            raise UsageError(f"read_timeout is {read_timeout}; give a number of seconds above 0, or None")
        streams = StreamServer(
            client_connected_cb, handle.spawn, limit, read_timeout=read_timeout, access_log=self._access_log
        )
        await self._serve(streams.protocol, handle, max_connections or self._max_connections)
        self._streams = streams

    async def create_server(self, protocol_factory: ProtocolFactory, *, queue: str | None = None) -> None:
        """Serve a protocol on this shard's listening sockets, until the shard stops.

        The protocol's callbacks run on the loop; the tasks that they start run in `queue` (the first queue unless
        given). Its connections are the application's to finish: after `wait_stopped()`, close those that are idle and
        wait for the rest before `main` returns. What is still open then is cut. Raises `UsageError` if the sockets are
        served already.
        """
        await self._serve(protocol_factory, self._queue_or_first(queue), None)

    def ready(self) -> None:
        """Tell the supervisor that this shard serves. Waiting for the stop says it too."""
        if not self.is_ready:
            self.is_ready = True
            self._mesh.ready()
            self._announce_ready(self._accepting is not None)

    async def wait_stopped(self) -> None:
        """Return when the shard is told to stop. What `main` does then has the graceful shutdown's time."""
        self.ready()
        await self._stopped.wait()

    @property
    def stopping(self) -> bool:
        """Whether this shard has been told to stop."""
        return self._stopping is not None

    def stats(self) -> ShardStats:
        """Counters since this incarnation was started, and gauges of now. No system call; some microseconds."""
        return ShardStats(
            self.id,
            os.getpid(),
            self.cpu,
            *self._connections(),
            self.executor.stats(),
            self._mesh.stats(),
        )

    def _function_caller(self, shard: int, function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return self._mesh.function_caller(shard, function)
        except KeyError:
            self._check_queues([remote_function(function)])
            raise

    def _check_queues(self, methods: Iterable[RemoteMethod]) -> None:
        for method in methods:
            if method.options.queue is not None:
                try:
                    self.queue(str(method.options.queue))
                except UnknownQueue as error:
                    raise UnknownQueue(f"@remote(queue=...) of {method.name}: {error}") from None

    def _queue_or_first(self, name: str | None) -> QueueHandle:
        return self.executor.queues()[0] if name is None else self.queue(name)

    async def _serve(self, factory: ProtocolFactory, queue: QueueHandle, max_connections: int | None) -> None:
        if self._accepting is not None:
            raise UsageError("this shard's listening sockets are served already; one server a shard")
        if self.stopping:
            return
        if self._handover is not None:
            self._accepting = Acceptor(
                {self._handover.sock: receive}, factory, queue, max_connections, self._handover.changed
            )
        elif max_connections is not None:
            self._accepting = Acceptor({}, factory, queue, max_connections, lambda taken, open: None)
        else:
            self._accepting = LoopServers(factory, queue, self.executor, self._backlog)
        if self.is_ready:
            self._announce_serving()

    # For the shard's process only.

    def _accept_from(self, shard: int, listening: list[socket.socket]) -> None:
        self._change(self._add(shard, listening))

    def _cease_from(self, shard: int) -> None:
        self._change(self._remove(shard))

    def _change(self, change: Coroutine[Any, Any, None]) -> None:
        """One after the other: a lock is fair."""

        async def run() -> None:
            async with self._changing:
                await change

        task = asyncio.get_running_loop().create_task(run(), name="listen")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _add(self, shard: int, listening: list[socket.socket]) -> None:
        if self._accepting is None or self._closed:
            _close(listening)
        else:
            self._listening.setdefault(shard, []).extend(listening)
            await self._accepting.add(listening)

    async def _remove(self, shard: int) -> None:
        listening = self._listening.pop(shard, [])
        if self._accepting is not None:
            self._accepting.remove(listening)
        _close(listening)

    def _stop(self, for_good: bool, orphaned: Sequence[socket.socket]) -> None:
        if self._stopping is not None:
            _close(orphaned)
        else:
            stop = self._stop_accepting(for_good, orphaned)
            self._stopping = asyncio.get_running_loop().create_task(stop, name="stop")

    def _lift_limit(self) -> None:
        if isinstance(self._accepting, Acceptor):
            self._accepting.lift_limit()

    async def _stop_accepting(self, for_good: bool, orphaned: Sequence[socket.socket]) -> None:
        async with self._changing:
            if self._accepting is not None:
                await self._accepting.add(orphaned)
            if for_good:
                await asyncio.sleep(HANDSHAKE_S)
            if self._accepting is not None:
                await self._accepting.close(take_all=for_good, starved=self._stopped.set)
            for listening in (*self._listening.values(), orphaned):
                _close(listening)
            self._listening.clear()
            self._closed = True
            self._stopped.set()

    async def _drain(self) -> None:
        await self._stopped.wait()
        if self._streams is not None:
            await self._streams.drain()
            while self._stopping is not None and not self._stopping.done():  # there is more to accept
                await asyncio.wait([self._stopping], timeout=LOOK_S)
                await self._streams.drain()
        await self._blocking.drain()

    def _connections(self) -> tuple[int, int, int]:
        """How many were accepted and are open, and how many handlers have raised."""
        streams = self._streams
        return (streams.accepted, streams.open, streams.errors) if streams else (0, 0, 0)


def _close(listening: Iterable[socket.socket]) -> None:
    for sock in listening:
        sock.close()
