"""WSGI applications (PEP 3333) in threads, as an ASGI application.

A request's task, which is in the queue of its route, waits for a thread and then carries the response from it to the client;
the thread runs the application, its iterable and its `close()`, in a copy of the task's context. The threads are those of
`run_blocking`, so that they are bounded, waited for at the stop, and named in the log where they keep others waiting; which
request gets a free one is decided there.

The head leaves with the first piece that is not empty, so that an application may change its mind until then, and every piece
is on its way before the next is asked for; the large ones of a stream the thread writes itself (`_lent`). A response of a known
length is complete with its last byte, before `close()`, which may take its time. What the application raises before its head
has left is raised out of here and makes a 500; after it, too: then the connection is cut, and nobody takes half a response for
a whole one.

A thread cannot be stopped. When the client leaves, the next read of its body raises `ConnectionResetError`, and the next piece
ends the iteration; an application that does neither keeps its thread until it returns.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from clockworker.http._environ import environ_of, has_body
from clockworker.http._in_queue import is_in_queue
from clockworker.http._lent import LentSocket
from clockworker.http._pipes import ClientLeft, InputPipe, Message, OutputPipe, Receive
from clockworker.http._request_cy import Request
from clockworker.shards.worker._blocking_pools import BlockingPools

log = logging.getLogger("clockworker.http")

Scope: TypeAlias = dict[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
Application: TypeAlias = Callable[[dict[str, Any], Callable[..., Callable[[bytes], object]]], Iterable[bytes]]

_STATUS = re.compile(r"[1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# PEP 3333 forbids these to applications: what a connection does is the server's business.
_HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailers",
        "transfer-encoding",
        "upgrade",
    ]
)
_FILE_BLOCK = 64 * 1024  # of `wsgi.file_wrapper`, whatever smaller one the application suggests


class Wsgi:
    """An ASGI application that runs a WSGI application's requests in `threads`."""

    def __init__(self, app: Application, threads: BlockingPools) -> None:
        self._app = app
        self._threads = threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what the application raises, and `RuntimeError` for a response that is no response."""
        if scope["type"] != "http":
            raise NotImplementedError(f"a WSGI application has no {scope['type']}")
        if is_in_queue():
            # Here, because it imports this module.
            from clockworker.http._wsgi_in_queue import serve_in_queue

            await serve_in_queue(self._app, scope, receive, send)
            return
        await _Request(self._app, scope, receive, send).serve(self._threads)


class _Request:
    """One request: `serve` is its task's, `_run` and what it calls its thread's."""

    def __init__(self, app: Application, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._send = send
        self._loop = asyncio.get_running_loop()
        changed = threading.Condition(threading.Lock())
        self._input = InputPipe(receive, changed, empty=not has_body(scope))
        self._output = OutputPipe(changed, self._wake)
        self._waiter: asyncio.Future[None] | None = None
        self._response = Response(scope["method"], self._output)

    # In the loop

    async def serve(self, threads: BlockingPools) -> None:
        """Until the application has returned, though the response may have left before."""
        try:
            with threads.calling(f"{self._scope['method']} {self._scope['path']}", self._run) as ended:
                ended.add_done_callback(self._wake)
                try:
                    await self._carry(ended)
                    ended.result()
                finally:
                    del ended  # or what the application has raised would be in a cycle with this frame
        finally:
            self._input.leave()
            self._output.leave()

    async def _carry(self, ended: asyncio.Future[None]) -> None:
        started = False
        may_lend = True
        while self._output or not ended.done():
            if not self._output:
                self._waiter = self._loop.create_future()
                await self._waiter
                continue
            body, complete, lends = self._output.take(may_lend=started and may_lend)
            if lends and self._output.writer is None:
                self._output.writer = self._borrow()
                may_lend = self._output.writer is not None
            try:
                if not started:
                    await self._send(self._response.start)
                elif not complete:  # a stream, in which a client's leaving shows by nothing else
                    self._input.listen(self._output.leave)
                await self._send({"type": "http.response.body", "body": body, "more_body": not complete})
            except OSError:  # how some servers say that the client has left
                self._output.leave()
            if lends:
                self._output.lend()
            started = True

    def _borrow(self) -> LentSocket | None:
        """The connection's socket, from a server of ours that can lend it."""
        request = getattr(self._send, "__self__", None)
        return request.carrier.lend(request) if isinstance(request, Request) else None

    def _wake(self, *_: object) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # In the thread

    def _run(self) -> None:
        errors = ErrorLog()
        try:
            self._run_application(self._environ(errors))
        except ClientLeft as left:
            log.debug("%s %s: %s", self._scope["method"], self._scope["path"], left)
        except (SystemExit, KeyboardInterrupt) as error:  # of the application, and no reason to end the server
            raise RuntimeError(f"the application raised {type(error).__name__}") from error
        finally:
            errors.flush()

    def _run_application(self, environ: dict[str, Any]) -> None:
        response = self._response
        result = self._app(environ, response.start_response)
        try:
            # A list is there as a whole: it leaves as one, with its end.
            whole = isinstance(result, list | tuple)
            response.single = whole and len(result) == 1  # type: ignore[arg-type]
            for data in result:
                if not response.write(data, tell=not whole):
                    break
            response.end()
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _environ(self, errors: ErrorLog) -> dict[str, Any]:
        environ = environ_of(self._scope)
        environ["wsgi.input"] = io.BufferedReader(self._input)
        environ["wsgi.errors"] = errors
        environ["wsgi.file_wrapper"] = FileWrapper
        return environ


