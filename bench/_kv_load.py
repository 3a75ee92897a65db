"""Load on the key-value example that costs the machine little: pipelines that are made before, answers of known length.

A load generator that shares the cores with the server is part of what is measured. This one takes about a microsecond a
command. Its connections are dealt evenly to the shards, whatever the kernel does: two servers with different luck cannot be
compared.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import time

PAIRS = 8  # SET and GET of one key, in a pipeline
_VALUE = b"0123456789abcdef"
_ANSWER = (b"+OK\r\n$%d\r\n%b\r\n" % (len(_VALUE), _VALUE)) * PAIRS
_PIPELINES = 256
_ATTEMPTS = 2000
_HANGS_S = 30.0


class KvLoad:
    """`each` connections to each shard."""

    def __init__(self, port: int, shards: int, each: int, keys: int) -> None:
        rng = random.Random(1)
        self._pipelines = [
            b"".join(
                b"SET %b %b\r\nGET %b\r\n" % (key, _VALUE, key)
                for key in (b"key:%012d" % rng.randrange(keys) for _ in range(PAIRS))
            )
            for _ in range(_PIPELINES)
        ]
        self._sent = 0
        self._connections: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        wanted = dict.fromkeys(range(shards), each)
        for _ in range(_ATTEMPTS):
            if not any(wanted.values()):
                break
            sock = socket.create_connection(("127.0.0.1", port), _HANGS_S)
            shard = _shard_of(sock, shards)
            if not wanted[shard]:
                sock.close()
                continue
            wanted[shard] -= 1
            self._connections[sock.fileno()] = sock
            self._poll.register(sock, select.EPOLLIN)
        else:
            raise SystemExit(f"{_ATTEMPTS} connections, and some shards have too few of them: {wanted}")

    def run(self, seconds: float) -> int:
        """How many commands were answered. All are, when it returns."""
        missing = dict.fromkeys(self._connections, len(_ANSWER))
        for sock in self._connections.values():
            self._send(sock)
        done, ends = 0, time.monotonic() + seconds
        while missing:
            ready = self._poll.poll(_HANGS_S)
            if not ready:
                raise SystemExit(f"no answer for {_HANGS_S:g} s")
            for descriptor, _ in ready:
                sock = self._connections[descriptor]
                data = sock.recv(missing[descriptor])
                expected = _ANSWER[len(_ANSWER) - missing[descriptor] :]
                if not data or not expected.startswith(data):
                    raise SystemExit(f"an unexpected answer: {data[:200]!r}")
                missing[descriptor] -= len(data)
                if missing[descriptor]:
                    continue
                done += 2 * PAIRS
                if time.monotonic() < ends:
                    missing[descriptor] = len(_ANSWER)
                    self._send(sock)
                else:
                    del missing[descriptor]
        return done

    def close(self) -> None:
        self._poll.close()
        for sock in self._connections.values():
            with contextlib.suppress(OSError):
                sock.close()

    def _send(self, sock: socket.socket) -> None:
        self._sent += 1
        sock.sendall(self._pipelines[self._sent % _PIPELINES])


def _shard_of(sock: socket.socket, shards: int) -> int:
    """The example deals the numbers of its connections to the shards in turn."""
    sock.sendall(b"CLIENT ID\r\n")
    return int(sock.recv(64).strip(b":\r\n")) % shards
