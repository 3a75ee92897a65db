from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.static import serve

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="x" * 50,
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    USE_TZ=True,
)
django.setup()


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello", content_type="text/plain")


async def json(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"number": 1, "text": "é"})


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    digest, size = hashlib.sha256(), 0
    while piece := request.read(20_000):
        digest.update(piece)
        size += len(piece)
    return JsonResponse({"size": size, "sha256": digest.hexdigest()})


def is_asgi(request: Any) -> bool:
    return hasattr(request, "scope")


def stream(request: HttpRequest) -> HttpResponse:
    def pieces() -> Iterator[bytes]:
        for number in range(100):
            yield b"%d " % number * 1_000

    async def asynchronously() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece
            await asyncio.sleep(0)

    made: Any = asynchronously() if is_asgi(request) else pieces()
    return StreamingHttpResponse(made, content_type="application/octet-stream")


def events(request: HttpRequest) -> HttpResponse:
    def pieces() -> Iterator[bytes]:
        for number in range(3):
            yield b"id: %d\ndata: event\n\n" % number
            time.sleep(0.01)

    async def asynchronously() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"id: %d\ndata: event\n\n" % number
            await asyncio.sleep(0.01)

    made: Any = asynchronously() if is_asgi(request) else pieces()
    return StreamingHttpResponse(made, content_type="text/event-stream")


def fail(request: HttpRequest) -> HttpResponse:
    raise LookupError("as it should")


def redirect(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect("/hello?from=redirect")


def cookies(request: HttpRequest) -> HttpResponse:
    response = JsonResponse(request.COOKIES)
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    return response


def headers(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {name: request.headers.get(name) for name in ("accept", "x-twice", "user-agent", "content-type")}
    )


def address(request: HttpRequest, rest: str) -> HttpResponse:
    return JsonResponse([request.method, request.scheme, request.path, request.GET.urlencode()], safe=False)


def thread(request: HttpRequest) -> HttpResponse:
    return HttpResponse("from a thread", content_type="text/plain")


urlpatterns = [
    path("hello", hello),
    path("json", json),
    path("upload", upload),
    path("stream", stream),
    path("events", events),
    path("fail", fail),
    path("redirect", redirect),
    path("cookies", cookies),
    path("headers", headers),
    path("thread", thread),
    path("address/<path:rest>", address),
    re_path("^static/(?P<path>.*)$", serve, {"document_root": os.environ["STATIC"]}),
]
asgi = ASGIHandler()
wsgi = WSGIHandler()
