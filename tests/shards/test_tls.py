"""TLS on real servers, with certificates of an authority made for the test."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trustme

from clockworker._errors import ConfigurationError
from clockworker.shards.config._config import ServeConfig
from clockworker.shards.machine._certificates import context_of
from tests.shards.servers import Serve, Server, ask, eventually
from tests.shards.threads import Threads

DISTRIBUTIONS = ("kernel", "fixed", "least-connections")

# Streams of TLS at the addresses without a name, a protocol in plain at those that are called admin. Options of the test are
# statements that run first.
TWO = """
import asyncio, ssl
import clockworker.shards.worker._protocols as protocols
import clockworker.shards.worker._tls as tls

context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("cert.pem")

class Admin(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(b"admin " + data)

async def main(shard):
    async def handle(reader, writer):
        while line := await reader.readline():
            if line == b"slowly\\n":
                print("begun", flush=True)
                await asyncio.sleep(0.7)
            elif line.startswith(b"big"):
                writer.write(bytes(int(line.split()[1])))
                return
            writer.write(b"%d %s" % (shard.id, line))
            await writer.drain()

    await shard.start_server(handle, ssl=context)
    await shard.create_server(Admin, bind="admin")
    await shard.wait_stopped()
"""

# A protocol of TLS, without a name.
PROTOCOL = """
import asyncio, ssl
import clockworker.shards.worker._protocols as protocols
import clockworker.shards.worker._tls as tls

context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("cert.pem")

class Lines(asyncio.Protocol):
    rest = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        *lines, self.rest = (self.rest + data).split(b"\\n")
        for line in lines:
            if line == b"slowly":
                print("begun", flush=True)
                asyncio.get_running_loop().call_later(0.7, self.transport.write, b"0 slowly\\n")
            elif line == b"raise":
                raise ValueError("as asked")
            else:
                self.transport.write(b"0 %s\\n" % line)

async def main(shard):
    await shard.create_server(Lines, ssl=context)
    await shard.wait_stopped()
"""

BINDS = ("--bind", "127.0.0.1:0", "--bind", "admin=127.0.0.1:0")


class Authority:
    """Issues certificates for localhost into files of the test's directory, and trusts them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(directory / "ca.pem"))

    def issue(self, name: str = "cert.pem") -> int:
        """Returns the serial number."""
        issued = self._authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self._directory / name))
        issued.private_key_pem.write_to_path(str(self._directory / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(self._directory / f"{name}.alone"))
        return int(_serial(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())), 16)

    def context(self, certificate: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._directory / "ca.pem"))
        if certificate is not None:
            context.load_cert_chain(self._directory / certificate)
        return context

    def revoke(self, *names: str, path: str = "revoked.pem") -> None:
        """Those of these files are revoked, and no others."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

        now = datetime.now(UTC)
        issuer = x509.load_pem_x509_certificate(self._authority.cert_pem.bytes()).subject
        revoked = x509.CertificateRevocationListBuilder(issuer, now, now + timedelta(days=1))
        for name in names:
            certificate = x509.load_pem_x509_certificate((self._directory / f"{name}.alone").read_bytes())
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, now).build()
            revoked = revoked.add_revoked_certificate(entry)
        key = load_pem_private_key(self._authority.private_key_pem.bytes(), None)
        signed = revoked.sign(key, hashes.SHA256())  # type: ignore[arg-type]
        (self._directory / path).write_bytes(signed.public_bytes(Encoding.PEM))


def _serial(certificate: bytes) -> str:
    from cryptography import x509

    return f"{x509.load_der_x509_certificate(certificate).serial_number:x}"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path)
    authority.issue()
    return authority


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(
    serve: Serve, *arguments: str, source: str = TWO, shards: int = 2, bind: tuple[str, ...] = BINDS, first: str = ""
) -> Server:
    server = serve(
        source.replace("context =", f"{first}\ncontext =", 1), "--shards", str(shards), *arguments, bind=bind
    )
    server.wait_serving()
    return server


def plain(server: Server, name: str = "", last: int = 1) -> socket.socket:
    pattern = rf"listening on {name}=127\.0\.0\.1:(\d+)" if name else r"listening on 127\.0\.0\.1:(\d+)"
    port = int(server.wait_log(pattern)[0][1])
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(f"127.0.0.{last}", 0))


def secure(server: Server, context: ssl.SSLContext, last: int = 1, name: str = "") -> ssl.SSLSocket:
    return context.wrap_socket(plain(server, name, last), server_hostname="localhost")


class Slow:
    """A client whose bytes the test sends itself: a handshake or a record in parts."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    def finish(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._receive()
        self.sock.sendall(self._outgoing.read())

    def record(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._outgoing.read()

    def read(self) -> bytes:
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                self._receive()

    def _receive(self) -> None:
        self.sock.sendall(self._outgoing.read())
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("closed")
        self._incoming.write(data)


# Two protocols on two addresses, one of them in TLS.


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_two_protocols_one_of_them_in_tls_are_served_rolled_and_drained(
    serve: Serve, authority: Authority, opened: ExitStack, distribution: str
) -> None:
    # Whoever is late has time for that, on a busy machine too.
    server = started(serve, "--distribution", distribution, first="tls.FIRST_S = 60.0; protocols.QUIET_S = 3.0")
    context = authority.context()
    failed, asked = [], {"tls": 0, "admin": 0}

    def load(which: str) -> None:
        last = 0
        while not clients.over.wait(0.003):
            last = last % 200 + 1
            try:
                if which == "tls":
                    with secure(server, context, last) as client:
                        assert ask(client, b"hello") in (b"0 hello", b"1 hello")
                else:
                    with plain(server, "admin", last) as client:
                        assert ask(client, b"hello") == b"admin hello"
                asked[which] += 1
            except (OSError, AssertionError) as error:
                failed.append(f"{which}: {error!r}")

    clients = Threads(*(partial(load, which) for which in asked))
    with clients:
        server.send(signal.SIGHUP)
        server.wait_log(r"shard \d ready", 4)
        before = dict(asked)
        eventually(lambda: all(asked[which] > before[which] for which in asked), "they are served after it")
    assert not failed

    # What is asked in the last moment is answered, on connections that are open and on some that nobody has accepted.
    there = [opened.enter_context(secure(server, context, last)) for last in range(1, 9)]
    for client in there:
        ask(client, b"hello")
    idle = opened.enter_context(secure(server, context))
    pids = server.shard_pids()
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    late = [Slow(opened.enter_context(plain(server, last=last)), context) for last in range(1, 9)]
    for each in late:
        each.sock.sendall(each.hello())
    admin = [opened.enter_context(plain(server, "admin", last)) for last in range(1, 9)]
    for client in (*there, *admin):
        client.sendall(b"last\n")
    server.send(signal.SIGTERM)
    server.wait_log("SIGTERM: stopping")
    for pid in pids.values():
        os.kill(pid, signal.SIGCONT)
    for each in late:
        each.finish()
        each.sock.sendall(each.record(b"late\n"))
        assert each.read() in (b"0 late\n", b"1 late\n")
    assert {client.recv(100) for client in there} <= {b"0 last\n", b"1 last\n"}
    assert {client.recv(100) for client in admin} == {b"admin last\n"}
    assert [client.recv(100) for client in (*there, idle)] == [b""] * 9
    for client in admin:
        client.close()
    assert server.wait_exit() == 0
    assert "Traceback" not in server.log
    assert "handshake" not in server.log


# Handshakes.


def test_what_does_not_speak_tls_gets_one_line_and_no_traceback(serve: Serve, authority: Authority) -> None:
    server = started(serve, "--access-log", shards=1)
    with plain(server):
        pass  # who only looks whether the port is open
    server.wait_log("failed in its handshake")
    assert "handshake failed" not in server.log
    for text in (b"GET / HTTP/1.0\r\n\r\n", b"hello\n" * 3, b"\0" * 20) * 3:
        with plain(server) as client:
            client.sendall(text)
            _closed(client)
    with secure(server, authority.context()) as client:
        assert ask(client, b"hello") == b"0 hello"
    assert server.stop() == 0
    assert "a client's TLS handshake failed: http request (it does not speak TLS)" in server.log
    assert server.log.count("handshake failed") == 1
    assert server.log.count("failed in its handshake") == 10
    assert "Traceback" not in server.log


def _closed(client: socket.socket) -> None:
    try:
        while client.recv(1000):
            pass
    except ConnectionResetError:
        pass


@pytest.mark.once
def test_a_client_that_does_not_trust_the_server_is_named_by_its_reason(serve: Serve, authority: Authority) -> None:
    server = started(serve, shards=1)
    with pytest.raises(ssl.SSLCertVerificationError):
        secure(server, ssl.create_default_context())
    server.wait_log("a client's TLS handshake failed: .*unknown ca")
    assert server.stop() == 0


@pytest.mark.once
def test_a_handshake_that_never_ends_has_a_place_and_a_time(
    serve: Serve, authority: Authority, opened: ExitStack
) -> None:
    server = started(serve, "--max-connections", "2", shards=1, first="tls.HANDSHAKE_S = 1.0")
    context = authority.context()
    stuck = [Slow(opened.enter_context(plain(server)), context) for _ in range(2)]
    stuck[0].sock.sendall(stuck[0].hello()[:20])  # and the other nothing at all
    late = Slow(opened.enter_context(plain(server)), context)
    late.sock.sendall(late.hello())
    late.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        late.sock.recv(1)
    late.sock.settimeout(60)
    for each in stuck:
        assert each.sock.recv(100) == b""
    late.finish()
    late.sock.sendall(late.record(b"late\n"))
    assert late.read() == b"0 late\n"
    server.wait_log("a client's TLS handshake failed: it was not done within 1 s")
    assert server.stop() == 0


@pytest.mark.parametrize("source", [TWO, PROTOCOL], ids=["streams", "protocol"])
def test_a_stop_waits_for_a_handshake_that_goes_on_and_for_no_other(
    serve: Serve, authority: Authority, opened: ExitStack, source: str
) -> None:
    server = started(serve, source=source, shards=1, first="tls.FIRST_S = 5.0")
    context = authority.context()
    stuck = Slow(opened.enter_context(plain(server)), context)
    stuck.sock.sendall(stuck.hello()[:20])
    silent = opened.enter_context(plain(server))
    going = Slow(opened.enter_context(plain(server)), context)
    first, second = (hello := going.hello())[:20], hello[20:]
    with secure(server, context) as client:
        ask(client, b"hello")  # by now the others have been accepted
    going.sock.sendall(first)
    server.send(signal.SIGTERM)
    server.wait_log("SIGTERM: stopping")
    assert _rests(going.sock, 0.3), "it is waited for"
    going.sock.sendall(second)
    going.finish()
    going.sock.sendall(going.record(b"late\n"))
    assert going.read() == b"0 late\n"
    assert stuck.sock.recv(100) == silent.recv(100) == b""
    assert server.wait_exit() == 0
    assert "handshake" not in server.log


# Drains.


@pytest.mark.parametrize("source", [TWO, PROTOCOL], ids=["streams", "protocol"])
def test_half_a_record_is_waited_for(serve: Serve, authority: Authority, opened: ExitStack, source: str) -> None:
    """The application has seen nothing of it, and the socket has been read empty."""
    server = started(serve, source=source, shards=1)
    client = Slow(opened.enter_context(plain(server)), authority.context())
    client.sock.sendall(client.hello())
    client.finish()
    client.sock.sendall(client.record(b"hello\n"))
    assert client.read() == b"0 hello\n"
    idle = opened.enter_context(secure(server, authority.context()))
    assert ask(idle, b"hello") == b"0 hello"
    record = client.record(b"late\n")
    eventually(lambda: _rests(client.sock), "the next record comes later than the last")
    client.sock.sendall(record[:-3])
    server.send(signal.SIGTERM)
    if source == TWO:
        assert idle.recv(100) == b"", "the drain has begun"
    else:
        server.wait_log("SIGTERM: stopping")
        _rests(client.sock, 0.5)
    client.sock.sendall(record[-3:])
    assert client.read() == b"0 late\n"
    for each in (client.sock, idle):
        each.close()
    assert server.wait_exit() == 0


def _rests(sock: socket.socket, seconds: float = 0.1) -> bool:
    """Nothing comes for so long."""
    sock.settimeout(seconds)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(60)
    return False


@pytest.mark.parametrize("source", [TWO, PROTOCOL], ids=["streams", "protocol"])
def test_a_first_request_that_takes_long_is_no_idle_connection(
    serve: Serve, authority: Authority, opened: ExitStack, source: str
) -> None:
    """To its socket it looks like one: after the request the server has sent tickets, and nothing since."""
    server = started(serve, source=source, shards=1, first="protocols.QUIET_S = 0.1")
    client = Slow(opened.enter_context(plain(server)), authority.context())
    client.sock.sendall(client.hello())
    client.finish()
    client.sock.sendall(client.record(b"slowly\n"))
    server.wait_log("begun")
    server.send(signal.SIGTERM)
    assert client.read() == b"0 slowly\n"
    client.sock.close()
    assert server.wait_exit() == 0


@pytest.mark.slow
@pytest.mark.once
def test_an_answer_is_taken_slowly(serve: Serve, authority: Authority) -> None:
    """For longer than the farewell may take, and during the stop."""
    server = started(serve, shards=1, first="tls.FAREWELL_S = 0.2; tls._LOOK_S = 0.05")
    size, got = 20_000_000, 0
    with secure(server, authority.context()) as client:
        client.sendall(b"big %d\n" % size)
        while got < size:
            if got and got < 3_000_000:
                _rests_for(client)
            if got > 1_000_000 and server.process.poll() is None and "SIGTERM" not in server.log:
                server.send(signal.SIGTERM)
            data = client.recv(1_000_000)
            assert data, f"cut after {got}"
            got += len(data)
    assert server.wait_exit() == 0


def _rests_for(client: ssl.SSLSocket) -> None:
    threading.Event().wait(0.1)


def test_a_client_that_says_no_goodbye_is_left(serve: Serve, authority: Authority) -> None:
    """Its answer has been taken, and no more comes."""
    server = started(serve, "--access-log", shards=1, first="tls.FAREWELL_S = 0.2; tls._LOOK_S = 0.05")
    with secure(server, authority.context()) as client:
        client.sendall(b"big 5\n")
        assert client.recv(100) == bytes(5)
        server.wait_log("INFO .* closed after")
    assert server.stop() == 0


@pytest.mark.parametrize("source", [TWO, PROTOCOL], ids=["streams", "a protocol"])
def test_records_of_a_byte_are_read_in_many_turns(
    serve: Serve, authority: Authority, opened: ExitStack, source: str
) -> None:
    """Of one read of the socket, and nothing is lost."""
    counting = """
looks = []
def count():  # turns of the loop; an executor does not have a turn in each
    looks.append(0)
    asyncio.get_running_loop().call_soon(count)
read = tls._Noted.read
def told(self, *arguments):
    turns.add(len(looks))
    return read(self, *arguments)
turns = set()
tls._Noted.read = told
"""
    source = source.replace("async def main(shard):", f"{counting}\nasync def main(shard):", 1)
    source = source.replace("    await shard.wait_stopped()", "    count()\n    await shard.wait_stopped()")
    source += "    print('turns:', len(turns), flush=True)\n"
    server = started(serve, source=source, shards=1)
    client = Slow(opened.enter_context(plain(server)), authority.context())
    client.sock.sendall(client.hello())
    client.finish()
    line = b"x" * 3_000 + b"\n"
    client.sock.sendall(b"".join(client.record(line[at : at + 1]) for at in range(len(line))))
    answer = b""
    while not answer.endswith(b"\n"):
        answer += client.read()
    assert answer == b"0 " + line
    client.sock.close()
    assert server.stop() == 0
    assert int(server.wait_log(r"turns: (\d+)")[0][1]) > 3_000 // 64


def test_a_client_that_is_left_and_goes_on_sending_is_cut(
    serve: Serve, authority: Authority, opened: ExitStack
) -> None:
    """What it sends is not decrypted for as long as a farewell takes."""
    server = started(serve, "--access-log", shards=1, first="tls.FAREWELL_S = 1000; tls._MOST_LINGERED = 1_000_000")
    client = Slow(opened.enter_context(plain(server)), authority.context())
    client.sock.sendall(client.hello())
    client.finish()
    client.sock.sendall(client.record(b"big 5\n"))
    assert client.read() == bytes(5)
    sent = 0
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while sent < 100_000_000:
            client.sock.sendall(client.record(bytes(16_384)))
            sent += 16_384
    assert sent > 900_000
    server.wait_log("INFO .* closed after")
    assert server.stop() == 0


def test_nobody_waits_for_a_goodbye_at_the_stop(serve: Serve, authority: Authority, opened: ExitStack) -> None:
    server = started(serve, shards=1, first="tls.FAREWELL_S = 1000")
    client = opened.enter_context(secure(server, authority.context()))
    assert ask(client, b"hello") == b"0 hello"
    assert server.stop() == 0
    assert client.recv(100) == b""


# Protocols.


def test_errors_of_callbacks_are_counted_and_end_the_connection(serve: Serve, authority: Authority) -> None:
    source = PROTOCOL + "    print('errors:', shard.stats().handler_errors, flush=True)\n"
    server = started(serve, source=source, shards=1)
    with secure(server, authority.context()) as client:
        client.sendall(b"raise\n")
        _closed(client)
    server.wait_log("ValueError: as asked")
    assert server.stop() == 0
    assert "errors: 1\n" in server.log


def test_a_connections_context_is_one_for_all_callbacks(serve: Serve, authority: Authority) -> None:
    source = PROTOCOL.replace(
        "        self.transport = transport\n",
        "        self.transport = transport\n        seen.set('made')\n",
    ).replace('b"0 %s\\n" % line', 'b"%s\\n" % seen.get().encode()')
    source = source.replace("class Lines", "import contextvars\nseen = contextvars.ContextVar('seen')\n\nclass Lines")
    server = started(serve, source=source, shards=1)
    for _ in range(2):
        with secure(server, authority.context()) as client:
            assert ask(client, b"hello") == b"made"
    assert server.stop() == 0


@pytest.mark.once
def test_a_unix_socket(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    server = started(serve, bind=("--bind", f"unix:{tmp_path}/s", "--bind", "admin=127.0.0.1:0"))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(f"{tmp_path}/s")
        with authority.context().wrap_socket(sock, server_hostname="localhost") as client:
            assert ask(client, b"hello").endswith(b" hello")
            assert server.stop() == 0
            assert client.recv(100) == b""


# Arguments and options.

ECHO = """
import ssl

async def main(shard):
    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(b"%d %s" % (shard.id, line))

    await shard.start_server(handle)
    await shard.start_server(handle, bind="plain", ssl=False)
    await shard.wait_stopped()
"""
OPTIONS = ("--bind", "127.0.0.1:0", "--bind", "plain=127.0.0.1:0")


@pytest.mark.once
def test_the_options_are_for_all_servers_that_do_not_say_otherwise(serve: Serve, authority: Authority) -> None:
    server = serve(ECHO, "--shards", "1", "--ssl-certfile", "cert.pem", bind=OPTIONS)
    server.wait_serving()
    with secure(server, authority.context()) as client, plain(server, "plain") as other:
        assert client.version() == "TLSv1.3"
        assert ask(client, b"hello") == ask(other, b"hello") == b"0 hello"
    assert server.stop() == 0


@pytest.mark.once
def test_a_client_has_to_show_a_certificate(serve: Serve, authority: Authority) -> None:
    authority.issue("client.pem")
    options = ("--ssl-certfile", "cert.pem.alone", "--ssl-keyfile", "cert.pem.key", "--ssl-ca-certs", "ca.pem")
    server = serve(ECHO, "--shards", "1", *options, "--ssl-cert-reqs", "required", bind=OPTIONS)
    server.wait_serving()
    with secure(server, authority.context("client.pem")) as client:
        assert ask(client, b"hello") == b"0 hello"
    with pytest.raises((ssl.SSLError, ConnectionError)), secure(server, authority.context()) as client:
        ask(client, b"hello")
    server.wait_log("a client's TLS handshake failed: peer did not return a certificate")
    assert server.stop() == 0


@pytest.mark.once
def test_revoked_certificates(serve: Serve, authority: Authority) -> None:
    """The list is read anew at HUP, as certificates are."""
    for name in ("client.pem", "left.pem"):
        authority.issue(name)
    authority.revoke("left.pem")
    options = ("--ssl-certfile", "cert.pem", "--ssl-ca-certs", "ca.pem", "--ssl-crl", "revoked.pem")
    server = serve(ECHO, "--shards", "1", *options, "--ssl-cert-reqs", "required", bind=OPTIONS)
    server.wait_serving()

    def may_come(name: str) -> bool:
        try:
            with secure(server, authority.context(name)) as client:
                return ask(client, b"hello") == b"0 hello"
        except (ssl.SSLError, ConnectionError):
            return False

    assert may_come("client.pem")
    assert not may_come("left.pem")
    server.wait_log("a client's TLS handshake failed: its certificate: certificate revoked")
    authority.revoke("left.pem", "client.pem")
    server.send(signal.SIGHUP)
    server.wait_log("shard 0 ready", 2)
    eventually(lambda: not may_come("client.pem"), "the new list")
    assert server.stop() == 0


@pytest.mark.once
def test_a_client_needs_no_certificate_although_some_are_revoked(serve: Serve, authority: Authority) -> None:
    authority.revoke("cert.pem")
    options = ("--ssl-certfile", "cert.pem", "--ssl-ca-certs", "ca.pem", "--ssl-crl", "revoked.pem")
    server = serve(ECHO, "--shards", "1", *options, "--ssl-cert-reqs", "optional", bind=OPTIONS)
    server.wait_serving()
    with secure(server, authority.context()) as client:
        assert ask(client, b"hello") == b"0 hello"
    assert server.stop() == 0


def test_hup_reads_certificates_anew_and_a_broken_one_changes_nothing(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    server = serve(ECHO, "--shards", "1", "--ssl-certfile", "cert.pem", bind=OPTIONS)
    server.wait_serving()

    def served() -> int:
        with secure(server, authority.context()) as client:
            certificate = client.getpeercert()
            assert certificate is not None
            return int(str(certificate["serialNumber"]), 16)

    renewed = authority.issue()
    assert served() != renewed
    server.send(signal.SIGHUP)
    server.wait_log("shard 0 ready", 2)
    eventually(lambda: served() == renewed, "the renewed certificate")
    (tmp_path / "cert.pem").write_text("nonsense")
    server.send(signal.SIGHUP)
    server.wait_log("shard 0 is not replaced|the shards are not replaced: --ssl-certfile: cert.pem cannot be used")
    assert served() == renewed
    assert server.stop() == 0


@pytest.mark.once
def test_a_mistake_in_the_options_is_said_before_anything_starts(serve: Serve, authority: Authority) -> None:
    for arguments in ((), ("--check-config",)):
        server = serve(ECHO, "--ssl-certfile", "missing.pem", *arguments, bind=OPTIONS)
        assert server.wait_exit() == 2
        assert server.log.endswith("--ssl-certfile: missing.pem cannot be read: No such file or directory\n")
    clients = ("--ssl-certfile", "cert.pem", "--ssl-ca-certs", "ca.pem", "--ssl-cert-reqs", "optional")
    server = serve(ECHO, *clients, "--ssl-crl", "ca.pem", "--check-config", bind=OPTIONS)
    assert server.wait_exit() == 2
    assert server.log.endswith("--ssl-crl: ca.pem has no list of revoked certificates (X509 CRL) in PEM\n")


@pytest.mark.once
def test_the_password_shows_nowhere(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    _encrypt(tmp_path / "cert.pem.key", b"secret")
    options = ("--ssl-certfile", "cert.pem.alone", "--ssl-keyfile", "cert.pem.key")
    password = {"CLOCKWORKER_SSL_KEYFILE_PASSWORD": "secret"}
    server = serve(ECHO, "--shards", "1", *options, "--log-level", "debug", bind=OPTIONS, environment=password)
    server.wait_serving()
    with secure(server, authority.context()) as client:
        assert ask(client, b"hello") == b"0 hello"
    assert server.stop() == 0
    shown = serve(None, *options, "--print-config", bind=OPTIONS, environment=password)
    assert shown.wait_exit() == 0
    assert re.search(r"# ssl_keyfile_password +# CLOCKWORKER_SSL_KEYFILE_PASSWORD; not shown", shown.log)
    wrong = serve(None, *options, bind=OPTIONS, environment={"CLOCKWORKER_SSL_KEYFILE_PASSWORD": "other"})
    assert wrong.wait_exit() == 2
    assert "--ssl-keyfile: cert.pem.key: the password is wrong; give --ssl-keyfile-password" in wrong.log
    for each in (server, shown, wrong):
        assert "secret" not in each.log
        assert "other" not in each.log


def _encrypt(path: Path, password: bytes) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(path.read_bytes(), None)
    encrypted = pem.BestAvailableEncryption(password)
    path.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, encrypted))


ASKED = {"ssl_certfile": "cert.pem", "ssl_ca_certs": "ca.pem", "ssl_cert_reqs": "optional"}
WRONG = {
    "unreadable": ({"ssl_certfile": "none.pem"}, "--ssl-certfile: none.pem cannot be read: No such file"),
    "no key": (
        {"ssl_certfile": "cert.pem.alone"},
        "--ssl-certfile: cert.pem.alone cannot be used; there should be a certificate and its key, in PEM; or give",
    ),
    "no certificate": (
        {"ssl_certfile": "ca.key", "ssl_keyfile": "cert.pem.key"},
        "--ssl-certfile: ca.key and cert.pem.key cannot be used; there should be a certificate, in PEM, and its key",
    ),
    "another's key": (
        {"ssl_certfile": "cert.pem.alone", "ssl_keyfile": "other.pem.key"},
        "--ssl-keyfile: other.pem.key: the key is not that of the certificate in cert.pem.alone",
    ),
    "an encrypted key": (
        {"ssl_certfile": "cert.pem.alone", "ssl_keyfile": "encrypted.key"},
        "--ssl-keyfile: encrypted.key: the key has a password; give --ssl-keyfile-password",
    ),
    "no authorities": (
        {"ssl_certfile": "cert.pem", "ssl_ca_certs": "cert.pem.key"},
        "--ssl-ca-certs: cert.pem.key has no certificate in PEM",
    ),
    "whose certificates": (
        {"ssl_certfile": "cert.pem", "ssl_cert_reqs": "required"},
        "--ssl-cert-reqs required: no client's certificate would do; say by --ssl-ca-certs whose do",
    ),
    "revoked, of nobody": (
        {"ssl_certfile": "cert.pem", "ssl_ca_certs": "ca.pem", "ssl_crl": "revoked.pem"},
        "--ssl-crl is for certificates of clients, which nobody asks for; give --ssl-cert-reqs optional or required",
    ),
    "no list": ({**ASKED, "ssl_crl": "cert.pem.key"}, "--ssl-crl: cert.pem.key has no list of revoked certificates"),
    "a missing list": ({**ASKED, "ssl_crl": "none.pem"}, "--ssl-crl: none.pem cannot be read: No such file"),
    "a list and more": (
        {**ASKED, "ssl_crl": "both.pem"},
        "--ssl-crl: both.pem has certificates, too, which would be trusted",
    ),
    "ciphers": ({"ssl_certfile": "cert.pem", "ssl_ciphers": "x"}, "--ssl-ciphers: 'x' selects no cipher"),
    "no TLS": ({"ssl_keyfile": "x"}, "--ssl-keyfile is for TLS, which needs a certificate; give --ssl-certfile, too"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.once
def test_wrong_files(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    authority.issue("other.pem")
    for name in ("ca.key", "encrypted.key"):
        (tmp_path / name).write_bytes((tmp_path / "other.pem.key").read_bytes())
    _encrypt(tmp_path / "encrypted.key", b"x")
    authority.revoke()
    both = (tmp_path / "revoked.pem").read_bytes() + (tmp_path / "other.pem.alone").read_bytes()
    (tmp_path / "both.pem").write_bytes(both)
    options, message = WRONG[what]
    with pytest.raises(ConfigurationError) as caught:
        context_of(ServeConfig("app:main", **options))  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


ARGUMENTS = {
    "True": "ssl is True; give an ssl.SSLContext, False, or None for that of --ssl-certfile",
    "'cert.pem'": "ssl is 'cert.pem'; give an ssl.SSLContext",
    "ssl.create_default_context()": "ssl is a context for clients; a server's is ssl.create_default_context(ssl.Purpose.CLIENT",
}


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.once
def test_wrong_arguments(serve: Serve, argument: str) -> None:
    server = serve(ECHO.replace("start_server(handle)", f"start_server(handle, ssl={argument})"), "--shards", "1")
    assert server.wait_exit() == 3
    assert f"UsageError: {ARGUMENTS[argument]}" in server.log
