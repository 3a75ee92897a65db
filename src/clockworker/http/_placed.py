"""Requests that run on another shard than the one that has their connection (`place = "shard:1"` of a route): for code that
never awaits, which holds up a shard whole, and shall hold up one only.

A connection cannot be moved once the path of its request is known. So the request goes over the ring as a call (`run_placed`),
with its whole body, and what the application sends comes back as the items of a stream, which has the ring's own back-pressure.
On the other shard it runs in the queue of the same name. Its limits, times and line of the access log are those of the shard
that has the connection.

A client that leaves ends the stream: there `receive()` gives `http.disconnect`, and `send()` does nothing any more. If the
other shard is not there, nothing has run, and the answer is 503; if it dies meanwhile, 502, or the connection is cut.

The stop. A shard that others ask ends its application's lifespan when they have said that they ask no more (`farewell`), those
that are still there. While it is replaced alone that is not waited for: new requests go to its successor by then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from clockworker._errors import CallError, ShardDown
from clockworker.http._head import RETRY_AFTER_S
from clockworker.http._request_cy import Request
from clockworker.ipc.calls._remote import remote
from clockworker.shards.logs._log_limit import Limiter, more

if TYPE_CHECKING:
    from clockworker.shards.worker._shard import Shard

log = logging.getLogger("clockworker.http")

PIECE = 262_144  # bytes of a body that go as one item
_WAITING = 4  # items that wait to be sent
_BESIDE_BODY = 65_536  # bytes of a call that are no body: its head
_LOOK_S = 0.02  # between two looks at whether those that ask are done

Message = MutableMapping[str, Any]


class Asked(msgspec.Struct, frozen=True):
    """A request, as its scope has it."""

    http_version: str
    method: str
    scheme: str
    path: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None


class Part(msgspec.Struct, frozen=True):
    """Of a response. status: of its head, which the first part has; 0: it is another. failed: no more comes, and something is
    missing."""

    body: bytes = b""
    is_last: bool = False
    status: int = 0
    headers: list[tuple[bytes, bytes]] = []
    failed: bool = False


@remote
async def run_placed(bind: str, shard: int, asked: Asked, body: bytes) -> AsyncIterator[Part]:
    """For a shard that has the connection, which serves these addresses."""
    async for part in _there(bind).run(shard, asked, body):
        yield part


@remote
async def farewell(bind: str, shard: int) -> None:
    """This shard asks no more."""
    _there(bind).askers.discard(shard)


def _there(bind: str) -> Host:
    host = _hosts.get(bind)
    if host is None:
        raise ShardDown("it does not serve these addresses")
    return host


_hosts: dict[str, Host] = {}  # of this shard, by bind


class Host:
    """What a shard serves for others. state: of the lifespan. failed: told of what the application has done wrong.

    askers: the shards that have asked, and not said farewell.
    """

    def __init__(
        self,
        bind: str,
        app: Callable[..., Awaitable[None]],
        state: dict[str, Any],
        failed: Callable[[str, BaseException | None], None],
    ) -> None:
        self.askers: set[int] = set()
        self._bind = bind
        self._app = app
        self._state = state
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        _hosts[self._bind] = self

    async def run(self, shard: int, asked: Asked, body: bytes) -> AsyncIterator[Part]:
        self.askers.add(shard)
        exchange = _Exchange(body)
        task = asyncio.get_running_loop().create_task(self._serve(asked, exchange), name=asked.path)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                part = await exchange.parts.get()
                yield part
                if part.is_last or part.failed:
                    return
        finally:
            exchange.leave()

    async def _serve(self, asked: Asked, exchange: _Exchange) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            **msgspec.structs.asdict(asked),
            "state": self._state.copy(),
            "extensions": {},
        }
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            self._failed("Exception in ASGI application", error)
        else:
            if not exchange.is_over:
                self._failed("ASGI callable returned without completing response.", None)
        if not exchange.is_over:
            await exchange.parts.put(Part(failed=True))

    async def close(self, is_there: Callable[[int], bool], *, for_good: bool) -> None:
        """Return when nothing runs for others; for_good: and nothing more will, for all shards stop together."""
        while self._tasks or (for_good and any(map(is_there, self.askers))):  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(_LOOK_S)
        if _hosts.get(self._bind) is self:
            del _hosts[self._bind]


class _Exchange:
    """What an application receives and sends. is_over: all of the response was sent, or nobody wants more of it."""

    def __init__(self, body: bytes) -> None:
        self.parts: asyncio.Queue[Part] = asyncio.Queue(_WAITING)
        self.is_over = False
        self._body: bytes | None = body
        self._left = asyncio.Event()
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._has_begun = False

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._left.is_set():
            return
        kind = message["type"]
        wanted = "http.response.body" if self._head is not None or self._has_begun else "http.response.start"
        if self.is_over or kind != wanted:
            raise RuntimeError(f"Unexpected ASGI message {kind!r} sent" + ("" if self.is_over else f", not {wanted!r}"))
        if kind == "http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            self._head = int(message["status"]), headers
            return
        body, is_last = bytes(message.get("body", b"")), not message.get("more_body", False)
        for at in range(0, max(len(body), 1), PIECE):
            ends = is_last and at + PIECE >= len(body)
            (status, headers), self._head = self._head or (0, []), None
            self._has_begun = True
            self.is_over = ends
            await self.parts.put(Part(body[at : at + PIECE], ends, status, headers))
            if self._left.is_set():
                return

    def leave(self) -> None:
        self.is_over = True
        self._left.set()
        while not self.parts.empty():  # who waits to send does so no more
            self.parts.get_nowait()


class Placed:
    """An ASGI application that has its requests run on another shard. Requests only: a WebSocket stays where it is."""

    def __init__(self, shard: Shard, place: int, bind: str) -> None:
        self._shard = shard
        self._place = place
        self._bind = bind
        self._longest = max(shard._config.max_message - _BESIDE_BODY, 0)
        self._complaints = Limiter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await self._whole(receive)
        if body is None:
            return
        if len(body) > self._longest:
            await _answer(send, 413, [])
            return
        asked = Asked(**{field: scope[field] for field in Asked.__struct_fields__})
        stream: Any = self._shard.call(self._place, run_placed, self._bind, self._shard.id, asked, bytes(body))
        started = whole = False
        leaving = None
        try:
            async with asyncio.timeout(None) as stay, aclosing(stream):
                leaving = asyncio.create_task(_until_left(receive, stay), name="client")
                async for part in stream:
                    if part.failed:
                        break
                    if part.status:
                        started = True
                        await send({"type": "http.response.start", "status": part.status, "headers": part.headers})
                    await send({"type": "http.response.body", "body": part.body, "more_body": not part.is_last})
                    whole = part.is_last
        except TimeoutError:
            if stay.expired():
                return  # its client has left
            raise
        except CallError as error:
            self._complain(error)
            if not started:
                is_down = isinstance(error, ShardDown)
                await _answer(
                    send, 503 if is_down else 502, [(b"retry-after", b"%d" % RETRY_AFTER_S)] if is_down else []
                )
                return
        finally:
            if leaving is not None:
                leaving.cancel()
        if not started:
            await _answer(send, 500, [])
        elif not whole:
            request = send.__self__
            assert isinstance(request, Request)
            if not request.left:
                request.carrier.cut(request)  # what has failed was said where it has run

    async def _whole(self, receive: Any) -> bytearray | None:
        """The body, as far as it may be long; None: the client has left."""
        body = bytearray()
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return None
            body += event["body"]
            if not event["more_body"] or len(body) > self._longest:
                return body

    def _complain(self, error: CallError) -> None:
        if (unsaid := self._complaints.may_say(time.monotonic())) is not None:
            log.warning("a request that is to run on shard %d cannot: %s%s", self._place, error, more(unsaid))

    async def leave(self) -> None:
        """It asks no more."""
        with suppress(CallError):
            await self._shard.call(self._place, farewell, self._bind, self._shard.id)


async def _until_left(receive: Any, stay: asyncio.Timeout) -> None:
    """Have the client's leaving end what is under way."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stay.reschedule(asyncio.get_running_loop().time())


async def _answer(send: Any, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def places_of(targets: Iterable[Any]) -> list[Placed]:
    """Each once."""
    return list({id(target.app): target.app for target in targets if isinstance(target.app, Placed)}.values())