class Output(Protocol):
    """Where its body goes. complete: whether nothing follows."""

    @property
    def complete(self) -> bool: ...

    def put(self, data: bytes, *, complete: bool = False, tell: bool = True) -> None: ...


class Response:
    """What the application says of its response, checked; where the application runs."""

    def __init__(self, method: str, output: Output) -> None:
        self._method = method
        self._output = output
        self._status = 0  # none yet
        self._headers: list[tuple[bytes, bytes]] = []
        self._length: int | None = None  # as the application says
        self._written = 0
        self.single = False  # whether there will be one piece at most
        self.start: Message = {}  # what the server is told before the first piece

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        """Returns `write(data)`. Raises `exc_info`'s exception if the head has left."""
        if exc_info is not None and exc_info[1] is not None:
            try:
                if self.start:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._status:
            raise AssertionError("start_response() was called again, without an exc_info")
        if not isinstance(status, str) or not _STATUS.fullmatch(status):
            raise ValueError(f"start_response() was given the status {status!r}; one is '200 OK'")
        code = int(status[:3])
        if code < 200:
            raise ValueError(f"start_response() was given the status {status!r}, which is no end of a request")
        self._headers, self._length = [], None
        for name, value in headers:
            self._add(name, value)
        self._status = code
        return self.write

    def write(self, data: bytes, *, tell: bool = True) -> bool:
        """False if no more is wanted. Raises `ClientLeft`."""
        if not isinstance(data, bytes):
            raise TypeError(f"a WSGI application's body is bytes, and {data!r:.80} is of type {type(data).__name__}")
        if not data:
            return True
        if not self.start:
            self._begin(len(data) if self.single else None)
        if self._is_bodyless():
            return False
        if self._length is None:
            self._output.put(data, tell=tell)
            return True
        left = self._length - self._written
        if left:
            self._written += min(len(data), left)
            self._output.put(data[:left], complete=self._written == self._length, tell=tell)
        if len(data) > left:
            log.error("the application's response is longer than its Content-Length, %d: cut there", self._length)
            return False
        return True

    def end(self) -> None:
        """The application has no more. Raises `RuntimeError` if it has announced more."""
        if not self.start:
            self._begin(0)
        if self._output.complete:
            return
        if self._length is not None and self._written < self._length and not self._is_bodyless():
            raise RuntimeError(
                f"the application has ended its response after {self._written} bytes, and its Content-Length is "
                f"{self._length}"
            )
        self._output.put(b"", complete=True)

    def _begin(self, length: int | None) -> None:
        if not self._status:
            raise RuntimeError("the application has not called start_response() before the first piece of its body")
        if length is not None and self._length is None and not self._is_bodyless():
            self._length = length
            self._headers.append((b"content-length", b"%d" % length))
        self.start = {"type": "http.response.start", "status": self._status, "headers": self._headers}

    def _is_bodyless(self) -> bool:
        return self._method == "HEAD" or self._status in (204, 304)

    def _add(self, name: str, value: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"start_response() was given a header of the name {name!r}")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ValueError(f"start_response() was given the header {name} with the value {value!r}")
        name = name.lower()
        if name == "content-length":
            if not value.isdecimal():
                raise ValueError(f"start_response() was given a Content-Length of {value!r}; one is a number of bytes")
            self._length = int(value)
        if name not in _HOP_BY_HOP:
            self._headers.append((name.encode(), value.strip(" \t").encode("latin-1")))


class ErrorLog:
    """`wsgi.errors`: lines of one request, into the log."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            log.error("%s", line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._rest:
            self.write("\n")


class FileWrapper:
    """`wsgi.file_wrapper`: a file in pieces."""

    def __init__(self, file: Any, block_size: int = _FILE_BLOCK) -> None:
        self._read = file.read
        self._block_size = max(block_size, _FILE_BLOCK)
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        data: bytes = self._read(self._block_size)
        if not data:
            raise StopIteration
        return data
