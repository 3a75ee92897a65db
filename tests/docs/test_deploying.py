"""The files of deploy/ do what the pages say, as far as it can be seen without a systemd, a Docker and a Kubernetes: commands
are run as those would run them, nginx is the real one, and what only they understand is checked by their own tools and
schemas."""

from __future__ import annotations

import asyncio
import configparser
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clockworker.shards.config._options import OPTIONS
from tests.docs.reader import DOCS, FENCED, ROOT
from tests.ports import free_port
from tests.shards.servers import DEADLINE, Serve, eventually

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

DEPLOY = ROOT / "deploy"
VARIABLES = {variable for option in OPTIONS for variable in option.variables}

APP = """
import clockworker as cw

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": f"{scope['client'][0]} {scope['scheme']}"})
        await receive()
        return
    assert scope["type"] == "http", scope["type"]
    body = f"{scope['client'][0]} {scope['scheme']} {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    pytest.importorskip("httptools")
    serve = Serve(tmp_path)
    yield serve
    serve.clean_up()


# systemd


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / name).read_text())
    return parser


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    program = tmp_path / "srv" / "shop" / ".venv" / "bin" / "clockworker-serve"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for suffix in ("service", "socket"):
        text = (DEPLOY / f"clockworker.{suffix}").read_text().replace("/srv/shop", str(tmp_path / "srv" / "shop"))
        (tmp_path / f"shop.{suffix}").write_text(text)
    units = [str(tmp_path / "shop.service"), str(tmp_path / "shop.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    ours = [line for line in done.stderr.splitlines() if "shop" in line]
    assert ours == []


def test_the_unit_as_systemd_runs_it(serve: Serve, tmp_path: Path) -> None:
    """With the file of the page: ready, a reload, a stop within its time."""
    service = unit("clockworker.service")["Service"]
    page = (DOCS / "deploying" / "systemd.md").read_text()
    (file,) = [block for _, kind, _, block in FENCED.findall(page) if kind == "toml"]
    (tmp_path / "app.py").write_text(APP)
    file = file.replace("127.0.0.1:8000", "127.0.0.1:0").replace("127.0.0.1:9464", "127.0.0.1:0")
    (tmp_path / "clockworker.toml").write_text(file)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE)

        def wait_for(key: str) -> str:
            while key not in (said := dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())):
                pass
            return said[key]

        program, *arguments = shlex.split(
            service["ExecStart"].replace("/srv/shop/clockworker.toml", "clockworker.toml")
        )
        assert Path(program).name == "clockworker-serve"
        environment = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": f"{int(service['WatchdogSec'])}000000",
        }
        environment |= dict([service["Environment"].replace("/run/shop", str(tmp_path)).split("=", 1)])
        few = ["--no-pin"] if len(os.sched_getaffinity(0)) < 2 else []
        server = serve(None, *arguments, "--spares", "0", *few, app=None, bind=(), environment=environment)
        assert wait_for("READY") == "1"
        assert service["Type"] == "notify"
        reload = shlex.split(service["ExecReload"].replace("$MAINPID", str(server.pid)))
        subprocess.run(reload, check=True, timeout=DEADLINE)
        wait_for("RELOADING")
        assert wait_for("READY") == "1"
        assert all(json.loads(line) for line in server.log.splitlines())  # as the file says
        assert service["KillMode"] == "mixed"
        server.send(signal.SIGTERM)
        assert wait_for("STOPPING") == "1"
        assert server.wait_exit(float(service["TimeoutStopSec"])) == 0


def test_times_of_the_units_are_longer_than_ours() -> None:
    service = unit("clockworker.service")["Service"]
    assert int(service["TimeoutStopSec"]) > 30
    assert int(service["TimeoutStartSec"]) > 60
    assert "stop_grace_period: 45s" in (DEPLOY / "compose.yaml").read_text()


# Docker


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def environment_of_image() -> dict[str, str]:
    said = " ".join(value for name, value in instructions() if name == "ENV")
    return dict(word.split("=", 1) for word in shlex.split(said))


def test_the_image_sets_variables_that_there_are() -> None:
    names = {name for name in environment_of_image() if name.startswith("CLOCKWORKER_")}
    assert len(names) == 3
    assert names <= VARIABLES


def test_the_container_as_pid_1(tmp_path: Path) -> None:
    """Its entry point with its variables, as the first process of a name space, without capabilities; its health; its stop."""
    pytest.importorskip("httptools")
    unshare = [
        "unshare",
        "--fork",
        "--pid",
        "--mount-proc",
        "--kill-child",
        "setpriv",
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
    ]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("there is no name space of processes to be had")
    ports = {"8000": str(free_port()), "9464": str(free_port())}
    said = dict(instructions())
    (tmp_path / "app.py").write_text(APP.replace("app(scope", "main(scope"))
    environment = {
        name: re.sub(r"0\.0\.0\.0:(\d+)", lambda match: f"127.0.0.1:{ports[match[1]]}", value)
        for name, value in environment_of_image().items()
        if name != "PATH"
    }
    (entry,), command = json.loads(said["ENTRYPOINT"]), json.loads(said["CMD"])
    assert entry == "clockworker-serve"
    log = tmp_path / "log"
    output = log.open("w")
    process = subprocess.Popen(
        [*unshare, sys.executable, "-m", "clockworker.shards._cli", *command, "--shards", "1", "--no-pin"],
        cwd=tmp_path,
        env=os.environ | environment | {"XDG_RUNTIME_DIR": str(tmp_path)},
        stderr=output,
    )
    output.close()
    try:
        health = json.loads(said["HEALTHCHECK"].partition(" CMD ")[2])
        check = [sys.executable, *[word.replace("9464", ports["9464"]) for word in health[1:]]]
        eventually(lambda: subprocess.run(check, capture_output=True).returncode == 0, "healthy")
        assert get("127.0.0.1", int(ports["8000"]), "/tea") == "127.0.0.1 http /tea"
        (first,) = children(process.pid)
        os.kill(first, getattr(signal, said["STOPSIGNAL"]))
        assert process.wait(DEADLINE) == 0
        assert all(json.loads(line) for line in log.read_text().splitlines())
    finally:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_compose() -> None:
    yaml = pytest.importorskip("yaml")
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    assert service["environment"].keys() <= VARIABLES
    check_schema("vendor.compose-spec", DEPLOY / "compose.yaml")


def check_schema(schema: str, *files: Path) -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout


# Kubernetes


def manifests() -> list[Any]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


@pytest.mark.slow
def test_kubernetes_understands_the_manifests() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    deployment, *others = manifests()
    for manifest in (deployment, *others):
        validate.validate(manifest, "1.30", strict=True)
    del deployment["spec"]["selector"]
    with pytest.raises(validate.ValidationError):  # so it looks
        validate.validate(deployment, "1.30", strict=True)


def test_the_pod_says_what_the_image_has() -> None:
    deployment, service, _ = manifests()
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables.keys() <= VARIABLES
    exposed = dict(instructions())["EXPOSE"].split()
    assert [str(port["containerPort"]) for port in container["ports"]] == exposed
    names = {port["name"] for port in container["ports"]}
    assert {
        container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    } <= names
    assert service["spec"]["ports"][0]["targetPort"] in names
    grace = int(variables["CLOCKWORKER_TIMEOUT_GRACEFUL_SHUTDOWN"])
    (_, before) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > grace + int(before)
    assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_probes_of_the_pod(serve: Serve) -> None:
    (container,) = manifests()[0]["spec"]["template"]["spec"]["containers"]
    server = serve(APP, "--shards", "1", "--no-pin", "--spares", "0", "--metrics", "127.0.0.1:0", app="app:app")
    server.wait_serving()
    host, _, port = server.wait_log(r"metrics on http://([\d.:]+)/")[0][1].partition(":")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get(host, int(port), container[probe]["httpGet"]["path"])
    assert server.stop() == 0


# nginx


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[int]:
    """Its port, with the file of deploy/ in front of tmp_path/shop.sock."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    site = (DEPLOY / "nginx.conf").read_text()
    assert site.count("/run/shop/shop.sock") == 2  # and in the comment, the command
    site = site.replace("/run/shop", str(tmp_path)).replace("listen 80;", f"listen 127.0.0.1:{port};")
    (tmp_path / "site.conf").write_text(site)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/nginx.pid; error_log stderr;\n"
        "events {}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
        f"include {tmp_path}/site.conf; }}\n"
    )
    command = [program, "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    if os.geteuid() == 0:
        command += ["-g", "user root;"]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=DEADLINE)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(port), "nginx listens")
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def get(host: str, port: int, path: str, headers: dict[str, str] | None = None) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        return body
    finally:
        connection.close()


