# cython: language_level=3, annotation_typing=False, auto_pickle=False
"""The doorbell: how a shard that sleeps in its event loop learns that a ring has news.

Each incarnation of a shard has one page of shared memory and one eventfd. The page has a word `sleeps`, which the shard alone
writes: odd while it sleeps, or is about to; and a word of `news` for each peer, which that peer alone writes: how often it has
flushed. A shard that is awake looks at the news words and reads only the rings of those that have changed.

    producer:  publish frames     news += 1     full fence     load sleeps; odd, and not rung for yet: write the eventfd
    sleeper:   sleeps += 1 (odd)  full fence    load all news; any changed: sleeps += 1, stay awake

Each side stores, fences, and loads what the other stores, so at least one sees the other (Dekker). Without the fence both
loads may be done before either store is seen, and the wake-up is lost: on x86-64 in two of a thousand. The fence must hold
between processes: membarrier's PRIVATE_EXPEDITED covers one process and is wrong here.

Rejected: a bitmap of senders (a read-modify-write that all producers contend for, where 32 shards' words are four cache
lines to look at) and a flag that the ringer clears (two writers; the count lets each producer ring once a sleep by itself).
"""

from __future__ import annotations

import os

from clockworker.ipc._memory_cy import SharedMemory, create_memory

_SLEEPS_AT = 0
_NEWS_AT = 64


def create_doorbell(count: int) -> tuple[int, int]:
    """The descriptors (memory, eventfd) of a new doorbell for a mesh of `count` shards."""
    memory = create_memory("doorbell", _NEWS_AT + 8 * count)
    try:
        return memory, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except BaseException:
        os.close(memory)
        raise


class Doorbell:
    """The shard's own doorbell."""

    def __init__(self, memory: int) -> None:
        self._memory = SharedMemory(memory)
        self._count = (self._memory.size - _NEWS_AT) >> 3
        self.sleeps = self._memory.load(_SLEEPS_AT)
        self._seen = [0] * self._count
        self._total_seen = 0

    def close(self) -> None:
        """Unmap; the doorbell must not be used afterwards."""
        self._memory.close()

    def news(self) -> list[int] | None:
        """The peers that have flushed since the last call, or None."""
        if not self.has_news():
            return None
        changed = []
        for peer in range(self._count):
            count = self._memory.load(_NEWS_AT + 8 * peer)
            if count != self._seen[peer]:
                self._total_seen += count - self._seen[peer]
                self._seen[peer] = count
                changed.append(peer)
        return changed

    def sleep(self) -> bool:
        """Announce sleep. False, and still awake, if there is news."""
        self.sleeps += 1
        self._memory.store(_SLEEPS_AT, self.sleeps)
        self._memory.fence()
        if self.has_news():
            self.wake()
            return False
        return True

    def wake(self) -> None:
        """Awake again, for whatever reason; without effect while awake."""
        if self.sleeps & 1:
            self.sleeps += 1
            self._memory.store(_SLEEPS_AT, self.sleeps)

    def asleep(self) -> bool:
        """Whether sleep is announced."""
        return bool(self.sleeps & 1)

    def has_news(self) -> bool:
        """Whether `news` would name anybody."""
        # Counts only grow, so their sum changes whenever one does.
        total = 0
        for peer in range(self._count):
            total += self._memory.load(_NEWS_AT + 8 * peer)
        return total != self._total_seen


class PeerDoorbell:
    """A peer's doorbell, as the shard `sender` uses it. Rings the eventfd, which it owns."""

    def __init__(self, memory: int, eventfd: int, sender: int) -> None:
        self._memory = SharedMemory(memory)
        self._eventfd = eventfd
        self._news_at = _NEWS_AT + 8 * sender
        self._news = self._memory.load(self._news_at)
        self._rung_for = 0

    def close(self) -> None:
        """Unmap, and close the eventfd."""
        self._memory.close()
        os.close(self._eventfd)

    def announce(self) -> bool:
        """There is news in our ring, or room. Wakes the peer if it sleeps: then True."""
        self._news += 1
        self._memory.store(self._news_at, self._news)
        self._memory.fence()
        sleeps = self._memory.load(_SLEEPS_AT)
        if sleeps & 1 and sleeps != self._rung_for:
            self._rung_for = sleeps
            self.ring()
            return True
        return False

    def ring(self) -> None:
        """Write the eventfd."""
        os.eventfd_write(self._eventfd, 1)
