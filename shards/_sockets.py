"""The listening sockets. The supervisor makes them before any shard starts and keeps them until the last one is gone.

For a TCP address each shard gets a socket of its own, bound with SO_REUSEPORT, and the kernel spreads connections over
them: by a hash of both ends' addresses and ports, or, where the distribution is `fixed`, by a filter of ours that looks
at the client's address alone, so that a client always meets the same shard. Because the supervisor keeps a copy,
connections that wait in the queue of a dead shard's socket are still there for its successor; with a socket made by the
shard they would be reset. Unix sockets know no SO_REUSEPORT, so there all shards accept from one, and so they do with an
inherited descriptor. Where the distribution is `least-connections` there is one socket for each address, and the
supervisor itself accepts (`_dispatch`).

Closing a listening socket resets what is in its queue, and there is no call that says "no more" without that. So before
the end a filter that drops every SYN is put on it: new connections then wait for the client's next attempt (a second
later, by which time the port is closed, or served by a new server), and the queue can be accepted down to nothing. The end
of a handshake passes: a client whose SYN was answered believes itself connected, and has perhaps asked already.

SO_REUSEPORT has a trap: a second server of the same user that also sets it binds the same port without an error, and
takes half of the connections. So each address is first bound without it, which fails if anyone listens there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Sequence
from typing import Self

from clockworker._errors import AddressUnavailable
from clockworker.shards._config import Address, Distribution, InheritedSocket, TcpAddress, UnixAddress
from clockworker.shards._host import remove_own

# A handshake that has begun when no more are wanted ends within this time, or belongs to a client far away.
HANDSHAKE_S = 0.05

_SO_ATTACH_FILTER = 26
_SO_ATTACH_REUSEPORT_CBPF = 51


class Listeners:
    """The sockets of all shards. `of(shard)` are those that a shard accepts from, `own` those that the supervisor does;
    `names` is what users connect to."""

    def __init__(
        self, addresses: tuple[Address, ...], shards: int, backlog: int, distribution: Distribution = "kernel"
    ) -> None:
        """Binds and listens at once. Raises `AddressUnavailable`, with nothing left open."""
        self.names: list[str] = []
        self.own: list[socket.socket] = []
        self._distribution = distribution
        self._of_shard: list[list[socket.socket]] = [[] for _ in range(shards)]
        self._tcp: list[socket.socket] = []
        self._unix_paths: list[tuple[str, os.stat_result]] = []
        try:
            for address in addresses:
                try:
                    self._listen(address, backlog)
                except OSError as error:
                    raise AddressUnavailable(explain(address, error)) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, shard: int) -> list[socket.socket]:
        return self._of_shard[shard]

    def orphaned(self, accepting: Sequence[int]) -> list[socket.socket]:
        """The sockets that none of these shards accepts from. None where a client is to meet one shard only."""
        if self._distribution == "fixed":
            return []
        served = {sock for shard in accepting for sock in self._of_shard[shard]}
        return [sock for sockets in self._of_shard for sock in sockets if sock not in served]

    def refuse_new(self) -> None:
        """Let no new connection into the queues of our TCP sockets, the shards' copies included. Cannot be undone.

        An inherited socket is left alone: whoever gave it to us may want to use it again.
        """
        for sock in self._tcp:
            _drop_syns(sock)

    def close(self) -> None:
        """Close every socket and remove the Unix sockets' files, unless someone else has put theirs in the place."""
        for path, status in self._unix_paths:
            remove_own(path, status)
        self._unix_paths.clear()
        for sockets in (*self._of_shard, self.own):
            for sock in sockets:
                sock.close()
            sockets.clear()
        self._tcp.clear()

    def _listen(self, address: Address, backlog: int) -> None:
        if isinstance(address, TcpAddress):
            for family, sockaddr in resolve_here(address):
                self._listen_tcp(family, sockaddr, backlog)
            return
        sock = self._bind_unix(address) if isinstance(address, UnixAddress) else _adopt(address)
        sock.listen(backlog)
        for sockets in self._accepting():
            sockets.append(sock)
        self.names.append(str(address))

    def _accepting(self) -> list[list[socket.socket]]:
        """One list for each that accepts."""
        return [self.own] if self._distribution == "least-connections" else self._of_shard

    def _listen_tcp(self, family: int, sockaddr: tuple[str, int], backlog: int) -> None:
        if sockaddr[1] != 0:
            _tcp_socket(family, sockaddr, reuse_port=False).close()
        for sockets in self._accepting():
            sock = _tcp_socket(family, sockaddr, reuse_port=True)
            sockets.append(sock)
            self._tcp.append(sock)
            sock.listen(backlog)
            sockaddr = sock.getsockname()[:2]  # port 0 was a free one for the first shard, and is that one for all
        if self._distribution == "fixed":
            _choose_by_client(sock, len(self._of_shard))
        self.names.append(str(TcpAddress(*sockaddr)))

    def _bind_unix(self, address: UnixAddress) -> socket.socket:
        _remove_stale(address)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(address.path)
            self._unix_paths.append((address.path, os.stat(address.path)))
            os.chmod(address.path, address.mode)  # before listen(): until then nobody can connect
        except BaseException:
            sock.close()
            raise
        return sock


def check_address(address: Address, option: str = "--bind") -> None:
    """Whether it can be listened on, if nobody does: one that is taken may be that of the server to be replaced. Raises
    `AddressUnavailable`."""
    try:
        if isinstance(address, TcpAddress):
            for family, sockaddr in resolve_here(address):
                _tcp_socket(family, sockaddr, reuse_port=False).close()
        elif isinstance(address, UnixAddress):
            _check_place(address)
        else:
            _adopt(address).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise AddressUnavailable(explain(address, error, option)) from error


