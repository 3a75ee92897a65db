"""What a type checker must make of calls and declarations: their results are inferred, and what does not fit is refused (an
unused `type: ignore` is an error). Never run; `mypy` checks it with the packages."""

import operator
from collections.abc import AsyncIterator
from typing import assert_type

import clockworker as cw
from clockworker.shards.testing import serving


class Store:
    def __init__(self, shard: cw.Shard, size: int = 0) -> None: ...

    @cw.remote
    async def get(self, key: bytes, *, fresh: bool = False) -> bytes | None: ...

    @cw.remote(queue="background")
    async def size(self) -> int:
        return 0

    @cw.remote
    async def rows(self) -> AsyncIterator[str]:
        yield ""


@cw.remote
async def double(x: int) -> int:
    return 2 * x


@cw.remote
async def names() -> AsyncIterator[str]:
    yield ""


@cw.application(queues=[cw.Queue("foreground", share=8, scheduler=cw.LAS()), cw.Queue("background")])
async def main(shard: cw.Shard) -> None:
    assert_type(cw.current_shard(), cw.Shard)
    store = await shard.start(Store, size=1)
    assert_type(store, cw.Sharded[Store])
    assert_type(await store.on(1).get(b""), bytes | None)
    assert_type(await store.on(1, timeout=0.5).size(), int)
    assert_type(await store.on_nowait(1).size(), int)
    assert_type(await store.map(Store.size), list[int])
    assert_type(await store.map([1], Store.get, b"", fresh=True), list[bytes | None])
    assert_type(await store.map_reduce(operator.add, 0, Store.size), int)
    assert_type(await shard.call(1, double, 2), int)
    assert_type(shard.call_threadsafe(1, double, 2).result(), int)
    assert_type(store.call_threadsafe(1, Store.size).result(), int)
    assert_type(await shard.run_blocking(len, "a"), int)
    async for row in store.on(1).rows():
        assert_type(row, str)
    async for name in shard.call(1, names):
        assert_type(name, str)
    topic = shard.topic("names", str, ordered=True)
    assert_type(topic, cw.Topic[str])
    assert_type(shard.topic("rows", list[bytes]), cw.Topic[list[bytes]])
    await topic.publish("a", when_full="drop")
    await topic.publish(1)  # type: ignore[arg-type]
    topic.publish_nowait(b"")  # type: ignore[arg-type]
    topic.subscribe(when_full="wait")  # type: ignore[arg-type]
    async with topic.subscribe(limit=1, when_full="drop-oldest") as names_said:
        assert_type(names_said, cw.Subscription[str])
        async for name in names_said:
            assert_type(name, str)
    await store.send(1, Store.get, b"")
    await store.send(1, Store.get, 1)  # type: ignore[arg-type]
    store.send_nowait(1, Store.size, 2)  # type: ignore[call-arg]
    await store.broadcast(Store.get)  # type: ignore[call-arg]
    await shard.call(1, double, "a")  # type: ignore[arg-type]


async def other(shard: cw.Shard) -> int:
    return 1


declared = cw.application(other, queues=[cw.Queue("foreground")])
cw.application(other, queues=["foreground:8"])  # type: ignore[list-item]
serving(main)
serving(declared)


async def calls(shard: cw.Shard) -> None:
    assert_type(await main(shard), None)
    assert_type(await declared(shard), int)
    await declared()  # type: ignore[call-arg]
