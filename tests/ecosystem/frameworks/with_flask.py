from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, make_response, redirect, request

app = Flask(__name__, static_folder=os.environ["STATIC"], static_url_path="/static")


@app.get("/hello")
def hello() -> Response:
    return Response("hello", mimetype="text/plain")


@app.get("/json")
def json() -> dict[str, Any]:
    return {"number": 1, "text": "é"}


@app.post("/upload")
def upload() -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    while piece := request.stream.read(20_000):
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@app.get("/stream")
def stream() -> Response:
    return Response((b"%d " % number * 1_000 for number in range(100)), mimetype="application/octet-stream")


@app.get("/events")
def events() -> Response:
    def pieces() -> Iterator[bytes]:
        for number in range(3):
            yield b"id: %d\ndata: event\n\n" % number
            time.sleep(0.01)

    return Response(pieces(), mimetype="text/event-stream", headers={"Cache-Control": "no-cache"})


@app.get("/fail")
def fail() -> Response:
    raise LookupError("as it should")


@app.get("/redirect")
def redirected() -> Any:
    return redirect("/hello?from=redirect", 303)


@app.get("/cookies")
def cookies() -> Response:
    response = make_response(dict(request.cookies))
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2", max_age=60, expires=2_000_000_000)
    return response


@app.get("/headers")
def headers() -> dict[str, list[str]]:
    return {name: request.headers.getlist(name) for name in ("accept", "x-twice", "user-agent", "content-type")}


@app.get("/address/<path:rest>")
def address(rest: str) -> list[Any]:
    return [request.method, request.scheme, request.path, request.query_string.decode(), request.environ["RAW_URI"]]


@app.get("/thread")
def thread() -> Response:
    return Response("from a thread", mimetype="text/plain")
