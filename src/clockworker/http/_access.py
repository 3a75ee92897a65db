"""The access log: a line for each request that is done, of the logger `clockworker.access` at level INFO.

    127.0.0.1:51234 "GET /reports/7?all=1 HTTP/1.1" 200 5120 12.3 background tenant-7

The client; the request line as it was sent; the response's status (0: the client had left before there was one) and bytes of
its body; milliseconds from the request's last byte to the response's; queue and group. Clients choose most of that. What is not
printable ASCII is escaped, and a space where it would end a field, so that nobody can forge a line.

A record of `logging` for each line would cost half of what the rest of a request does. Where such a record would only become a
line on standard error, that line is made here, and written together with others (`LogStream.put`) within `SOON_S`: a shard that
is killed takes so much with it. Where a `--log-config`, a handler or a filter of the application's would see the record, it is
made, with the fields of the line as attributes. Which of the two it is is looked at once a second: an application may set up
its logging whenever it likes.

With a format of the user's (--access-log-format) the line on standard error is that alone, without time, level and shard in
front, for programs that read it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any, Protocol

import msgspec

from clockworker.http._access_format import AccessFormat, Done, escaped, is_plain
from clockworker.shards.logs._log_stream import LogStream
from clockworker.shards.logs._logging import direct, info_of_queue

SOON_S = 0.05

log = logging.getLogger("clockworker.access")

_VERSIONS = {10: "1.0", 11: "1.1", 20: "2"}
_NO_CLIENT = "-"  # of a Unix socket
_encode = msgspec.json.Encoder().encode


class Request(Protocol):
    """Of a client, done by a target. raw_path: without the query."""

    @property
    def scope(self) -> dict[str, Any]: ...
    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def path(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def response_headers(self) -> Any: ...
    @property
    def target(self) -> Any: ...


class _Line(msgspec.Struct):
    """As JSON: what every line has (`JsonFormatter`), and the fields."""

    time: str
    level: str
    logger: str
    message: str
    shard: int
    queue: str
    pid: int
    client: str
    method: str
    path: str
    http_version: str
    status: int
    bytes: int
    ms: float
    group: str | None


class AccessLog:
    """Of the shard of this number. Belongs to the thread of the running loop. form: of its lines, if it is another."""

    def __init__(self, shard: int, form: str | None = None) -> None:
        self._shard = shard
        self._format = None if form is None else AccessFormat(form, shard)
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._second = -1
        self._at = ""  # this second, as it is written
        self._enabled = False
        self._stream: LogStream | None = None  # None: of each line a record is made
        self._json = False
        self._client: object = None
        self._client_text = _NO_CLIENT
        self._queues: dict[str, tuple[str, str]] = {}  # how a line begins, and the field

    def write(self, request: Request, status: int, sent: int, elapsed_ns: int) -> None:
        """The request is done. status: 0 if it was not answered. sent: bytes of the response's body."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._look(second)
        if not self._enabled:
            return
        scope = request.scope
        client = scope["client"]
        if client is not self._client:
            self._client, self._client_text = client, _text_of_client(client)
        client_text = self._client_text
        query = scope["query_string"]
        path = (request.raw_path + b"?" + query if query else request.raw_path).decode("latin-1")
        if not is_plain(path):
            path = escaped(path)
        target = request.target
        queue, group = "-", None
        if target is not None:  # else it has not come to its turn
            queue, group = target.queue, target.group_of(scope, request.path)
        written = self._queues.get(queue)
        if written is None:
            written = self._queues[queue] = f"INFO    [shard {self._shard} {queue}]", _field(queue)
        where, queue_text = written
        group_text = "-" if group is None else _field(group)
        method, version, ms = request.method, _VERSIONS[request.version], elapsed_ns / 1e6
        if self._format is None:
            text = f'{client_text} "{method} {path} HTTP/{version}" {status} {sent} {ms:.1f} {queue_text} {group_text}'
        else:
            text = self._format.render(Done(request, status, sent, elapsed_ns, queue, group, now))
        stream = self._stream
        if stream is None:
            fields = {
                "client": client_text,
                "method": method,
                "path": path,
                "http_version": version,
                "status": status,
                "bytes": sent,
                "ms": round(ms, 3),
                "group": group,
            }
            info_of_queue(log, queue, "%s", text, extra=fields)
            return
        if self._json:
            line = _Line(
                f"{self._at}.{int((now - second) * 1e6):06d}Z",
                "info",
                log.name,
                text,
                self._shard,
                queue,
                self._pid,
                client_text,
                method,
                path,
                version,
                status,
                sent,
                round(ms, 3),
                group,
            )
            first = stream.put(_encode(line).decode() + "\n")
        elif self._format is not None:
            first = stream.put(text + "\n")
        else:
            milliseconds = int((now - second) * 1e3)
            first = stream.put(f"{self._at},{milliseconds:03d} {where} {text}\n")
        if first:
            self._loop.call_later(SOON_S, stream.write_gathered)

    def _look(self, second: int) -> None:
        """A new second: how it is written, and where lines go."""
        self._second = second
        self._enabled = log.isEnabledFor(logging.INFO)
        found = direct(log)
        self._stream, self._json = (None, False) if found is None else found
        if self._json:
            self._at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        else:
            self._at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def _text_of_client(client: tuple[str, int] | None) -> str:
    """As an address would be written for --bind. What a proxy says of its client may have no port, and be no address."""
    if client is None:
        return _NO_CLIENT
    host, port = client
    host = f"[{host}]" if ":" in host else host
    return _field(f"{host}:{port}" if port else host)


def _field(text: str) -> str:
    """Between spaces."""
    if not text:
        return '""'
    return (text if is_plain(text) else escaped(text)).replace(" ", "\\x20")
