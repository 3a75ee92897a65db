"""What an application sees of the shard that it runs in: `async def main(shard: Shard)`.

A shard gets its listening sockets when it is ready, and now and then those of others that cannot accept (`_lending`).

Stopping, from the inside. When the shard is told to stop it first lets the loop accept what is already in the listening
sockets' queues, unless a successor will, closes its copies of those sockets, and then wakes `wait_stopped()`. `main`
finishes what it wants to finish; then open connections are drained (see `_connections`). Without descriptors enough to
accept all, `wait_stopped()` returns before that, and the rest is accepted as connections end. Only when every shard has
come so far do they leave, because open work may need a peer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from random import randint
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

import msgspec

from clockworker._errors import UnknownQueue, UsageError
from clockworker.executor import Executor, ExecutorStats, QueueHandle
from clockworker.ipc import Mesh, MeshStats, Sharded, Topic
from clockworker.ipc.calls._definitions import remote_function, remote_methods, service_name
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._owners import PLACES
from clockworker.ipc.calls._state import state_methods
from clockworker.shards.config._http import Route
from clockworker.shards.logs._log_limit import ErrorLimiter, more
from clockworker.shards.protocol._messages import CameBy, Configure
from clockworker.shards.worker._blocking_pools import BlockingPools
from clockworker.shards.worker._collector import Collector
from clockworker.shards.worker._connections import Server
from clockworker.shards.worker._counter import Counter, CounterBook
from clockworker.shards.worker._hidden import hide
from clockworker.shards.worker._peers import PeerChange, Peers
from clockworker.shards.worker._pool_frames import Setup
from clockworker.shards.worker._process_pool import ProcessPool
from clockworker.shards.worker._protocols import ProtocolFactory, ProtocolServer, Stop
from clockworker.shards.worker._queue_calls import QueueCalls
from clockworker.shards.worker._requests import RequestBook
from clockworker.shards.worker._servers import Line, Servers, close_all
from clockworker.shards.worker._streams import Handler, StreamServer

if TYPE_CHECKING:
    from clockworker.cluster._cluster import Cluster

T = TypeVar("T")
Awaited = TypeVar("Awaited", bound=Coroutine[Any, Any, Any] | AsyncIterator[Any])
P = ParamSpec("P")


class ShardStats(msgspec.Struct, frozen=True):
    """One shard's numbers since it was started.

    id, pid, cpu: the shard, its process, and the CPU that this is pinned to; None where shards are not.
    connections_accepted, connections_open: those of `Shard.start_server` and `Shard.create_server`; one is open until its last
    byte has gone to the kernel.
    handler_errors: what handlers raised, or callbacks of protocols did.
    executor, mesh: its tasks, and its calls to and from other shards.
    blocking_running, blocking_waiting: functions of `run_blocking` that are in threads, and calls that wait for one.
    processes_running, processes_waiting, processes_done: those of `run_process`; done are those that have ended.
    """

    id: int
    pid: int
    cpu: int | None
    connections_accepted: int
    connections_open: int
    handler_errors: int
    executor: ExecutorStats
    mesh: MeshStats
    blocking_running: int
    blocking_waiting: int
    processes_running: int
    processes_waiting: int
    processes_done: int


class Shard:
    """The shard that an application runs in. Made by `clockworker-serve` in each of its processes. Everything here belongs to
    the thread of the event loop.

    id: 0 to count - 1. The same after a restart.
    count: how many shards there are.
    cpu: the CPU that this process is pinned to, or None.
    incarnation: 1 for the first process of this shard, 2 for the one that came after it, and so on.
    came_by: what this process was started for: "start", with the server, and nothing was before; "roll", to replace another
    that serves until this one is ready, by SIGHUP, SIGTERM to that one alone, or --reload; or "crash", after another that has
    died.
    executor: the running executor. Its queues are those that the application declares (`clockworker.application`), with what
    the operator says of them, and his own.
    is_ready: whether `ready()` has been called.
    cluster: the cluster that this node is in; None without `[cluster]`. It has `nodes`, by name, `epoch`, `owns(key)`, and
    `async for view in cluster.changes()`.
    """

    def __init__(
        self,
        configure: Configure,
        executor: Executor,
        mesh: Mesh,
        announce_ready: Callable[[Mapping[str, int | None]], None],
        announce_serving: Callable[[str, int | None], None],
        announce_worn: Callable[[str], None],
        *,
        lines: Mapping[str, Line] | None = None,
        ssl: SSLContext | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self.id = configure.shard
        self.count = configure.count
        self.cpu = configure.cpu
        self.incarnation = configure.incarnation
        self.came_by: CameBy = configure.came_by
        self.cluster = cluster
        self._inherits = frozenset(configure.inherits)
        self._peers = Peers(configure.shard)
        self.executor = executor
        self._config = configure.config
        self._mesh = mesh
        self._collector = Collector()
        config = self._config
        self._servers = Servers(
            executor,
            config.binds,
            lines or {},
            limit=config.max_connections,
            access_log=config.access_log,
            announce_serving=announce_serving,
            ssl=ssl,
        )
        self._complaints = ErrorLimiter()
        self._announce_ready = announce_ready
        self._announce_worn = announce_worn
        self._blocking = BlockingPools(config.http.threads or config.blocking_threads, self._account)
        self._in_queues = QueueCalls()
        self._processes = ProcessPool(
            configure.processes,
            lambda: Setup(f"shard {self.id} pool", list(sys.path), configure.pool_cpus, config),
            self._account,
        )
        self._counters = CounterBook()
        self._requests = RequestBook()
        most = config.http.limit_max_requests
        self._most_requests = None if most is None else most + randint(0, config.http.limit_max_requests_jitter)
        self._cuts: list[Callable[[], None]] = []
        self.is_ready = False
        self._stopped = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._stops_for_good = False  # with all others

    def queue(self, name: str) -> QueueHandle:
        """The executor's queue of that name. Another one raises `UnknownQueue`, which says how to declare it; where `main`
        does not catch it, the server says that in one line and exits with status 3."""
        try:
            return self.executor.queue(name)
        except KeyError:
            known = [repr(queue.key) for queue in self.executor.queues()]
            raise UnknownQueue(
                f"there is no queue {name!r}, only {', '.join(known)}; add --queue {name}:1, and one for each other queue that "
                "the application names, or [[queue]] tables in the file; or have it declare them: "
                f"@cw.application(queues=[cw.Queue({name!r})])"
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

        A service with `async def hand_over(self) -> State` and `async def take_over(self, state: State) -> None` keeps its
        state when its shard is replaced: the one that is replaced hands over, and its successor takes over before it serves,
        while calls wait. What is large goes in parts: `hand_over(self) -> AsyncIterator[Part]`, which yields them, and
        `take_over(self, parts: AsyncIterator[Part]) -> None`. State and Part are types that msgspec encodes, as for
        `@remote`. Start such a service before `ready()`.

        In a cluster, `async def partitions_moved(self, gained: frozenset[int], lost: frozenset[int], epoch: int)` hears which
        partitions of the keys have come to this shard and have left it. It runs before a call of what was gained begins; calls
        of what was lost are refused already.

        Raises `UsageError` for what is no class.
        """
        if not isinstance(service, type):
            raise UsageError(
                f"{service!r} is no class; a service is a class that takes the shard as its first argument"
            )
        instance = service(self, *args, **kwargs)
        if self.cluster is not None and (moved := getattr(instance, "partitions_moved", None)) is not None:
            await self.cluster.add_hook(moved)
        try:
            return self._mesh.start(service, instance)
        except KeyError:
            self._check_queues(remote_methods(service).values())
            raise

    def inherits(self, service: type) -> bool:
        """Whether the shard that this one replaces will hand over the state of the service to this one, after `ready()` and
        before anything is served: then there is no need to load it from elsewhere. False in a shard that replaces none, and
        where the version before had no such service, or it had no `hand_over`."""
        return service_name(service) in self._inherits and state_methods(service) is not None

    def peers(self) -> AsyncIterator[PeerChange]:
        """What becomes of the other shards: `async for change in shard.peers()`. First what is: a change "came" for each that
        is there. Then what changes, in its order, until the shard ends.

        Of each shard only the latest waits to be taken, so one who takes them slowly may miss that a peer died and another
        came, and then hears that it was "replaced"; he never misses what is now.
        """
        return self._peers.changes()

    def call(self, shard: int, function: Callable[P, Awaited], /, *args: P.args, **kwargs: P.kwargs) -> Awaited:
        """Call a module's function that is marked `@remote` on a shard: `await shard.call(1, compact, 10)`. One that yields is
        iterated: `async for row in shard.call(1, rows)`.

        Raises what a call of a service does (see `Sharded.on`). `with deadline(seconds):` sets how long it may take.
        """
        return self._function_caller(shard, function)(*args, **kwargs)  # type: ignore[no-any-return]

    def call_threadsafe(
        self, shard: int, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """The same, `function` on that shard, from any other thread. The future's `result()` waits for the answer, and
        `cancel()` cancels the call."""
        call = self._function_caller(shard, function)
        return self._mesh.run_threadsafe(lambda: call(*args, **kwargs))

    def topic(self, name: str, type: type[T], ordered: bool = False) -> Topic[T]:
        """A topic, which all shards know by its name: what one publishes all hear that have subscribed.

            lines = shard.topic("room:7", Line)
            await lines.publish(line)
            async with lines.subscribe() as received:
                async for line in received: ...

        name: up to 255 bytes. type: of its messages, as one would annotate a parameter of a remote method.
        ordered: all subscribers see the messages of all publishers in one order; they go by way of the shard that owns the
            name (`owner`). Unordered, they see those of each publisher in order.

        At most once, and without a history. A message is one object for all subscribers of a shard: do not change it.

        Raises `UsageError` for a name that is none, `ConfigurationError` for a type that does not travel, and `SchemaMismatch`
        if the topic is of another type, on this shard or on one that has a subscriber.
        """
        return self._mesh.topics.topic(name, type, ordered)

    @overload
    async def run_blocking(self, function: Callable[..., T], /, *args: Any, queue: str, **kwargs: Any) -> T: ...

    @overload
    async def run_blocking(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def run_blocking(  # type: ignore[misc]  # a parameter `queue` of the function's own is no keyword here
        self, function: Callable[..., T], /, *args: Any, queue: str | None = None, **kwargs: Any
    ) -> T:
        """Run an ordinary function that blocks in a thread, and wait for its result: reading files, talking to a database
        by a library that knows no asyncio.

        queue: the name of a preemptive queue, for a function that computes. It runs there, as a step which is cut into slices,
        in the group of the caller: with the share of that queue, where a thread would compete with the loop for the
        interpreter. Raises `UsageError` for a queue that is not preemptive, `UnknownQueue` for one that is not there. A
        function's own parameter of that name is given by `functools.partial`.

        In threads a few run at once, and the rest wait; for each depth of calls within calls, so that a function may call other
        shards (`call_threadsafe`) and wait for them. A caller that is cancelled leaves a function that has begun running. When
        the shard stops, it waits for all of them, within the time of the graceful shutdown. What the function raises is raised
        here, but StopIteration, GeneratorExit and CancelledError, which would end the caller, as the cause of a RuntimeError.
        """
        if queue is not None:
            return await self._in_queues.run(self.queue(queue), self._group(), function, *args, **kwargs)
        return await self._blocking.run(function, *args, **kwargs)

    async def run_process(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an ordinary function that computes in another process, on another core, and wait for its result.

        function: one that a module has under its name; it, its arguments and its result are pickled. What it finds there is
        another interpreter: none of this process's variables, no shard, no event loop.

        A few run at once (`--processes`), and the rest wait. A caller that is cancelled, or whose `asyncio.timeout` is over,
        ends its function: by SystemExit, and after a second by force. When the shard stops, it waits for all of them, within
        the time of the graceful shutdown. What the function raises is raised here, with the other process's traceback as its
        cause; `RemoteError` says it of an exception that pickle does not take, and RuntimeError of one that would end the
        caller or the shard. Raises `UsageError` for what cannot be sent, and `ProcessDied` if the process ends before the
        function does.
        """
        return await self._processes.run(function, *args, **kwargs)

    @property
    def place(self) -> int:
        """The number of this shard on all nodes of the cluster, for messages that name it: `slot * 1024 + id`. Without a
        cluster, and before this node has joined, it is `id`."""
        return self.id if self.cluster is None else self.cluster.slot * PLACES + self.id

    def owner(self, key: bytes | str | int) -> int:
        """The shard that `key` belongs to: the same in every shard, run and machine, for the same number of shards.

        A text key is its UTF-8 bytes; a number is itself, and not the text that shows it.

        In a cluster the key may belong to a shard of another node, and moves when nodes come and go: `service.of(key)` follows
        it. The number is that of one of our own shards, below `count`, or one that all nodes know that shard by.
        """
        return self._mesh.owners.of(key)

    async def start_server(
        self,
        client_connected_cb: Handler,
        *,
        queue: str | None = None,
        limit: int = 2**16,
        bind: str | None = None,
        ssl: SSLContext | Literal[False] | None = None,
        max_connections: int | None = None,
        read_timeout: float | None = None,
    ) -> None:
        """Serve asyncio streams on this shard's listening sockets, until the shard stops.

        client_connected_cb: `async def handle(reader, writer)`, run as a task of `queue` (the first queue unless given)
        for each connection. The connection is closed when it returns; an exception is logged.
        limit: bytes; the reader's, as in `asyncio.start_server`.
        bind: name of the addresses that are served, "admin" for those of `--bind admin=HOST:PORT`; unless given it is
        those that have no name. Each name has one server.
        ssl: serve TLS by this `ssl.SSLContext`. None: by that of the options (`--ssl-certfile`), if any; False: never.
        A handshake may take 10 s, and its connection counts meanwhile.
        max_connections: how many connections of this server a shard holds open at once; more wait in the backlog. Unless given
        it has a part in `--max-connections`, which all such servers of a shard have together, and without which as many are
        taken as come.
        read_timeout: seconds that one read of the handler (a line, so many bytes) may take from its call to its return,
        however steadily the client trickles. Then it raises `TimeoutError`, and the connection is closed unless the
        handler catches that. A client that is silent between two requests is in a read, too.

        When the shard stops, a handler that waits for data with nothing left to read reads an end of file; the others
        go on. Raises `UsageError` if the addresses are served already, or there are none of that name.
        """
        if not callable(client_connected_cb):
            raise UsageError(
                f"start_server takes `async def handle(reader, writer)`, a function, and got {client_connected_cb!r}"
            )
        handle = self._queue_or_first(queue)
        if read_timeout is not None and not read_timeout > 0:
            raise UsageError(f"read_timeout is {read_timeout}; give a number of seconds above 0, or None")
        streams = StreamServer(client_connected_cb, handle.spawn, limit, read_timeout=read_timeout)
        self._serve(streams, handle, bind, max_connections, ssl)

    async def create_server(
        self,
        protocol_factory: ProtocolFactory,
        *,
        queue: str | None = None,
        bind: str | None = None,
        ssl: SSLContext | Literal[False] | None = None,
        max_connections: int | None = None,
        stop: Stop | None = None,
    ) -> None:
        """Serve a protocol on this shard's listening sockets, until the shard stops.

        protocol_factory: makes one for each connection. The protocol's callbacks run on the loop, in a context of its own for
        each connection; the tasks that they start run in `queue` (the first queue unless given).
        bind, ssl, max_connections: as in `start_server`.
        stop: is called with a protocol to ask it to close if it has nothing to do, perhaps several times. aiohttp's
        protocols need none.

        When the shard stops, what clients have sent until then is read first. Then each connection in which nothing has
        come or gone for a moment is asked to `stop`, and `wait_stopped()` returns, after a second at most. `main` ends what
        is open as it sees fit (aiohttp: `await runner.cleanup()`). What is still open when it returns is waited for, and
        asked to `stop` when it is idle; without `stop`, a TCP connection whose client has asked nothing for 5 s since the
        last answer is closed then.

        Raises `UsageError` as `start_server` does, or if it is given no factory.
        """
        if not callable(protocol_factory):
            what = "create_server takes a protocol factory, such as a protocol's class"
            if protocol_factory is None:
                what += "; aiohttp's `runner.server` is one after `await runner.setup()`, and None before"
            raise UsageError(f"{what}. It got {protocol_factory!r}")
        if stop is not None and not callable(stop):
            raise UsageError(f"create_server's stop is {stop!r}; give a function that takes a protocol, or None")
        self._serve(ProtocolServer(protocol_factory, stop), self._queue_or_first(queue), bind, max_connections, ssl)

    async def serve_asgi(
        self,
        app: Callable[..., Any],
        *,
        state: Mapping[str, Any] | None = None,
        routes: Iterable[Route] = (),
        bind: str | None = None,
        ssl: SSLContext | Literal[False] | None = None,
    ) -> None:
        """Serve an ASGI application on this shard's listening sockets, until the shard stops: its lifespan's start-up, then
        requests, each a task of the queue that its route chooses, and when all are answered the lifespan's shutdown.

            store = await shard.start(Store)
            await shard.serve_asgi(app, state={"store": store})

        It returns when `main` may: what it does before is `wait_stopped()`, and it says that the shard is ready.

        state: what `scope["state"]` of each request has, beside `shard` and what the lifespan puts there.
        routes: tried after those of the options and the file, before the marks of endpoints (`clockworker.queue`). What matches
        none runs in the first queue.
        bind, ssl: as in `start_server`.

        Raises `ApplicationError` if that is no ASGI application, its start-up fails, or httptools and websockets (the extra
        `http`) are not installed; `UnknownQueue` for a route's queue that this shard does not have; `UsageError` as
        `start_server` does.
        """
        # Here, because it imports this package, and what the extra installs.
        from clockworker.http._application import serve_application

        await serve_application(self, app, "asgi", state=state, routes=routes, bind=bind, ssl=ssl)

    async def serve_wsgi(
        self,
        app: Callable[..., Any],
        *,
        routes: Iterable[Route] = (),
        bind: str | None = None,
        ssl: SSLContext | Literal[False] | None = None,
    ) -> None:
        """The same of a WSGI application. It runs in threads (`--threads`); a request waits in its queue for one.

        app, routes, bind, ssl: as in `serve_asgi`, and so is what is raised.
        """
        from clockworker.http._application import serve_application

        await serve_application(self, app, "wsgi", state=None, routes=routes, bind=bind, ssl=ssl)

    def ready(self) -> None:
        """Tell the supervisor that this shard serves. Waiting for the stop says it too."""
        if not self.is_ready:
            self.is_ready = True
            self._mesh.ready()
            # Who is ready may be given work, and what that publishes is for all who listen.
            self._mesh.topics.when_learned(self._announce)

    def _announce(self) -> None:
        # What the application has made until now stays: the collector need not go through it again and again, each time for as
        # long as a hundred requests take.
        gc.freeze()
        self._collector.start()
        self._announce_ready(self._servers.announce())

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
            *self._servers.counts(),
            self.executor.stats(),
            self._mesh.stats(),
            *self._blocking.counts(),
            *self._processes.counts(),
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

    def _account(self) -> object:
        """What stands for the queue and group of the task whose step is running. Not their keys: a group's is the
        application's, or a client's, and may fail to compare."""
        if (current := self.executor._core.current) is None:
            return None
        membership = current.membership
        return membership.queue if membership.group is None else membership

    def _group(self) -> Hashable:
        """Of the task whose step is running."""
        current = self.executor._core.current
        return None if current is None else current.membership.group

    def _serve(
        self,
        server: Server,
        queue: QueueHandle,
        bind: str | None,
        max_connections: int | None,
        ssl: SSLContext | Literal[False] | None,
    ) -> None:
        if max_connections is not None and max_connections < 1:
            raise UsageError(f"max_connections is {max_connections}; give a whole number from 1, or None")
        free, handshakes = self._servers.check_free(bind), self._servers.handshakes(ssl)
        if not self.stopping:
            self._servers.serve(server, queue, free, limit=max_connections, handshakes=handshakes)

    def _check_serves(self, bind: str | None, ssl: SSLContext | Literal[False] | None) -> None:
        """That `_serve` could. Raises `UsageError`."""
        self._servers.check_free(bind)
        self._servers.handshakes(ssl)

    def _look_at_requests(self) -> None:
        """Whether it has answered as many as it is to."""
        if self._most_requests is None or self.stopping:
            return
        answered = self._requests.answered()
        if answered >= self._most_requests:
            self._announce_worn(f"has answered {answered} requests (--limit-max-requests)")
            self._most_requests = 2 * answered  # if its successor fails it goes on for as long again

    def _is_connected(self, shard: int) -> bool:
        """Whether this shard can hear of the other."""
        return any(link.peer == shard and link.connection.connected for link in self._mesh._all_links())

    def _when_cut(self, tell: Callable[[], None]) -> None:
        """Call it when the grace is over, to say what is not done."""
        self._cuts.append(tell)

    async def _drain_server(self, bind: str | None) -> None:
        """Of one server, when the shard stops: returns when none of its connections is open."""
        await self._servers.drain_one(bind or "", self._stopping)

    # For the shard's process only.

    def _accept_from(self, bind: str, shard: int, listening: list[socket.socket]) -> None:
        if self.stopping or not self._servers.serves(bind):
            close_all(listening)
        else:
            self._servers.accept_from(bind, shard, listening)

    def _cease_from(self, bind: str, shard: int) -> None:
        if not self.stopping:  # what it still has is closed with the rest
            self._servers.cease_from(bind, shard)

    def _stop(self, for_good: bool, orphaned: Sequence[tuple[str, socket.socket]]) -> None:
        if self._stopping is not None:
            close_all(sock for _, sock in orphaned)
        else:
            self._stops_for_good = for_good
            stop = self._stop_accepting(for_good, orphaned)
            self._stopping = asyncio.get_running_loop().create_task(stop, name="stop")
            hide(self._stopping)

    def _log_cut(self) -> None:
        self._servers.log_cut()
        for tell in self._cuts:
            tell()

    async def _stop_accepting(self, for_good: bool, orphaned: Sequence[tuple[str, socket.socket]]) -> None:
        await self._servers.stop_accepting(for_good, orphaned, starved=self._stopped.set)
        self._stopped.set()

    async def _drain(self) -> None:
        await self._stopped.wait()
        await self._servers.drain(self._stopping)
        await self._blocking.drain()
        await self._in_queues.drain()
        await self._processes.drain()

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a protocol's callback raises comes here, and an exception of a task that nobody has looked at. Clients can
        cause both: the same error is logged at a limited rate."""
        error, message = context.get("exception"), context.get("message", "")
        self._servers.loop_error(error, context.get("transport"))
        if (unsaid := self._complaints.may_say(error, loop.time(), "" if error else message)) is not None:
            loop.default_exception_handler({**context, "message": f"{message}{more(unsaid)}"})
