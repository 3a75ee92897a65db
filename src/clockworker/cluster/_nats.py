"""The wire over NATS, by nats-py.

The library's own ways are switched off where they hide what has happened: it does not reconnect (what was published meanwhile
would be sent later, or lost), its pings are not waited for (they take minutes, and tell nobody), its queues in front of
subscribers are left out (a full one drops in silence). What is used of it is its connection: TLS, authentication, the parser,
the buffer of what is to be sent.

A PING of our own goes out when nothing has been heard for a third of `silence`. It is judged by bytes: a message of a megabyte
on its way over a slow line is life enough. `flush` waits for the PONG of a PING that stands behind what was published; the
library's own flush writes its PING in front of that.

Publishing is a coroutine there that never waits as long as there is room for what it appends. It is run to its end by
`send(None)`, without a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import ssl
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, Header, StorageType, StreamConfig

from clockworker.cluster._wire import Entry, WireError
from clockworker.shards.config._cluster import SECRET_PREFIX, ClusterConfig, shown_url

CONNECT_S = 3.0  # for each server
REQUEST_S = 2.0
PENDING_BYTES = 2 * 1024 * 1024
NEVER_S = 10**9

_PING = b"PING\r\n"


class _Client(Client):
    """Messages of our subscriptions go straight to who listens; the rest (answers to requests) as the library has it."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: dict[int, Callable[[str, bytes], None]] = {}

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        heard = self.listeners.get(sid)
        if heard is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            heard(subject.decode(), data)


