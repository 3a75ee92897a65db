"""What a WSGI application is told of its request (PEP 3333), made of an ASGI scope. Pure.

Bytes of a path and of headers are text in latin-1, each byte a character, whatever they were meant to be: applications turn
them back. A path is taken as it was sent (`raw_path`), since its decoded text may have lost bytes that are no UTF-8.

Not every header becomes a variable: `X_Forwarded_For` would be the same variable as `X-Forwarded-For`, which a proxy sets or
takes away, so names with an underscore are left out (gunicorn's `--header-map drop`); so is `Proxy`, whose variable libraries
take for a proxy of their own requests (CVE-2016-5385).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

_UNPREFIXED = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}


def environ_of(scope: Mapping[str, Any]) -> dict[str, Any]:
    """The request's variables, without `wsgi.input` and the server's own objects."""
    raw = scope.get("raw_path")
    if raw is None:
        raw = scope["path"].encode("utf-8", "surrogateescape")
        path = raw
    else:
        path = unquote_to_bytes(raw) if b"%" in raw else raw
    root = scope.get("root_path", "").encode()
    if root and path.startswith(root):
        path = path[len(root) :]
        raw = raw[len(root) :] if raw.startswith(root) else raw
    query = scope["query_string"].decode("latin-1")
    target = raw.decode("latin-1") + (f"?{query}" if query else "")
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root.decode("latin-1"),
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": target,
        "REQUEST_URI": target,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_SOFTWARE": "clockworker",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    _add_headers(environ, scope["headers"])
    _add_addresses(environ, scope)
    return environ


def has_body(scope: Mapping[str, Any]) -> bool:
    """Whether the request may have a body. One of HTTP/2 says so with its frames alone."""
    if not scope["http_version"].startswith("1"):
        return True
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _add_headers(environ: dict[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        key = _UNPREFIXED.get(name)
        if key is None:
            if b"_" in name or name == b"proxy":
                continue
            key = f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}"
        text = value.decode("latin-1")
        if key in environ:  # once more: joined as RFC 9110 (5.3) has it, cookies as RFC 6265 does
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text


def _add_addresses(environ: dict[str, Any], scope: Mapping[str, Any]) -> None:
    client, server = scope.get("client"), scope.get("server")
    environ["REMOTE_ADDR"] = ""
    if client is not None:
        environ["REMOTE_ADDR"] = client[0]
        environ["REMOTE_PORT"] = str(client[1])
    if server is not None and server[1] is not None:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0], str(server[1])
        return
    # A Unix socket has neither: what the client was told, then.
    host, _, port = environ.get("HTTP_HOST", "localhost").partition(":")
    environ["SERVER_NAME"] = host
    environ["SERVER_PORT"] = port or ("443" if scope["scheme"] == "https" else "80")
