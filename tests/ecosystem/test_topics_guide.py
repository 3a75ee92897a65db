"""What docs/topics.md shows runs as it stands there."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.shards.servers import Serve, Server

GUIDE = (Path(__file__).parents[2] / "docs" / "topics.md").read_text()
SOURCES = dict(re.findall(r"```python\n# ([\w.]+\.py)\n(.*?)```", GUIDE, re.DOTALL))
((SETTINGS,),) = [re.findall(r"```python\n# in settings.py\n(.*?)```", GUIDE, re.DOTALL)]
COMMANDS = re.findall(r"```sh\n(.*?)\n```", GUIDE, re.DOTALL)
DEADLINE = 120
# So that each shard has clients.
SPREAD = ("--distribution", "least-connections", "--spares", "0")


def test_all_is_run() -> None:
    assert GUIDE.count("```") == 2 * (len(SOURCES) + 1 + len(COMMANDS))
    assert set(SOURCES) == {"board.py", "events.py"}
    assert COMMANDS == [
        "clockworker-serve board:app --shards 2",
        "pip install 'clockworker[socketio]'",
        "pip install 'clockworker[channels]'",
    ]


@contextmanager
def running(directory: Path, name: str, command: str) -> Iterator[Server]:
    (directory / name).write_text(SOURCES[name])
    serve = Serve(directory)
    try:
        program, app, *options = shlex.split(command)
        assert program == "clockworker-serve"
        server = serve(None, *options, *SPREAD, app=app)
        server.wait_serving()
        yield server
        assert server.stop() == 0
        assert " ERROR " not in server.log, server.log
    finally:
        serve.clean_up()


def test_a_board(tmp_path: Path) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    pytest.importorskip("starlette")

    async def body(server: Server) -> None:
        async with aiohttp.ClientSession("http://{}:{}".format(*server.address)) as session:
            sockets = [await session.ws_connect("/live") for _ in range(4)]
            for number in range(4):
                async with session.post("/notes", data=f"note {number}") as response:
                    assert await response.text() == "published\n"
                said = {await socket.receive_str(timeout=DEADLINE) for socket in sockets}
                assert len(said) == 1
                assert re.fullmatch(rf"note {number} \(from shard [01]\)", said.pop())
            for socket in sockets:
                await socket.close()

    with running(tmp_path, "board.py", COMMANDS[0]) as server:
        asyncio.run(body(server))


def test_events(tmp_path: Path) -> None:
    socketio = pytest.importorskip("socketio")
    pytest.importorskip("aiohttp")

    async def body(server: Server) -> None:
        clients = [socketio.AsyncClient(reconnection=False) for _ in range(4)]
        said: asyncio.Queue[str] = asyncio.Queue()
        for client in clients:
            client.on("said", said.put)
            await client.connect(
                "http://{}:{}".format(*server.address), transports=["websocket"], wait_timeout=DEADLINE
            )
            assert await client.call("join", "lobby", timeout=DEADLINE) == "welcome"
        await clients[0].emit("say", ("lobby", "hello"))
        for _ in clients:
            assert await asyncio.wait_for(said.get(), DEADLINE) == "hello"
        for client in clients:
            await client.disconnect()

    with running(tmp_path, "events.py", "clockworker-serve events:app --shards 2") as server:
        asyncio.run(body(server))


def test_the_settings_are_those_of_the_layer() -> None:
    layers = pytest.importorskip("channels.layers")
    from django.utils.module_loading import import_string

    namespace: dict[str, dict[str, dict[str, str]]] = {}
    exec(SETTINGS, namespace)
    backend = import_string(namespace["CHANNEL_LAYERS"]["default"]["BACKEND"])
    assert issubclass(backend, layers.BaseChannelLayer)
    assert backend().capacity == 100
