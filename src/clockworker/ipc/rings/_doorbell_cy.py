# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The doorbell: how a shard that sleeps in its event loop learns that a ring has news.

Each incarnation of a shard has one page of shared memory and one eventfd. The page has a word `sleeps`, which the shard alone
writes: odd while it sleeps, or is about to; and a word of `news` for each peer, which that peer alone writes: how often it
has told of something. A shard that is awake looks at the news words and reads only the rings of those that have changed.
While a peer is replaced there are two of it, so there are two words for each; nobody looks at the second ones before the
first is used.

    producer:  publish a frame    news += 1     load sleeps; odd, and not rung for yet: write the eventfd   (`tell`, each frame)
               at its turn's end  full fence    load sleeps; odd, and not rung for yet: write the eventfd   (`make_sure`, once)
    sleeper:   sleeps += 1 (odd)  full fence    load all news; any changed: sleeps += 1, stay awake

Each side stores, fences, and loads what the other stores, so at least one sees the other (Dekker). Without the fence both
loads may be done before either store is seen, and the wake-up is lost: on x86-64 in two of a thousand. The fence must hold
between processes: membarrier's PRIVATE_EXPEDITED covers one process and is wrong here.

One fence is enough for all that was told before it, so it comes once a turn: a fence for each frame waits each time until the
stores of that frame have reached the other core, which was a fourteenth of a sender's time. A peer that is awake needs none:
it sees each frame as it is told. One that sleeps already is seen to sleep and rung for at once. What is left to the turn's
end is a peer that falls asleep within the tenth of a microsecond in which our store is on its way; the look at the next frame
sees that too. It waits for the steps of this turn at most. Whoever has told something owes that fence: `_connection_cy` has
the paths.

On aarch64 the stores are stlr, the loads ldar and the fence dmb ish, which alone orders a store before a later load. The frames
come before the news (stlr is a release of all that precedes), and the reader, who has loaded the news (ldar), looks at the
rings after that: so news that was seen is never news of a frame that is not there yet. The eventfd is written after the
load that decides it, and the kernel orders it with the reader's wake-up. `sleeps` may be seen late when it becomes even: a
bell too many, never one too few.

Ringing ahead. Most of a call to a core that sleeps is waiting for that core to wake up. Who is about to publish rings before
the work, not after it, and the peer wakes up meanwhile:

    producer:  load sleeps; odd, and not rung for yet: write the eventfd     work     publish frames, announce as above
    sleeper:   wakes, and finds no news: it has been promised some, so it looks on for a while; then it sleeps anew

That loses no wake-up, for a ring counts for the sleep whose number was loaded and for no other. If announcing still finds that
number, either the bell has not been answered yet, and the sleeper will look at the news after it; or it has been, and the next
number is in a store buffer or before: then the sleeper's fence, and its look at the news, come after our load, and so after
our store. If it finds another, it rings anew. So a promise may be broken, or made to one who had woken already: that is a bell
too many.

The eventfd is read before a sleep is announced and never between that and its end, or a bell for the new sleep would be taken
for one of the last. By then what woke us has been served, so that reading delays nobody. Nothing but the news is looked at
after it, so a bell must mean nothing else.

A promise is for a peer that has a core to itself, and another than ours: on ours it would wake up in our place, and find
nothing. So the page says where its shard runs, if it is tied to one core. Otherwise nobody rings ahead.

