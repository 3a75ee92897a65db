"""The mesh: a shard's links to all its peers, and the traffic over them.

The way of a call: `Mesh.call` encodes the arguments and puts a request frame into the ring to the peer; the peer's executor
polls its mesh (`poll`), which drains the rings that have news and spawns a task for each request, in the queue that the
call names; the task decodes, runs the method, encodes, and sends the reply frame; our `poll` finds it and wakes the caller.

Frames are published at once. Peers are told of them once a turn of the executor (`flush`), so that one doorbell serves
all that the turn has sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import msgspec

from clockworker._errors import ConfigurationError, UsageError
from clockworker.executor import Executor, QueueHandle
from clockworker.ipc._doorbell_cy import Doorbell
from clockworker.ipc._failure import decode_failure, encode_failure
from clockworker.ipc._frames import Kind
from clockworker.ipc._link import Call, Limits, Link, open_link_ends
from clockworker.ipc._remote import RemoteMethod, remote_methods
from clockworker.ipc._ring_cy import PoisonedRing
from clockworker.ipc._service import Sharded

S = TypeVar("S")

logger = logging.getLogger("clockworker.ipc")

# Frames taken from one ring in one turn: a flood from one peer must not keep the executor from its queues.
_FRAMES_A_TURN = 256
# How often a sleeping shard looks by itself. It should find nothing: what it finds is a lost wake-up, and counted.
_FALLBACK_S = 1.0
_SECOND_LOOK_S = 0.5


class MeshStats(msgspec.Struct, frozen=True):
    """Counters of a shard's traffic since it started, over all peers."""

    calls_local: int  # through `service.on(own)`
    calls_sent: int  # to other shards
    calls_received: int  # from other shards
    calls_in_flight: int  # now
    frames_sent: int
    frames_received: int
    bytes_sent: int  # bodies of frames
    bytes_received: int
    credit_waits: int
    wakeups: int  # by the doorbell
    missed_wakeups: int  # found by the fallback poll; 0 unless something is wrong


class LinkStats(msgspec.Struct, frozen=True):
    """The traffic with one peer, over all its incarnations. A shard's link with itself is never used."""

    peer: int
    connected: bool
    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    credit_waits: int
    calls_in_flight: int  # now
    wakeups: int  # how often the peer was asleep and was rung
    ring_used_bytes: int  # of the ring to it: what it has not read yet
    ring_bytes: int


