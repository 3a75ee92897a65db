"""Requests as HTTP/1.1 asks every server to understand them, and others."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.shards.observe._http_head import MAX_HEAD, BadRequest, Request, take


def parse(text: str) -> Request | None:
    return take(bytearray(text.replace("\n", "\r\n").encode("latin-1")))


GET = Request("GET", "/health", "", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "plain": ("GET /health HTTP/1.1\nHost: x\n\n", GET),
        "a query": ("GET /health?a=/b#c HTTP/1.1\nHost: x\n\n", GET),
        "the absolute form, as proxies send it": ("GET http://x:80/health HTTP/1.1\nHost: y\n\n", GET),
        "the absolute form without a path": ("GET http://x?q HTTP/1.1\nHost: x\n\n", Request("GET", "/", "", True)),
        "an empty host, as the absolute form of a URN has": ("GET /health HTTP/1.1\nHost:\n\n", GET),
        "letters that are quoted and need not be": (
            "GET /%68e%61lth%7e HTTP/1.1\nHost: x\n\n",
            Request("GET", "/health~", "", True),
        ),
        "a slash that is quoted, and is none": ("GET /a%2fb HTTP/1.1\nHost: x\n\n", Request("GET", "/a%2fb", "", True)),
        "an empty line in front": ("\nGET /health HTTP/1.1\nHost: x\n\n", GET),
        "fields of any case, with white space": ("GET /health HTTP/1.1\nhOST: \t x \t\nX-Y:\n\n", GET),
        "what is accepted, in two fields": (
            "GET /metrics HTTP/1.1\nHost: x\nAccept: a/b;q=0.5\nAccept: c/d\n\n",
            Request("GET", "/metrics", "a/b;q=0.5, c/d", True),
        ),
        "the last one": (
            "GET / HTTP/1.1\nHost: x\nConnection: Foo, Close\n\n",
            Request("GET", "/", "", False),
        ),
        "HTTP/1.0": ("GET /health HTTP/1.0\n\n", Request("GET", "/health", "", False)),
        "HTTP/1.0 that goes on": ("HEAD / HTTP/1.0\nConnection: keep-alive\n\n", Request("HEAD", "/", "", True)),
        "a body": ("POST / HTTP/1.1\nHost: x\nContent-Length: 2\n\nab", Request("POST", "/", "", False)),
        "no body, and said so": ("GET /health HTTP/1.1\nHost: x\nContent-Length: 0\n\n", GET),
        "a body in chunks": ("GET / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n", Request("GET", "/", "", False)),
        "waiting to be told to send the body": (
            "GET / HTTP/1.1\nHost: x\nContent-Length: 2\nExpect: 100-continue\n\n",
            Request("GET", "/", "", False),
        ),
        "not all of it": ("GET /health HTTP/1.1\nHost: x\n", None),
        "nothing": ("\n", None),
    }.values(),
)
def test_requests(text: str, expected: Request | None) -> None:
    assert parse(text) == expected
    assert take(bytearray(text.encode("latin-1"))) == expected  # lines that end in a line feed alone


@pytest.mark.parametrize(
    ("text", "status"),
    {
        "no HTTP": ("hello\n\n", 400),
        "HTTP/0.9": ("GET /\n\n", 400),
        "HTTP/2": ("PRI * HTTP/2.0\n\n", 505),
        "no host": ("GET / HTTP/1.1\n\n", 400),
        "two hosts": ("GET / HTTP/1.1\nHost: a\nHost: b\n\n", 400),
        "a name with a space behind it": ("GET / HTTP/1.1\nHost : a\n\n", 400),
        "a folded line": ("GET / HTTP/1.1\nHost: a\n b\n\n", 400),
        "no name": ("GET / HTTP/1.1\nHost: a\n: b\n\n", 400),
        "a byte that no field has": ("GET / HTTP/1.1\nHost: a\0\n\n", 400),
        "a space in the target": ("GET /a b HTTP/1.1\nHost: a\n\n", 400),
        "much": (f"GET / HTTP/1.1\nHost: a\nX: {'x' * MAX_HEAD}\n\n", 431),
        "much without an end": ("GET /" + "x" * MAX_HEAD, 431),
    }.values(),
)
def test_what_is_no_request(text: str, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(text)
    assert caught.value.status == status


def test_several_at_once() -> None:
    received = bytearray(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\nGET /c HT")
    assert [request and request.path for request in (take(received), take(received), take(received))] == [
        "/a",
        "/b",
        None,
    ]
    assert received == b"GET /c HT"


TEXT = st.text(alphabet="GET /healthHTP1.0:Hostx \t\r\n\0\x7fé,;=?#-", max_size=60)


@given(
    st.one_of(st.binary(max_size=200), TEXT.map(lambda text: b"GET / HTTP/1.1\r\nHost: x\r\n" + text.encode("latin-1")))
)
def test_nothing_is_taken_for_a_request_that_h11_would_not(data: bytes) -> None:
    data += b"\r\n\r\n"
    try:
        ours = take(bytearray(data))
    except BadRequest:
        return
    if ours is not None:
        peer = h11.Connection(h11.SERVER)
        peer.receive_data(data.lstrip(b"\r\n"))  # of these we drop as many as come
        theirs = peer.next_event()
        assert isinstance(theirs, h11.Request)
        assert theirs.method.decode() == ours.method
        assert theirs.target.decode("ascii", "replace").startswith(ours.path)
