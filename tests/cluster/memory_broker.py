"""A broker in memory, for loops in several threads: what it does to messages the test says.

It keeps the order of each publisher, as NATS does, unless it is told to do worse.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable

from clockworker.cluster._wire import Bucket, Entry, Subscription, WireError

Fault = Callable[[str, bytes], list[bytes]]  # subject and body of a message: what is delivered in its place


class MemoryBroker:
    """max_payload: bytes."""

    def __init__(self, max_payload: int = 1 << 20) -> None:
        self.max_payload = max_payload
        self.wires: list[MemoryWire] = []
        self.messages = 0
        self.bytes = 0
        self.is_there = True
        self.fault: Fault | None = None
        self.stalled: list[tuple[str, bytes]] | None = None  # kept until `go_on`
        self._lock = threading.RLock()
        self._buckets: dict[str, dict[str, Entry]] = {}

    def wire(self) -> MemoryWire:
        """One that is not connected."""
        return MemoryWire(self)

    def publish(self, subject: str, body: bytes) -> None:
        with self._lock:
            self.messages += 1
            self.bytes += len(body)
            if self.stalled is not None:
                self.stalled.append((subject, body))
                return
            for each in [body] if self.fault is None else self.fault(subject, body):
                self._deliver(subject, each)

    def _deliver(self, subject: str, body: bytes) -> None:
        for wire in self.wires:
            wire.deliver(subject, body)

    def stall(self) -> None:
        """Deliver nothing for the time being."""
        with self._lock:
            self.stalled = []

    def go_on(self) -> None:
        """Deliver all that was kept, in its order."""
        with self._lock:
            stalled, self.stalled = self.stalled or [], None
            for subject, body in stalled:
                self.publish(subject, body)

    def restart(self, *, comes_back: bool = True) -> None:
        """All connections are lost."""
        with self._lock:
            self.is_there = comes_back
            wires, self.wires = self.wires, []
            self.stalled = None
        for wire in wires:
            wire.lose(ConnectionResetError("the broker has gone"))

    def cut(self, wire: MemoryWire) -> None:
        """Nothing comes through it any more, and its owner does not know."""
        with self._lock:
            self.wires.remove(wire)
            wire._is_lost = True

    def bucket(self, name: str) -> MemoryBucket:
        return MemoryBucket(self._buckets.setdefault(name, {}), self._lock)


class MemoryWire:
    def __init__(self, broker: MemoryBroker) -> None:
        self.max_payload = broker.max_payload
        self.lost: Callable[[Exception], None] = lambda error: None
        self.full = False  # publishes nothing, until it is flushed
        self._broker = broker
        self._subscriptions: list[_Subscription] = []
        self._is_lost = False
        self._loop: asyncio.AbstractEventLoop

    async def connect(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not self._broker.is_there:
            raise WireError("memory: there is no broker")
        with self._broker._lock:
            self._broker.wires.append(self)

    async def subscribe(self, subject: str, heard: Callable[[str, bytes], None]) -> Subscription:
        subscription = _Subscription(self, subject, heard)
        with self._broker._lock:
            self._subscriptions.append(subscription)
        return subscription

    def publish(self, subject: str, body: bytes | bytearray | memoryview, *, hold: bool = False) -> bool:
        assert len(body) <= self.max_payload, len(body)
        if self.full:
            return False
        if not self._is_lost:
            self._broker.publish(subject, bytes(body))
        return True

    def send_off(self) -> None:
        pass

    async def flush(self) -> None:
        await asyncio.sleep(0.01)
        if self._is_lost:
            raise WireError("memory: the connection is lost")
        self.full = False

    async def bucket(self, name: str) -> Bucket:
        return self._broker.bucket(name)

    async def close(self) -> None:
        self._is_lost = True
        with self._broker._lock:
            if self in self._broker.wires:
                self._broker.wires.remove(self)

    def deliver(self, subject: str, body: bytes) -> None:
        for each in self._subscriptions:
            if each.matches(subject):
                try:
                    self._loop.call_soon_threadsafe(each.hear, subject, body)
                except RuntimeError:  # a loop that is closed: its process is dead
                    return

    def lose(self, error: Exception) -> None:
        self._is_lost = True

        def tell() -> None:
            self.lost(error)

        self._loop.call_soon_threadsafe(tell)


class _Subscription:
    def __init__(self, wire: MemoryWire, subject: str, heard: Callable[[str, bytes], None]) -> None:
        self._wire = wire
        self._heard = heard
        pattern = re.escape(subject).replace(r"\*", "[^.]+")
        self._pattern = re.compile(pattern.removesuffix(">") + (".+" if pattern.endswith(">") else ""))
        self._is_open = True

    def matches(self, subject: str) -> bool:
        return self._pattern.fullmatch(subject) is not None

    def hear(self, subject: str, body: bytes) -> None:
        if self._is_open and not self._wire._is_lost:
            self._heard(subject, body)

    def close(self) -> None:
        self._is_open = False


class MemoryBucket:
    def __init__(self, entries: dict[str, Entry], lock: threading.RLock) -> None:  # type: ignore[valid-type]
        self._entries = entries
        self._lock = lock

    async def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    async def update(self, key: str, value: bytes, last: int) -> int | None:
        with self._lock:  # type: ignore[attr-defined]
            found = self._entries.get(key)
            if (found.revision if found else 0) != last:
                return None
            revision = max((each.revision for each in self._entries.values()), default=0) + 1
            self._entries[key] = Entry(value, revision)
            return revision