def test_behind_nginx(serve: Serve, nginx: int, tmp_path: Path) -> None:
    """The client is known, nobody can pretend to be another, WebSockets pass, and a roll fails nothing."""
    site = (DEPLOY / "nginx.conf").read_text()
    (command,) = re.findall(r"^#   clockworker-serve app:main (.*)$", site, re.MULTILINE)
    options = shlex.split(command.replace("/run/shop", str(tmp_path)))
    server = serve(APP, *options, "--shards", "1", "--no-pin", "--spares", "0", app="app:app", bind=())
    server.wait_serving()
    assert get("127.0.0.1", nginx, "/tea") == "127.0.0.1 http /tea"
    assert get("127.0.0.1", nginx, "/tea", {"X-Forwarded-For": "8.8.8.8"}) == "127.0.0.1 http /tea"
    assert get("127.0.0.1", nginx, "/events") == "127.0.0.1 http /events"

    async def talk() -> str:
        aiohttp = pytest.importorskip("aiohttp")
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{nginx}/") as socket:
            return str(await socket.receive_str(timeout=DEADLINE))

    assert asyncio.run(talk()) == "127.0.0.1 ws"
    server.send(signal.SIGHUP)
    end = time.monotonic() + DEADLINE
    while len(server.shard_pids()) < 1 or len(re.findall(r"shard 0 ready", server.log)) < 2:
        assert get("127.0.0.1", nginx, "/roll") == "127.0.0.1 http /roll"
        assert time.monotonic() < end
    for _ in range(20):
        assert get("127.0.0.1", nginx, "/roll") == "127.0.0.1 http /roll"
    assert server.stop() == 0
