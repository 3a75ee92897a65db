"""What supervisor and shard say to each other, and the channel that carries it.

The channel is a pair of Unix sockets of type SOCK_SEQPACKET: messages keep their bounds, descriptors travel with the
message that speaks of them (SCM_RIGHTS), and when one side is gone the other reads an end of file. A message is a
tagged msgspec struct. Both ends are non-blocking; what the kernel has no room for waits in an outbox, because a stopped
shard must not stop the supervisor.

A conversation:

    supervisor: Configure (first, once), Connect and Disconnect as peers come and go, Begin, Stop, Leave; Hold, Release
    shard:      Ready or Failed, Drained; Held; Poisoned; Stirred

`Begin` follows the first round of `Connect`: an application that starts must find its peers connected, or its first
calls would end in `ShardDown`.
`Stop` asks for an end of accepting and for open work to be finished; calls from peers are still served, because their
open work may need them. `Leave` comes once every shard that stops is `Drained`, and ends the process.
Where one shard alone is replaced, `Hold` goes to its peers before it may leave: each keeps its new calls for the
successor and says `Held` once those that it had sent have been answered.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from clockworker._errors import ControlError
from clockworker.shards._config import ServeConfig

MAX_MESSAGE = 64 * 1024
MAX_DESCRIPTORS = 253  # SCM_MAX_FD in Linux
_ANCILLARY_SIZE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """Descriptors: the doorbell's memory and its eventfd, the slots, the pulse, the witness's socket, the
    handover's, then the listening sockets. A rehearsal only imports the application, says `Ready` or `Failed`, and ends."""

    shard: int
    count: int
    cpu: int | None
    idle_poll_us: int
    config: ServeConfig
    rehearsal: bool = False


class Connect(msgspec.Struct, frozen=True, tag="connect"):
    """A peer has started. Descriptors: incoming ring, outgoing ring, the peer's doorbell's memory and its eventfd."""

    peer: int
    epoch: int


class Disconnect(msgspec.Struct, frozen=True, tag="disconnect"):
    """A peer has died and been reaped."""

    peer: int


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """A peer is about to be replaced: keep new calls to it until its successor connects, and say when you hold."""

    peer: int


class Release(msgspec.Struct, frozen=True, tag="release"):
    """There will be no successor after all: the calls that wait go to the peer if it is there, or else fail."""

    peer: int


class Reopen(msgspec.Struct, frozen=True, tag="reopen"):
    """Log files have been moved: open new ones."""


class TakeAll(msgspec.Struct, frozen=True, tag="take-all"):
    """Take the connections that are handed over, whatever the limit: the server is about to stop, and they wait."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    pass


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """`for_good`: the listening sockets end with this shard; what waits there has nobody else. Descriptors: those of shards
    that are not there to accept, which leave it their queues. `grace`: seconds until SIGKILL, if it is to come."""

    for_good: bool = False
    grace: float | None = None


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """`serve_first`: peers stay, and what they have asked for without waiting for an answer is still to be done."""

    serve_first: bool = False


class StartTrace(msgspec.Struct, frozen=True, tag="start-trace"):
    """Record what the executor does, for so long."""

    seconds: float


class Traced(msgspec.Struct, frozen=True, tag="traced"):
    """Descriptor: the recording."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    pass


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The application could not be started, or ended by itself. `traceback` is empty where `message` says it all."""

    message: str
    traceback: str = ""


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    pass


class Stirred(msgspec.Struct, frozen=True, tag="stirred"):
    """The shard had been at rest and works: look after its loop."""


class Held(msgspec.Struct, frozen=True, tag="held"):
    """No call of ours to this peer is in flight, and none will be."""

    peer: int


class Poisoned(msgspec.Struct, frozen=True, tag="poisoned"):
    """The peer broke the rules of its ring of this epoch, which has been dropped. Both ends need a new one."""

    peer: int
    epoch: int


ToShard: TypeAlias = (
    Configure | Connect | Disconnect | Hold | Release | Reopen | TakeAll | Begin | Stop | Leave | StartTrace
)
ToSupervisor: TypeAlias = Ready | Failed | Drained | Held | Poisoned | Stirred | Traced
Message: TypeAlias = ToShard | ToSupervisor


class Channel:
    """One end. Not thread-safe. Closing it closes what the outbox holds."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
        self._outbox: deque[tuple[bytes, list[int]]] = deque()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(first), cls(second)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def backlogged(self) -> bool:
        """Whether messages wait in the outbox: call `flush` when the socket becomes writable."""
        return bool(self._outbox)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send, or keep for `flush`. The descriptors stay the caller's. A peer that is gone is no error here: it is
        noticed by reading."""
        data = self._encoder.encode(message)
        if len(data) > MAX_MESSAGE or len(descriptors) > MAX_DESCRIPTORS:
            raise ControlError(
                f"{type(message).__name__} of {len(data)} bytes, {len(descriptors)} descriptors is too large"
            )
        if self._outbox or not self._try_send(data, descriptors):
            self._outbox.append((data, [os.dup(descriptor) for descriptor in descriptors]))

    def flush(self) -> None:
        while self._outbox and self._try_send(*self._outbox[0]):
            _close_all(self._outbox.popleft()[1])

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors, which become the caller's. None at the end of file.

        Raises `BlockingIOError` if there is nothing to read, `ControlError` if what came is no message.
        """
        try:
            # Not socket.recv_fds: it drops its flags, and the descriptors would be inherited by whatever is started.
            data, ancillary, flags, _ = self._sock.recvmsg(MAX_MESSAGE, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        descriptors = _descriptors(ancillary)
        if not data:
            return None
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ControlError("a message was cut off: it, or the number of its descriptors, is over the limit")
            return self._decoder.decode(data), descriptors
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _close_all(descriptors)
            raise ControlError(f"a message cannot be read: {error}") from error
        except ControlError:
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
        self._sock.close()

    def _try_send(self, data: bytes, descriptors: Sequence[int]) -> bool:
        try:
            socket.send_fds(self._sock, [data], descriptors)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            pass
        return True


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return descriptors.tolist()


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