def _check_place(address: UnixAddress) -> None:
    where = os.path.dirname(address.path) or "."
    if not os.path.isdir(where):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(where, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    _is_free(address)


def resolve(address: TcpAddress) -> list[tuple[int, tuple[str, int]]]:
    """Family and socket address of each. Raises `AddressUnavailable` if there is none."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: an empty or a long part of a name
        reason = error.strerror if isinstance(error, socket.gaierror) else error
        raise AddressUnavailable(
            f"{address}: no such host ({reason}); give a name or address of this machine"
        ) from error
    unique = dict.fromkeys((family, (str(sockaddr[0]), int(sockaddr[1]))) for family, _, _, _, sockaddr in found)
    return list(unique)


def resolve_here(address: TcpAddress) -> list[tuple[int, tuple[str, int]]]:
    """Those to listen on: of several addresses, those that this machine has (localhost is ::1 too where there is no IPv6), all
    on one port if a free one is asked for. Raises `AddressUnavailable` if there is none."""
    resolved = resolve(address)
    here = list(filter(_is_here, resolved)) or resolved
    if address.port == 0 and len(here) > 1:
        port = _free_port(here)
        return [(family, (host, port)) for family, (host, _) in here]
    return here


def _free_port(addresses: Sequence[tuple[int, tuple[str, int]]]) -> int:
    """A port that is free at all of them."""
    while True:
        port = 0
        with contextlib.ExitStack() as bound:
            try:
                for family, (host, _) in addresses:
                    port = bound.enter_context(_tcp_socket(family, (host, port), reuse_port=False)).getsockname()[1]
            except OSError as error:
                if error.errno == errno.EADDRINUSE and port:  # free at one of them, and not at another
                    continue
                raise
            return port


def _is_here(resolved: tuple[int, tuple[str, int]]) -> bool:
    family, (host, _) = resolved
    try:
        _tcp_socket(family, (host, 0), reuse_port=False).close()
    except OSError:
        return False
    return True


def _tcp_socket(family: int, sockaddr: tuple[str, int], *, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _drop_syns(sock: socket.socket) -> None:
    # The filter sees packets from the TCP header on. Connections inherit it, and get no SYN.
    flags, syn, ack = 13, 0x02, 0x10
    program = struct.pack("HBBI", 0x30, 0, 0, flags)  # BPF_LD | BPF_B | BPF_ABS
    program += struct.pack("HBBI", 0x54, 0, 0, syn | ack)  # BPF_ALU | BPF_AND | BPF_K
    program += struct.pack("HBBI", 0x15, 0, 1, syn)  # BPF_JMP | BPF_JEQ | BPF_K
    program += struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: keep nothing
    program += struct.pack("HBBI", 0x06, 0, 0, 0xFFFFFFFF)  # all of it
    code = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 5, ctypes.addressof(code)))


def _choose_by_client(sock: socket.socket, shards: int) -> None:
    """Let the last four bytes of the client's address choose among the sockets of the group, which the kernel numbers in
    the order in which they were made to listen."""
    network_header = 0xFFF00000  # SKF_NET_OFF
    source = 12 if sock.family == socket.AF_INET else 8 + 12
    program = struct.pack("HBBI", 0x20, 0, 0, network_header + source)  # BPF_LD | BPF_W | BPF_ABS
    program += struct.pack("HBBI", 0x94, 0, 0, shards)  # BPF_ALU | BPF_MOD | BPF_K
    program += struct.pack("HBBI", 0x16, 0, 0, 0)  # BPF_RET | BPF_A
    code = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HL", 3, ctypes.addressof(code)))


def _remove_stale(address: UnixAddress) -> None:
    """Remove a socket file that nobody listens on. One that somebody does, or a file of another kind, is an error."""
    if not _is_free(address):
        os.unlink(address.path)


def _is_free(address: UnixAddress) -> bool:
    """False if a socket file is there that nobody listens on."""
    try:
        mode = os.lstat(address.path).st_mode
    except FileNotFoundError:
        return True
    if not stat.S_ISSOCK(mode):
        raise AddressUnavailable(
            f"{address}: a file that is no socket is in the place; remove it or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        result = probe.connect_ex(address.path)
    if result not in (errno.ECONNREFUSED, errno.ENOENT):  # connected, or EAGAIN: a listener with a full queue
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return result == errno.ENOENT


def _adopt(address: InheritedSocket) -> socket.socket:
    sock: socket.socket | None = None
    try:
        with socket.socket(fileno=address.fd) as borrowed:
            if borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock = borrowed.dup()
            borrowed.detach()  # it stays open for whoever gave it to us
    except OSError as error:
        if error.errno == errno.EBADF:
            raise AddressUnavailable(
                f"{address}: nothing is open under this number; whoever starts the server has to leave it open"
            ) from None
    if sock is None:
        raise AddressUnavailable(f"{address}: not a listening socket; pass one that listen() was called on")
    sock.setblocking(False)
    return sock


def explain(address: Address, error: OSError, option: str = "--bind") -> str:
    """What is wrong with an address that was given by this option, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"{address} is already in use; stop the process that listens there, or choose another with {option}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address} is not an address of this machine; choose another with {option}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{address}: permission denied; choose a port above 1023 or a place you may write to"
    if error.errno == errno.ENOENT and isinstance(address, UnixAddress):
        return f"{address}: there is no directory {os.path.dirname(address.path)!r}; make it, or choose another path"
    return f"{address} cannot be listened on: {error.strerror}"
