"""Ways to carry bytes between two processes: Clockworker's ring, and its peers. One message goes in, one comes out.

Each is opened before the processes are forked; then each process connects its end. Every peer is used as its documentation
says it is fast: faster-fifo without pickling, with `put_many` and `get_many`, ZeroMQ without a copy of large messages. The
Unix stream, which needs a loop, is in `_stream`.
"""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import os
import select
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from clockworker import ipc
from clockworker.ipc.rings._doorbell_cy import Doorbell, PeerDoorbell
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer
from clockworker.shards.supervisor._wiring import RING_CAPACITY

T = TypeVar("T")


BATCH = 64  # messages for each ring of the doorbell in a flood: what one turn of an executor may send
LARGE = 1 << 16
_KIND = 1
QUEUE_SIZE = (
    256  # messages: a `multiprocessing.Queue` without a bound takes in without end what its thread cannot write
)


class End(Protocol):
    """A blocking end. What was sent is sure to arrive only after `flush`."""

    def send(self, body: bytes) -> None: ...
    def flush(self) -> None: ...
    def receive(self) -> bytes: ...
    def close(self) -> None: ...


class Transport(NamedTuple):
    """Opened, before the fork: how each process connects its end, and how to close what was opened."""

    connect: tuple[Callable[[], End], Callable[[], End]]
    close: Callable[[], None]


Open = Callable[[], Transport]


class PollingRingEnd:
    """Two rings, looked at without pause: a core for each end."""

    def __init__(self, outgoing: int, incoming: int) -> None:
        self.producer = RingProducer(outgoing)
        self.consumer = RingConsumer(incoming)

    def send(self, body: bytes) -> None:
        while not self.producer.push(_KIND, 0, 0, 0, body):
            pass

    def receive(self) -> bytes:
        while (body := self.consumer.pop()) is None:
            pass
        return body

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.producer.close()
        self.consumer.close()


class SleepingRingEnd(PollingRingEnd):
    """The same, asleep on the eventfd of its doorbell while there is nothing to do."""

    def __init__(self, outgoing: int, incoming: int, own: tuple[int, int], peer: tuple[int, int]) -> None:
        super().__init__(outgoing, incoming)
        self._doorbell = Doorbell(*own)
        self._peer = PeerDoorbell(*peer, 0)
        self._rung = select.poll()
        self._rung.register(own[1], select.POLLIN)
        self._unflushed = 0

    def send(self, body: bytes) -> None:
        if not self.producer.push(_KIND, 0, 0, 0, body):

            def push_or_stall() -> bool | None:
                self.producer.stall()
                self._peer.announce()  # of a part, perhaps
                return self.producer.push(_KIND, 0, 0, 0, body) or None

            self._wait_for(push_or_stall)
        self._unflushed += 1
        if self._unflushed == BATCH or len(body) >= LARGE:
            self.flush()

    def receive(self) -> bytes:
        body = self.consumer.pop()
        return body if body is not None else self._wait_for(self._pop_or_make_room_known)

    def flush(self) -> None:
        if self._unflushed:
            self._unflushed = 0
            self._peer.announce()

    def close(self) -> None:
        super().close()
        self._doorbell.close()
        self._peer.close()

    def _pop_or_make_room_known(self) -> bytes | None:
        body = self.consumer.pop()
        if body is None and self.consumer.producer_stalled():
            self._peer.announce()
        return body

    def _wait_for(self, attempt: Callable[[], T | None]) -> T:
        while True:
            self._doorbell.news()  # before looking: what comes after it keeps us awake
            found = attempt()
            if found is not None:
                return found
            if self._doorbell.sleep():
                self._rung.poll()
                self._doorbell.rung = True
                self._doorbell.wake()


def open_polling_ring() -> Transport:
    there, back = ipc.create_ring(RING_CAPACITY), ipc.create_ring(RING_CAPACITY)

    def close() -> None:
        for descriptor in (there, back):
            os.close(descriptor)

    return Transport((lambda: PollingRingEnd(there, back), lambda: PollingRingEnd(back, there)), close)


