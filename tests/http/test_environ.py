"""What a WSGI application is told of its request."""

from __future__ import annotations

from typing import Any

import pytest

from clockworker.http._environ import environ_of, has_body


def scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.org")],
        "client": ("192.0.2.1", 4711),
        "server": ("127.0.0.1", 8000),
    } | changes


PATHS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "plain": (
        {"raw_path": b"/a/b", "query_string": b"x=1&y=%20"},
        {"PATH_INFO": "/a/b", "QUERY_STRING": "x=1&y=%20", "RAW_URI": "/a/b?x=1&y=%20", "SCRIPT_NAME": ""},
    ),
    "UTF-8": ({"raw_path": b"/caf%C3%A9"}, {"PATH_INFO": "/caf\xc3\xa9", "REQUEST_URI": "/caf%C3%A9"}),
    "no UTF-8": ({"raw_path": b"/%ff", "path": "/�"}, {"PATH_INFO": "/\xff"}),
    "a slash that was none": ({"raw_path": b"/a%2Fb"}, {"PATH_INFO": "/a/b", "RAW_URI": "/a%2Fb"}),
    "below a root": (
        {"raw_path": b"/shop/a%20b", "path": "/shop/a b", "root_path": "/shop"},
        {"SCRIPT_NAME": "/shop", "PATH_INFO": "/a b", "RAW_URI": "/a%20b"},
    ),
    "a root that is not in front": (
        {"raw_path": b"/a", "root_path": "/shop"},
        {"SCRIPT_NAME": "/shop", "PATH_INFO": "/a"},
    ),
    "a root alone": ({"raw_path": b"/shop", "root_path": "/shop"}, {"SCRIPT_NAME": "/shop", "PATH_INFO": ""}),
    "no raw path": ({"raw_path": None, "path": "/é"}, {"PATH_INFO": "/\xc3\xa9"}),
    "HTTP/1.0 with TLS": (
        {"http_version": "1.0", "scheme": "https"},
        {"SERVER_PROTOCOL": "HTTP/1.0", "wsgi.url_scheme": "https"},
    ),
    "addresses": (
        {},
        {"SERVER_NAME": "127.0.0.1", "SERVER_PORT": "8000", "REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "4711"},
    ),
    "a Unix socket": (
        {"server": ("/run/app.sock", None), "client": None, "headers": [(b"host", b"example.org:81")]},
        {"SERVER_NAME": "example.org", "SERVER_PORT": "81", "REMOTE_ADDR": ""},
    ),
    "a Unix socket behind TLS": (
        {"server": None, "client": None, "scheme": "https"},
        {"SERVER_NAME": "example.org", "SERVER_PORT": "443"},
    ),
    "a Unix socket, and no host": (
        {"server": None, "headers": []},
        {"SERVER_NAME": "localhost", "SERVER_PORT": "80"},
    ),
}


@pytest.mark.parametrize("case", PATHS)
def test_paths_and_addresses(case: str) -> None:
    changes, expected = PATHS[case]
    environ = environ_of(scope(**changes))
    assert {name: environ[name] for name in expected} == expected


def test_headers() -> None:
    headers = [
        (b"host", b"example.org"),
        (b"content-type", b"text/plain"),
        (b"content-length", b"3"),
        (b"accept", b"text/html"),
        (b"accept", b"text/plain"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"x-name", b"\xe9"),
        (b"x_forwarded_for", b"192.0.2.9"),
        (b"proxy", b"http://evil.example"),
    ]
    environ = environ_of(scope(headers=headers))
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("text/plain", "3")
    assert {name: value for name, value in environ.items() if name.startswith("HTTP_")} == {
        "HTTP_HOST": "example.org",
        "HTTP_ACCEPT": "text/html,text/plain",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_X_NAME": "\xe9",
    }
    assert not {"CONTENT_TYPE", "CONTENT_LENGTH"} & environ_of(scope()).keys()


@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        ("1.1", [], False),
        ("1.1", [(b"content-length", b"0")], False),
        ("1.1", [(b"content-length", b"1")], True),
        ("1.1", [(b"transfer-encoding", b"chunked")], True),
        ("2", [], True),
    ],
)
def test_whether_there_may_be_a_body(version: str, headers: list[tuple[bytes, bytes]], expected: bool) -> None:
    assert has_body(scope(http_version=version, headers=headers)) is expected
