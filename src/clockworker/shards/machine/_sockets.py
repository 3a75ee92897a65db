"""The listening sockets. The supervisor makes them before any shard starts and keeps them until the last one is gone.

For a TCP address each shard gets a socket of its own, bound with SO_REUSEPORT, and the kernel spreads connections over
them: by a hash of both ends' addresses and ports, or, where the distribution is `fixed`, by a program of ours that looks
at the client's address alone, so that a client always meets the same shard. Because the supervisor keeps a copy,
connections that wait in the queue of a dead shard's socket are still there; with a socket made by the shard they would be
reset. While a shard cannot accept, another one does from its sockets (`_lending`). Unix sockets know no SO_REUSEPORT, so
there all shards accept from one, and so they do with an inherited descriptor. Where the distribution is `least-connections`
there is one socket for each address, and the supervisor itself accepts (`_dispatch`).

Closing a listening socket resets what is in its queue, and there is no call that says "no more" without that. Before the
end, new connections are therefore led into a `_Sink`: listening sockets of ours in the same group whose queues are full,
where the kernel drops each SYN. Those clients try again a second later, by which time the port is closed, or served by a new
server. Meanwhile the queues can be accepted down to nothing, and are closed after that. The end of a handshake still goes to
the socket where it began: a client whose SYN was answered believes itself connected, and has perhaps asked already. A socket
filter that drops SYNs would be shorter, and was here before: Linux wants CAP_NET_ADMIN for it since 2026, which a server in a
container lacks. A Unix socket's file is removed first, which has the same effect.

SO_REUSEPORT has a snag: a second server of the same user that also sets it binds the same port without an error, and
takes half of the connections. So each address is first bound without it, which fails if anyone listens there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Sequence
from typing import Self, TypeAlias

from clockworker._errors import AddressUnavailable
from clockworker.shards.config._config import Address, Distribution, InheritedSocket, TcpAddress, UnixAddress
from clockworker.shards.machine._host import remove_own

log = logging.getLogger("clockworker.supervisor")

# A handshake that has begun when no more are wanted ends within this time, or belongs to a client far away.
HANDSHAKE_S = 0.05

_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68

_PLUG_S = 0.2  # for a connection to ourselves
_ORPHANS_S = 5.0  # for the shards of a supervisor that was killed to end, too
_KILLED = -1


# Where the connections of a listening socket come from: family, host or path, and port (0 of a Unix one).
Served: TypeAlias = tuple[int, str, int]


class Listeners:
    """The sockets of all shards. `of(shard, bind)` are those that a shard accepts from, `own_of(bind)` those that the
    supervisor does; `names` is what users connect to, `binds` what the application calls it."""

    def __init__(
        self, addresses: tuple[Address, ...], shards: int, backlog: int, distribution: Distribution = "kernel"
    ) -> None:
        """Binds and listens at once. Raises `AddressUnavailable`, with nothing left open."""
        self.names: list[str] = []
        self.binds = tuple(dict.fromkeys(address.bind for address in addresses))
        self.own: list[socket.socket] = []
        self._distribution = distribution
        self._of_shard: list[list[socket.socket]] = [[] for _ in range(shards)]
        self._bind_of: dict[socket.socket, str] = {}
        # Of each TCP address, in the order in which the kernel numbers them.
        self._groups: list[list[socket.socket]] = []
        self._sinks: list[_Sink] = []
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

    def of(self, shard: int, bind: str | None = None) -> list[socket.socket]:
        """Those of all binds, unless one is given."""
        return [sock for sock in self._of_shard[shard] if bind is None or self._bind_of[sock] == bind]

    def own_of(self, bind: str) -> list[socket.socket]:
        return [sock for sock in self.own if self._bind_of[sock] == bind]

    def served(self) -> tuple[Served, ...]:
        """Where connections come from."""
        sockets = {sock for sockets in (*self._of_shard, self.own) for sock in sockets}
        return tuple({served_by(sock) for sock in sockets})

    def refuse_new(self) -> None:
        """Let no new connection into the queues of our sockets, the shards' copies included. Cannot be undone.

        An inherited socket is left alone: whoever gave it to us may want to use it again.
        """
        for group in self._groups:
            try:
                self._sinks.append(_Sink(group, fixed=self._distribution == "fixed"))
            except OSError as error:
                log.warning(
                    "connections that arrive while the last are accepted may be reset: they cannot be kept away (%s)",
                    error,
                )
        self._remove_files()

    def close(self) -> None:
        """Close every socket, and remove the Unix sockets' files unless someone else has put theirs in the place. A copy of
        ours that a forked child has inherited does not go on listening."""
        self._remove_files()
        for sink in self._sinks:
            sink.close()
        self._sinks.clear()
        for group in self._groups:
            for sock in group:
                _stop_listening(sock)
        self._groups.clear()
        for sockets in (*self._of_shard, self.own):
            for sock in sockets:
                sock.close()
            sockets.clear()
        self._bind_of.clear()

    def _remove_files(self) -> None:
        for path, status in self._unix_paths:
            remove_own(path, status)
        self._unix_paths.clear()

    def _listen(self, address: Address, backlog: int) -> None:
        if isinstance(address, TcpAddress):
            for family, sockaddr in resolve_here(address):
                self._listen_tcp(family, sockaddr, backlog, address.bind)
            return
        sock = self._bind_unix(address) if isinstance(address, UnixAddress) else _adopt(address)
        sock.listen(backlog)
        self._bind_of[sock] = address.bind
        for sockets in self._accepting():
            sockets.append(sock)
        self.names.append(str(address))

    def _accepting(self) -> list[list[socket.socket]]:
        """One list for each that accepts."""
        return [self.own] if self._distribution == "least-connections" else self._of_shard

    def _listen_tcp(self, family: int, sockaddr: tuple[str, int], backlog: int, bind: str) -> None:
        if sockaddr[1] != 0:
            _tcp_socket(family, sockaddr, reuse_port=False).close()
        group: list[socket.socket] = []
        self._groups.append(group)
        for sockets in self._accepting():
            sock = _tcp_socket(family, sockaddr, reuse_port=True)
            self._bind_of[sock] = bind
            sockets.append(sock)
            group.append(sock)
            sock.listen(backlog)
            sockaddr = sock.getsockname()[:2]  # port 0 was a free one for the first shard, and is that one for all
        if self._distribution == "fixed":
            _attach(sock, _by_client(sock, len(self._of_shard)))
        self.names.append(str(TcpAddress(*sockaddr, bind=bind)))

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


def served_by(sock: socket.socket) -> Served:
    """The same for the listening socket and for each of its connections, unless that is bound to all hosts."""
    name = sock.getsockname()
    return (sock.family, str(name[0]), int(name[1])) if isinstance(name, tuple) else (sock.family, os.fsdecode(name), 0)


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


def count_sockets(addresses: Sequence[Address]) -> int:
    """How many a shard has: a name may be several addresses."""
    return sum(len(resolve_here(address)) if isinstance(address, TcpAddress) else 1 for address in addresses)


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


class _Sink:
    """Takes the place of a group of sockets for all that is new, and drops it. Raises `OSError`, with the group as it was, if
    it cannot be had.

    The kernel numbers the sockets of a group 0, 1, ... as they begin to listen, and asks a program for the number of the one
    that gets a SYN. It drops a SYN for a socket whose queue is full; with a backlog of 0 one connection fills the queue. So
    our own socket, number `len(group)`, is filled by a connection from ourselves (which stays in the queue when its other end
    is closed), and from then on the program chooses that one always. The connection is known by its source port: the program
    sends no other there before the queue is full, or a client would wait in it for ever.

    When a socket of the group is closed, the last one takes its number; and where the program names a number that there is not,
    the kernel chooses by its hash, perhaps a socket that is closed next. Hence a second full socket behind the first: number
    0 is closed while the first keeps all away, the second becomes number 0, and keeps that number until all others are gone.
    """

    def __init__(self, group: list[socket.socket], *, fixed: bool) -> None:
        self._group = group
        self._full: list[socket.socket] = []
        member, count = group[0], len(group)
        try:
            for others in (_by_client(member, count), _always(count)):
                self._full.append(_full_socket(member, count + len(self._full), others))
        except BaseException:
            for sock in self._full:
                sock.close()
            with contextlib.suppress(OSError):
                if fixed:
                    _attach(member, _by_client(member, count))
                else:
                    member.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
            raise

    def close(self) -> None:
        """The group stops listening, in the order that lets nothing in."""
        first, last = self._full
        _stop_listening(self._group[0])
        with contextlib.suppress(OSError):
            _attach(last, _always(0))
        for sock in (*self._group[1:], first, last):
            _stop_listening(sock)
        first.close()
        last.close()


def _full_socket(member: socket.socket, number: int, others: bytes) -> socket.socket:
    """A new socket of the member's group, as this number, with a full queue. others: the program for everybody else."""
    host, port = member.getsockname()[:2]
    sock = _tcp_socket(member.family, (host, port), reuse_port=True)
    try:
        with socket.socket(member.family) as plug:
            plug.settimeout(_PLUG_S)
            plug.bind(("", 0))
            _attach(member, _if_from(plug, number) + others)
            sock.listen(0)
            plug.connect((_LOOPBACK.get(host, host), port))
            arrived = select.poll()
            arrived.register(sock, select.POLLIN)
            if not arrived.poll(1000 * _PLUG_S):
                raise TimeoutError(errno.ETIMEDOUT, "a connection to ourselves went elsewhere")
    except BaseException:
        sock.close()
        raise
    return sock


