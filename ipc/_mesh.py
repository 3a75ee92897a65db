"""The mesh: a shard's links to all its peers, and what is open to them.

The way of a call: a proxy (`_service`) makes a `Call` (`_call_cy`), whose link (`_link_cy`) encodes it and puts a request frame
into the ring to the peer; the peer's executor polls its `Traffic` (`_traffic_cy`), which drains the rings that have news and
spawns a task for each request, in the queue that the call names; the task decodes, runs the method, encodes, and sends the
reply frame; our poll finds it and wakes the caller.

Frames are published at once, and peers are told of them at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from clockworker._errors import ConfigurationError, SchemaMismatch, UsageError
from clockworker.executor import Executor, QueueHandle
from clockworker.ipc._call_cy import Call, new_call, outside_loop
from clockworker.ipc._connection_cy import RingConnection
from clockworker.ipc._doorbell_cy import Doorbell
from clockworker.ipc._ends import open_link_ends
from clockworker.ipc._frames import Kind, queue_identifier
from clockworker.ipc._limits import Limits
from clockworker.ipc._link_cy import Link
from clockworker.ipc._malloc import keep_freed_memory
from clockworker.ipc._places import Here, There
from clockworker.ipc._remote import (
    FUNCTION,
    FittedMethod,
    RemoteMethod,
    can_suspend,
    function_of,
    function_schema,
    remote_function,
    remote_methods,
    service_schema,
)
from clockworker.ipc._request_cy import Request, Target, logger
from clockworker.ipc._ring_cy import PoisonedRing
from clockworker.ipc._schema import ServiceSchema, differences
from clockworker.ipc._service import Sharded
from clockworker.ipc._shared_cy import Shared
from clockworker.ipc._sleep import Sleep
from clockworker.ipc._stats import LinkStats, MeshStats, stats_of_peer
from clockworker.ipc._stream import receive, serve_stream
from clockworker.ipc._threads import CallFuture, ThreadCalls
from clockworker.ipc._traffic_cy import Parked, Traffic
from clockworker.ipc._waits import Waits

S = TypeVar("S")
R = TypeVar("R")

_MOST_SCHEMAS = 10_000  # services and functions that a peer may tell of

_schema_decoder = msgspec.msgpack.Decoder(ServiceSchema)


class Mesh(Traffic):
    """The shard's end of all its links.

    doorbell: the descriptors (memory, eventfd) of this incarnation's doorbell, which the mesh owns from here on.
    place: this incarnation's word in the doorbells of others, shard_id or shard_id + count; the latter for one that shares
        its shard with another for a while.
    idle_poll_us: how long the executor polls on after it has run dry, before the shard sleeps.
    start_grace_s: for how long after `ready` a call of a service that is not started here may wait for that.
    on_poisoned: told the peer and epoch of a ring whose rules the peer broke. Both ends must then be connected anew: the
        peer waits for answers to what we could not read.
    encode_local: encode calls to this shard too, so that a test sees what two shards would; before a service is started.
    """

    def __init__(
        self,
        shard_id: int,
        count: int,
        executor: Executor,
        doorbell: tuple[int, int],
        *,
        place: int | None = None,
        idle_poll_us: int = 0,
        limits: Limits | None = None,
        start_grace_s: float = 5.0,
        on_poisoned: Callable[[int, int], None] = lambda peer, epoch: None,
        encode_local: bool = False,
    ) -> None:
        keep_freed_memory()
        self.shard_id = shard_id
        self.count = count
        self._place = shard_id if place is None else place
        self.limits = limits if limits is not None else Limits()
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.encode_local = encode_local
        self.calls_local = 0
        self._calls_timed_out = 0
        self.executor = executor
        self._on_poisoned = on_poisoned
        self._schemas: dict[str, ServiceSchema] = {}  # of the services that are started here, and of functions called
        self._services: dict[str, dict[str, tuple[RemoteMethod, Callable[..., Any]]]] = {}  # their methods, bound
        self._start_grace_s = start_grace_s
        self._is_ready = False
        self._callers: dict[tuple[int, Callable[..., Any]], Callable[..., Any]] = {}
        self._timer: asyncio.TimerHandle | None = None
        queues = executor.queues()
        memory, eventfd = doorbell
        super().__init__(
            Shared(
                executor._core,
                self.loop,
                shard_id,
                self.limits,
                {queue._queue: queue_identifier(queue.key) for queue in queues},
                self._set_timer,
                self._broken,
            ),
            Doorbell(memory, eventfd),
            {queue_identifier(queue.key): queue._membership for queue in queues},
            queues[0]._membership,
        )
        if len(self.memberships) != len(queues):
            raise ConfigurationError("two queue keys have the same checksum; rename one of them")
        self._rings: dict[Link, RingConnection] = {}
        self.links.extend(self._new_link(peer) for peer in range(count))
        self._others = [self._new_link(peer) for peer in range(count)]
        for link, other in zip(self.links, self._others, strict=True):
            link.pair(other)
        self.heard.extend([*self.links, *self._others])
        os.close(memory)
        self._sleep = Sleep(self, self.loop, eventfd, shard_id)
        self.here = Here(self)
        self.places: list[Here | There] = [
            self.here if shard == shard_id else There(self, shard) for shard in range(count)
        ]
        self._waits = Waits(
            self.shared,
            self._all_links(),
            self.here.in_flight,
            {queue_identifier(queue.key): queue.key for queue in queues},
        )
        self._thread_calls = ThreadCalls(self.loop)
        executor.poll_source(self, idle_poll_us=idle_poll_us)

    # Peers

    def connect(
        self,
        peer: int,
        epoch: int,
        *,
        incoming: int,
        outgoing: int,
        doorbell: tuple[int, int],
        place: int | None = None,
        beside: bool = False,
    ) -> None:
        """A peer has come up: its rings, of which `incoming` is ours to read, and its doorbell. Owns the descriptors.

        place: its word in our doorbell. beside: another incarnation of it has its place.
        """
        self.check_thread("connect")
        link = self._link(peer, beside)
        self._drop(link, f"the link to shard {peer} was made anew")
        self._rings[link].connect(epoch, *open_link_ends(incoming, outgoing, doorbell, self._place, self.shared.max_message))
        self.links[peer].look_for_split()
        place = peer if place is None else place
        self.heard[place] = link
        self.doorbell.listen(place)
        for schema in self._schemas.values():
            self._tell(link, schema)
        link.relieved()
        # It may have sent before we were here to be told.
        self.look_at(link)

    def disconnect(self, peer: int, *, beside: bool = False) -> None:
        """The peer has died, or its incarnation that does not have its place. What it had published is still taken in; then
        calls in flight to it end in ShardDied."""
        self.check_thread("disconnect")
        link = self._link(peer, beside)
        while link.connection.connected and self.drain(link):
            pass
        self._drop(link, f"shard {peer} died")
        self.links[peer].look_for_split()

    def change(self, peer: int, when_quiet: Callable[[], None]) -> None:
        """The peer's incarnation that was connected beside it takes its place: new calls go there. `when_quiet` is called once
        those in flight to the other have been answered."""
        self.check_thread("change")
        self.links[peer].change(when_quiet)

    def descriptors(self) -> list[int]:
        """Those that the mesh has."""
        peers = [ring.doorbell.fileno() for ring in self._rings.values() if ring.connected]
        return [self._sleep.fileno(), *peers]

    def refuse_all(self, why: str) -> None:
        """Of a copy of this process: no call goes out any more, UsageError says why. The peers are not told."""
        self.shared.refusal = why
        for link in self._all_links():
            link.connection.forsake()

    def is_quiet(self) -> bool:
        """Whether nothing that peers have asked for is running, or waits to be taken in."""
        links = self._all_links()
        if self._unfinished or self.doorbell.has_news() or any(link.serving for link in links):
            return False
        return sum(link.one_ways_done for link in links) == self.one_ways_received

    def close(self) -> None:
        """Leave: calls in flight end in ShardDied. Nothing may be called afterwards."""
        self.check_thread("close")
        self.executor.poll_source(None, idle_poll_us=0)
        self._sleep.close()
        if self._timer is not None:
            self._timer.cancel()
        for link in self._all_links():
            self._drop(link, "the mesh was closed")
        self._waits.close()
        self._thread_calls.close()
        self.doorbell.close()

    def check_thread(self, what: str) -> None:
        """Raise UsageError in another thread, or on another loop, than the mesh's own."""
        if threading.get_ident() != self._thread or asyncio._get_running_loop() not in (None, self.loop):
            raise outside_loop(what)

    # Calls out

    def call(self, shard: int, method: RemoteMethod, arguments: tuple[Any, ...], timeout_ns: int = 0) -> Call:
        """A call of a method on another shard: `await` it."""
        return new_call(self.links[shard], Kind.REQUEST, method, arguments, timeout_ns, False)

    def call_nowait(self, shard: int, method: RemoteMethod, arguments: tuple[Any, ...], timeout_ns: int = 0) -> Call:
        """The same, sent already. ChannelFull if there is no credit for it."""
        call = new_call(self.links[shard], Kind.REQUEST, method, arguments, timeout_ns, True)
        call.start()
        return call

    def send_nowait(self, shard: int, method: RemoteMethod, arguments: tuple[Any, ...]) -> None:
        """A one-way request, sent. ChannelFull if there is no credit for it."""
        call = new_call(self.links[shard], Kind.ONE_WAY, method, arguments, 0, True)
        call.start()
        if call.error is not None:
            raise call.error

    def stream(
        self, shard: int, method: RemoteMethod, arguments: tuple[Any, ...], timeout_ns: int, nowait: bool
    ) -> AsyncIterator[Any]:
        """The items of a remote generator."""
        return receive(self.links[shard], method, arguments, timeout_ns, nowait)

    def function_caller(self, shard: int, function: Callable[..., Any]) -> Callable[..., Any]:
        """What calls a module's function on a shard, this one or another."""
        if not 0 <= shard < self.count:
            raise IndexError(f"there is no shard {shard!r}: they are 0 to {self.count - 1}")
        caller = self._callers.get((shard, function))
        if caller is None:
            method = remote_function(function)
            self._know_function(method, function)
            self._publish(function_schema(method))
            caller = self._callers[shard, function] = self.places[shard].caller(method, function, 0, False)
        return caller

    def run_threadsafe(self, call: Callable[[], Coroutine[Any, Any, R]]) -> CallFuture[R]:
        """From another thread: make the call in the loop's."""
        if self.shared.refusal is not None:
            raise UsageError(self.shared.refusal)
        return self._thread_calls.run(call)

    def queue_for(self, method: RemoteMethod) -> QueueHandle | None:
        """The method's own queue. KeyError if the executor lacks it."""
        return None if method.options.queue is None else self.executor.queue(method.options.queue)

    def _set_timer(self) -> None:
        earliest_ns = self.shared.deadlines.earliest_ns()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if earliest_ns is not None:
            delay_s = (earliest_ns - time.monotonic_ns()) / 1e9
            self._timer = self.loop.call_later(max(0.0, delay_s), self._deadlines_passed)

    def _deadlines_passed(self) -> None:
        self._timer = None
        try:
            for call in self.shared.deadlines.due(time.monotonic_ns()):
                self._calls_timed_out += 1
                call.expire()
        finally:
            self._set_timer()

    # Services

    def start(self, service: type[S], instance: S) -> Sharded[S]:
        """Let the other shards call `instance`. Calls that came before are served now."""
        self.check_thread("start")
        methods = remote_methods(service)
        targets: dict[int, Target] = {}
        for method in methods.values():
            known = self.targets.get(method.identifier)
            if known is not None:
                if known.method.name == method.name:
                    raise UsageError(f"{service.__name__} has been started on shard {self.shard_id} already")
                raise ConfigurationError(
                    f"{method.name} and {known.method.name} have the same checksum; rename one of them"
                )
            # A queue that the executor lacks is an error here, rather than in a call.
            targets[method.identifier] = self._target(method, getattr(instance, method.attribute))
        self.targets.update(targets)
        schema = service_schema(service, methods)
        self._services[schema.service] = {name: (method, getattr(instance, name)) for name, method in methods.items()}
        self._publish(schema)
        parked, self.parked = self.parked, []
        for link, kind, queue, identifier, number, body in parked:
            if link.connection.connected:
                # As when they come, what is started inherits nothing.
                contextvars.Context().run(self.accept, link, kind, queue & 0xFFFFFFFF, identifier, number, body)
        return Sharded(self, instance, methods)

    def ready(self) -> None:
        """All services should have been started by now: calls of others do not wait for that for much longer."""
        self.check_thread("ready")
        if not self._is_ready:
            self._is_ready = True
            for request in self.parked:
                self._wait_for_start(request)

    def stats(self) -> MeshStats:
        """The counters."""
        links = self._all_links()
        connections = [link.connection for link in links]
        waiting = self._waits.all()
        return MeshStats(
            calls_local=self.calls_local,
            calls_sent=self.shared.calls_sent,
            calls_received=self.calls_received,
            calls_in_flight=sum(len(link.pending) for link in links),
            calls_timed_out=self._calls_timed_out,
            one_ways_sent=self.shared.one_ways_sent,
            one_ways_received=self.one_ways_received,
            frames_sent=sum(each.frames_sent for each in connections),
            frames_received=sum(each.frames_received for each in connections),
            bytes_sent=sum(each.bytes_sent for each in connections),
            bytes_received=sum(each.bytes_received for each in connections),
            credit_waits=sum(link.credit_waits for link in links),
            calls_waiting=waiting.calls,
            longest_wait_ns=waiting.longest_ns,
            wakeups=self.doorbell.wakeups,
            wakeups_in_vain=self.doorbell.wakeups_in_vain,
            missed_wakeups=self._sleep.missed_wakeups,
        )

    def link_stats(self) -> list[LinkStats]:
        """The counters of each peer, by its number."""
        return [
            stats_of_peer(link.present(), other if link.present() is link else link, self._waits.of(link.present()))
            for link, other in zip(self.links, self._others, strict=True)
        ]

    def _target(self, method: RemoteMethod, function: Callable[..., Any], fitted: FittedMethod | None = None) -> Target:
        """What a peer's calls of the method run. fitted: the method for a peer of another version."""
        queue = self.queue_for(method)
        own = method.on(function)
        return Target(
            method if fitted is None else fitted,
            own if fitted is None else fitted.on(own),
            None if queue is None else queue._membership,
            None if can_suspend(function) else self.executor._core.carrier(method.name),
        )

    def unknown(self, link: Link, kind: int, queue: int, identifier: int, number: int, body: bytes) -> Target | None:
        """A function, or a method of a service that the peer has started and we have not yet."""
        found = function_of(identifier)
        if found is not None:
            method, function = found
            try:
                target = self.targets[identifier] = self._target(method, function)
            except KeyError as error:
                # Not the function's own: this shard cannot run it.
                self.refuse(link, kind, queue, number, SchemaMismatch(f"on shard {self.shard_id}: {error}"))
                return None
            self._know_function(method, function)
            return target
        if identifier in link.variants:
            self.refuse(link, kind, queue, number, SchemaMismatch(link.variants[identifier]))
        elif self._service_of(link, identifier) is not None:
            # The caller's credit bounds how many wait.
            request = (link, kind, queue, identifier, number, body)
            self.parked.append(request)
            if self._is_ready:
                self._wait_for_start(request)
        else:
            self.refuse(
                link,
                kind,
                queue,
                number,
                SchemaMismatch(
                    f"shard {self.shard_id} does not know the function that shard {link.peer} calls: it runs another "
                    "version of the code, or has not imported the module that defines it"
                ),
            )
        return None

    def _service_of(self, link: Link, identifier: int) -> str | None:
        """The peer's service that has the method."""
        for name, schema in link.schemas.items():
            if FUNCTION not in schema.methods and any(
                each.identifier == identifier for each in schema.methods.values()
            ):
                return name
        return None

    def _wait_for_start(self, request: Parked) -> None:
        self.loop.call_later(self._start_grace_s, self._refuse_parked, request)

    def _refuse_parked(self, request: Parked) -> None:
        """A request has waited long enough for its service to be started."""
        if not any(each is request for each in self.parked):
            return  # it was, or its caller has left
        self.parked = [each for each in self.parked if each is not request]
        link, kind, queue, identifier, number, _ = request
        started = ", ".join(sorted(self._schemas)) or "none"
        self.refuse(
            link,
            kind,
            queue,
            number,
            SchemaMismatch(
                f"shard {self.shard_id} has not started the service {self._service_of(link, identifier)}, and has been "
                f"ready for {self._start_grace_s:g} s; it has started {started}. Start it on every shard, before ready()"
            ),
        )

    # Versions of services

    def _know_function(self, method: RemoteMethod, function: Callable[..., Any]) -> None:
        """It is called, from here or by a peer, which may have told of it long before."""
        if method.name not in self._services:
            self._services[method.name] = {FUNCTION: (method, function)}
            for link in self._all_links():
                self._compare(link, method.name)

    def _publish(self, schema: ServiceSchema) -> None:
        """Tell all peers, those that are here and those that will come."""
        if schema.service not in self._schemas:
            self._schemas[schema.service] = schema
            for link in self._all_links():
                if link.schemas.get(schema.service) == schema:
                    link.schemas[schema.service] = schema
                self._compare(link, schema.service)
                self._tell(link, schema)

    def _tell(self, link: Link, schema: ServiceSchema) -> None:
        body = self.shared.encode(schema)
        if len(body) > self.shared.max_message:
            body = self.shared.encode(schema.without_descriptions())
        link.connection.send(Kind.SCHEMA, 0, 0, 0, body)

    def take_schema(self, link: Link, body: bytes) -> None:
        """The peer's word of what a service of its own looks like. Raises `PoisonedRing` if it cannot be read."""
        try:
            schema = _schema_decoder.decode(body)
        except Exception as error:
            raise PoisonedRing(f"a schema that cannot be read: {error}") from None
        if len(link.schemas) >= _MOST_SCHEMAS:
            raise PoisonedRing(f"schemas of more than {_MOST_SCHEMAS} services")
        ours = self._schemas.get(schema.service)
        # Mostly it is the same, and need not be kept once for each peer.
        link.schemas[schema.service] = ours if schema == ours else schema
        self._compare(link, schema.service)

    def _compare(self, link: Link, service: str) -> None:
        theirs, methods = link.schemas.get(service), self._services.get(service)
        if theirs is None or methods is None:
            return
        ours = ServiceSchema(service, {name: method.schema for name, (method, _) in methods.items()})
        if ours == theirs:
            return
        found = differences(ours, theirs, link.peer)
        link.mismatches = link.mismatches | found.outgoing
        link.variants = link.variants | found.incoming
        for name, version in found.fitted.items():
            method, function = methods[name]
            link.variants[method.identifier] = self._target(method, function, method.fitted_to(version, link.peer))
        for identifier in sorted(found.outgoing | found.incoming):
            text = found.outgoing.get(identifier) or found.incoming[identifier]
            logger.error("shard %d and shard %d run different versions of %s", self.shard_id, link.peer, text)

    # Streams

    def serve_stream(self, request: Request) -> Coroutine[Any, Any, None]:
        """What answers a request for a stream, to be run in the request's queue."""
        return serve_stream(request)

    # Sleep

    def look_soon(self) -> None:
        """A new sleep begins: look for news at short intervals again."""
        self._sleep.look_soon()

    # Ends

    def _new_link(self, peer: int) -> Link:
        ring = RingConnection(peer, self.core, self.dirty)
        link = Link(ring, self.shared)
        self._rings[link] = ring
        return link

    def _link(self, peer: int, beside: bool) -> Link:
        link = self.links[peer]
        return self._others[peer] if link.changed != beside else link

    def _all_links(self) -> list[Link]:
        return [*self.links, *self._others]

    def _drop(self, link: Link, reason: str) -> None:
        self._finish(link)
        self.parked = [parked for parked in self.parked if parked[0] is not link]
        link.disconnect(reason)

    def _broken(self, link: Link, error: Exception) -> None:
        peer = link.peer
        if not link.connection.connected:
            return
        logger.error(
            "shard %d drops its rings with shard %d, which has broken the rules: %s", self.shard_id, peer, error
        )
        self._drop(link, f"shard {peer} broke its ring")
        self.links[peer].look_for_split()
        self._on_poisoned(peer, link.connection.epoch)
