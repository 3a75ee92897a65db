"""Which shard this is, asked for from everywhere in a real one; and where there is none, or several."""

from __future__ import annotations

import contextvars
import os
import threading
from typing import Any

import pytest

import clockworker as cw
from clockworker.shards.worker._current import being
from tests.shards.servers import Serve, ask

SOURCE = """
import asyncio, os, threading
from concurrent.futures import ThreadPoolExecutor

import clockworker as cw

def say(what):
    try:
        shard = cw.current_shard()
        return f"{what}: {shard.id} {type(shard).__name__}\\n"
    except cw.UsageError as error:
        return f"{what}: {error}\\n"

print(say("import"), end="", flush=True)

class Asked:
    def __init__(self, shard):
        assert cw.current_shard() is shard

    @cw.remote
    async def say(self) -> str:
        return say("asked by a peer")

def in_a_thread(target, **kwargs):
    found = []
    thread = threading.Thread(target=lambda: found.append(target()), **kwargs)
    thread.start()
    thread.join()
    return found[0]

def forked():
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, (say("fork") + in_a_thread(lambda: say("fork's thread"))).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        return said.read()

async def main(shard):
    assert cw.current_shard() is shard
    asked = await shard.start(Asked)
    loop = asyncio.get_running_loop()

    async def handle(reader, writer):
        while await reader.readline():
            assert cw.current_shard() is shard
            called = loop.create_future()
            loop.call_soon(lambda: called.set_result(say("callback")))
            answer = [
                say("handler"),
                await called,
                await shard.executor.queues()[0].spawn(asyncio.to_thread(say, "thread")),
                in_a_thread(lambda: say("own thread")),
                await shard.run_blocking(say, "run_blocking"),
                await asked.on(1 - shard.id).say(),
                forked(),
            ]
            writer.write("".join(answer).replace("\\n", "|").encode() + b"\\n")

    await shard.start_server(handle)
    await shard.wait_stopped()
    print(say("stopped"), end="", flush=True)
"""


def test_it_is_found_in_the_whole_process(serve: Serve) -> None:
    server = serve(SOURCE, "--shards", "2")
    server.wait_serving()
    assert server.log.count("import: there is no shard here") == 2
    assert server.log.count("Call it inside functions, and not while a module is imported\n") == 2
    with server.connect() as client:
        *said, end = ask(client, b"").decode().split("|")
    here = said[0].removeprefix("handler: ")
    assert here in ("0 Shard", "1 Shard")
    assert said == [
        f"handler: {here}",
        f"callback: {here}",
        f"thread: {here}",
        f"own thread: {here}",
        f"run_blocking: {here}",
        f"asked by a peer: {1 - int(here[0])} Shard",
        "fork: this process was forked from a shard, and is none; what it needs of the shard has to be handed to it",
        "fork's thread: this process was forked from a shard, and is none; what it needs of the shard has to be handed to it",
    ]
    assert end == ""
    assert server.stop() == 0
    assert sorted(line for line in server.log.splitlines() if line.startswith("stopped")) == [
        "stopped: 0 Shard",
        "stopped: 1 Shard",
    ]


class One:
    """Stands for a shard."""


def test_outside_of_shards_there_is_none() -> None:
    with pytest.raises(cw.UsageError, match=r"there is no shard here: .* in a process of clockworker-serve's"):
        cw.current_shard()


def ask_in_thread(context: contextvars.Context | None = None) -> Any:
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(cw.current_shard())
        except cw.UsageError as error:
            found.append(str(error))

    thread = threading.Thread(target=look if context is None else lambda: context.run(look))
    thread.start()
    thread.join()
    return found[0]


def test_of_several_in_a_process_each_context_has_its_own() -> None:
    first, second = One(), One()
    with being(first):  # type: ignore[arg-type]
        of_first = contextvars.copy_context()
        assert cw.current_shard() is ask_in_thread(contextvars.Context()) is first  # type: ignore[comparison-overlap]
        with being(second):  # type: ignore[arg-type]
            assert cw.current_shard() is second  # type: ignore[comparison-overlap]
            assert ask_in_thread(of_first) is first
            assert ask_in_thread(contextvars.copy_context()) is second
            # A thread of neither is told so, and not one of them at random.
            assert "2 shards run in this process" in ask_in_thread(contextvars.Context())
        assert cw.current_shard() is first  # type: ignore[comparison-overlap]
        of_second = contextvars.copy_context()
    assert "there is no shard here" in ask_in_thread(of_second)


def test_a_forked_child_that_runs_shards_has_those() -> None:
    with being(One()):  # type: ignore[arg-type]
        child = os.fork()
        if child == 0:
            status = 1
            try:
                own = One()
                with being(own):  # type: ignore[arg-type]
                    found = cw.current_shard() is own  # type: ignore[comparison-overlap]
                try:
                    cw.current_shard()
                except cw.UsageError:
                    status = 0 if found else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
