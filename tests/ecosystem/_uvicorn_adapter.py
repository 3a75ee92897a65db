"""A pytest plug-in for uvicorn's own tests: they find Clockworker's connection where they look for uvicorn's protocols.

A run copies this file beside uvicorn's tests, whose package is called `tests` as ours is, and loads it with `-p`; so it imports
nothing of ours but the package itself. Fixtures of theirs that choose a protocol import it by its name: there the adapter is
put. Of a test that is made for several protocols only the variant of the name is run that was replaced.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Generator
from typing import Any

import pytest

import clockworker as cw
from clockworker.http._connection_cy import HttpConnection
from clockworker.http._incoming_cy import Rules
from clockworker.http._request_cy import Request
from clockworker.http._routes import RouteTable
from clockworker.http._server import HttpServer
from clockworker.http._targets_cy import Target
from clockworker.shards.config._http import HttpConfig

OUTCOMES_VARIABLE = "CLOCKWORKER_OUTCOMES"  # the file for the outcome of each test
SUBJECT_VARIABLE = (
    "CLOCKWORKER_SUBJECT"  # clockworker, or uvicorn for a run that says what this harness makes of uvicorn
)
TEST_DEADLINE = 20  # seconds

# The variants of their fixtures that are run: `http_protocol_cls`, `ws_protocol_cls`.
_VARIANTS = {"http_protocol_cls": "httptools_impl:", "ws_protocol_cls": "websockets_sansio_impl:"}

_outcomes: dict[str, str] = {}


class TheirTasks(Rules):
    """Requests run in tasks of the test's loop, which `start` makes."""

    start: Any

    def begin(self, request: Request) -> None:
        request.task = self.start(request)


class Whole:
    """A transport of their mocks, with what they leave out."""

    def __init__(self, mock: Any) -> None:
        self._mock = mock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mock, name)

    def can_write_eof(self) -> bool:
        return False

    def abort(self) -> None:
        self._mock.close()

    def get_write_buffer_size(self) -> int:
        return 0


class Server(HttpServer):
    """Serves as uvicorn's configuration says. loop: theirs, which may be a mock."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], loop: Any) -> None:
        if not config.loaded:
            config.load()
        ours = HttpConfig(
            root_path=config.root_path,
            headers=tuple((name.decode(), value.decode()) for name, value in config.encoded_headers),
            server_header=False,
            date_header=config.date_header,
            limit_concurrency=config.limit_concurrency,
            limit_request_field_size=1_000_000,
            incomplete_event_size=config.h11_max_incomplete_event_size or 1_000_000,
            timeout_keep_alive=config.timeout_keep_alive,
            ws_max_size=config.ws_max_size,
            ws_max_queue=config.ws_max_queue,
            ws_ping_interval=config.ws_ping_interval or 0.0,
            ws_ping_timeout=config.ws_ping_timeout or 0.0,
            ws_per_message_deflate=config.ws_per_message_deflate,
        )
        counts = Target("other", cw.Executor([cw.Queue("requests")]).queues()[0])
        super().__init__(self.call, ours, state=app_state, table=RouteTable(()), targets=[counts])
        self.rules = rules = TheirTasks(ours, self.rules.headers, self.call, app_state, self.rules.targets)
        rules.start = self.start
        self.speaks_websockets = config.ws_protocol_class is not None
        self.state = app_state  # theirs is filled after the connection was made
        self.application = config.loaded_app
        self.scope: Any = None
        self.loop = loop
        self.tasks: set[Any] = server_state.tasks
        self.connections = self  # type: ignore[assignment]

    async def call(self, scope: Any, receive: Any, send: Any) -> Any:
        self.scope = scope
        return await self.application(scope, receive, send)

    def websocket(self, protocol: HttpConnection, request: Request) -> Any:
        from clockworker.http._websocket import WebSocket

        websocket = WebSocket(protocol, request, self)
        self.start(websocket.run())
        return websocket

    def start(self, coroutine: Any) -> Any:
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def failed(self, message: str, error: BaseException | None) -> None:
        logging.getLogger("uvicorn.error").error(message, exc_info=error)


class Adapter(asyncio.Protocol):
    """What their tests make and look at, around a connection of ours."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self._server = Server(config, server_state, app_state, self.loop)
        self._connection = HttpConnection(self._server, self._server.rules)
        self._open: set[Any] = server_state.connections

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    @property
    def scope(self) -> Any:
        return self._server.scope

    def connection_made(self, transport: Any) -> None:
        self._open.add(self)
        self._connection.connection_made(transport if hasattr(transport, "can_write_eof") else Whole(transport))

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)
        self._connection.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._connection.data_received(data)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def shutdown(self) -> None:
        self._server.stop()
        if not self._connection.is_busy:
            self._connection.end_idle()


def pytest_configure() -> None:
    if os.environ[SUBJECT_VARIABLE] == "uvicorn":
        return
    from uvicorn.protocols.http import h11_impl, httptools_impl
    from uvicorn.protocols.websockets import websockets_sansio_impl

    h11_impl.H11Protocol = httptools_impl.HttpToolsProtocol = Adapter  # type: ignore[misc, assignment]
    websockets_sansio_impl.WebSocketsSansIOProtocol = Adapter  # type: ignore[misc, assignment]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen, others = [], []
    for item in items:
        (chosen if _is_variant(item) else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


def _is_variant(item: pytest.Item) -> bool:
    given: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    return all(variant in given.get(fixture, variant) for fixture, variant in _VARIANTS.items())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """A test that hangs fails, and the others are run."""
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(TEST_DEADLINE)
    try:
        return (yield)
    finally:
        signal.alarm(0)


def _hangs(number: int, frame: object) -> None:
    pytest.fail(f"hangs: no end after {TEST_DEADLINE} s")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid.partition("::")[2]
    if report.when == "call" or report.outcome != "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        said = [str(crash.message).partition("\n")[0] if crash is not None else report.longreprtext[-200:]]
        said = said if report.failed else []
        _outcomes[name] = ": ".join([report.outcome, *said])


def pytest_sessionfinish() -> None:
    with open(os.environ[OUTCOMES_VARIABLE], "w") as file:
        json.dump(_outcomes, file)
