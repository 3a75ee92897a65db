"""The PROXY protocol: its two versions as bytes, and what becomes of a connection that begins with it."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.http._proxy_protocol import LONGEST, SIGNATURE, Header, NoHeader, parse
from tests.shards.servers import DEADLINE, Serve, Server

ONE = b"PROXY TCP4 192.0.2.60 203.0.113.43 56324 443\r\n"
CLIENT, SERVER = ("192.0.2.60", 56324), ("203.0.113.43", 443)


def two(
    source: str = "192.0.2.60",
    destination: str = "203.0.113.43",
    ports: tuple[int, int] = (56324, 443),
    *,
    command: int = 0x21,
    family: int | None = None,
    vectors: bytes = b"",
) -> bytes:
    kinds = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if family is None:
        family = 0x11 if kinds[0].version == 4 else 0x21
    body = kinds[0].packed + kinds[1].packed + struct.pack("!HH", *ports) + vectors
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def vector(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


WHOLE = {
    "1": (ONE, Header(len(ONE), CLIENT, SERVER)),
    "1, IPv6": (
        b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
        Header(36, ("2001:db8::1", 1), ("::1", 65535)),
    ),
    "1, unknown": (b"PROXY UNKNOWN\r\n", Header(15)),
    "1, unknown, and more": (b"PROXY UNKNOWN ffff::1 x y z\r\n", Header(29)),
    "2": (two(), Header(28, CLIENT, SERVER)),
    "2, IPv6": (two("2001:db8::1", "::1", (1, 2)), Header(52, ("2001:db8::1", 1), ("::1", 2))),
    "2, local": (two(command=0x20), Header(28)),
    "2, local, and nothing": (SIGNATURE + b"\x20\0\0\0", Header(16)),
    "2, of no kind": (SIGNATURE + b"\x21\0\0\x05hello", Header(21)),
    "2, UDP": (two(family=0x12), Header(28)),
    "2, a Unix socket": (SIGNATURE + struct.pack("!BBH", 0x21, 0x31, 216) + bytes(216), Header(232)),
    "2, vectors": (two(vectors=vector(4, b"") + vector(1, b"h2")), Header(36, CLIENT, SERVER)),
    "2, TLS": (
        two(vectors=vector(1, b"h2") + vector(0x20, b"\x01\0\0\0\0")),
        Header(41, CLIENT, SERVER, is_tls=True),
    ),
    "2, no TLS": (two(vectors=vector(0x20, b"\0\0\0\0\0")), Header(36, CLIENT, SERVER)),
}

WRONG = {
    "a request": b"GET / HTTP/1.1\r\n",
    "a method that begins alike": b"PROPFIND / HTTP/1.1\r\n",
    "small letters": ONE.lower(),
    "no kind": b"PROXY\r\n",
    "another kind": b"PROXY UDP4 192.0.2.60 203.0.113.43 56324 443\r\n",
    "an address of the other kind": b"PROXY TCP6 192.0.2.60 203.0.113.43 56324 443\r\n",
    "a name": b"PROXY TCP4 localhost 203.0.113.43 56324 443\r\n",
    "a port too few": b"PROXY TCP4 192.0.2.60 203.0.113.43 56324\r\n",
    "a word too many": b"PROXY TCP4 192.0.2.60 203.0.113.43 56324 443 x\r\n",
    "two spaces": b"PROXY TCP4  192.0.2.60 203.0.113.43 56324 443\r\n",
    "a port that is none": b"PROXY TCP4 192.0.2.60 203.0.113.43 65536 443\r\n",
    "a signed port": b"PROXY TCP4 192.0.2.60 203.0.113.43 +1 443\r\n",
    "a line that does not end": b"PROXY UNKNOWN " + b"x" * 107,
    "a line that is too long": b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    "no ASCII": b"PROXY TCP4 192.0.2.60\xff 203.0.113.43 56324 443\r\n",
    "version 3": two(command=0x31),
    "another command": two(command=0x22),
    "another signature": b"\r\n\r\n\0\r\nQUIX\n" + two()[12:],
    "too few addresses": SIGNATURE + b"\x21\x11\0\x04abcd",
    "too long": SIGNATURE + b"\x21\x11" + struct.pack("!H", LONGEST),
    "a vector that ends behind it": two(vectors=b"\x01\0\x05h2"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_a_header_says_however_it_comes(name: str) -> None:
    data, header = WHOLE[name]
    for length in range(len(data)):
        assert parse(data[:length]) is None, length
    assert parse(data) == header
    assert parse(data + b"GET /") == header


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_header(name: str) -> None:
    with pytest.raises(NoHeader):
        parse(WRONG[name])


@given(
    st.binary(max_size=60), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\0\x20"])
)
def test_any_bytes_are_one_or_none_or_not_there_yet(data: bytes, first: bytes) -> None:
    with contextlib.suppress(NoHeader):
        header = parse(first + data)
        assert header is None or header.size <= len(first + data)


# Over sockets.

APPLICATION = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    said = json.dumps([scope["client"], scope["server"], scope["scheme"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    serve = Serve(tmp_path_factory.mktemp("proxied"))
    try:
        options = ("--shards", "1", "--spares", "0", "--proxy-protocol", "--timeout-request-header", "1")
        server = serve(APPLICATION, *options, "--access-log", app="app:app")
        server.wait_serving()
        yield server
        assert server.stop() == 0
        assert " ERROR " not in server.log
    finally:
        serve.clean_up()


def said(client: socket.socket, *headers: str) -> list[object]:
    """What the application says of a request of this connection."""
    client.sendall("".join(["GET / HTTP/1.1\r\nHost: a\r\n", *(f"{each}\r\n" for each in headers), "\r\n"]).encode())
    response = http.client.HTTPResponse(client)
    response.begin()
    assert response.status == 200
    found: list[object] = json.loads(response.read())
    return found


def test_the_client_is_the_one_that_the_proxy_names(server: Server) -> None:
    for preface, scheme in ((ONE, "http"), (two(), "http"), (WHOLE["2, TLS"][0], "https")):
        with server.connect() as client:
            client.sendall(preface)
            for _ in range(2):
                assert said(client) == [[*CLIENT], [*SERVER], scheme]
            forged = said(client, "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https")
            assert forged == [[*CLIENT], [*SERVER], scheme], "the client is no proxy that is trusted"
    server.wait_log(r'192\.0\.2\.60:56324 "GET / HTTP/1\.1" 200', 9)


def test_a_proxy_that_speaks_for_itself(server: Server) -> None:
    for preface in (b"PROXY UNKNOWN\r\n", two(command=0x20)):
        with server.connect() as client:
            client.sendall(preface)
            assert said(client) == [[*client.getsockname()], [*client.getpeername()], "http"]
            assert said(client, "X-Forwarded-For: 6.6.6.6")[0] == ["6.6.6.6", 0]


def test_it_may_come_in_pieces_and_with_the_request(server: Server) -> None:
    with server.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in two():
            client.send(bytes([byte]))
        assert said(client)[0] == [*CLIENT]
    with server.connect() as client:
        client.sendall(ONE + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        received = b""
        while received.count(b"192.0.2.60") < 2:
            received += client.recv(1 << 16)


def test_without_it_a_connection_is_refused_and_said(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    server.wait_log(r"WARNING .*no header of the PROXY protocol came from 127\.0\.0\.1: it begins otherwise")


def test_one_that_does_not_come_is_not_waited_for(server: Server) -> None:
    with server.connect() as client:
        client.sendall(ONE[:10])
        assert client.recv(1 << 16) == b""


def test_who_is_no_proxy_that_is_trusted_says_nothing(serve: Serve) -> None:
    options = ("--shards", "1", "--spares", "0", "--proxy-protocol", "--forwarded-allow-ips", "192.0.2.0/24")
    server = serve(APPLICATION, *options, app="app:app")
    server.wait_serving()
    with server.connect() as client:
        assert said(client)[0] == [*client.getsockname()]
    with server.connect() as client:
        client.settimeout(DEADLINE)
        client.sendall(ONE)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    assert server.stop() == 0


def test_it_is_not_had_with_tls(serve: Serve) -> None:
    server = serve(APPLICATION, "--proxy-protocol", "--ssl-certfile", "a.pem", app="app:app")
    assert server.wait_exit() == 2
    assert "--proxy-protocol cannot be had with --ssl-certfile" in server.log
