from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from clockworker._errors import AddressUnavailable
from clockworker.shards.config._config import Distribution, InheritedSocket, TcpAddress, UnixAddress
from clockworker.shards.machine import _sockets
from clockworker.shards.machine._sockets import Listeners
from tests.conftest import DEADLINE

LOCAL = TcpAddress("127.0.0.1", 0)


@pytest.fixture
def taken() -> Iterator[TcpAddress]:
    """An address where another server of this user listens, with SO_REUSEPORT set: as a second clockworker would."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield TcpAddress("127.0.0.1", other.getsockname()[1])


def test_each_shard_has_a_tcp_socket_of_its_own_on_one_port() -> None:
    with Listeners((LOCAL,), shards=3, backlog=8) as listeners:
        sockets = [listeners.of(shard)[0] for shard in range(3)]
        assert len({sock.fileno() for sock in sockets}) == 3
        assert {sock.getsockname() for sock in sockets} == {("127.0.0.1", sockets[0].getsockname()[1])}
        assert listeners.names == [f"127.0.0.1:{sockets[0].getsockname()[1]}"]
        assert not any(os.get_inheritable(sock.fileno()) for sock in sockets)


def test_a_port_in_use_is_noticed_though_both_set_reuse_port(taken: TcpAddress) -> None:
    with pytest.raises(AddressUnavailable, match=rf"^{taken} is already in use; .* --bind"):
        Listeners((taken,), shards=2, backlog=8)


def test_nothing_stays_open_after_a_failure(taken: TcpAddress, tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.listdir("/proc/self/fd")
    with pytest.raises(AddressUnavailable):
        Listeners((LOCAL, UnixAddress(str(path)), taken), shards=2, backlog=8)
    assert os.listdir("/proc/self/fd") == before
    assert not path.exists()


def test_shards_of_a_supervisor_that_was_killed_are_given_the_time_to_end(tmp_path: Path) -> None:
    """Who restarts it at once is not told that its address is in use."""
    path = tmp_path / "s"
    reading, writing = os.pipe()
    supervisor = os.fork()
    if not supervisor:
        with Listeners((UnixAddress(str(path)),), shards=1, backlog=8):
            if not os.fork():  # its shard
                os.write(writing, b"x")
                time.sleep(0.5)
            os._exit(0)
    os.waitpid(supervisor, 0)
    try:
        assert os.read(reading, 1) == b"x"
        began = time.monotonic()
        with Listeners((UnixAddress(str(path)),), shards=1, backlog=8):
            assert time.monotonic() - began > 0.1
    finally:
        os.close(reading)
        os.close(writing)


def test_a_closed_address_can_be_bound_again() -> None:
    with Listeners((LOCAL,), shards=2, backlog=8) as listeners:
        port = listeners.of(0)[0].getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            pass
    with Listeners((TcpAddress("127.0.0.1", port),), shards=2, backlog=8) as listeners:
        assert listeners.names == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("host", "message"), [("no.such.host.invalid", "no such host"), ("192.0.2.1", "not an address of")]
)
def test_a_host_that_is_not_here(host: str, message: str) -> None:
    with pytest.raises(AddressUnavailable, match=message):
        Listeners((TcpAddress(host, 0),), shards=1, backlog=8)


def test_of_several_addresses_of_a_host_those_count_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with Listeners((TcpAddress("some.host", 0),), shards=1, backlog=8) as listeners:
        [name] = listeners.names
        assert name.startswith("127.0.0.1:")


def test_when_new_connections_are_refused_those_in_the_queue_are_still_accepted() -> None:
    with Listeners((LOCAL,), shards=1, backlog=8) as listeners:
        listening = listeners.of(0)[0]
        with socket.create_connection(listening.getsockname()), socket.socket() as late:
            listeners.refuse_new()
            late.setblocking(False)
            assert late.connect_ex(listening.getsockname()) == errno.EINPROGRESS
            listening.accept()[0].close()
            with pytest.raises(BlockingIOError):
                listening.accept()


def is_let_in(address: tuple[str, int], attempts: int = 16) -> bool:
    """Whether any of so many clients is connected at once, as the kernel's own network does it."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    for _ in range(attempts):
        with socket.socket(family) as client:
            client.setblocking(False)
            if client.connect_ex(address[:2]) == 0 or select.select([], [client], [], 0)[1]:
                return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    return False


