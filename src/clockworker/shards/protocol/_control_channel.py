"""The channel that carries what supervisor and shard say to each other (`_messages`).

It is a pair of Unix sockets of type SOCK_SEQPACKET: messages keep their bounds, descriptors travel with the message that
speaks of them (SCM_RIGHTS), and when one side is gone the other reads an end of file. Both ends are non-blocking; what the
kernel has no room for waits in an outbox, because a stopped shard must not stop the supervisor. "No room" is more than a full
buffer: the kernel also bounds the descriptors of a user that are on their way anywhere (ETOOMANYREFS). Then no event tells
when there is room again, and a timer tries. The outbox empties itself as long as a loop runs.

What the supervisor has to say may be of any length: beyond `MAX_MESSAGE` bytes the message is in a memfd (`Enclosed`), and
descriptors beyond `MAX_DESCRIPTORS` go ahead of it (`Ahead`). Of a shard neither is accepted.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec

from clockworker._errors import ControlError
from clockworker.ipc.rings._memory_cy import create_memory
from clockworker.shards.protocol._messages import Ahead, Enclosed, Message

MAX_MESSAGE = 64 * 1024
MAX_DESCRIPTORS = 253  # SCM_MAX_FD in Linux
RETRY_S = 0.02  # between two attempts to send what the kernel is too short of something to take
_ANCILLARY_SIZE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class Lent(int):
    """A descriptor that outboxes keep without a copy, so that what waits takes no more descriptors than what does not. Its
    owner closes it by `close`, too, and it stays open until the last of them has."""

    _holders = 1

    def keep(self) -> Lent:
        self._holders += 1
        return self

    def close(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            os.close(self)


class DescriptorsLost(Exception):
    """A message came, and its descriptors did not: there was no room for them."""

    def __init__(self, message: Message) -> None:
        super().__init__(f"no descriptor is left for what {type(message).__name__} brings")
        self.message = message


class ControlChannel:
    """One end. Not thread-safe. Closing it closes what the outbox holds. when_flushed: told when the outbox has become empty.

    trusting: the other end is the supervisor, whose messages may be of any length.
    """

    def __init__(self, sock: socket.socket, *, trusting: bool = False) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._trusting = trusting
        self._ahead: list[int] = []
        self._full = True  # the socket's buffer is what keeps the outbox from being sent
        self._watching: asyncio.AbstractEventLoop | None = None  # for room in it
        self._retry: asyncio.TimerHandle | None = None
        self.when_flushed: Callable[[], None] = lambda: None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
        self._outbox: deque[tuple[bytes, list[int]]] = deque()

    @classmethod
    def pair(cls) -> tuple[ControlChannel, ControlChannel]:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(first), cls(second, trusting=True)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def backlogged(self) -> bool:
        """Whether messages wait in the outbox."""
        return bool(self._outbox)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send, or keep for `flush`. The descriptors stay the caller's; what waits has copies of those that are not `Lent`. A
        peer that is gone is no error here: it is noticed by reading. Raises `OSError` if there is no descriptor for a copy."""
        data = self._encoder.encode(message)
        if self._trusting and (len(data) > MAX_MESSAGE or len(descriptors) > MAX_DESCRIPTORS):
            raise ControlError(
                f"{type(message).__name__} of {len(data)} bytes, {len(descriptors)} descriptors is too large"
            )
        with ExitStack() as enclosed:
            if len(data) > MAX_MESSAGE:
                memory = create_memory("message", len(data))
                enclosed.callback(os.close, memory)
                os.pwrite(memory, data, 0)
                data, descriptors = self._encoder.encode(Enclosed()), [memory, *descriptors]
            while len(descriptors) > MAX_DESCRIPTORS:
                self._send(self._encoder.encode(Ahead()), descriptors[:MAX_DESCRIPTORS])
                descriptors = descriptors[MAX_DESCRIPTORS:]
            self._send(data, descriptors)
        self._plan_flush()

    def _send(self, data: bytes, descriptors: Sequence[int]) -> None:
        if self._outbox or not self._try_send(data, descriptors):
            with ExitStack() as kept:
                own: list[int] = []
                for descriptor in descriptors:
                    own.append(descriptor.keep() if isinstance(descriptor, Lent) else os.dup(descriptor))
                    kept.callback(_close, own[-1])
                self._outbox.append((data, own))
                kept.pop_all()

    def flush(self) -> None:
        """Try again to send what waits."""
        self._stop_waiting()
        while self._outbox and self._try_send(*self._outbox[0]):
            _close_all(self._outbox.popleft()[1])
        self._plan_flush()
        if not self._outbox:
            self.when_flushed()

    def _plan_flush(self) -> None:
        if not self._outbox or self._retry is not None or self._watching is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._full:
            with contextlib.suppress(OSError):  # no memory to watch it with
                loop.add_writer(self._sock.fileno(), self.flush)
                self._watching = loop
                return
        self._retry = loop.call_later(RETRY_S, self.flush)

    def _stop_waiting(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._watching is not None:
            self._watching.remove_writer(self._sock.fileno())
            self._watching = None

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors, which become the caller's. None at the end of file.

        Raises `BlockingIOError` if there is nothing to read, `ControlError` if what came is no message, and
        `DescriptorsLost` if it is one whose descriptors the kernel had no room for.
        """
        while (received := self._receive()) is not None:
            message, descriptors = received
            if not isinstance(message, Ahead | Enclosed):
                ahead, self._ahead = self._ahead, []
                return message, [*ahead, *descriptors]
            if not self._trusting:
                _close_all(descriptors)
                raise ControlError(f"{type(message).__name__} is for shards")
            self._ahead += descriptors
            if isinstance(message, Enclosed):
                memory, *descriptors = self._ahead
                self._ahead = []
                try:
                    data = os.pread(memory, os.fstat(memory).st_size, 0)
                finally:
                    os.close(memory)
                return self._decoder.decode(data), descriptors
        return None

    def _receive(self) -> tuple[Message, list[int]] | None:
        try:
            # Not socket.recv_fds: it drops its flags, and the descriptors would be inherited by whatever is started.
            data, ancillary, flags, _ = self._sock.recvmsg(MAX_MESSAGE, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        descriptors = _descriptors(ancillary)
        if not data:
            return None
        try:
            if flags & socket.MSG_TRUNC:
                raise ControlError("a message was cut off: it is over the limit")
            message = self._decoder.decode(data)
            if flags & socket.MSG_CTRUNC:
                raise DescriptorsLost(message)
            return message, descriptors
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _close_all(descriptors)
            raise ControlError(f"a message cannot be read: {error}") from error
        except (ControlError, DescriptorsLost):
            _close_all(descriptors)
            raise

    def receive_first(self) -> tuple[Message, list[int]] | None:
        """Like `receive`, but waits: for a process that has nothing else to do yet."""
        self._sock.setblocking(True)
        try:
            return self.receive()
        finally:
            self._sock.setblocking(False)

    def close(self) -> None:
        while self._outbox:
            _close_all(self._outbox.popleft()[1])
        _close_all(self._ahead)
        self._stop_waiting()
        self._sock.close()

    def _try_send(self, data: bytes, descriptors: Sequence[int]) -> bool:
        try:
            socket.send_fds(self._sock, [data], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError as error:  # besides EAGAIN: ETOOMANYREFS, ENOBUFS, ENOMEM
            self._full = isinstance(error, BlockingIOError)
            return False
        return True


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return descriptors.tolist()


def _close(descriptor: int) -> None:
    if isinstance(descriptor, Lent):
        descriptor.close()
    else:
        os.close(descriptor)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            _close(descriptor)
