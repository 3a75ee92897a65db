"""The wire over NATS: one connection, by our own end of its protocol (`_nats_protocol`).

Rejected: nats-py, which this began with. It reconnects and sends later what was published meanwhile, its pings take minutes to
tell, and a full queue in front of a subscriber drops in silence; with all that switched off, by way of its private parts, what
was used of it was its parser and its buffer. Of these each message woke two tasks, and a lone call took a third longer.

A PING goes out when nothing has been heard for a third of `silence`. It is judged by bytes: a message of a megabyte on its way
over a slow line is life enough. While we ourselves stood still nothing was heard either, though it may have come: that time
does not count. `flush` waits for the PONG of a PING that stands behind what was published.

What is published in one turn of the loop leaves at its end in one write, or at once if it is much, or its publisher says so
(`send_off`). The transport keeps what the socket does not take; beyond `PENDING_BYTES` of that nothing more is taken.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import unquote, urlsplit

from clockworker._version import __version__
from clockworker.cluster import _nats_protocol as protocol
from clockworker.cluster._nats_keys import Secrets
from clockworker.cluster._nats_protocol import BrokenProtocol, Event, Info, Message, Parser, Pinged, Ponged, Refused
from clockworker.cluster._nats_store import NatsBucket, open_bucket
from clockworker.cluster._subjects import word
from clockworker.cluster._wire import NobodyAnswers, WireError
from clockworker.shards.config._cluster import ClusterConfig, shown_url

CONNECT_S = 3.0  # for each step, to each server
REQUEST_S = 2.0
CLOSE_S = 1.0
PENDING_BYTES = 2 * 1024 * 1024
LEAST_PAYLOAD = 64 * 1024  # of a server: the view, and what nodes say of all others, are one message each
WRITE_BYTES = 64 * 1024  # of what was published, that do not wait for the end of a turn


class _Subscription:
    def __init__(self, wire: NatsWire, sid: int) -> None:
        self._wire = wire
        self._sid = sid

    def close(self) -> None:
        """Hear no more of it."""
        self._wire._unsubscribe(self._sid)


class _Stream(asyncio.Protocol):
    """What the loop knows of the wire."""

    def __init__(self, wire: NatsWire) -> None:
        self._wire = wire
        self.transport: asyncio.Transport | None = None
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._wire._stream is self:
            self._wire._came(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.is_over.done():
            self.is_over.set_result(None)
        if self._wire._stream is self:
            self._wire._is_lost(WireError(_why(error) if error else "the server has closed the connection"))


class NatsWire:
    """config: whom to connect to, and as whom; of the rest the variables of the environment speak. label: what the server calls
    the connection. silence: seconds without a byte after which it is lost."""

    def __init__(
        self,
        config: ClusterConfig,
        label: str,
        silence: float,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.max_payload = 0
        self.lost: Callable[[Exception], None] = lambda error: None
        self.info = Info()  # what the server has said of itself
        self._config = config
        self._label = label
        self._silence = silence
        self._secrets = Secrets(config.credentials, environment)
        self._loop: asyncio.AbstractEventLoop
        self._where = "?"
        self._stream: _Stream | None = None  # of the last attempt to connect
        self._parser = Parser()
        self._is_ready = False  # connected, and not lost
        self._ended: WireError | None = None  # it is, and why
        self._said_info: asyncio.Future[None] | None = None
        self._pongs: deque[asyncio.Future[None] | None] = deque()  # of each PING under way, who waits for it
        self._listeners: dict[int, Callable[[str, bytes], None]] = {}
        self._last_sid = 0
        self._inbox = ""
        self._asked: dict[str, asyncio.Future[Message]] = {}  # by the last word of where the answer comes
        self._last_question = 0
        self._out: list[bytes] = []  # published, and not with the transport
        self._out_size = 0
        self._writes_soon = False
        self._heard_at = 0.0
        self._watch_at = 0.0  # when we look next for silence
        self._has_asked = False
        self._watching: asyncio.TimerHandle | None = None

    async def connect(self) -> None:
        """Raises `WireError`, with the addresses that were tried and what each said."""
        said = []
        loop = self._loop = asyncio.get_running_loop()
        for url in random.sample(self._config.url, len(self._config.url)):
            # In an empty context, as what the loop calls has it from here on: what a message starts inherits nothing.
            connecting = loop.create_task(self._connect(url), name="nats connect", context=contextvars.Context())
            try:
                await connecting
                return
            except Exception as error:  # of the socket, of TLS, of a file of credentials
                said.append(f"{shown_url(url)}: {_why(error)}")
            except BaseException:
                connecting.cancel()
                await self.close()
                raise
        raise WireError("; ".join(said))

    async def subscribe(self, subject: str, heard: Callable[[str, bytes], None]) -> _Subscription:
        """`heard(subject, body)` for each message, in order, in a callback of the loop; once the server has confirmed it."""
        self._check()
        self._last_sid += 1
        sid = self._last_sid
        self._listeners[sid] = heard
        self._put(protocol.subscribe(subject, sid))
        try:
            await self.flush()
        except WireError as error:
            raise WireError(f"{subject}: {error}") from error
        return _Subscription(self, sid)

    def publish(self, subject: str, body: bytes | bytearray | memoryview, *, hold: bool = False) -> bool:
        """Never waits. False: nothing was sent, as too much waits for the socket; `flush`, then try again. hold: it leaves with
        `send_off`, which will be called in this turn of the loop's; else with that."""
        size = len(body)
        if not self._is_ready or self._out_size + self._unwritten() + size > PENDING_BYTES:
            return False
        if size > self.max_payload:
            raise WireError(f"a message of {size:,} bytes; the server takes up to {self.max_payload:,} (max_payload)")
        out = self._out
        out.append(protocol.publish(subject, size))
        out.append(body if type(body) is bytes else bytes(body))
        out.append(protocol.CRLF)
        self._out_size += size
        if not hold or self._out_size >= WRITE_BYTES:
            self._leaves()
        return True

    def send_off(self) -> None:
        """What was published leaves now, and not only with the end of this turn."""
        if self._out:
            self._write()

    async def flush(self) -> None:
        """Until all that was published is with the server."""
        self._check()
        pong: asyncio.Future[None] = self._loop.create_future()
        self._pongs.append(pong)
        self._put(protocol.PING)
        self._write()
        await pong

    async def bucket(self, name: str) -> NatsBucket:
        """Made, if it is not there: in a file, with one value a key, and on as many servers as there are, up to three."""
        known = {*self._config.url, *self.info.connect_urls}
        return await open_bucket(self, name, min(3, len(known)) if self.info.cluster else 1)

    async def request(self, subject: str, body: bytes, head: Mapping[str, str] | None = None) -> Message:
        """The first answer. Raises `WireError` if there is none, or nobody who hears it."""
        self._check()
        if not self._inbox:
            self._inbox = f"{inbox_of(self._config)}.{secrets.token_hex(8)}"
            self._last_sid += 1
            self._put(protocol.subscribe(f"{self._inbox}.*", self._last_sid))
        self._last_question += 1
        word = str(self._last_question)
        answer = self._asked[word] = self._loop.create_future()
        reply = f"{self._inbox}.{word}"
        if head is None:
            self._put(protocol.publish(subject, len(body), reply) + body + protocol.CRLF)
        else:
            self._put(protocol.publish_with_head(subject, reply, head, len(body)) + body + protocol.CRLF)
        self._write()
        try:
            async with asyncio.timeout(REQUEST_S):
                found: Message = await answer
        except TimeoutError:
            raise WireError("no answer in time") from None
        finally:
            del self._asked[word]
        if not found.body and protocol.status_of(found.head) == 503:
            raise NobodyAnswers(f"the server has nobody who answers {subject}")
        return found

    async def close(self) -> None:
        """Twice is once."""
        self._end(WireError("the connection was closed"))
        stream = self._stream
        if stream is not None:
            await asyncio.wait({stream.is_over}, timeout=CLOSE_S)

    # Connecting

    async def _connect(self, url: str) -> None:
        parts = urlsplit(url)
        host, port = cast(str, parts.hostname), cast(int, parts.port)
        context = _context_of(self._config) if parts.scheme == "tls" else None
        first = context if self._config.tls_first else None
        self._where = f"{host}:{port}"
        self._ended = None
        self._parser = Parser()
        self._pongs.clear()
        said_info = self._said_info = self._loop.create_future()
        stream = self._stream = _Stream(self)
        try:
            async with asyncio.timeout(CONNECT_S):
                transport, _ = await self._loop.create_connection(
                    lambda: stream, host, port, ssl=first, server_hostname=host if first else None
                )
                await said_info
            if context is not None and first is None:
                if not (self.info.tls_required or self.info.tls_available):
                    raise WireError("the server has no TLS; give nats://, or have it use TLS")
                async with asyncio.timeout(CONNECT_S):
                    encrypted = await self._loop.start_tls(transport, stream, context, server_hostname=host)
                stream.transport = transport = cast(asyncio.Transport, encrypted)
            elif self.info.tls_required and context is None:
                raise WireError("the server wants TLS; give tls://")
            transport.set_write_buffer_limits(high=0)  # so uvloop writes at once
            if self.info.max_payload < LEAST_PAYLOAD:
                raise WireError(
                    f"the server takes messages of up to {self.info.max_payload:,} bytes (max_payload); a cluster needs "
                    f"{LEAST_PAYLOAD:,}"
                )
            self.max_payload = self.info.max_payload
            self._is_ready = True
            self._put(protocol.connect(self._introduction(parts.username, parts.password, context is not None)))
            async with asyncio.timeout(CONNECT_S):
                await self.flush()
        except BaseException as error:
            why = self._ended
            self._end(WireError(_why(error)))
            await asyncio.wait({stream.is_over}, timeout=CLOSE_S)
            if why is not None and why is not error and isinstance(error, Exception):
                raise why from error  # what the server has said of it
            raise
        self._heard_at = self._watch_at = self._loop.time()
        self._has_asked = False
        self._watch()

    def _introduction(self, user: str | None, password: str | None, uses_tls: bool) -> dict[str, object]:
        """user, password: of the URL."""
        return {
            "verbose": False,
            "pedantic": False,
            "lang": "clockworker",
            "version": __version__,
            "name": self._label,
            "protocol": 1,  # it may tell of other servers
            "headers": True,
            "no_responders": True,
            "tls_required": uses_tls,
            **self._secrets.shown_to(self.info.nonce, user and unquote(user), password and unquote(password)),
        }

    # What comes

    def _came(self, data: bytes) -> None:
        if self._ended is not None:
            return
        self._heard_at = self._loop.time()
        try:
            events = self._parser.feed(data)
        except BrokenProtocol as error:
            self._is_lost(WireError(f"the server at {self._where} has sent {error}"))
            return
        for event in events:
            if self._ended is not None:  # by one of them
                return
            if type(event) is Message:
                heard = self._listeners.get(event.sid)
                if heard is not None:
                    try:
                        heard(event.subject, event.body)
                    except Exception as error:
                        self._loop.call_exception_handler(
                            {"message": f"a message to {event.subject} could not be taken in", "exception": error}
                        )
                elif (answer := self._asked.get(event.subject.rpartition(".")[2])) and not answer.done():
                    answer.set_result(event)
            else:
                self._told(event)

    def _told(self, event: Event) -> None:
        """By the server itself."""
        match event:
            case Pinged():
                self._put(protocol.PONG)
                self._write()
            case Ponged():
                pong = self._pongs.popleft() if self._pongs else None
                if pong is not None and not pong.done():
                    pong.set_result(None)
            case Info():
                self.info = event
                if self._is_ready:
                    self.max_payload = event.max_payload
                if self._said_info is not None and not self._said_info.done():
                    self._said_info.set_result(None)
            case Refused():
                self._is_lost(WireError(event.why))

    def _watch(self) -> None:
        """For silence."""
        if not self._is_ready:
            return
        now, third = self._loop.time(), self._silence / 3
        late = now - self._watch_at
        if late > third / 2:  # we stood still, and what has come meanwhile is read after this
            self._heard_at = min(now, self._heard_at + late)
        quiet = now - self._heard_at
        if quiet >= self._silence:
            self._is_lost(WireError(f"the server at {self._where} was silent for {quiet:.1f} s"))
            return
        if quiet < third:
            self._has_asked = False
        elif not self._has_asked:
            self._has_asked = True
            self._pongs.append(None)
            self._put(protocol.PING)
            self._write()
        self._watch_at = now + third / 2
        self._watching = self._loop.call_at(self._watch_at, self._watch)

    # What goes

    def _put(self, command: bytes) -> None:
        self._out.append(command)
        self._out_size += len(command)
        self._leaves()

    def _leaves(self) -> None:
        """What was published, with this turn, or at once if it is much."""
        if self._out_size >= WRITE_BYTES:
            self._write()
        elif not self._writes_soon:
            self._writes_soon = True
            self._loop.call_soon(self._write_soon)

    def _write_soon(self) -> None:
        self._writes_soon = False
        if self._out:
            self._write()

    def _write(self) -> None:
        out, self._out = self._out, []
        size, self._out_size = self._out_size, 0
        transport = None if self._stream is None else self._stream.transport
        if transport is None:
            return
        if size < WRITE_BYTES:
            transport.write(b"".join(out))
        else:
            transport.writelines(out)

    def _unwritten(self) -> int:
        """Bytes that the socket has not taken."""
        transport = None if self._stream is None else self._stream.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def _unsubscribe(self, sid: int) -> None:
        if self._listeners.pop(sid, None) is not None and self._is_ready:
            self._put(protocol.unsubscribe(sid))

    # The end

    def _check(self) -> None:
        if not self._is_ready:
            raise self._ended or WireError("not connected")

    def _is_lost(self, error: WireError) -> None:
        was_ready = self._watching is not None
        if self._end(error) and was_ready:
            self.lost(error)

    def _end(self, error: WireError) -> bool:
        """False: it was over before."""
        if self._ended is not None or self._stream is None:
            return False
        self._ended = error
        self._is_ready = False
        if self._watching is not None:
            self._watching.cancel()
        waiting = [self._said_info, *self._pongs, *self._asked.values()]
        self._pongs.clear()
        for each in waiting:
            if each is not None and not each.done():
                each.set_exception(error)
                each.exception()  # perhaps nobody waits any more
        self._out = []
        self._out_size = 0
        transport = self._stream.transport
        if transport is None:
            if not self._stream.is_over.done():
                self._stream.is_over.set_result(None)
        elif transport.get_write_buffer_size():
            transport.abort()  # what the other side does not take would be waited for
        else:
            transport.close()
        return True


def inbox_of(config: ClusterConfig) -> str:
    """Where answers to a node's requests come: nobody else may be permitted to hear them."""
    return f"_INBOX.cw.{word(config.name)}.{word(config.node)}"


def _context_of(config: ClusterConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.ca)
    if config.cert is not None:
        context.load_cert_chain(config.cert, config.key)
    return context


def _why(error: BaseException) -> str:
    """In a line. Never has it what a URL has before its @."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return str(error).strip("'\" \r\n") or type(error).__name__
