"""The mesh: a shard's links to all its peers, and what is open to them.

The way of a call: a proxy (`_service`) makes a `Call` (`_call_cy`), whose link (`_link_cy`) encodes it and puts a request frame
into the ring to the peer; the peer's executor polls its `Traffic` (`_traffic_cy`), which drains the rings that have news and
spawns a task for each request, in the queue that the call names; the task decodes, runs the method, encodes, and sends the
reply frame; our poll finds it and wakes the caller.

Frames are published at once, and peers are told of them at once.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from clockworker._errors import ConfigurationError
from clockworker.executor import Executor
from clockworker.ipc._expiry import Expiry
from clockworker.ipc._keeping import Keeping
from clockworker.ipc._serving import Serving
from clockworker.ipc._sleep import Sleep
from clockworker.ipc._stats import LinkStats, MeshStats, stats_of_peer
from clockworker.ipc._traffic_cy import Traffic
from clockworker.ipc._versions import Versions
from clockworker.ipc.calls._definitions import function_schema, remote_function
from clockworker.ipc.calls._frames import queue_identifier
from clockworker.ipc.calls._home import Home
from clockworker.ipc.calls._keyed import guarded
from clockworker.ipc.calls._limits import Limits
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._owners import Cluster, Owner, Owners
from clockworker.ipc.calls._places import Here, Places, There
from clockworker.ipc.calls._request_cy import Request, Target, logger
from clockworker.ipc.calls._service import Sharded
from clockworker.ipc.calls._shared_cy import Shared
from clockworker.ipc.calls._state import state_methods
from clockworker.ipc.calls._stream import serve_stream
from clockworker.ipc.calls._threads import CallFuture, ThreadCalls
from clockworker.ipc.calls._waits import Waits
from clockworker.ipc.rings._connection_cy import Connection, RingConnection
from clockworker.ipc.rings._doorbell_cy import Doorbell
from clockworker.ipc.rings._ends import open_link_ends
from clockworker.ipc.rings._malloc import keep_freed_memory
from clockworker.ipc.rings._ring_cy import PoisonedRing
from clockworker.ipc.topics._outlet import TopicStats
from clockworker.ipc.topics._topics import Topics

S = TypeVar("S")
R = TypeVar("R")


class Mesh(Traffic):
    """The shard's end of all its links. shard_id, count: which shard this is, and of how many; executor: the one that polls it.
    home, places: where calls to this shard, and to each of all, are made (`ipc.calls`). owners: whose a key is.

    doorbell: the descriptors (memory, eventfd) of this incarnation's doorbell, which the mesh owns from here on.
    place: this incarnation's word in the doorbells of others, shard_id or shard_id + count; the latter for one that shares
        its shard with another for a while.
    limits: how much may be in flight; the defaults of `Limits` if there is none.
    idle_poll_us: how long the executor polls on after it has run dry, before the shard sleeps.
    start_grace_s: for how long after `ready` a call of a service that is not started here may wait for that.
    on_poisoned: told the peer and epoch of a ring whose rules the peer broke. Both ends must then be connected anew: the
        peer waits for answers to what we could not read.
    encode_local: encode calls to this shard too, so that a test sees what two shards would; before a service is started.
    keeping: the services whose state moves when the shard is replaced.

    Raises ConfigurationError for an executor two of whose queues have keys with the same checksum.
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
        self.executor = executor
        self._on_poisoned = on_poisoned
        self._callers: dict[tuple[int, Callable[..., Any]], Callable[..., Any]] = {}
        loop = asyncio.get_running_loop()
        queues = executor.queues()
        memory, eventfd = doorbell
        super().__init__(
            Shared(
                executor._core,
                loop,
                shard_id,
                self.limits,
                {queue._queue: queue_identifier(queue.key) for queue in queues},
                lambda: self._expiry.set(),
                self._broken,
            ),
            Doorbell(memory, eventfd),
            {queue_identifier(queue.key): queue._membership for queue in queues},
            queues[0]._membership,
        )
        if len(self.memberships) != len(queues):
            raise ConfigurationError("two queue keys have the same checksum; rename one of them")
        self.owners = Owners(shard_id, count)
        self.shared.refusal_of = self.owners.refusal_of
        self._rings: dict[Link, RingConnection] = {}
        self._all: list[Link] = []  # all of them
        self.links.extend(self._new_link(peer) for peer in range(count))
        self._others = [self._new_link(peer) for peer in range(count)]
        for link, other in zip(self.links, self._others, strict=True):
            link.pair(other)
        self.heard.extend([*self.links, *self._others])
        os.close(memory)
        self._sleep = Sleep(self, loop, eventfd, shard_id)
        self._expiry = Expiry(loop, self.shared.deadlines)
        self.home = Home(executor, self.shared, encode_local=encode_local)
        self.here = Here(self.home)
        self.places = Places(
            {shard: self.here if shard == shard_id else There(self.links[shard]) for shard in range(count)}, self.owners
        )
        self._all.extend([*self.links, *self._others])
        self._versions = Versions(self.home, self._all)
        self._serving = Serving(self.home, self, self._versions, start_grace_s)
        self.keeping = Keeping(
            self.targets,
            self._versions,
            self._all,
            self.links[shard_id],
            loop,
            lambda: bool(self._unfinished) or self.doorbell.has_news(),
        )
        self._waits = Waits(
            self.shared,
            self._all,
            self.here.in_flight,
            {queue_identifier(queue.key): queue.key for queue in queues},
        )
        self._thread_calls = ThreadCalls(self.shared)
        self._idle_poll_us = idle_poll_us
        self._topics: Topics | None = None
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
        ready: bool = False,
    ) -> None:
        """A peer has come up: its rings, of which `incoming` is ours to read and `outgoing` to write, and its doorbell. Owns
        the descriptors. Raises UsageError in another thread.

        epoch: the number of this connection of the two.
        peer: may be this shard itself, whose other incarnation it is: that hears what we publish, and state moves there.
        place: its word in our doorbell. beside: another incarnation of it has its place. ready: it was there before us.
        """
        self.home.check_thread("connect")
        link = self._link(peer, beside)
        self._drop(link, f"the link to shard {peer} was made anew")
        self._rings[link].connect(
            epoch, *open_link_ends(incoming, outgoing, doorbell, self._place, self.shared.max_message)
        )
        self.links[peer].look_for_split()
        place = peer if place is None else place
        self.heard[place] = link
        self.doorbell.listen(place)
        self._versions.tell_all(link)
        if self._topics is not None:
            self._topics.connected(link, ready)
        link.relieved()
        # It may have sent before we were here to be told.
        self.look_at(link)

    def disconnect(self, peer: int, *, beside: bool = False) -> None:
        """The peer has died; beside: its incarnation that does not have its place. What it had published is still taken in;
        then calls in flight to it end in ShardDied. Raises UsageError in another thread."""
        self.home.check_thread("disconnect")
        link = self._link(peer, beside)
        while link.connection.connected and self.drain(link):
            pass
        self._drop(link, f"shard {peer} died")
        self.links[peer].look_for_split()
        if peer == self.shard_id and self.owners.cluster is not None:
            self.owners.cluster.alone()

    def change(self, peer: int, when_quiet: Callable[[], None]) -> None:
        """The peer's incarnation that was connected beside it takes its place: new calls go there. `when_quiet` is called once
        those in flight to the other have been answered. Raises UsageError in another thread."""
        self.home.check_thread("change")
        self.links[peer].change(when_quiet)
        if self._topics is not None:
            self._topics.changed(self.links[peer])

    def peer_links(self) -> list[Link]:
        """To the peers, but not to this shard's own other incarnation."""
        return [link for link in self.links if link.peer != self.shard_id]

    def suspend(self, peer: int) -> None:
        """New calls to the peer wait, since it is to hand over its state. Again: those that are made within others go, and the
        rest still waits. Raises UsageError in another thread."""
        self.home.check_thread("suspend")
        self.links[peer].present().suspend()

    def unsent(self, peer: int) -> int:
        """Bytes to the peer that wait for room in the ring."""
        return self.links[peer].present().connection.backlog_bytes

    def resume(self, peer: int) -> None:
        """The peer has kept its place: what waits goes there. Raises UsageError in another thread."""
        self.home.check_thread("resume")
        self.links[peer].present().resume()

    def share_cpu(self, shared: bool) -> None:
        """shared: another incarnation of this shard runs on the same CPU, and what polling takes is that one's."""
        self.executor.poll_source(self, idle_poll_us=0 if shared else self._idle_poll_us)

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
        if self._unfinished or self.elsewhere or self.doorbell.has_news() or any(link.serving for link in links):
            return False
        if self._topics is not None and not self._topics.is_quiet():
            return False
        return sum(link.one_ways_done for link in links) == self.one_ways_received

    def close(self) -> None:
        """Leave: calls in flight end in ShardDied. Nothing may be called afterwards. Raises UsageError in another thread."""
        self.home.check_thread("close")
        self.executor.poll_source(None, idle_poll_us=0)
        self._sleep.close()
        self._expiry.close()
        if self._topics is not None:
            self._topics.close()
        for link in self._all_links():
            self._drop(link, "the mesh was closed")
        self._waits.close()
        self._thread_calls.close()
        self.doorbell.close()

    # Other nodes

    def join(self, cluster: Cluster) -> None:
        """From now on there may be shards beyond those of this machine: `cluster` finds them. Raises UsageError in another
        thread."""
        self.home.check_thread("join")
        self.owners.cluster = cluster
        self.shared.place = cluster.place

    def open(self, connection: Connection) -> Link:
        """The link to a shard of another node, over a connection that is no ring's."""
        link = Link(connection, self.shared)
        self._all.append(link)
        return link

    def begun(self, link: Link) -> None:
        """The connection of `link` has begun anew: the peer is told of our services, in front of all else."""
        self._versions.tell_all(link)

    def ended(self, link: Link, reason: str, *, keep: bool = False) -> None:
        """What was begun of `link` is over, for this reason. Calls in flight end in what the connection says (`died`), and so
        do those that wait; keep: these wait for what begins next."""
        self.parked = [parked for parked in self.parked if parked[0] is not link]
        link.disconnect(reason, keep)

    # Topics

    @property
    def topics(self) -> Topics:
        """Those of this shard. They begin, and peers are asked for theirs, when they are first asked for, here or by a peer.
        Raises UsageError in another thread."""
        if self._topics is None:
            self.home.check_thread("topics")
            self._topics = Topics(self.home, self.links, self._others, self.drain)
            for link in self._rings:
                link.connection.relieved = functools.partial(self._relieved, link)
        return self._topics

    def _relieved(self, link: Link) -> None:
        link.relieved()
        if self._topics is not None:
            self._topics.relieved(link)

    # Calls out

    def function_caller(self, shard: int, function: Callable[..., Any]) -> Callable[..., Any]:
        """What calls a module's function on a shard, this one or another."""
        if isinstance(shard, Owner):
            return self._keyed_caller(shard, function)
        caller = self._callers.get((shard, function))
        if caller is None:
            place, method = self.places[shard], self._known(function)
            caller = self._callers[shard, function] = place.caller(method, function, 0, False)
        return caller

    def _keyed_caller(self, owner: Owner, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same for a key, which is looked at where it runs."""
        place = self.places[int(owner)]
        if isinstance(place, There):
            return place.caller(self._known(function), None, 0, False, owner.packed())
        return guarded(self.owners, owner, remote_function(function), self.function_caller(int(owner), function))

    def _known(self, function: Callable[..., Any]) -> RemoteMethod:
        """What the function is called with; peers know of it."""
        method = remote_function(function)
        self._versions.know_function(method, function)
        self._versions.publish(function_schema(method))
        return method

    def run_threadsafe(self, call: Callable[[], Coroutine[Any, Any, R]]) -> CallFuture[R]:
        """From another thread: make the call in the loop's."""
        return self._thread_calls.run(call)

    # Services

    def start(self, service: type[S], instance: S) -> Sharded[S]:
        """Let the other shards call `instance` of the class `service`. Calls that came before are served now. Raises UsageError
        in another thread, and for a service that is started already."""
        self.home.check_thread("start")
        state = state_methods(service)
        methods = self._serving.start(service, instance)
        if state is None:
            return Sharded(self.home, self.places, self.owners, self._thread_calls, instance, methods)
        gated = self.keeping.keep(instance, state, methods)
        return Sharded(
            self.home,
            self.places,
            self.owners,
            self._thread_calls,
            instance,
            methods,
            gated=gated,
            is_here=self.keeping.is_here,
        )

    def services(self) -> dict[str, bool]:
        """Those that are started, and whether their state moves to a successor."""
        return {name: name in self.keeping.kept for name in self._serving.started}

    def ready(self) -> None:
        """All services should have been started by now: calls of others do not wait for that for much longer.
        Raises UsageError in another thread."""
        self.home.check_thread("ready")
        self._serving.ready()
        if self._topics is not None:
            self._topics.is_ready = True

    def stats(self) -> MeshStats:
        """The counters."""
        links = self._all_links()
        connections = [link.connection for link in links]
        waiting = self._waits.all()
        return MeshStats(
            calls_local=self.home.calls_local,
            calls_sent=self.shared.calls_sent,
            calls_received=self.calls_received,
            calls_in_flight=sum(len(link.pending) for link in links),
            calls_timed_out=self._expiry.timed_out,
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

    def topic_stats(self) -> dict[str, TopicStats]:
        """The counters of topics, by name."""
        return {} if self._topics is None else self._topics.stats()

    # What traffic asks for

    def unknown(self, link: Link, kind: int, queue: int, identifier: int, number: int, body: bytes) -> Target | None:
        """The target of a frame whose identifier is not known: a function, or a method of a service that the peer has started
        and we have not yet. None if there is none. link: whose frame it is; kind, queue, identifier, number and body are its
        fields (`ipc.calls._frames`)."""
        return self._serving.unknown(link, kind, queue, identifier, number, body)

    def take_schema(self, link: Link, body: bytes) -> None:
        """The word of the peer of `link`, in `body`, of what a service of its own looks like. Raises `PoisonedRing` if it
        cannot be read."""
        self._versions.take(link, body)

    def take_topic(self, link: Link, kind: int, queue: int, method: int, number: int, body: bytes) -> None:
        """Something that is about topics: a frame of `link` with these fields (kind, queue, method, number, body). Raises
        `PoisonedRing` if it breaks their rules."""
        if link not in self._rings:
            raise PoisonedRing(f"a frame of kind {kind}, about topics")
        self.topics.take(link, kind, queue, method, number, body)

    def serve_stream(self, request: Request) -> Coroutine[Any, Any, None]:
        """What answers a request for a stream, to be run in the request's queue."""
        return serve_stream(request)

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
        if peer == self.shard_id:  # there is one other incarnation at most
            return link
        return self._others[peer] if link.changed != beside else link

    def _all_links(self) -> list[Link]:
        return self._all

    def _drop(self, link: Link, reason: str) -> None:
        if link not in self._rings:
            self.ended(link, reason)
            return
        self._finish(link)
        self.parked = [parked for parked in self.parked if parked[0] is not link]
        link.disconnect(reason)
        if self._topics is not None:
            self._topics.lost(link)

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