class Mesh:
    """The shard's end of all its links.

    doorbell: the descriptors (memory, eventfd) of this incarnation's doorbell, which the mesh owns from here on.
    idle_poll_us: how long the executor polls on after it has run dry, before the shard sleeps.
    on_poisoned: told the peer and epoch of a ring whose rules the peer broke. Both ends must then be connected anew: the
        peer waits for answers to what we could not read.
    """

    def __init__(
        self,
        shard_id: int,
        count: int,
        executor: Executor,
        doorbell: tuple[int, int],
        *,
        idle_poll_us: int = 0,
        limits: Limits | None = None,
        on_poisoned: Callable[[int, int], None] = lambda peer, epoch: None,
    ) -> None:
        self.shard_id = shard_id
        self.count = count
        self.calls_local = 0
        self._calls_sent = 0
        self._calls_received = 0
        self._wakeups = 0
        self._missed_wakeups = 0
        self._suspected_sleep = 0
        self._executor = executor
        self._on_poisoned = on_poisoned
        self._loop = asyncio.get_running_loop()
        self._limits = limits if limits is not None else Limits()
        self._links = [Link(peer, self._limits) for peer in range(count)]
        self._dirty: set[Link] = set()
        self._unfinished: set[int] = set()
        self._encoder = msgspec.msgpack.Encoder()
        self._methods: dict[int, tuple[RemoteMethod, Any]] = {}
        self._parked: list[tuple[Link, int, int, int, bytes]] = []
        self._queues = {queue_identifier(queue.key): queue for queue in executor.queues()}
        self._queue_identifiers = {queue.key: queue_identifier(queue.key) for queue in executor.queues()}
        if len(self._queues) != len(executor.queues()):
            raise ConfigurationError("two queue keys have the same checksum; rename one of them")
        memory, self._eventfd = doorbell
        self._doorbell = Doorbell(memory)
        os.close(memory)
        self._loop.add_reader(self._eventfd, self._rung)
        self._fallback = self._loop.call_later(_FALLBACK_S, self._look)
        executor.poll_source(self, idle_poll_us=idle_poll_us)

    # Peers

    def connect(self, peer: int, epoch: int, *, incoming: int, outgoing: int, doorbell: tuple[int, int]) -> None:
        """A peer has come up: its rings, of which `incoming` is ours to read, and its doorbell. Owns the descriptors."""
        link = self._links[peer]
        self._drop(link, f"the link to shard {peer} was made anew")
        link.connect(epoch, *open_link_ends(incoming, outgoing, doorbell, self.shard_id))
        # It may have sent before we were here to be told.
        self._unfinished.add(peer)
        self._executor.wake()

    def disconnect(self, peer: int) -> None:
        """The peer has died. What it had published is still taken in; then calls in flight to it end in ShardDied."""
        link = self._links[peer]
        while link.connected and self._drain(link):
            pass
        self._drop(link, f"shard {peer} died")

    def hold(self, peer: int, when_quiet: Callable[[], None]) -> None:
        """The peer is about to be replaced: new calls to it wait until its successor is connected. `when_quiet` is called
        once those in flight have been answered."""
        self._links[peer].hold(when_quiet)

    def release(self, peer: int) -> None:
        """Undo `hold`. The calls that wait are sent, or end in ShardDown if the peer is gone."""
        link = self._links[peer]
        try:
            link.release()
        except PoisonedRing as error:
            self._poisoned(link, error)
        self._has_news_for(link)

    def close(self) -> None:
        """Leave: calls in flight end in ShardDied. Nothing may be called afterwards."""
        self._executor.poll_source(None, idle_poll_us=0)
        self._fallback.cancel()
        self._loop.remove_reader(self._eventfd)
        for link in self._links:
            self._drop(link, "the mesh was closed")
        self._doorbell.close()
        os.close(self._eventfd)

    # Calls out

    async def call(self, shard: int, method: RemoteMethod, arguments: tuple[Any, ...]) -> Any:
        """Call a method on another shard and wait for its result."""
        link = self._links[shard]
        body = self._encoder.encode(arguments)
        link.check_size(body, f"the arguments of {method.name}")
        call = Call(method, self._caller_queue(), body, self._loop.create_future())
        try:
            link.submit(call)
        except PoisonedRing as error:
            self._poisoned(link, error)
        self._calls_sent += 1
        self._has_news_for(link)
        try:
            return await call.future
        except asyncio.CancelledError:
            if link.in_flight(call):
                self._send(link, Kind.CANCEL, 0, 0, call.number, b"")
            raise

    def queue_for(self, method: RemoteMethod, identifier: int | None) -> QueueHandle:
        """Where a method runs: its own queue, the caller's, or the first."""
        if method.options.queue is not None:
            return self._executor.queue(method.options.queue)
        queue = self._queues.get(identifier) if identifier is not None else None
        return queue if queue is not None else self._executor.queues()[0]

    def _caller_queue(self) -> int:
        queue = self._executor.current_queue()
        return 0 if queue is None else self._queue_identifiers[queue.key]

    def _send(self, link: Link, kind: Kind, queue: int, method: int, call: int, body: bytes) -> None:
        try:
            link.send(kind, queue, method, call, body)
        except PoisonedRing as error:
            self._poisoned(link, error)
        self._has_news_for(link)

    def _has_news_for(self, link: Link) -> None:
        self._dirty.add(link)
        # At the end of a turn the executor polls us anyway; make sure that there is one.
        self._executor.wake()

    # Services

    def start(self, service: type[S], instance: S) -> Sharded[S]:
        """Let the other shards call `instance`. Calls that came before are served now."""
        methods = remote_methods(service)
        for method in methods.values():
            known = self._methods.get(method.identifier)
            if known is not None:
                if known[0].name == method.name:
                    raise UsageError(f"{service.__name__} has been started on shard {self.shard_id} already")
                raise ConfigurationError(
                    f"{method.name} and {known[0].name} have the same checksum; rename one of them"
                )
            if method.options.queue is not None:
                self._executor.queue(method.options.queue)  # raises for an unknown one, here rather than in a call
        self._methods.update({method.identifier: (method, instance) for method in methods.values()})
        parked, self._parked = self._parked, []
        for link, queue, identifier, call, body in parked:
            if link.connected:
                self._accept(link, queue, identifier, call, body)
        return Sharded(self, instance, methods)

    def stats(self) -> MeshStats:
        """The counters."""
        return MeshStats(
            calls_local=self.calls_local,
            calls_sent=self._calls_sent,
            calls_received=self._calls_received,
            calls_in_flight=sum(len(link.pending) for link in self._links),
            frames_sent=sum(link.frames_sent for link in self._links),
            frames_received=sum(link.frames_received for link in self._links),
            bytes_sent=sum(link.bytes_sent for link in self._links),
            bytes_received=sum(link.bytes_received for link in self._links),
            credit_waits=sum(link.credit_waits for link in self._links),
            wakeups=self._wakeups,
            missed_wakeups=self._missed_wakeups,
        )

    def link_stats(self) -> list[LinkStats]:
        """The counters of each peer, by its number."""
        return [
            LinkStats(
                peer=link.peer,
                connected=link.connected,
                frames_sent=link.frames_sent,
                frames_received=link.frames_received,
                bytes_sent=link.bytes_sent,
                bytes_received=link.bytes_received,
                credit_waits=link.credit_waits,
                calls_in_flight=len(link.pending),
                wakeups=link.rings_before + (link.doorbell.rings if link.connected else 0),
                ring_used_bytes=link.producer.used() if link.connected else 0,
                ring_bytes=link.producer.capacity if link.connected else 0,
            )
            for link in self._links
        ]

    # What the executor asks of a source of work

    def poll(self) -> bool:
        """Take in what has come, send off what waits. True if something came."""
        self._doorbell.wake()
        news = self._doorbell.news()
        if news is not None:
            self._unfinished.update(news)
        came = False
        if self._unfinished:
            for peer in list(self._unfinished):
                link = self._links[peer]
                self._dirty.add(link)  # it may have made room for our backlog
                received = link.frames_received
                if not link.connected or not self._drain(link):
                    self._unfinished.discard(peer)
                came = came or link.frames_received != received
        self._flush()
        return came

    def prepare_sleep(self) -> bool:
        """Announce that the shard sleeps. False if there is news after all."""
        if self._unfinished or self._dirty:
            return False
        return self._doorbell.sleep()

    def _flush(self) -> None:
        while self._dirty:
            link = self._dirty.pop()
            try:
                link.flush()
            except PoisonedRing as error:
                self._poisoned(link, error)

    def _rung(self) -> None:
        if self._answer_bell():
            self._wakeups += 1
            self._doorbell.wake()
            self._executor.wake()

    def _answer_bell(self) -> bool:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return False
        return True

    def _look(self) -> None:
        """The fallback: a sleeping shard with news, twice in the same sleep, and a bell that was not rung."""
        delay = _FALLBACK_S
        if self._doorbell.asleep() and self._doorbell.has_news():
            if self._answer_bell():
                self._executor.wake()
            elif self._suspected_sleep == self._doorbell.sleeps:
                self._missed_wakeups += 1
                logger.error("shard %d slept on news: a wake-up was lost", self.shard_id)
                self._executor.wake()
            else:
                # The peer may be between its announcement and the bell.
                self._suspected_sleep = self._doorbell.sleeps
                delay = _SECOND_LOOK_S
        self._fallback = self._loop.call_later(delay, self._look)

    # Frames in

    def _drain(self, link: Link) -> bool:
        """Take frames in. True if there may be more."""
        consumer = link.consumer
        try:
            for _ in range(_FRAMES_A_TURN):
                body = consumer.pop()
                if body is None:
                    link.announce_room()
                    return False
                link.frames_received += 1
                link.bytes_received += len(body)
                self._take_frame(link, consumer.kind, consumer.queue, consumer.method, consumer.call, body)
            link.announce_room()
        except PoisonedRing as error:
            self._poisoned(link, error)
            return False
        return True

    def _take_frame(self, link: Link, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        if kind == Kind.CHUNK:
            if not link.reassembly.add(body):
                raise PoisonedRing(f"a message in chunks is over {self._limits.max_message} bytes")
            return
        body = link.reassembly.complete(body)
        if kind == Kind.REQUEST:
            self._accept(link, queue, method, call, body)
        elif kind == Kind.REPLY or kind == Kind.ERROR:
            self._settle(link, kind, call, body)
        elif kind == Kind.CANCEL:
            self._cancel(link, call)
        else:
            raise PoisonedRing(f"a frame of unknown kind {kind}")

    def _cancel(self, link: Link, call: int) -> None:
        """The caller has left. It is answered all the same, since only an answer gives back its credit."""
        if call in link.serving:
            task = link.serving.pop(call)
            if task is not None:
                task.cancel()
        else:
            parked = [parked for parked in self._parked if parked[0] is not link or parked[3] != call]
            if len(parked) == len(self._parked):
                return  # answered already
            self._parked = parked
        self._send(link, Kind.ERROR, 0, 0, call, b"")

    def _settle(self, link: Link, kind: int, call: int, body: bytes) -> None:
        pending = link.settle(call)
        if pending is None or pending.future.done():
            return  # its caller has left
        method = pending.method
        try:
            if kind == Kind.REPLY:
                pending.future.set_result(method.result_decoder.decode(body))
            else:
                pending.future.set_exception(decode_failure(body, method.raises, f"{method.name} on shard {link.peer}"))
        except Exception as error:
            # msgspec also raises UnicodeDecodeError and RecursionError; whatever it is, it is the caller's answer.
            failed = TypeError(f"the result of {method.name} from shard {link.peer} is not what it declares: {error}")
            failed.__cause__ = error
            pending.future.set_exception(failed)

    def _accept(self, link: Link, queue: int, identifier: int, call: int, body: bytes) -> None:
        known = self._methods.get(identifier)
        if known is None:
            # Not started here yet. The caller's credit bounds how many wait.
            self._parked.append((link, queue, identifier, call, body))
            return
        self._calls_received += 1
        method, instance = known
        link.serving[call] = None
        serve = self._serve(link, link.epoch, method, instance, call, body)
        try:
            task = self.queue_for(method, queue).spawn(serve, name=method.name).task
        except UsageError as error:  # the executor is ending
            del link.serving[call]
            self._send(link, Kind.ERROR, 0, 0, call, encode_failure(error))
            return
        if call in link.serving:  # else an eager task factory has run it to its end
            link.serving[call] = task

    async def _serve(self, link: Link, epoch: int, method: RemoteMethod, instance: Any, call: int, body: bytes) -> None:
        """Run one call of a peer, in the queue where it belongs, from decoding to encoding."""
        try:
            kind, reply = Kind.REPLY, await self._run(method, instance, body)
            link.check_size(reply, f"the result of {method.name}")
        except Exception as error:
            kind, reply = Kind.ERROR, encode_failure(error)
        except BaseException as error:
            # Cancelled by its caller, who has been answered, or because we are going down; or it is one that ends more than
            # this task, which is no reason to leave the caller waiting.
            self._answer(link, epoch, Kind.ERROR, call, encode_failure(error))
            raise
        self._answer(link, epoch, kind, call, reply)

    def _answer(self, link: Link, epoch: int, kind: Kind, call: int, body: bytes) -> None:
        if link.epoch == epoch and link.connected and call in link.serving:
            del link.serving[call]
            self._send(link, kind, 0, 0, call, body)

    async def _run(self, method: RemoteMethod, instance: Any, body: bytes) -> bytes:
        try:
            arguments = method.arguments_decoder.decode(body)
        except Exception as error:
            raise TypeError(f"{method.name}() was called with arguments that it does not take: {error}") from None
        result = await method.call(instance, arguments)
        try:
            return self._encoder.encode(result)
        except Exception as error:
            raise TypeError(f"{method.name}() returned what cannot be sent: {error}") from error

    # Ends

    def _drop(self, link: Link, reason: str) -> None:
        self._dirty.discard(link)
        self._unfinished.discard(link.peer)
        self._parked = [parked for parked in self._parked if parked[0] is not link]
        link.disconnect(reason)

    def _poisoned(self, link: Link, error: PoisonedRing) -> None:
        logger.error(
            "shard %d drops its rings with shard %d, which has broken the rules: %s", self.shard_id, link.peer, error
        )
        self._drop(link, f"shard {link.peer} broke its ring")
        self._on_poisoned(link.peer, link.epoch)


def queue_identifier(key: Hashable) -> int:
    """What stands for a queue key in a frame; 0 is none."""
    return zlib.crc32(repr(key).encode()) or 1