def open_sleeping_ring() -> Transport:
    there, back = ipc.create_ring(RING_CAPACITY), ipc.create_ring(RING_CAPACITY)
    one, other = ipc.create_doorbell(1), ipc.create_doorbell(1)

    def close() -> None:
        for descriptor in (there, back, *one, *other):
            os.close(descriptor)

    connect = (lambda: SleepingRingEnd(there, back, one, other), lambda: SleepingRingEnd(back, there, other, one))
    return Transport(connect, close)


class PlainEnd:
    """Of a peer whose sending needs no flush."""

    def __init__(
        self, send: Callable[[bytes], Any], receive: Callable[[], bytes], close: Callable[[], Any] = lambda: None
    ) -> None:
        self.send = send
        self.receive = receive
        self.close = close

    def flush(self) -> None:
        pass


class TypedEnd:
    """Over any end, what a request without a reply is: the name of a method and its arguments, whose types are checked."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[str, tuple[bytes]]).decode
        self.flush = end.flush
        self.close = end.close

    def send(self, body: bytes) -> None:
        self._end.send(self._encode(("take", (body,))))

    def receive(self) -> bytes:
        return self._decode(self._end.receive())[1][0]


def typed(open_transport: Open) -> Open:
    """The same with typed messages."""

    def open_typed() -> Transport:
        (one, other), close = open_transport()
        return Transport((lambda: TypedEnd(one()), lambda: TypedEnd(other())), close)

    return open_typed


def open_pipe() -> Transport:
    one, other = multiprocessing.Pipe()

    def close() -> None:
        one.close()
        other.close()

    connect = (
        lambda: PlainEnd(one.send_bytes, one.recv_bytes),
        lambda: PlainEnd(other.send_bytes, other.recv_bytes),
    )
    return Transport(connect, close)


def open_queue() -> Transport:
    context = multiprocessing.get_context("fork")
    there, back = context.Queue(QUEUE_SIZE), context.Queue(QUEUE_SIZE)

    def close() -> None:
        there.close()
        back.close()

    return Transport((lambda: PlainEnd(there.put, back.get), lambda: PlainEnd(back.put, there.get)), close)


_addresses = itertools.count()


def open_zmq() -> Transport:
    address = f"ipc://@clockworker-bench-{os.getpid()}-{next(_addresses)}"

    def connect(method: str) -> End:
        import zmq

        context = zmq.Context()
        socket = context.socket(zmq.PAIR)
        getattr(socket, method)(address)

        def close() -> None:
            socket.close()
            context.term()  # when all is sent

        return PlainEnd(lambda body: socket.send(body, 0, len(body) < LARGE), socket.recv, close)

    return Transport((lambda: connect("connect"), lambda: connect("bind")), lambda: None)


class FasterFifoEnd:
    def __init__(self, outgoing: Any, incoming: Any) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._unsent: list[bytes] = []
        self._received: deque[bytes] = deque()

    def send(self, body: bytes) -> None:
        self._unsent.append(body)
        if len(self._unsent) == BATCH or len(body) >= LARGE:
            self.flush()

    def flush(self) -> None:
        if self._unsent:
            self._outgoing.put_many(self._unsent)
            self._unsent.clear()

    def close(self) -> None:
        pass

    def receive(self) -> bytes:
        while not self._received:
            self._received.extend(self._incoming.get_many())
        return self._received.popleft()


def open_faster_fifo() -> Transport:
    from faster_fifo import Queue

    there, back = (Queue(2 * RING_CAPACITY, dumps=bytes, loads=bytes) for _ in range(2))
    return Transport((lambda: FasterFifoEnd(there, back), lambda: FasterFifoEnd(back, there)), lambda: None)


def peers() -> dict[str, Open]:
    """Those that are installed."""
    found: dict[str, Open] = {"Pipe": open_pipe, "Queue": open_queue}
    if importlib.util.find_spec("zmq"):
        found["zmq ipc"] = open_zmq
    if importlib.util.find_spec("faster_fifo"):
        found["faster-fifo"] = open_faster_fifo
    return found
