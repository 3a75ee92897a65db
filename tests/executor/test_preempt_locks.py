"""Rule 1: with a lock held nothing is cut, and the cut is made when it is released."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import io
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run, until
from tests.executor.slices import (
    ask,
    ask_with,
    compute_until,
    cuts,
    needs_slices,
    queues,
    refusals,
    rule,
    with_and_without,
)

pytestmark = [needs_slices, pytest.mark.usefixtures("by_hand")]

ROUNDS = 50


async def beside(executor: cw.Executor, hog: Callable[[], None], look: Callable[[], None]) -> None:
    """Have `look` called by the foreground, again and again, while the background's `hog` computes."""

    async def hogging() -> None:
        hog()

    async def looking() -> None:
        while not handle.done():
            look()
            await asyncio.sleep(0)

    handle = executor.queue("background").spawn(hogging())
    watching = executor.queue("foreground").spawn(looking())
    await handle
    await watching


@with_and_without
def test_a_lock_is_never_seen_locked(run: Run, on: bool) -> None:
    lock = threading.Lock()
    free: list[bool] = []

    def hog() -> None:
        for _ in range(ROUNDS):
            seen = len(free)
            with lock:
                ask()
                ask_with(on, lambda seen=seen: len(free) > seen)  # type: ignore[misc]
            compute_until(lambda seen=seen: len(free) > seen)  # type: ignore[misc]

    def look() -> None:
        free.append(lock.acquire(blocking=False))
        if free[-1]:
            lock.release()

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            await beside(executor, hog, look)
            assert cuts(executor) >= ROUNDS
            if on:
                assert refusals(executor)["lock"] >= ROUNDS

    with rule("lock", on):
        run(body)
    assert all(free) == on


@with_and_without
def test_an_rlock_has_one_holder(run: Run, on: bool) -> None:
    lock = threading.RLock()
    holders = 0
    most = 0
    looks = 0

    def hog() -> None:
        nonlocal holders
        for _ in range(ROUNDS):
            seen = looks
            with lock:
                with lock:
                    holders += 1
                    ask()
                ask_with(on, lambda: most == 2)
                holders -= 1
            compute_until(lambda seen=seen: looks > seen)  # type: ignore[misc]

    def look() -> None:
        nonlocal holders, most, looks
        looks += 1
        if lock.acquire(blocking=False):
            holders += 1
            most = max(most, holders)
            holders -= 1
            lock.release()

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            await beside(executor, hog, look)

    with rule("lock", on):
        run(body)
    assert most == (1 if on else 2)


class Asking(queue.Queue[int]):
    """Is cut where its mutex is held."""

    def __init__(self, on: bool, seen: Callable[[], object]) -> None:
        super().__init__()
        self._on = on
        self._seen = seen

    def _put(self, item: int) -> None:
        ask_with(self._on, self._seen)
        super()._put(item)
        ask()


@with_and_without
def test_a_queue_does_not_hang_the_process(run: Run, on: bool) -> None:
    locked: list[bool] = []
    items = Asking(on, lambda: any(locked))
    got: list[int] = []

    def hog() -> None:
        for number in range(ROUNDS):
            seen = len(locked)
            items.put(number)
            compute_until(lambda seen=seen: len(locked) > seen)  # type: ignore[misc]

    def look() -> None:
        locked.append(items.mutex.locked())
        if not locked[-1]:  # else to get one would be the end
            with contextlib.suppress(queue.Empty):
                got.append(items.get_nowait())

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            await beside(executor, hog, look)

    with rule("lock", on):
        run(body)
    assert any(locked) != on
    if on:
        assert got[:ROUNDS] == list(range(len(got)))


class AskingHandler(logging.Handler):
    def __init__(self, on: bool) -> None:
        super().__init__()
        self.on = on
        self.inside = 0
        self.most = 0
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        if record.getMessage().startswith("background"):
            ask_with(self.on, lambda: self.most == 2)
        self.records.append(record.getMessage())
        self.inside -= 1


@with_and_without
def test_a_hog_that_logs_in_a_loop_is_cut_between_records(run: Run, on: bool) -> None:
    handler = AskingHandler(on)
    logger = logging.Logger("hog")
    logger.addHandler(handler)

    def hog() -> None:
        for number in range(ROUNDS):
            logger.warning("background %d", number)

    def look() -> None:
        logger.warning("foreground")

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            await beside(executor, hog, look)
            if on:
                assert cuts(executor) == ROUNDS  # after each record, at the release
                assert refusals(executor) == {"lock": ROUNDS}

    with rule("lock", on):
        run(body)
    assert handler.most == (1 if on else 2)
    assert [text for text in handler.records if text.startswith("background")] == [
        f"background {number}" for number in range(ROUNDS)
    ]
    assert "foreground" in handler.records


