"""The server that `preempt_soak` runs: hogs of many kinds in preemptive queues, beside all that could be hurt by a cut.

Every hog knows what it must come to, and looks itself whether it has: a wrong result is a fault, as is a foreground that finds
another task, another context or another exception than its own. What may happen at any time does: collections, signals,
threads that take the same locks, cancellations.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import importlib
import itertools
import json
import logging
import os
import queue
import random
import re
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from types import FrameType
from typing import Any

import msgspec
import psutil

import clockworker as cw

GC_THRESHOLD = 200
SIGNAL_EVERY_S = 0.007
HOGS = 6  # in flight, in each of two queues
SETTLE_S = 0.003

_whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody")
_lock, _rlock, _condition = threading.Lock(), threading.RLock(), threading.Condition()
_queue: queue.Queue[int] = queue.Queue(maxsize=8)
_log = logging.getLogger("soak")
_log.setLevel(logging.DEBUG)
_log.propagate = False
_log.addHandler(logging.StreamHandler(open(os.devnull, "w")))  # noqa: SIM115  # its lock is what this is about


class Found(msgspec.Struct, frozen=True):
    """What a shard has seen since it was started. late_ms: the foreground's p99, of the last thousand."""

    pid: int
    hogs: int
    aborted: int
    signals: int
    foreground: int
    calls: int
    late_ms: float
    rss_bytes: int
    faults: list[str]


