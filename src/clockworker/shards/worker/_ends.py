"""Whose end it was: did a handler raise because its client has gone, or because something went wrong?

The class of an exception does not tell. A `ConnectionResetError` may be a database's, an `IncompleteReadError` that of the
reader of a backend. What tells is where it comes from: the client's are those that this connection's own reader holds, or that
were raised in a method of this connection's reader, writer or protocol. The innermost frame of `asyncio.streams` in the
traceback has that object as its `self`. That costs nothing as long as nobody raises. Rejected: asking whether the transport is
closing, which it also is when a backend fails while the client leaves; and methods of our own around each read and write.

An error that names another as its cause is judged by its cause, if it is a `ConnectionError` itself: libraries on top of
streams have their own. So is one without a cause and without an `errno`, which no system call has raised, if the client has
broken the connection: application code says so in this way. Of a group each exception is judged.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

_STREAMS = asyncio.StreamReader.__module__


def without_ends(
    error: Exception, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: object
) -> Exception | None:
    """What is left of a handler's exception without what only says that its client has gone; None if nothing is."""

    def is_end(leaf: BaseException) -> bool:
        return not isinstance(leaf, BaseExceptionGroup) and _is_end(leaf, reader, writer, protocol)

    if not isinstance(error, ExceptionGroup):
        return None if is_end(error) else error
    _, rest = error.split(is_end)
    return rest


def is_cancelled() -> bool:
    """Of the task that runs: it was told to. If not, a CancelledError is that of something which it has awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_end(error: BaseException, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: object) -> bool:
    broken = reader.exception()  # what the connection was lost by; None if it was closed in good order
    if error is broken:
        return True
    if not isinstance(error, (ConnectionError, asyncio.IncompleteReadError, RuntimeError)):
        return False
    origin = _stream_in(error.__traceback__)
    if origin is not None:
        ours = origin is reader or origin is writer or origin is protocol
        # uvloop refuses to write to a transport that is no more by a RuntimeError.
        return ours and (not isinstance(error, RuntimeError) or broken is not None)
    if not isinstance(error, ConnectionError):
        return False
    if error.__cause__ is not None:
        return _is_end(error.__cause__, reader, writer, protocol)
    return broken is not None and error.errno is None


def _stream_in(trace: TracebackType | None) -> object:
    found = None
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_globals.get("__name__") == _STREAMS and "self" in frame.f_locals:
            found = frame.f_locals["self"]
        trace = trace.tb_next
    return found