def test_the_cut_is_made_at_the_release(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            lock, other = threading.Lock(), threading.RLock()

            def hog() -> None:
                lock.acquire()
                other.acquire()
                ask()
                assert cuts(executor) == 0
                lock.release()
                assert cuts(executor) == 0
                other.acquire()
                other.release()
                assert cuts(executor) == 0
                other.release()
                assert cuts(executor) == 1
                lock.acquire()
                lock.release()
                assert cuts(executor) == 1

            await beside(executor, hog, lambda: None)
            assert refusals(executor) == {"lock": 1}

    run(body)


def taken_and_released(lock: Any) -> list[tuple[Callable[[], object], Callable[[], object]]]:
    """Each pair of methods, as they may be called."""
    ways = [
        (lock.acquire, lock.release),
        (lambda: lock.acquire(), lambda: lock.release()),
        (lambda: lock.acquire(True, 5), lambda: lock.release()),
        (lambda: lock.acquire(blocking=False), lambda: lock.release()),
        (lock.__enter__, lambda: lock.__exit__(None, None, None)),
        (lambda: type(lock).acquire(lock, timeout=1), lambda: type(lock).release(lock)),
    ]
    if hasattr(lock, "_release_save"):

        def restore() -> None:
            lock.acquire()
            lock.acquire()
            lock._acquire_restore(lock._release_save())

        ways.append((restore, lock._release_save))
    else:
        ways.append((lock.acquire_lock, lock.release_lock))
    return ways


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_each_method_is_tracked_however_it_is_called(run: Run, kind: str) -> None:
    lock = getattr(threading, kind)()
    ways = taken_and_released(lock)  # bound before anything is wrapped

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            def hog() -> None:
                for number, (take, release) in enumerate(ways):
                    assert take() is not False
                    ask()
                    assert cuts(executor) == number
                    release()
                    assert cuts(executor) == number + 1

            await beside(executor, hog, lambda: None)

    run(body)
    for take, release in ways:  # and as ever afterwards
        take()
        release()


def test_locks_do_what_they_did(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            def hog() -> None:
                lock, again = threading.Lock(), threading.RLock()
                assert lock.acquire() is True
                assert lock.acquire(blocking=False) is False
                assert lock.acquire(timeout=0.001) is False
                assert lock.release() is None  # type: ignore[func-returns-value]
                with pytest.raises(RuntimeError, match="release unlocked lock"):
                    lock.release()
                with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
                    again.release()
                with pytest.raises(ValueError, match="timeout"):
                    lock.acquire(False, 1)
                with pytest.raises(TypeError):
                    lock.acquire(blocking=True, no=1)  # type: ignore[call-arg]
                with again, again:
                    assert again._is_owned()  # type: ignore[attr-defined]
                assert not again._is_owned()  # type: ignore[attr-defined]
                ask()

            await beside(executor, hog, lambda: None)
            assert cuts(executor) == 1
            assert refusals(executor) == {}

    run(body)


def test_who_waits_for_another_thread_holds_nothing_afterwards(run: Run) -> None:
    """A condition's waiter is a lock that is taken twice and released once, by the other thread; then nobody knows it."""

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            event = threading.Event()

            def hog() -> None:
                thread = threading.Thread(target=event.set)
                thread.start()
                assert event.wait(30)
                thread.join()
                had = cuts(executor)
                ask()
                assert cuts(executor) == had + 1

            await beside(executor, hog, lambda: None)

    run(body)


def test_a_lock_that_another_thread_releases(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            def hog() -> None:
                lock = threading.Lock()
                lock.acquire()
                ask()
                thread = threading.Thread(target=lock.release)
                thread.start()
                while lock.locked():
                    pass
                had = cuts(executor)
                ask()
                assert cuts(executor) == had + 1
                thread.join()

            await beside(executor, hog, lambda: None)

    run(body)


def test_other_threads_locks_are_not_the_slices(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            held, end = threading.Event(), threading.Event()
            lock = threading.Lock()

            def hold() -> None:
                with lock:
                    held.set()
                    end.wait(30)

            thread = threading.Thread(target=hold)
            thread.start()
            await until(held.is_set)

            def hog() -> None:
                for _ in range(10):
                    ask()

            await beside(executor, hog, lambda: None)
            assert cuts(executor) == 10
            end.set()
            thread.join()

    run(body)


def test_a_lock_that_is_kept_over_an_await_is_forgotten(run: Run) -> None:
    """Not protected, as the page says: it is not known in the next step."""

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            lock = threading.Lock()

            async def hog() -> None:
                lock.acquire()
                ask()
                await asyncio.sleep(0)
                ask()
                lock.release()

            await executor.queue("background").spawn(hog())
            assert cuts(executor) == 1
            assert refusals(executor) == {"lock": 1}

    run(body)


def test_a_lock_that_was_dropped_while_held(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            def hog() -> None:
                for _ in range(1000):  # more than the table has room for
                    _thread.allocate_lock().acquire()
                ask()

            await beside(executor, hog, lambda: None)
            assert cuts(executor) == 1

    run(body)


def test_many_locks_at_a_time(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            locks = [threading.Lock() for _ in range(1000)]

            def hog() -> None:
                for lock in locks:
                    lock.acquire()
                ask()
                for lock in locks[::-1][:-1]:
                    lock.release()
                assert cuts(executor) == 0
                locks[0].release()
                assert cuts(executor) == 1

            await beside(executor, hog, lambda: None)

    run(body)


def test_printing_and_files(run: Run) -> None:
    """Text and buffers in C have no Python in between: they are whole whenever a cut comes."""

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            raw = io.BytesIO()
            stream = io.TextIOWrapper(raw, write_through=True)

            def hog() -> None:
                for number in range(ROUNDS):
                    print("background", number, file=stream)
                    ask()

            await beside(executor, hog, lambda: print("foreground", file=stream))
            lines = raw.getvalue().decode().splitlines()
            assert set(lines) == {"foreground", *(f"background {number}" for number in range(ROUNDS))}

    run(body)