@pytest.mark.parametrize("distribution", ["kernel", "fixed", "least-connections"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_nobody_is_let_in_while_the_sockets_are_closed_one_by_one(
    host: str, distribution: Distribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    listeners = Listeners((TcpAddress(host, 0),), shards=3, backlog=8, distribution=distribution)
    [*sockets] = listeners.own or [listeners.of(shard)[0] for shard in range(3)]
    address = sockets[0].getsockname()
    assert is_let_in(address)
    listeners.refuse_new()
    assert not is_let_in(address)
    for sock in sockets:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.accept()[0].close()

    def stop_and_look(sock: socket.socket) -> None:
        nonlocal looks
        stop(sock)
        looks += 1
        assert not is_let_in(address)

    stop = _sockets._stop_listening
    monkeypatch.setattr(_sockets, "_stop_listening", stop_and_look)
    listeners.close()
    assert looks >= len(sockets) + 2
    with socket.socket(sockets[0].family) as client:
        assert client.connect_ex(address[:2]) == errno.ECONNREFUSED


@pytest.mark.parametrize("distribution", ["kernel", "fixed"])
def test_where_nobody_can_be_kept_away_the_sockets_serve_on_and_a_line_says_so(
    distribution: Distribution, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EPERM, "Operation not permitted")

    with Listeners((LOCAL,), shards=3, backlog=64, distribution=distribution) as listeners:
        monkeypatch.setattr(_sockets, "_if_from", refuse)
        before = os.listdir("/proc/self/fd")
        listeners.refuse_new()
        assert os.listdir("/proc/self/fd") == before
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        sockets = [listeners.of(shard)[0] for shard in range(3)]
        assert is_let_in(sockets[0].getsockname())
        accepted = 0
        for sock in sockets:
            with contextlib.suppress(BlockingIOError):
                sock.accept()[0].close()
                accepted += 1
        assert accepted


def test_a_copy_in_a_forked_child_listens_no_longer() -> None:
    listeners = Listeners((LOCAL,), shards=2, backlog=8)
    address = listeners.of(0)[0].getsockname()
    with listeners.of(0)[0].dup(), listeners.of(1)[0].dup():
        listeners.close()
        with socket.socket() as client:
            assert client.connect_ex(address) == errno.ECONNREFUSED


def test_a_unix_sockets_file_is_gone_before_the_last_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        Listeners((UnixAddress(str(path)),), shards=1, backlog=8) as listeners,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(path))
        listeners.refuse_new()
        assert not path.exists()
        listeners.of(0)[0].accept()[0].close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_handshake_that_has_begun_ends_though_new_connections_are_refused(host: str) -> None:
    attach, detach = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)
    with Listeners((TcpAddress(host, 0),), shards=1, backlog=8) as listeners:
        listening = listeners.of(0)[0]
        with socket.socket(listening.family) as client:
            # It is deaf to the answer to its SYN, which is sent again after a second.
            try:
                client.setsockopt(socket.SOL_SOCKET, attach, struct.pack("HL", 1, ctypes.addressof(nothing)))
            except PermissionError:
                pytest.skip("a socket filter needs CAP_NET_ADMIN")
            client.setblocking(False)
            assert client.connect_ex(listening.getsockname()) == errno.EINPROGRESS
            listeners.refuse_new()
            client.setsockopt(socket.SOL_SOCKET, detach, 0)
            assert select.select([], [client], [], DEADLINE)[1]
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            client.sendall(b"asked")
            assert select.select([listening], [], [], DEADLINE)[0]
            with listening.accept()[0] as connection:
                assert connection.recv(100) == b"asked"


def test_a_unix_socket_is_one_for_all_and_is_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Listeners((UnixAddress(path),), shards=2, backlog=8) as listeners:
        assert listeners.of(0)[0] is listeners.of(1)[0]
        assert listeners.names == [f"unix:{path}"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    assert not os.path.exists(path)


def test_anybody_may_connect_to_a_unix_socket_unless_told_otherwise(tmp_path: Path) -> None:
    for mode in (0o666, 0o600):
        path = str(tmp_path / f"{mode:o}")
        address = UnixAddress(path) if mode == 0o666 else UnixAddress(path, mode)
        with Listeners((address,), shards=1, backlog=8):
            assert os.stat(path).st_mode & 0o777 == mode


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_fixed_distribution_goes_by_the_clients_address(host: str) -> None:
    with Listeners((TcpAddress(host, 0),), shards=3, backlog=64, distribution="fixed") as listeners:
        sockets = [listeners.of(shard)[0] for shard in range(3)]
        # 127.0.0.N and ::1 by their last four bytes.
        clients = [f"127.0.0.{last}" for last in range(1, 13)] if host == "127.0.0.1" else [host] * 6
        for client in clients:
            with socket.socket(sockets[0].family) as connection:
                connection.bind((client, 0))
                connection.connect(sockets[0].getsockname())
                expected = int.from_bytes(socket.inet_pton(connection.family, client)[-4:]) % 3
                accepted, peer = sockets[expected].accept()
                accepted.close()
                assert peer[0] == client


def test_where_the_supervisor_accepts_there_is_one_socket(tmp_path: Path) -> None:
    addresses = (LOCAL, UnixAddress(str(tmp_path / "s")))
    with Listeners(addresses, shards=3, backlog=8, distribution="least-connections") as listeners:
        assert [len(listeners.of(shard)) for shard in range(3)] == [0, 0, 0]
        assert [sock.family for sock in listeners.own] == [socket.AF_INET, socket.AF_UNIX]


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with Listeners((UnixAddress(path),), shards=1, backlog=8), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert client.getpeername() == path


def test_a_live_unix_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(AddressUnavailable, match="already in use"):
            Listeners((UnixAddress(path),), shards=1, backlog=8)
    assert os.path.exists(path)


def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("precious")
    with pytest.raises(AddressUnavailable, match="no socket is in the place"):
        Listeners((UnixAddress(str(path)),), shards=1, backlog=8)
    assert path.read_text() == "precious"


def test_the_successor_of_a_unix_socket_is_not_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as successor:
        with Listeners((UnixAddress(path),), shards=1, backlog=8):
            os.rename(path, path + ".old")  # keeps the inode in use, so that the successor gets another
            successor.bind(path)
        assert os.path.exists(path)


def test_an_inherited_socket_is_used_as_it_is() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as inherited:
        with Listeners((InheritedSocket(inherited.fileno()),), shards=2, backlog=8) as listeners:
            assert listeners.of(1)[0].getsockname() == inherited.getsockname()
        assert inherited.getsockname()  # still open


@pytest.mark.parametrize("kind", ["closed", "not a socket", "not listening"])
def test_a_descriptor_that_is_no_listening_socket(kind: str, tmp_path: Path) -> None:
    with socket.socket() as idle, (tmp_path / "file").open("w") as file:
        descriptor = {"closed": 9999, "not a socket": file.fileno(), "not listening": idle.fileno()}[kind]
        before = os.listdir("/proc/self/fd")
        with pytest.raises(AddressUnavailable, match=f"fd:{descriptor}"):
            Listeners((InheritedSocket(descriptor),), shards=1, backlog=8)
        assert os.listdir("/proc/self/fd") == before
