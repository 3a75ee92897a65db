"""The gate: who goes through it, who waits, and whereto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import clockworker as cw
from clockworker.ipc.calls._chain_cy import CHAIN, Chain, deeper
from clockworker.ipc.calls._definitions import remote_methods
from clockworker.ipc.calls._gate import WITHIN, Gate, Within


class Store:
    def __init__(self) -> None:
        self.began: list[str] = []
        self.go = asyncio.Event()
        self.call: Any = None

    @cw.remote
    async def put(self, key: str) -> str:
        self.began.append(key)
        return f"here {key}"

    @cw.remote
    async def slow(self, key: str) -> str:
        await self.go.wait()
        return str(await self.call(key))

    @cw.remote
    async def keys(self) -> AsyncIterator[str]:
        for key in ("a", "b"):
            yield key


METHODS = remote_methods(Store)


class There:
    async def put(self, key: str) -> str:
        return f"there {key}"

    async def slow(self, key: str) -> str:
        return f"there {key}"

    async def keys(self) -> AsyncIterator[str]:
        yield "there"


def behind(name: str, gate: Gate, store: Store) -> Any:
    return gate.before(METHODS[name], getattr(store, name), getattr(There(), name))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_calls_wait_until_it_is_known_where_the_state_is() -> None:
    async def main() -> None:
        for moved in (False, True):
            gate, store = Gate(asyncio.get_running_loop()), Store()
            put = behind("put", gate, store)
            assert await put("before") == "here before"
            gate.close()
            calls = [asyncio.create_task(put(key)) for key in "abc"]
            await turns()
            assert store.began == ["before"]
            gate.shut()
            calls.append(asyncio.create_task(put("d")))
            calls[1].cancel()
            await turns()
            (gate.move if moved else gate.open)()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            where = "there" if moved else "here"
            assert [answers[0], *answers[2:]] == [f"{where} a", f"{where} c", f"{where} d"]
            assert await put("after") == f"{where} after"
            assert gate.running == []

    asyncio.run(main())


def test_what_a_running_call_calls_goes_through_and_what_comes_later_does_not() -> None:
    async def main() -> None:
        gate, store = Gate(asyncio.get_running_loop()), Store()
        put, slow = behind("put", gate, store), behind("slow", gate, store)
        left: list[asyncio.Task[str]] = []

        async def by_a_task_of_its_own(key: str) -> str:
            left.append(asyncio.create_task(put_later("stays behind")))
            return str(await asyncio.create_task(put(key)))

        async def put_later(key: str) -> str:
            await turns(20)
            return str(await put(key))

        store.call = by_a_task_of_its_own
        running = asyncio.create_task(slow("inner"))
        await turns()
        gate.close()
        outside = asyncio.create_task(put("outside"))
        assert gate.running == ["Store.slow"]
        store.go.set()
        assert await running == "here inner"
        assert gate.running == []
        await turns(40)
        assert store.began == ["inner"], "a task that has outlived its call is of nobody"
        gate.open()
        assert await outside == "here outside"
        assert await left[0] == "here stays behind"

    asyncio.run(main())


def test_what_a_peer_has_asked_for_goes_through_until_it_is_shut() -> None:
    async def main() -> None:
        gate, store = Gate(asyncio.get_running_loop()), Store()
        put = behind("put", gate, store)
        gate.close()
        chain = Chain(1, 0, object())
        CHAIN.set(chain)
        assert await put("asked") == "here asked"
        gate.shut()
        late = asyncio.create_task(put("late"))
        await turns()
        assert not late.done()
        gate.move()
        assert await late == "there late"

    asyncio.run(main())


def test_calls_made_within_others_are_let_through_when_that_is_said() -> None:
    async def main() -> None:
        gate, store = Gate(asyncio.get_running_loop()), Store()
        put = behind("put", gate, store)
        gate.close()

        async def from_a_thread(key: str) -> None:
            with deeper():
                await put(key)

        deep, shallow = asyncio.create_task(from_a_thread("deep")), asyncio.create_task(put("shallow"))
        await turns()
        assert store.began == []
        gate.let_deep_through()
        await turns()
        assert store.began == ["deep"]
        gate.open()
        await asyncio.gather(deep, shallow)

    asyncio.run(main())


def test_what_hands_over_may_call_its_own_service() -> None:
    async def main() -> None:
        gate, store = Gate(asyncio.get_running_loop()), Store()
        put = behind("put", gate, store)
        gate.close()
        gate.shut()
        WITHIN.set(Within(always=True))
        assert await put("own") == "here own"

    asyncio.run(main())


def test_streams_wait_too_and_are_not_waited_for() -> None:
    async def main() -> None:
        gate, store = Gate(asyncio.get_running_loop()), Store()
        keys = behind("keys", gate, store)
        open_one = keys()
        assert await anext(open_one) == "a"
        assert gate.running == []
        gate.close()

        async def read() -> list[str]:
            return [key async for key in keys()]

        reading = asyncio.create_task(read())
        await turns()
        assert not reading.done()
        gate.shut()
        gate.move()
        assert await reading == ["there"]
        assert await anext(open_one) == "b"
        await open_one.aclose()

    asyncio.run(main())
