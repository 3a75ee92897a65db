"""--threads and --switch-interval, as libraries see them."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from pathlib import Path

import pytest

from clockworker.http._threads import set_threads
from clockworker.shards.config._http import HttpConfig
from tests.conftest import Run
from tests.shards.servers import DEADLINE, Serve

APPLICATION = """
import asyncio, json, sys, threading
import anyio.to_thread
import clockworker as cw

async def threads_of(run):
    # Three at a time meet, so there are three; if there were more, some of these would be at work beside them.
    barrier = threading.Barrier(3)
    lock = threading.Lock()
    at_work = most = 0

    def function():
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        barrier.wait(60)
        with lock:
            at_work -= 1

    await asyncio.gather(*(run(function) for _ in range(12)))
    return most

async def app(scope, receive, send):
    answer = {
        "anyio": await threads_of(anyio.to_thread.run_sync),
        "asyncio": await threads_of(asyncio.to_thread),
        "shard": await threads_of(cw.current_shard().run_blocking),
        "tokens": anyio.to_thread.current_default_thread_limiter().total_tokens,
        "interval": sys.getswitchinterval(),
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

async def main(shard):
    await asyncio.gather(shard.serve_asgi(app), shard.serve_asgi(app, bind="other"))
"""


def asked(tmp_path: Path, source: str, *options: str) -> dict[str, object]:
    serve = Serve(tmp_path)
    try:
        bind = ("--bind", "127.0.0.1:0", "--bind", "other=127.0.0.1:0")
        server = serve(source, "--shards", "1", "--spares", "0", *options, bind=bind)
        server.wait_serving()
        client = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
        client.request("GET", "/")
        answer: dict[str, object] = json.loads(client.getresponse().read())
        client.close()
        assert server.stop() == 0
        return answer
    finally:
        serve.clean_up()


def test_as_many_as_are_given(tmp_path: Path) -> None:
    pytest.importorskip("anyio")
    answer = asked(tmp_path, APPLICATION, "--threads", "3", "--switch-interval", "0.002")
    assert answer == {"anyio": 3, "asyncio": 3, "shard": 3, "tokens": 3, "interval": 0.002}


def test_what_libraries_have_of_themselves(tmp_path: Path) -> None:
    pytest.importorskip("anyio")
    answer = asked(tmp_path, APPLICATION.replace("await threads_of(", "str("))
    assert (answer["tokens"], answer["interval"]) == (40, 0.005)


def test_the_first_server_is_heard(run: Run) -> None:
    """A second one leaves the threads that there are."""

    async def body() -> None:
        config = HttpConfig(threads=1)
        set_threads(config)
        first = await asyncio.to_thread(threading.get_ident)
        set_threads(config)
        assert await asyncio.to_thread(threading.get_ident) == first

    run(body)
