"""anyio does the same with an executor as without: it holds the current task, its waiters and `call_soon` dear."""

from __future__ import annotations

import threading

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import ObjectReceiveStream, ObjectSendStream

from tests.ecosystem.conftest import Compare

LONG = 3_600.0


class Wrong(Exception):
    pass


def test_task_groups(compare: Compare) -> None:
    async def body() -> list[str]:
        log: list[str] = []

        async def child(name: str, yields: int, *, task_status: anyio.abc.TaskStatus[str]) -> None:
            for _ in range(yields):
                await anyio.lowlevel.checkpoint()
            task_status.started(name.upper())
            await anyio.lowlevel.checkpoint()
            log.append(name)

        async with anyio.create_task_group() as group:
            log.append(await group.start(child, "a", 3))
            log.append(await group.start(child, "b", 1))
        return sorted(log)

    assert compare(body) == ["A", "B", "a", "b"]


def test_a_failure_cancels_the_group(compare: Compare) -> None:
    async def body() -> list[str]:
        log: list[str] = []

        async def waits() -> None:
            try:
                await anyio.sleep(LONG)
            except anyio.get_cancelled_exc_class():
                log.append("cancelled")
                raise

        async def fails() -> None:
            await anyio.lowlevel.checkpoint()
            raise Wrong

        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(waits)
                group.start_soon(fails)
        assert [type(error) for error in caught.value.exceptions] == [Wrong]
        return log

    assert compare(body) == ["cancelled"] * 3


def test_cancel_scopes(compare: Compare) -> None:
    async def body() -> list[str]:
        log: list[str] = []
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(LONG)
        log.append(f"moved on {scope.cancelled_caught}")
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await anyio.sleep(LONG)
        # A shielded scope goes on in one that is cancelled; the rest of that is cancelled again and again, at each await.
        with anyio.CancelScope() as outer:
            outer.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
                log.append("shielded")
            for _ in range(3):
                try:
                    await anyio.lowlevel.checkpoint()
                except anyio.get_cancelled_exc_class():
                    log.append("again")
            await anyio.sleep(LONG)
        log.append(f"outer {outer.cancelled_caught}")
        # Cancelled by another task, past one that catches it and waits once more.
        ready = anyio.Event()

        async def stubborn() -> None:
            try:
                ready.set()
                await anyio.sleep(LONG)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                    log.append("cleaned up")

        async with anyio.create_task_group() as group:
            group.start_soon(stubborn)
            await ready.wait()
            group.cancel_scope.cancel()
        return log

    expected = ["moved on True", "shielded", "again", "again", "again", "outer True", "cleaned up"]
    assert compare(body) == expected


def test_memory_object_streams(compare: Compare) -> None:
    async def body() -> list[int]:
        send, receive = anyio.create_memory_object_stream[int](2)
        got: list[int] = []

        async def produce(stream: ObjectSendStream[int], numbers: range) -> None:
            async with stream:
                for number in numbers:
                    await stream.send(number)

        async def consume(stream: ObjectReceiveStream[int]) -> None:
            async with stream:
                got.extend([number async for number in stream])

        async with send, receive, anyio.create_task_group() as group:
            for start in (0, 100, 200):
                group.start_soon(produce, send.clone(), range(start, start + 50))
            for _ in range(2):
                group.start_soon(consume, receive.clone())
            send.close()
        return sorted(got)

    assert compare(body) == [*range(50), *range(100, 150), *range(200, 250)]


def test_locks_events_and_limits(compare: Compare) -> None:
    async def body() -> tuple[int, list[int], int]:
        lock, event, semaphore, condition = anyio.Lock(), anyio.Event(), anyio.Semaphore(2), anyio.Condition()
        counter = inside = most = notified = 0
        order: list[int] = []

        async def locked(number: int) -> None:
            nonlocal counter
            await event.wait()
            async with lock:
                before = counter
                await anyio.lowlevel.checkpoint()
                counter = before + 1
                order.append(number)

        async def limited() -> None:
            nonlocal inside, most
            async with semaphore:
                inside += 1
                most = max(most, inside)
                await anyio.lowlevel.checkpoint()
                inside -= 1

        async def waits() -> None:
            nonlocal notified
            async with condition:
                await condition.wait()
                notified += 1

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(locked, number)
                group.start_soon(limited)
            for _ in range(3):
                group.start_soon(waits)
            await anyio.wait_all_tasks_blocked()
            event.set()
            async with condition:
                condition.notify_all()
        assert notified == 3
        return counter, order, most

    assert compare(body) == (20, list(range(20)), 2)


def test_threads_and_back(compare: Compare) -> None:
    async def body() -> list[bool]:
        here = threading.get_ident()

        async def back(value: int) -> int:
            await anyio.lowlevel.checkpoint()
            assert threading.get_ident() == here
            return value + 1

        def work(value: int) -> int:
            assert threading.get_ident() != here
            return anyio.from_thread.run(back, value) + anyio.from_thread.run_sync(abs, -1)

        results: list[int] = []

        async def call(value: int) -> None:
            results.append(await anyio.to_thread.run_sync(work, value))

        async with anyio.create_task_group() as group:
            for value in range(5):
                group.start_soon(call, value)
        return [value in results for value in range(2, 7)]

    assert compare(body) == [True] * 5


def test_sockets(compare: Compare) -> None:
    async def body() -> bytes:
        async def echo(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                async for data in stream:
                    await stream.send(data)

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"x" * 300_000)
                await stream.send_eof()
                got = b"".join([data async for data in stream])
            group.cancel_scope.cancel()
        return got

    assert compare(body) == b"x" * 300_000