class Fault(Exception):
    """Something was not what it had to be."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Fault(what)


# Hogs. None of them awaits.


def adds(rng: random.Random) -> None:
    count = rng.randrange(20_000, 120_000)
    total = 0
    for number in range(count):
        total += number
    check(total == count * (count - 1) // 2, "a sum")


def recurses(rng: random.Random) -> None:
    def fibonacci(number: int) -> int:
        return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)

    check(fibonacci(16) == 987, "a recursion")

    def deep(depth: int) -> int:
        return depth if not depth else deep(depth - 1)

    for _ in range(30):
        check(deep(400) == 0, "a deep recursion")


def generates(rng: random.Random) -> None:
    def numbers(count: int) -> Iterator[int]:
        try:
            for number in range(count):
                sent = yield number
                check(sent is None or sent == number, "what was sent")
        finally:
            ended.append(1)

    ended: list[int] = []
    for _ in range(40):
        generator = numbers(300)
        check(sum(itertools.islice(generator, 100)) == 4950, "a generator")
        if rng.random() < 0.5:
            generator.close()
        del generator
    check(len(ended) == 40, "generators that ended")


def raises(rng: random.Random) -> None:
    for number in range(1_500):
        try:
            try:
                raise KeyError(number)
            except KeyError as error:
                check(sys.exc_info()[1] is error, "the exception that is handled")
                raise ValueError(number) from error
        except ValueError as error:
            check(sys.exc_info()[1] is error, "the second exception")
            check(error.__cause__ is error.__context__, "its cause")
    check(sys.exc_info()[1] is None, "no exception")


def matches(rng: random.Random) -> None:
    text = "ab" * 2_000 + "c"
    for _ in range(20):
        check(re.search(r"(?:a|b)*?c$", text) is not None, "a match")


def multiplies(rng: random.Random) -> None:
    number = 3**20_000
    check(number * number % 1_000_007 == pow(3, 40_000, 1_000_007), "a product")
    check(int(str(3**2_000)) == 3**2_000, "a number's text")
    with localcontext() as context:
        context.prec = 50
        third = Decimal(1) / 3
        for _ in range(300):
            third = (third + Decimal(1) / 3) / 2
        check(str(third).startswith("0." + "3" * 45), "a decimal in its context")
    check(sum((Fraction(1, number) for number in range(1, 60)), Fraction(0)) > 4, "fractions")


def encodes(rng: random.Random) -> None:
    value = {"numbers": list(range(3_000)), "nested": [{"name": str(each), "value": each / 7} for each in range(300)]}
    for _ in range(3):
        check(json.loads(json.dumps(value, indent=1)) == value, "JSON")
        check(msgspec.msgpack.decode(msgspec.msgpack.encode(value)) == value, "msgpack")


def sorts(rng: random.Random) -> None:
    values = [rng.random() for _ in range(6_000)]
    check(sorted(values, key=lambda value: -value) == sorted(values, reverse=True), "a sort")
    mine = list(values)
    mine.sort(key=lambda value: value * 2)
    check(mine == sorted(values), "a sort in place")


def locks(rng: random.Random) -> None:
    for number in range(400):
        with _lock:
            check(_lock.locked(), "a lock that is held")
            sum(range(50))
        with _rlock, _rlock:
            sum(range(50))
        with _condition:
            _condition.notify_all()
        with contextlib.suppress(queue.Full):
            _queue.put_nowait(number)
        with contextlib.suppress(queue.Empty):
            _queue.get_nowait()
        _log.debug("hog %d", number)


class Noted:
    """Its end is counted."""

    ended = 0

    def __init__(self) -> None:
        self.itself = self  # to be collected, not freed

    def __del__(self) -> None:
        for _ in range(20):
            pass
        Noted.ended += 1


def collects(rng: random.Random) -> None:
    seen = weakref.WeakValueDictionary[int, Noted]()
    for number in range(600):
        seen[number] = Noted()
    if rng.random() < 0.2:
        gc.collect()
    check(all(each.itself is each for each in list(seen.values())), "objects that are there")


def imports(rng: random.Random) -> None:
    name = rng.choice(["this_is_not_there", "colorsys", "sndhdr_not", "wave", "tabnanny", "graphlib"])
    sys.modules.pop(name, None)
    with contextlib.suppress(ModuleNotFoundError):
        check(importlib.import_module(name).__name__ == name, "a module")


def has_a_context(rng: random.Random) -> None:
    mine = f"hog {rng.random()}"
    token = _whose.set(mine)
    for _ in range(3_000):
        check(_whose.get() == mine, "a context variable")
        inner = contextvars.copy_context()
        check(inner.run(_whose.get) == mine, "a copy of a context")
    _whose.reset(token)


def waits_for_threads(rng: random.Random) -> None:
    done: list[int] = []

    def work() -> None:
        with _lock:
            done.append(sum(range(3_000)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(done == [4498500] * 3, "what threads have done")


KINDS: tuple[Callable[[random.Random], None], ...] = (
    adds,
    recurses,
    generates,
    raises,
    matches,
    multiplies,
    encodes,
    sorts,
    locks,
    collects,
    imports,
    has_a_context,
    waits_for_threads,
)


def one_hog(seed: int) -> str:
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    kind(rng)
    return kind.__name__


class Soak:
    def __init__(self, shard: cw.Shard) -> None:
        self.shard = shard
        self.hogs = self.aborted = self.signals = self.foreground = self.calls = 0
        self.faults: list[str] = []
        self.late_ms: list[float] = []
        self.all: cw.Sharded[Soak]

    @cw.remote(queue="hogs")
    async def compute(self, seed: int) -> str:
        """A single step, without a task."""
        return one_hog(seed)

    @cw.remote
    async def found(self) -> Found:
        late = sorted(self.late_ms[-1000:])
        return Found(
            os.getpid(),
            self.hogs,
            self.aborted,
            self.signals,
            self.foreground,
            self.calls,
            late[len(late) * 99 // 100] if late else 0.0,
            psutil.Process().memory_info().rss,
            self.faults[:20],
        )

    def note(self, error: BaseException, what: str) -> None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        places = [
            f"{os.path.basename(each.filename)}:{each.lineno}" for each in traceback.extract_tb(error.__traceback__)
        ]
        self.faults.append(f"{what}: {error!r} at {' '.join(places[-6:])}")

    # Loops that go on until the shard stops.

    async def keep_hogs(self, name: str, seed: int) -> None:
        """One after the other; some are aborted in the middle, some await between two computations."""
        rng = random.Random(seed)
        hogs = self.shard.queue(name)

        async def hog(seed: int) -> str:
            mine = asyncio.current_task()
            said = one_hog(seed)
            check(asyncio.current_task() is mine, f"the current task after {said}")
            if seed % 3 == 0:
                async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(0.001))
                    said = one_hog(seed + 1)
                check(asyncio.current_task() is mine, f"the current task of a group after {said}")
            return said

        while True:
            handle = hogs.spawn(hog(rng.randrange(1 << 30)))
            if rng.random() < 0.15:
                await asyncio.sleep(rng.random() * 0.02)
                handle.abort()
            try:
                await handle
                self.hogs += 1
            except cw.TaskCancelled:
                self.aborted += 1
            except Exception as error:
                self.note(error, f"a hog in {name}")
            await asyncio.sleep(0)

    async def keep_foreground(self) -> None:
        mine, token = asyncio.current_task(), _whose.set("foreground")
        while True:
            due = time.perf_counter() + SETTLE_S
            await asyncio.sleep(SETTLE_S)
            self.late_ms.append((time.perf_counter() - due) * 1e3)
            if len(self.late_ms) > 4_000:
                del self.late_ms[:2_000]
            self.foreground += 1
            try:
                check(asyncio.current_task() is mine, "the foreground's task")
                check(_whose.get() == "foreground", f"the foreground's context, which has {_whose.get()}")
                check(sys.exc_info()[1] is None, f"no exception, and there is {sys.exc_info()[1]!r}")
                for lock in (_lock, _rlock, _condition):
                    check(lock.acquire(timeout=5), f"{lock} within 5 s")
                    lock.release()
                with contextlib.suppress(queue.Full):
                    _queue.put_nowait(1)
                with contextlib.suppress(queue.Empty):
                    _queue.get_nowait()
                _log.debug("foreground")
                check(json.loads("[1]") == [1], "JSON of the foreground")
            except Fault as error:
                self.note(error, "the foreground")
        _whose.reset(token)

    async def keep_calling(self, seed: int) -> None:
        """Peers, which may die."""
        rng = random.Random(seed)
        names = {kind.__name__ for kind in KINDS}
        while True:
            peer = rng.randrange(self.shard.count)
            try:
                check(await self.all.on(peer).compute(rng.randrange(1 << 30)) in names, "an answer")
                self.calls += 1
            except cw.CallError as error:
                if isinstance(error, cw.RemoteError):
                    self.note(error, f"a call to {peer}")
                await asyncio.sleep(0.05)
            except Fault as error:
                self.note(error, f"a call to {peer}")

    def keep_threads(self) -> None:
        """That take what hogs take."""

        def work() -> None:
            while not self.shard.stopping:
                with _lock:
                    sum(range(100))
                with contextlib.suppress(queue.Empty):
                    _queue.get(timeout=0.1)
                with _condition:
                    _condition.wait(0.1)
                _log.debug("thread")
                # Beside a process whose threads wake up each other all the time others on its CPU had 3 % of it, without any
                # preemptive queue too (Linux 6.18), and what is tested in another process stood still.
                time.sleep(0.1)

        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()

    def take_signals(self) -> None:
        def count(number: int, frame: FrameType | None) -> None:
            self.signals += 1

        signal.signal(signal.SIGALRM, count)
        signal.setitimer(signal.ITIMER_REAL, SIGNAL_EVERY_S, SIGNAL_EVERY_S)


PREEMPTIVE: dict[str, Any] = {"preemptive": True}


@cw.application(
    queues=[
        cw.Queue("foreground", 8),
        cw.Queue("hogs", 1, **PREEMPTIVE),
        cw.Queue("others", 2, **PREEMPTIVE, slice=0.0005),
    ]
)
async def main(shard: cw.Shard) -> None:
    gc.set_threshold(GC_THRESHOLD)
    soak = await shard.start(Soak)
    soak.local.all = soak
    soak.local.take_signals()
    soak.local.keep_threads()
    foreground = shard.queue("foreground")
    running = [foreground.spawn(soak.local.keep_foreground())]
    for number in range(HOGS):
        running += [foreground.spawn(soak.local.keep_hogs(name, number)) for name in ("hogs", "others")]
    running.append(foreground.spawn(soak.local.keep_calling(shard.id)))
    await shard.wait_stopped()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for handle in running:
        handle.abort()