_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def _stop_listening(sock: socket.socket) -> None:
    """Whoever has a copy: the last close would come too late, or never."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


# Programs in the kernel's classic BPF that choose a socket of a group. They see a SYN from its network header on.
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF


def _by_client(member: socket.socket, count: int) -> bytes:
    """The last four bytes of the client's address, modulo `count`."""
    source = 12 if member.family == socket.AF_INET else 8 + 12
    program = struct.pack("HBBI", 0x20, 0, 0, _NETWORK_HEADER + source)  # BPF_LD | BPF_W | BPF_ABS
    program += struct.pack("HBBI", 0x94, 0, 0, count)  # BPF_ALU | BPF_MOD | BPF_K
    return program + struct.pack("HBBI", 0x16, 0, 0, 0)  # BPF_RET | BPF_A


def _always(number: int) -> bytes:
    return struct.pack("HBBI", 0x06, 0, 0, number)  # BPF_RET | BPF_K


def _if_from(plug: socket.socket, number: int) -> bytes:
    """This number for what comes from the plug's port; anything else goes on to the instructions that follow."""
    port = 20 if plug.family == socket.AF_INET else 40
    program = struct.pack("HBBI", 0x28, 0, 0, _NETWORK_HEADER + port)  # BPF_LD | BPF_H | BPF_ABS
    program += struct.pack("HBBI", 0x15, 0, 1, plug.getsockname()[1])  # BPF_JMP | BPF_JEQ | BPF_K
    return program + _always(number)


def _attach(member: socket.socket, program: bytes) -> None:
    """Let this program choose among the sockets of the member's group."""
    code = ctypes.create_string_buffer(program, len(program))
    length = len(program) // struct.calcsize("HBBI")
    member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HL", length, ctypes.addressof(code)))


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
    until = time.monotonic() + _ORPHANS_S
    result = _connect(address.path)
    if result == _KILLED:
        while result in (_KILLED, errno.EAGAIN) and time.monotonic() < until:  # EAGAIN: nobody takes what we connect
            time.sleep(0.02)
            result = _connect(address.path)
    if result not in (errno.ECONNREFUSED, errno.ENOENT):  # connected, or EAGAIN: a listener with a full queue
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return result == errno.ENOENT


def _connect(path: str) -> int:
    """What becomes of it; `_KILLED` if somebody listens, and who has begun that is gone: a supervisor that was killed. Its
    shards end with it, as soon as the kernel gives them the time for that."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        result = probe.connect_ex(path)
        if result == 0:
            (pid,) = struct.unpack("i8x", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if pid > 0 and not os.path.exists(f"/proc/{pid}"):
                return _KILLED
        return result


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
