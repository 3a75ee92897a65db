"""What docs/frameworks.md shows runs as it stands there."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.shards.servers import DEADLINE, Serve, Server

GUIDE = (Path(__file__).parents[2] / "docs" / "frameworks.md").read_text()
SOURCES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", GUIDE, re.DOTALL))
COMMANDS = re.findall(r"```sh\n(.*?)\n```", GUIDE, re.DOTALL)
(FILE,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
INSTALL, FASTAPI, FLASK, COUNTING, PROJECT, DJANGO_WSGI, DJANGO_ASGI = COMMANDS


def test_all_is_run() -> None:
    assert GUIDE.count("```") == 2 * (len(SOURCES) + len(COMMANDS) + 1)
    assert set(SOURCES) == {"shop.py", "app.py", "counting.py"}
    assert INSTALL == "pip install 'clockworker[http]'"


@contextmanager
def running(directory: Path, command: str) -> Iterator[Server]:
    """The command of the guide, with the application that it names."""
    program, app, *options = shlex.split(command) if command else ["clockworker-serve", ""]
    assert program == "clockworker-serve"
    if (source := f"{app.partition(':')[0]}.py") in SOURCES:
        (directory / source).write_text(SOURCES[source])
    serve = Serve(directory)
    try:
        server = serve(None, *options, "--spares", "0", app=app or None)
        server.wait_serving()
        yield server
        assert server.stop() == 0
        assert " ERROR " not in server.log, server.log
    finally:
        serve.clean_up()


def ask(server: Server, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def check_flask(server: Server) -> None:
    assert ask(server, "/") == (200, b"hello")
    assert json.loads(ask(server, "/files", b"x" * 200_000)[1]) == {"size": 200_000}
    assert ask(server, "/reports/acme")[1].splitlines() == [b"acme,%d" % number for number in range(1_000)]


@pytest.mark.slow
@pytest.mark.once
def test_fastapi(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    with running(tmp_path, FASTAPI) as server:
        assert ask(server, "/items/tea") == (200, b'{"name":"tea"}')
        assert ask(server, "/reports/acme") == (200, b'{"acme":499500}')


def test_flask(tmp_path: Path) -> None:
    pytest.importorskip("flask")
    with running(tmp_path, FLASK) as server:
        check_flask(server)


def test_flask_by_a_file(tmp_path: Path) -> None:
    pytest.importorskip("flask")
    (tmp_path / "clockworker.toml").write_text(FILE)
    (tmp_path / "app.py").write_text(SOURCES["app.py"])
    with running(tmp_path, "") as server:
        check_flask(server)


def test_counting(tmp_path: Path) -> None:
    pytest.importorskip("flask")
    with running(tmp_path, COUNTING) as server:
        for number in range(1, 5):
            for key in ("tea", "coffee", "milk"):
                assert ask(server, f"/count/{key}") == (200, b"%d" % number)


@pytest.mark.slow
@pytest.mark.once
def test_django(tmp_path: Path) -> None:
    pytest.importorskip("django")
    program, *arguments = shlex.split(PROJECT)
    assert program == "django-admin"
    done = subprocess.run([sys.executable, "-m", "django", *arguments], cwd=tmp_path, env=os.environ, timeout=DEADLINE)
    assert done.returncode == 0
    for command in (DJANGO_WSGI, DJANGO_ASGI):
        with running(tmp_path, command) as server:
            status, body = ask(server, "/")
            assert status == 200
            assert b"The install worked successfully" in body
            assert ask(server, "/admin/")[0] == 302