Rejected: MEMBARRIER_CMD_GLOBAL_EXPEDITED by the sleeper, in place of the sender's fence (it interrupts every core that
runs one of us at each sleep of any, and a container may forbid it); a bitmap of senders (a read-modify-write that all
producers contend for, where 32 shards' words are four cache lines to look at) and a flag that the ringer clears (two writers;
the count lets each producer ring once a sleep by itself).
"""

from __future__ import annotations

import os
from array import array
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.ipc.rings._memory_cy import SharedMemory, create_memory

if cython.compiled:
    from cython.cimports.clockworker.ipc.rings._atomics import cw_pause
    from cython.cimports.clockworker.ipc.rings._monotonic import now_ns
else:
    from time import monotonic_ns as now_ns

    def cw_pause() -> None:
        pass


_SLEEPS_AT = 0
_CORE_AT = 8  # 1 + the core that the shard is tied to; 0: to none, or it is not there yet
_NEWS_AT = 64

MAX_PLACES = 1 << 16  # of a mesh

_AHEAD = 1 << 32  # what a bell ahead of news adds to the eventfd; others add 1

# How long one who was rung for ahead looks for the news. A promise is made for what should follow sooner than a core wakes up
# (15 us on a virtual machine), so this is for when it does not quite.
_LOOK_ON_NS = 25_000


def create_doorbell(count: int) -> tuple[int, int]:
    """The descriptors (memory, eventfd) of a new doorbell for a mesh of `count` shards. The incarnations of shard i flush to
    word i and word i + count in turn. Raises ValueError for a count below 1, or above 64 Ki."""
    if not 1 <= count <= MAX_PLACES:
        raise ValueError(f"a doorbell for {count!r} shards; there can be from 1 to {MAX_PLACES:,}")
    memory = create_memory("doorbell", _NEWS_AT + 2 * 8 * count)
    try:
        return memory, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except BaseException:
        os.close(memory)
        raise


def own_core() -> int:
    """1 + the core that this process is tied to, or 0 if it may run on others."""
    cores = os.sched_getaffinity(0)
    return 1 + min(cores) if len(cores) == 1 else 0


@cython.final
@cython.cclass
class Doorbell:
    """The shard's own doorbell. The eventfd is the caller's, who sets `rung` when it can be read."""

    def __init__(self, memory: int, eventfd: int) -> None:
        self._memory = SharedMemory(memory)
        self._eventfd = eventfd
        words = (self._memory.size - _NEWS_AT) >> 3
        self._count = words >> 1  # of them are looked at
        self.sleeps = self._memory.load(_SLEEPS_AT)
        self._memory.store(_CORE_AT, own_core())
        self._seen = array("Q", bytes(8 * words))
        self._total_seen = 0
        self.rung = False  # and the bell has not been answered yet
        self._promised = False  # it was rung ahead of the news
        self._found_news = False  # since it woke
        self.wakeups = 0
        self.wakeups_in_vain = 0

    def listen(self, place: int) -> None:
        """This word will be used."""
        if place >= self._count:
            self._count = len(self._seen)

    def close(self) -> None:
        """Unmap; the doorbell must not be used afterwards."""
        self._memory.close()

    def news(self) -> list[int] | None:
        """The words in which a peer has flushed since the last call, or None."""
        changed = []
        peer = self.next_news(0)
        while peer >= 0:
            changed.append(peer)
            peer = self.next_news(peer + 1)
        return changed or None

    def next_news(self, peer: int) -> int:
        """The first word from this one on in which a peer has flushed since it was last named. -1: none, or closed."""
        known: Any = self._seen.data.as_ulonglongs if cython.compiled else self._seen  # type: ignore[attr-defined]
        while 0 <= peer < self._count:
            count = self._memory.load(_NEWS_AT + 8 * peer)
            if count != known[peer]:
                self._total_seen += count - known[peer]
                known[peer] = count
                self._found_news = True
                return peer
            peer += 1
        return -1

    def sleep(self) -> bool:
        """Announce sleep. False, and still awake, if there is news."""
        if self.rung:
            self.answer()
        if self._promised and self._look_on():
            return False
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
            self._found_news = False

    def answer(self) -> bool:
        """Read the eventfd. False if it had not been rung. May take the bell of a sleep that is announced: not to be called
        during one, unless it is ended now."""
        self.rung = False
        try:
            rung = os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return False
        self.wakeups += 1
        self._promised = rung >= _AHEAD
        return True

    def _look_on(self) -> bool:
        """We were promised news. True if there are some that we have not seen."""
        self._promised = False
        if self._found_news:
            return False
        until = now_ns() + _LOOK_ON_NS
        while not self.has_news():
            if now_ns() > until:
                self.wakeups_in_vain += 1
                return False
            cw_pause()
        return True

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


@cython.final
@cython.cclass
class PeerDoorbell:
    """A peer's doorbell, as the shard whose word is `sender` uses it. Rings the eventfd, which it owns."""

    def __init__(self, memory: int, eventfd: int, sender: int) -> None:
        self._memory = SharedMemory(memory)
        self._eventfd = eventfd
        self._news_at = _NEWS_AT + 8 * sender
        self._news = self._memory.load(self._news_at)
        self._own_core = own_core()
        self._rung_for = 0
        self.rings = 0
        self.rings_ahead = 0  # of them

    def fileno(self) -> int:
        """The eventfd."""
        return self._eventfd

    def close(self) -> None:
        """Unmap, and close the eventfd. Nothing the second time."""
        self._memory.close()
        eventfd, self._eventfd = self._eventfd, -1
        if eventfd >= 0:
            os.close(eventfd)

    def tell(self) -> None:
        """There is news in our ring, or room. Who is awake sees it, and who is seen to sleep is rung for. `make_sure` must
        follow, once for all that has been told."""
        self._news += 1
        self._memory.store(self._news_at, self._news)
        self._look()

    def make_sure(self) -> bool:
        """That who sleeps hears of what was told: wakes the peer if it still has to be woken, then True."""
        self._memory.fence()
        return self._look()

    def announce(self) -> bool:
        """Tell, and make sure at once. True if that has woken the peer."""
        self._news += 1
        self._memory.store(self._news_at, self._news)
        return self.make_sure()

    def _look(self) -> bool:
        """Wake the peer if it is seen to sleep, and has not been rung for: then True."""
        sleeps = self._memory.load(_SLEEPS_AT)
        if sleeps & 1 and sleeps != self._rung_for:
            self._rung_for = sleeps
            self.ring()
            return True
        return False

    def ring(self) -> None:
        """Write the eventfd."""
        self.rings += 1
        os.eventfd_write(self._eventfd, 1)

    def may_ring_ahead(self) -> bool:
        """Whether the peer sleeps, has not been rung for, and has another core than ours to wake up on."""
        return self._sleep_to_end() != 0

    def ring_ahead(self) -> None:
        """If it may: wake the peer for news that will follow at once."""
        sleeps = self._sleep_to_end()
        if sleeps:
            self._rung_for = sleeps
            self.rings += 1
            self.rings_ahead += 1
            os.eventfd_write(self._eventfd, _AHEAD)

    def _sleep_to_end(self) -> int:
        """The number of the sleep from which the peer may be rung ahead; 0: it may not."""
        sleeps = self._memory.load(_SLEEPS_AT)
        if sleeps & 1 == 0 or sleeps == self._rung_for:
            return 0
        core = self._memory.load(_CORE_AT)
        return sleeps if core != 0 and core != self._own_core else 0
