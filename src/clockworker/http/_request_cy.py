# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""One request: what its application receives and sends, and the task in which it runs.

A request *is* the coroutine of its task (see `ipc/calls/_request_cy`): its first step calls the application, the others are
those of the application's own coroutine. So what an application leaves undone, by raising, returning or suspending, is known
at the end of each step without a coroutine or a callback around it. The head of a response is kept until there is a body to
send it with, in one write; an application that suspends in between has it sent at the end of that step.

`asgi_send` returns what is ready at once, unless the client takes its response slower than it comes: then it waits until the
transport has room. `asgi_receive` gives what has been buffered, and asks for more when that is gone.

How a request came and how its response goes out is its carrier's business, of which HTTP/1.1 is one (`_connection_cy`).
"""

from __future__ import annotations

import asyncio
import collections.abc
import os
import types
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._cpython_cy import holds
from clockworker.http._file import File
from clockworker.http._targets_cy import Target, Targets

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._native import proceed_by
    from cython.cimports.clockworker.ipc.calls._coroutine import send_to, step_by
else:
    from time import monotonic_ns as now_ns

_IN_A_ROW = (
    524_288  # bytes of a body that are sent in one step: as fast as that goes, it takes a quarter of a millisecond
)
HIGH_WATER = 65_536  # bytes of a body that wait for the application before no more is read

# In `remaining`: there is none, whatever the headers say of it.
NO_BODY = -2

# In `trails`.
TRAILS = 1
BODY_OVER = 2

_Future = asyncio.Future
_sleep = asyncio.sleep
_Coroutine = types.CoroutineType


@cython.final
@cython.cclass
class Ready:
    """What is awaited and done already. A coroutine, since some start a task with it."""

    def __await__(self) -> Ready:
        return self

    def __iter__(self) -> Ready:
        return self

    def __next__(self) -> None:
        raise StopIteration

    def send(self, value: object) -> None:
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise kind if value is None else value

    def close(self) -> None:
        pass


def ready(awaited: Any) -> Any:
    return None


collections.abc.Coroutine.register(Ready)
if cython.compiled and holds("send"):
    proceed_by(Ready, ready)

READY = Ready()
_READY = READY


@cython.cclass
class Carrier:
    """What a request came by: a connection of HTTP/1.1, or a stream of HTTP/2.

    writable: whether the client takes what is sent. A carrier that becomes writable resumes its requests.
    """

    writable: bool

    def begin_response(self, request: Request, status: int, headers: Any) -> None:
        """Render the head into `request.head`. Raises for headers that cannot be sent."""
        raise NotImplementedError

    def send_head(self, request: Request) -> None:
        """The application has suspended before it had a body."""
        raise NotImplementedError

    def send_body(self, request: Request, data: Any, more: bool) -> None:
        """The head goes with it if it has not gone. After the last, the response is complete."""
        raise NotImplementedError

    def send_trailers(self, request: Request, fields: list[tuple[bytes, bytes]]) -> None:
        """Behind the body, which has been sent with more to come. The response is complete. Raises for what cannot be sent."""
        raise NotImplementedError

    def send_hint(self, request: Request, links: list[bytes]) -> None:
        """An interim response with these Link headers."""
        raise NotImplementedError

    def announce(self, request: Request, size: int) -> None:
        """The body will have so many bytes, unless its application has said so."""
        raise NotImplementedError

    def lend(self, request: Request) -> Any:
        """Its socket, to write the rest of the body with; from now on nothing is on its way when `asgi_send` is done. None: it
        cannot be lent."""
        return None

    def ask(self, request: Request) -> None:
        """The application waits for more of the body, or for its client to leave."""
        raise NotImplementedError

    def let_continue(self, request: Request) -> None:
        """The body is wanted, and its client waits to hear so."""
        raise NotImplementedError

    def answer_for(self, request: Request, status: int) -> None:
        """Answer in the application's place; nothing has been sent."""
        raise NotImplementedError

    def cut(self, request: Request) -> None:
        """The response cannot be completed: the client must see that."""
        raise NotImplementedError

    def abandon(self, request: Request) -> None:
        """The client has left, and nothing more will be sent."""
        raise NotImplementedError

    def failed(self, message: str, error: BaseException | None) -> None:
        """The application has failed."""
        raise NotImplementedError


