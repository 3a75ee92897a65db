"""WSGI applications on routes with `threads = false`: their code runs in the request's queue, which is preemptive.

The call of the application, each piece of its response and its `close()` are parts of steps of the request's task, which
carries the response to the client in between. The body is read before, since nothing can wait for more of it in a step: in
memory up to `IN_MEMORY`, in a temporary file beyond.

As in a thread the head leaves with the first piece that is not empty, and what the application raises is raised out of here.
"""

from __future__ import annotations

import asyncio
import contextvars
import tempfile
from collections.abc import Callable, Iterable
from typing import IO, Any

from clockworker.executor._guard_cy import calls_out
from clockworker.http._environ import environ_of, has_body
from clockworker.http._pipes import Message, Receive
from clockworker.http._wsgi import Application, ErrorLog, FileWrapper, Response, Scope, Send

IN_MEMORY = 1 << 20

_END = object()


async def serve_in_queue(app: Application, scope: Scope, receive: Receive, send: Send) -> None:
    """Until the application's iterable has ended."""
    errors = ErrorLog()
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as body:
        if has_body(scope) and not await _read(body, receive):
            return  # its client has left
        environ = environ_of(scope)
        environ["wsgi.input"] = body
        environ["wsgi.errors"] = errors
        environ["wsgi.file_wrapper"] = FileWrapper
        try:
            await _Request(app, environ, receive, send).serve()
        finally:
            errors.flush()


async def _read(body: IO[bytes], receive: Receive) -> bool:
    """Whether it has come as a whole."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        body.write(message.get("body", b""))
        more = message.get("more_body", False)
    body.seek(0)
    return True


class _Pieces:
    """A response's body, as the application makes it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.complete = False

    def put(self, data: bytes, *, complete: bool = False, tell: bool = True) -> None:
        self._pieces.append(data)
        self.complete = complete

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Request:
    def __init__(self, app: Application, environ: dict[str, Any], receive: Receive, send: Send) -> None:
        self._app = app
        self._environ = environ
        self._receive = receive
        self._send = send
        self._context = contextvars.copy_context()
        self._output = _Pieces()
        self._response = Response(environ["REQUEST_METHOD"], self._output)
        self._started = False
        self._leaves: asyncio.Future[Message] | None = None  # a stream's client does

    async def serve(self) -> None:
        result = self._call(self._app, self._environ, self._response.start_response)
        try:
            await self._carry_all(result)
        finally:
            if self._leaves is not None:
                self._leaves.cancel()
            if (close := getattr(result, "close", None)) is not None:
                self._call(close)

    async def _carry_all(self, result: Iterable[bytes]) -> None:
        response = self._response
        # A list is there as a whole: it leaves as one, with its end.
        whole = isinstance(result, list | tuple)
        response.single = whole and len(result) == 1  # type: ignore[arg-type]
        pieces = self._call(iter, result)
        while (data := self._call(next, pieces, _END)) is not _END:
            if not response.write(data):
                break
            if self._output and not whole:
                if not await self._carry():
                    return
                await asyncio.sleep(0)  # other requests of the queue have their turn
        response.end()
        await self._carry()

    async def _carry(self) -> bool:
        """Send what there is. False if the client has left."""
        if not self._output:
            return True
        if not self._started:
            self._started = True
            await self._send(self._response.start)
        elif self._leaves is None and not self._output.complete:
            self._leaves = asyncio.ensure_future(self._receive())
        complete = self._output.complete
        await self._send({"type": "http.response.body", "body": self._output.take(), "more_body": not complete})
        return self._leaves is None or not self._leaves.done()

    @calls_out
    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            # One context for all that the application does: it may reset in `close()` what it has set in its call.
            return self._context.run(function, *args)
        except (SystemExit, KeyboardInterrupt) as error:  # of the application, and no reason to end the server
            raise RuntimeError(f"the application raised {type(error).__name__}") from error
