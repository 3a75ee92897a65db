"""Streams of frameworks to a client that has said all (`shutdown(SHUT_WR)`), and still listens. They ask whether it has left,
and end if they hear so."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shards.servers import DEADLINE, Serve

STARLETTE = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

async def pieces():
    for number in range(20):
        yield b"%02d\\n" % number
        await asyncio.sleep(0.1)

async def stream(request):
    return StreamingResponse(pieces())

async def late(request):
    await asyncio.sleep(2.5)
    assert not await request.is_disconnected()
    return StreamingResponse(pieces())

app = Starlette(routes=[Route("/stream", stream), Route("/late", late)])
"""

DJANGO = """
import asyncio, time
import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import StreamingHttpResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x" * 50, USE_TZ=True)
django.setup()

async def apieces():
    for number in range(20):
        yield b"%02d\\n" % number
        await asyncio.sleep(0.1)

def pieces():
    for number in range(20):
        yield b"%02d\\n" % number
        time.sleep(0.1)

def made(request):
    return StreamingHttpResponse(apieces() if hasattr(request, "scope") else pieces())

def stream(request):
    return made(request)

def late(request):
    time.sleep(2.5)
    return made(request)

async def alate(request):
    await asyncio.sleep(2.5)
    return made(request)

urlpatterns = [path("stream", stream), path("late", late), path("alate", alate)]
asgi = ASGIHandler()
wsgi = WSGIHandler()
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    serve = Serve(tmp_path)
    yield serve
    serve.clean_up()


PIECES = b"".join(b"%02d\n" % number for number in range(20))


@pytest.mark.parametrize(
    ("framework", "app", "path"),
    [
        ("starlette", "app", "/stream"),
        ("starlette", "app", "/late"),
        ("django", "asgi", "/stream"),
        ("django", "asgi", "/late"),
        ("django", "asgi", "/alate"),
        ("django", "wsgi", "/stream"),
        ("django", "wsgi", "/late"),
    ],
)
def test_it_has_all_of_its_answer(serve: Serve, framework: str, app: str, path: str) -> None:
    pytest.importorskip(framework)
    source = {"starlette": STARLETTE, "django": DJANGO}[framework]
    server = serve(source, "--shards", "1", "--spares", "0", app=f"app:{app}")
    server.wait_serving()
    with server.connect() as client:
        client.settimeout(DEADLINE)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.read()) == (200, PIECES)
    assert server.stop() == 0
    assert " ERROR " not in server.log