class _Subscription:
    def __init__(self, wire: NatsWire, sid: int) -> None:
        self._wire = wire
        self._sid = sid

    def close(self) -> None:
        """Hear no more of it."""
        self._wire._unsubscribe(self._sid)


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
        self._config = config
        self._label = label
        self._silence = silence
        self._environment = environment
        self._client: _Client | None = None
        self._heard = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._ended = False
        self._refused: Exception | None = None

    async def connect(self) -> None:
        """Raises `WireError`, with the addresses that were tried and what each said."""
        said = []
        for url in random.sample(self._config.url, len(self._config.url)):
            try:
                await self._connect(url)
                return
            except Exception as error:  # of the library, of TLS, of a file of credentials
                said.append(f"{shown_url(url)}: {_why(self._refused or error)}")
        raise WireError("; ".join(said))

    async def subscribe(self, subject: str, heard: Callable[[str, bytes], None]) -> _Subscription:
        """`heard(subject, body)` for each message, in order, in a callback of the loop; once the server has confirmed it."""
        client = self._open()
        try:
            # With a future the library makes no task and no queue; what comes is ours before it looks at that.
            subscription = await client.subscribe(subject, future=asyncio.get_running_loop().create_future())
            client.listeners[subscription._id] = heard
        except nats.errors.Error as error:
            raise WireError(f"{subject}: {_why(error)}") from error
        await self.flush()
        if self._refused is not None:
            raise WireError(f"{subject}: {_why(self._refused)}")
        return _Subscription(self, subscription._id)

    def publish(self, subject: str, body: bytes | bytearray | memoryview) -> bool:
        """Never waits. False: nothing was sent, as too much waits for the socket; `flush`, then try again."""
        client = self._client
        if client is None or self._ended or client.pending_data_size + len(body) > PENDING_BYTES:
            return False
        publishing = client.publish(subject, body if isinstance(body, bytes) else bytes(body))
        try:
            publishing.send(None)
        except StopIteration:
            return True
        except nats.errors.Error as error:
            if isinstance(error, nats.errors.MaxPayloadError):
                raise
            return False
        publishing.close()  # it has been appended, and would have waited for room
        return True

    async def flush(self) -> None:
        """Until all that was published is with the server."""
        client = self._open()
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        client._pongs.append(pong)
        try:
            await client._send_command(_PING)
            await client._flush_pending()
        except (nats.errors.Error, OSError) as error:
            raise WireError(_why(error)) from error
        assert self._watching is not None
        ends: set[asyncio.Future[Any]] = {pong, self._watching}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not pong.done():
            raise WireError("the connection was lost")

    async def bucket(self, name: str) -> NatsBucket:
        """Made, if it is not there: in a file, with one value a key, and on as many servers as there are, up to three."""
        client = self._open()
        stream = client.jetstream(timeout=REQUEST_S)
        known = {*self._config.url, *client._server_info.get("connect_urls", ())}
        with _as_wire_error():
            try:
                await stream.stream_info(f"KV_{name}")
            except nats.js.errors.NotFoundError:
                await stream.add_stream(_stream_of(name, min(3, len(known)) if _is_clustered(client) else 1))
        return NatsBucket(stream, name)

    async def close(self) -> None:
        """Twice is once."""
        self._ended = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        await self._close_client()

    async def _connect(self, url: str) -> None:
        self._refused = None
        client = self._client = _Client()
        config, environment = self._config, self._environment
        secrets = {
            name: value for name, ending in _SECRETS.items() if (value := environment.get(SECRET_PREFIX + ending))
        }
        try:
            await asyncio.wait_for(
                client.connect(
                    [url],
                    error_cb=self._error,
                    closed_cb=self._closed,
                    name=self._label,
                    allow_reconnect=False,
                    connect_timeout=CONNECT_S,  # type: ignore[arg-type]
                    max_reconnect_attempts=1,  # 0 would be for ever
                    reconnect_time_wait=0,
                    ping_interval=NEVER_S,
                    pending_size=2 * PENDING_BYTES,
                    tls=_context_of(config) if url.startswith("tls:") else None,
                    tls_handshake_first=config.tls_first,
                    user_credentials=config.credentials,
                    inbox_prefix=inbox_of(config),
                    **secrets,  # type: ignore[arg-type]
                ),
                2 * CONNECT_S,
            )
            client._ps.parse = self._counting(client._ps.parse)  # type: ignore[method-assign, assignment]
        except BaseException:
            await self._close_client()
            raise
        self.max_payload = client.max_payload
        loop = asyncio.get_running_loop()
        self._heard = loop.time()
        self._watching = loop.create_task(self._watch(client), name="nats silence")

    def _counting(
        self, parse: Callable[[bytes], Coroutine[Any, Any, Any]]
    ) -> Callable[[bytes], Coroutine[Any, Any, Any]]:
        """The parser gets whatever comes, as it comes."""
        loop = asyncio.get_running_loop()

        def counted(data: bytes = b"") -> Coroutine[Any, Any, Any]:
            if data:
                self._heard = loop.time()
            return parse(data)

        return counted

    async def _watch(self, client: _Client) -> None:
        """Ends when the connection has."""
        loop = asyncio.get_running_loop()
        third = self._silence / 3
        asked = False
        while not client.is_closed:
            quiet = loop.time() - self._heard
            if quiet >= self._silence:
                self._is_lost(WireError(f"the server at {self._where()} was silent for {quiet:.1f} s"))
                return
            if quiet < third:
                asked = False
            elif not asked:
                asked = True
                client._pongs.append(loop.create_future())
                if client.pending_data_size <= PENDING_BYTES:
                    await client._send_command(_PING)
                    await client._flush_pending()
            await asyncio.sleep(third / 2)

    def _where(self) -> str:
        url = None if self._client is None else self._client.connected_url
        return "?" if url is None else f"{url.hostname}:{url.port}"

    async def _error(self, error: Exception) -> None:
        """The library's callback: whatever the server refuses, and what goes wrong while connecting."""
        self._refused = error
        if self._watching is not None and not isinstance(error, nats.errors.SlowConsumerError):
            self._is_lost(WireError(_why(error)))

    async def _closed(self) -> None:
        if self._watching is not None:
            self._is_lost(WireError("the server has closed the connection"))

    def _is_lost(self, error: Exception) -> None:
        if self._ended:
            return
        self._ended = True
        self._closing = asyncio.get_running_loop().create_task(self.close(), name="nats close")
        self.lost(error)

    async def _close_client(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if client._transport is not None and self._watching is not None and client.pending_data_size:
            client._pending.clear()  # what the other side does not take would be waited for
            client._pending_data_size = 0
        with contextlib.suppress(Exception):
            await asyncio.wait_for(client.close(), CONNECT_S)

    def _unsubscribe(self, sid: int) -> None:
        client = self._client
        if client is None or client.listeners.pop(sid, None) is None or self._ended:
            return
        client._remove_sub(sid)
        self._unsubscribing = asyncio.get_running_loop().create_task(client._send_unsubscribe(sid))

    def _open(self) -> _Client:
        if self._client is None or self._ended or self._client.is_closed:
            raise WireError("not connected")
        return self._client


class NatsBucket:
    """One stream, which a client of NATS's key-value stores sees as such a one. Reads are the leader's: a replica may have an
    old copy."""

    def __init__(self, stream: JetStreamContext, name: str) -> None:
        self._stream = stream
        self._name = name

    async def get(self, key: str) -> Entry | None:
        """What is there; None if nothing is. What was deleted by hand is empty, and has the revision of that."""
        with _as_wire_error():
            try:
                found = await self._stream.get_msg(f"KV_{self._name}", subject=f"$KV.{self._name}.{key}", direct=False)
            except nats.js.errors.NotFoundError:
                return None
        assert found.seq is not None
        deleted = found.headers is not None and found.headers.get("KV-Operation") in ("DEL", "PURGE")
        return Entry(b"" if deleted else found.data or b"", found.seq)

    async def update(self, key: str, value: bytes, last: int) -> int | None:
        """Write if `last` is the revision that is there, 0 if nothing may be; the new revision; None: another wrote."""
        with _as_wire_error():
            try:
                written = await self._stream.publish(
                    f"$KV.{self._name}.{key}",
                    value,
                    headers={Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(last)},
                )
            except nats.js.errors.APIError as error:
                if error.err_code in _WRONG_LAST:
                    return None
                raise
        return int(written.seq)


_WRONG_LAST = (10071, 10164)
_SECRETS = {"user": "USER", "password": "PASSWORD", "token": "TOKEN", "nkeys_seed_str": "NKEY"}


def inbox_of(config: ClusterConfig) -> str:
    """Where answers to a node's requests come: nobody else may be permitted to hear them."""
    return f"_INBOX.cw.{config.name}.{config.node}"


def _stream_of(name: str, replicas: int) -> StreamConfig:
    return StreamConfig(
        name=f"KV_{name}",
        subjects=[f"$KV.{name}.>"],
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_msgs_per_subject=1,
        max_consumers=-1,
        max_msgs=-1,
        discard=DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        deny_delete=True,
        allow_direct=False,
    )


def _is_clustered(client: _Client) -> bool:
    return "cluster" in client._server_info


def _context_of(config: ClusterConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.ca)
    if config.cert is not None:
        context.load_cert_chain(config.cert, config.key)
    return context


@contextlib.contextmanager
def _as_wire_error() -> Iterator[None]:
    """Whatever the library raises: who asks for the view asks again."""
    try:
        yield
    except Exception as error:
        raise WireError(_why(error)) from error


def _why(error: Exception) -> str:
    """In a line, without the library's name in front. Never has it what a URL has before its @."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(error).removeprefix("nats: ").strip("'\" \r\n") or type(error).__name__


logging.getLogger("nats").setLevel(logging.CRITICAL)  # what it says is said by whoever uses the wire