@cython.freelist(64)
@cython.cclass
class Request:
    """app: an ASGI 3 application. task: that runs it.
    method, raw_path (as sent), headers, scope: as the application has them. version: 10, 11 or 20. path: decoded, without what
    `root_path` adds.

    status: of the response, 0 before its head. sent: bytes of its body. keep_alive: whether another request may follow.
    received_ns: when its last byte came, or its head if it is answered before that.
    more_body: it has not come to its end. body: what has come and was not taken. is_given: the application has had all.
    asked: the application waits for something to receive. expects: the client waits to hear that its body is wanted.
    response_headers: as the application has given them. trails: whether trailers follow the body, and whether that is over.
    trailers: so far.
    chunked, remaining: how the response is framed, and how much of it may still come; below 0: that is not known.
    head: of the response, until it goes out. started: it was given one. complete: all has been sent, or nothing more can be.
    left: its client has. withdrawn: it has taken the request back; if its task has not begun, the application never sees it.
    """

    carrier: Carrier
    app: Callable[..., Any]
    target: Target | None
    task: asyncio.Task[None] | None
    method: str
    raw_path: bytes
    path: str
    headers: list[tuple[bytes, bytes]]
    scope: dict[str, Any]
    version: int
    status: int
    sent: int
    keep_alive: bool
    received_ns: int
    head: Any
    started: bool
    complete: bool
    left: bool
    withdrawn: bool
    expects: bool
    more_body: bool
    chunked: bool
    trails: int
    trailers: list[tuple[bytes, bytes]] | None
    response_headers: Any
    remaining: int
    body: Any
    is_given: bool
    asked: bool
    begun: bool
    _in_a_row: int
    coroutine: Coroutine[Any, Any, Any] | None
    _waiters: list[asyncio.Future[None]] | None
    _writers: list[asyncio.Future[None]] | None

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("a Request is not made: a client sends one")

    # What the carrier calls.

    def feed(self, data: bytes) -> bool:
        """A part of the body. Returns whether so much waits now that no more should be read."""
        if self.body is None:
            self.body = data
        elif isinstance(self.body, bytearray):
            self.body += data
        else:
            self.body = bytearray(self.body)
            self.body += data
        if self._waiters is not None:
            self.wake()
        return self.is_full()

    def is_full(self) -> bool:
        return self.body is not None and len(self.body) > HIGH_WATER

    def end_of_body(self) -> None:
        self.more_body = False
        self.received_ns = now_ns()
        if self._waiters is not None:
            self.wake()

    def leave(self) -> None:
        """The client has left."""
        self.left = True
        self.wake()
        self.resume()

    def _waits(self) -> bool:
        return self._waiters is not None

    def wake(self) -> None:
        """Whoever waits for something to receive."""
        waiters = self._waiters
        self._waiters = None
        self.asked = False
        if waiters is not None:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def resume(self) -> None:
        """Whoever waits to send."""
        writers = self._writers
        self._writers = None
        if writers is not None:
            for waiter in writers:
                if not waiter.done():
                    waiter.set_result(None)

    def take_turn(self, targets: Targets) -> None:
        """In its route's target: it runs, waits, or is refused."""
        target = self.target = targets.find(self.method, self.path, self.headers)
        if target.app is not None:
            self.app = target.app
        if targets.are_full():
            target.refused += 1
            self.refuse(503)
        elif target.admit(self):
            self.run()

    def run(self) -> None:
        """Start its task, in the queue of its target, which has admitted it."""
        target = self.target
        assert target is not None
        try:
            self.task = target.spawn(self, self.scope, self.path)
        except Exception as error:  # the executor is ending; or a task factory of the application's has failed
            self.carrier.failed("a request could not be started", error)
            self.fail()
            self.close()

    def refuse(self, status: int) -> None:
        """It is not passed to the application."""
        self.carrier.answer_for(self, status)

    # For the application.

    async def asgi_receive(self) -> dict[str, Any]:
        """The next event: a part of the body, or that the client has left, or that the response is complete."""
        if self.expects:
            self.expects = False
            if not self.started and not self.left:
                self.carrier.let_continue(self)
        while True:
            if self.left or self.complete:
                return {"type": "http.disconnect"}
            if not self.is_given and (self.body is not None or not self.more_body):
                body = self.body
                self.body = None
                if not self.more_body:
                    self.is_given = True
                data = b"" if body is None else bytes(body)
                return {"type": "http.request", "body": data, "more_body": self.more_body}
            self.asked = True
            self.carrier.ask(self)
            if self._waiters is None:
                self._waiters = []
            try:
                await _wait(self._waiters)
            finally:
                self.asked = bool(self._waiters)

    def asgi_send(self, message: MutableMapping[str, Any]) -> Any:
        """Send an event. To be awaited: that waits while the client takes nothing."""
        kind = message["type"]
        if kind == "http.response.body":
            if not self.started or self.complete or self.trails == BODY_OVER:
                return self._out_of_order(kind)
            body = message.get("body", b"")
            more = message.get("more_body", False)
            if not more and self.trails:
                self.trails = BODY_OVER
                more = True
            self.carrier.send_body(self, body, bool(more))
            if not more:
                return self._completed()
            if not self.carrier.writable and not self.complete:
                return self._drained()
            self._in_a_row += len(body)
            if self._in_a_row >= _IN_A_ROW:  # one whose client takes everything at once lets others have a turn
                self._in_a_row = 0
                return _sleep(0)
        elif kind == "http.response.start":
            if self.started or self.complete:
                return self._out_of_order(kind)
            status = message["status"]
            self.response_headers = message.get("headers", ())
            self.carrier.begin_response(self, status, self.response_headers)
            self.started = True
            self.status = status
            if message.get("trailers", False):
                self.trails = TRAILS
        else:
            return self._send_extension(kind, message)
        return _READY

    def _send_extension(self, kind: object, message: MutableMapping[str, Any]) -> Any:
        """What not every server has, and the scope says that this one does."""
        if self.complete:
            return self._out_of_order(kind)
        if kind == "http.response.trailers" and self.trails == BODY_OVER:
            fields = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            if self.trailers is not None:
                fields = self.trailers + fields
            self.trailers = fields
            if message.get("more_trailers", False):
                return _READY
            self.carrier.send_trailers(self, fields)
            return self._completed()
        if kind == "http.response.early_hint" and not self.started:
            if not self.left:
                self.carrier.send_hint(self, [bytes(link).strip() for link in message.get("links", ())])
            return _READY
        if kind == "http.response.pathsend" and self.started and not self.trails:
            return self._send_path(message["path"])
        return self._out_of_order(kind)

    async def _send_path(self, path: Any) -> None:
        """All of a file is the body, read in threads. Raises `OSError` if it cannot be read; if the head has not left by
        then, that makes a 500."""
        if not os.path.isabs(path):
            raise RuntimeError(f"http.response.pathsend has the path {path!r}; give an absolute one")
        run = asyncio.get_running_loop().run_in_executor
        head = self.head
        self.head = None  # it waits for the size of the file, however long that takes
        try:
            file = await run(None, File, path)
        finally:
            self.head = head
        try:
            if self.complete or self.left:
                return
            size = file.size if self.remaining < 0 else min(file.size, self.remaining)
            self.carrier.announce(self, size)
            if self.remaining == NO_BODY:
                size = 0
            while True:
                data = file.take(size) if file.has_read else await run(None, file.read, size)
                if self.complete or self.left:
                    return
                if len(data) == 0 and size:
                    raise RuntimeError(f"{path!r} has become shorter while it was sent")
                size -= len(data)
                self.carrier.send_body(self, data, size > 0)
                if not size:
                    break
                await self._drained()
        finally:
            file.close()
        await self._completed()

    def _out_of_order(self, kind: object) -> Any:
        if self.left:
            return _READY  # nobody is there to see it
        if self.complete:
            raise RuntimeError(f"Unexpected ASGI message {kind!r} sent, after response already completed.")
        wanted = "http.response.body" if self.started else "http.response.start"
        if self.trails == BODY_OVER:
            wanted = "http.response.trailers"
        raise RuntimeError(f"Expected ASGI message {wanted!r}, but got {kind!r}.")

    async def _drained(self) -> None:
        while not self.carrier.writable and not self.complete:
            if self._writers is None:
                self._writers = []
            await _wait(self._writers)

    def _completed(self) -> Any:
        """The last event of the response. What the task still does may be another queue's."""
        target = self.target
        if target is not None and target.after is not None:
            return target.after.switch_to()
        return _READY

    # A coroutine, for its task.

    def __await__(self) -> Request:
        return self

    def __iter__(self) -> Request:
        return self

    def __next__(self) -> Any:  # compiled: as `step_by` has it
        return self.send(None)

    def send(self, value: object) -> Any:
        yielded = step(self, value)
        if yielded is self:
            raise StopIteration
        return yielded

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Most often a cancellation."""
        coroutine = self.coroutine
        try:
            if coroutine is None:
                self.begun = True
                raise kind if value is None else value
            yielded = coroutine.throw(kind) if value is None else coroutine.throw(kind, value, traceback)
        except StopIteration as ended:
            self.returned(ended.value)
        except Exception as error:
            self.raised(error)
        except BaseException as error:
            self.raised(error)
            raise
        else:
            if self.head is not None:
                self.carrier.send_head(self)
            return yielded
        raise StopIteration

    def close(self) -> None:
        """Its task will not be run to its end."""
        self.begun = True
        coroutine = self.coroutine
        self.coroutine = None
        try:
            if coroutine is not None:
                coroutine.close()
        finally:
            self.fail()

    # What is asked of a coroutine by who shows where a task stands.

    @property
    def cr_code(self) -> Any:
        return getattr(self.coroutine, "cr_code", None)

    @property
    def cr_frame(self) -> Any:
        return getattr(self.coroutine, "cr_frame", None)

    @property
    def cr_running(self) -> bool:
        return getattr(self.coroutine, "cr_running", False)

    @property
    def cr_await(self) -> Any:
        return getattr(self.coroutine, "cr_await", None)

    def begin(self) -> None:
        """The first step of its task."""
        self.begun = True
        coroutine = self.app(self.scope, self.asgi_receive, self.asgi_send)
        if type(coroutine) is not _Coroutine and not asyncio.iscoroutine(coroutine):
            coroutine = _result_of(coroutine)
        self.coroutine = coroutine

    def returned(self, value: object) -> None:
        """The application has."""
        self.coroutine = None
        if value is not None:
            self.carrier.failed(f"ASGI callable should return None, but returned {value!r}.", None)
        elif not self.complete and not self.left:
            what = "completing" if self.started else "starting"
            self.carrier.failed(f"ASGI callable returned without {what} response.", None)
        self.fail()

    def raised(self, error: BaseException) -> None:
        self.coroutine = None
        if isinstance(error, Exception):
            self.carrier.failed("Exception in ASGI application", error)
        elif isinstance(error, asyncio.CancelledError) and self.task is not None and not self.task.cancelling():
            self.carrier.failed("Exception in ASGI application: something that it awaited was cancelled", error)
        self.fail()

    def fail(self) -> None:
        """Its task has ended. A response that is not complete will never be."""
        target = self.target
        if not self.complete:
            if self.left:
                self.carrier.abandon(self)
            elif self.started and self.head is None:
                self.carrier.cut(self)
            else:
                self.head = None
                self.carrier.answer_for(self, 500)
        self.head = None
        self.task = None
        self.target = None
        if target is not None:
            target.ended()


def new_request(carrier: Carrier, app: Callable[..., Any]) -> Request:
    """One whose head has come; the carrier says what was in it."""
    request = Request.__new__(Request)
    request.carrier = carrier
    request.app = app
    request.more_body = True
    request.remaining = -1
    if not cython.compiled:
        request.target = request.task = request.head = request.body = request.coroutine = None
        request._waiters = request._writers = None
        request.status = request.sent = request.received_ns = request._in_a_row = 0
        request.started = request.complete = request.left = request.withdrawn = request.expects = False
        request.chunked = request.is_given = request.asked = request.begun = False
        request.trails = 0
        request.response_headers = request.trailers = None
    return request


async def _wait(waiters: list[Any]) -> None:
    """Among these, which somebody wakes. Who gives up is not left there: applications ask whether their client has left by a
    `receive` that they cancel at once, for as long as they stream."""
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    finally:
        if waiter in waiters:
            waiters.remove(waiter)


async def _result_of(awaitable: Any) -> Any:
    """Of what an application may return in place of a coroutine."""
    return await awaitable


def step(awaited: Any, value: object) -> Any:
    """The next step of a request's task: what it waits for, or the request itself: it is over."""
    request: Request = awaited
    over = False
    try:
        if not request.begun:
            if request.withdrawn:
                request.close()
                return request
            request.begin()
        elif request.coroutine is None:
            raise RuntimeError("cannot reuse already awaited coroutine")  # as any other says
        if cython.compiled:
            value = send_to(request.coroutine, value, cython.address(over))
        else:
            try:
                value = request.coroutine.send(value)  # type: ignore[union-attr]
            except StopIteration as ended:
                value, over = ended.value, True
    except Exception as error:
        request.raised(error)
        return request
    except BaseException as error:
        request.raised(error)
        raise
    if over:
        request.returned(value)
        return request
    if request.head is not None:
        request.carrier.send_head(request)
    return value


collections.abc.Coroutine.register(Request)
if cython.compiled and holds("send"):
    step_by(Request, step)
