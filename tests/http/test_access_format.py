from __future__ import annotations

import base64
import http.client
import json
import os
import re
from types import SimpleNamespace
from typing import Any

import pytest

from clockworker._errors import ConfigurationError
from clockworker.http._access_format import AccessFormat, Done
from clockworker.shards.config._access_format import ATOMS, COMBINED, parse_access_log_format
from tests.shards.servers import Serve


def done(**fields: Any) -> Done:
    headers = [
        (b"host", b"a.example"),
        (b"referer", b"http://b/?q=1"),
        (b"user-agent", b'curl "8"'),
        (b"authorization", b"Basic " + base64.b64encode(b"ada:secret")),
        (b"x-two", b"1"),
        (b"x-two", b"2"),
    ]
    scope = {
        "client": ("192.0.2.7", 4711),
        "query_string": b"b=1&c=\xff",
        "headers": headers,
        "method": "GET",
        "path": "/a",
        "raw_path": b"/a",
        "root_path": "",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("192.0.2.1", 80),
    }
    request = SimpleNamespace(
        scope=scope, method="GET", raw_path=b"/a", version=11, response_headers=[(b"X-Cache", b"hit")]
    )
    values: dict[str, Any] = {
        "request": request,
        "status": 200,
        "sent": 5120,
        "elapsed_ns": 1_234_567_890,
        "queue": "light",
    }
    return Done(**{**values, "group": None, "at": 1_700_000_000.5, **fields})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("%(h)s %(l)s %(u)s", "192.0.2.7 - ada"),
        ('"%(r)s" %(m)s %(U)s %(H)s', r'"GET /a?b=1&c=\xff HTTP/1.1" GET /a HTTP/1.1'),
        ("%(q)s", r"b=1&c=\xff"),
        ("%(s)s %(B)s %(b)s", "200 5120 5120"),
        ('"%(f)s" "%(a)s"', r'"http://b/?q=1" "curl \"8\""'),
        ("%(T)s %(M)s %(D)s %(L)s", "1 1234 1234567 1.234568"),
        ("%(D)012d %(s)-5s|", "000001234567 200  |"),
        ("%(shard)s %(queue)s %(group)s 100%%", "3 light - 100%"),
        ("%({X-Two}i)s %({x-none}i)s %({x-cache}o)s %({date}o)s", "1,2 - hit -"),
        ("%({REMOTE_PORT}e)s %({HTTP_HOST}e)s %({NOTHING}e)s", "4711 a.example -"),
        ("no atom at all", "no atom at all"),
    ],
)
def test_atoms(text: str, line: str) -> None:
    assert AccessFormat(parse_access_log_format(text), 3).render(done()) == line


def test_time_and_process() -> None:
    assert AccessFormat("%(p)s", 0).render(done()) == f"<{os.getpid()}>"
    assert re.fullmatch(r"\[1[45]/Nov/2023:\d\d:13:20 [+-]\d{4}\]", AccessFormat("%(t)s", 0).render(done()))


def test_every_atom_is_one() -> None:
    for atom in ATOMS:
        assert AccessFormat(parse_access_log_format(f"%({atom})s"), 0).render(done())


def test_what_there_is_none_of() -> None:
    request = SimpleNamespace(
        scope={"client": None, "query_string": b"", "headers": [(b"authorization", b"Basic ?")]},
        method="GET",
        raw_path=b"/",
        version=20,
        response_headers=iter([(b"a", b"b")]),
    )
    form = "%(h)s %(u)s %(q)s %(b)s %(f)s %({a}o)s %(r)s"
    assert AccessFormat(form, 0).render(done(request=request, sent=0)) == "- - - - - - GET / HTTP/2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("%(x)s", "'x' is no part of a request; give one of h, l, u, t"),
        ("%({X-A}x)s", "no part of a request"),
        ("%(h)", "no format of a line"),
        ("%(h)s %s", "no format of a line"),
        ("%(h)s %", "no format of a line"),
        ("%(h)s\n", "no format of a line"),
        ("%h", "no format of a line"),
        ("", "no format of a line"),
    ],
)
def test_what_is_no_format(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        parse_access_log_format(text)


APPLICATION = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-answer", b"42")]})
    await send({"type": "http.response.body", "body": b"hello"})
"""


@pytest.mark.parametrize("kind", ["text", "json"])
def test_served(serve: Serve, kind: str) -> None:
    form = COMBINED + " %({x-answer}o)s"
    options = ("--shards", "1", "--spares", "0", "--log-format", kind, "--access-log-format", form)
    server = serve(APPLICATION, *options, app="app:app")
    server.wait_serving()
    port = re.search(r"127\.0\.0\.1:(\d+)", server.log)
    assert port is not None
    connection = http.client.HTTPConnection("127.0.0.1", int(port[1]))
    connection.request("GET", "/a?b=1", headers={"User-Agent": 'a "quoted" one', "Referer": "http://b/"})
    assert connection.getresponse().read() == b"hello"
    connection.close()
    line = r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a\?b=1 HTTP/1\.1" 201 5 "http://b/" '
    line += r'"a \\"quoted\\" one" 42'
    if kind == "text":
        server.wait_log(f"(?m)^{line}$")
    else:
        written = json.loads(server.wait_log('(?m)^.*"clockworker.access".*$')[0][0])
        assert re.fullmatch(line, written["message"])
        assert (written["status"], written["bytes"], written["queue"]) == (201, 5, "default")
    assert server.stop() == 0
