"""What a real server shows: pages, figures and their sums, during load, stalls and kills."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from clockworker import ControlError
from clockworker.shards.observe._query_client import QueryClient
from clockworker.shards.observe._view import ServerStats
from tests.shards.servers import Serve, Server, ask, eventually

# `work N` spins for N ms in the queue of the connection; `calls N` makes N calls to the other shard; `block` sleeps in
# a task of `background` until the file `go` is there, `die` kills the shard.
APP = """
import os, signal, time
import clockworker as cw

class Echo:
    def __init__(self, shard): pass

    @cw.remote
    async def echo(self, value: int) -> int:
        return value

async def nap():
    while not os.path.exists("go"):
        time.sleep(0.01)  # THE STALL

async def spin(milliseconds):
    end = time.thread_time() + milliseconds / 1000  # what others have of the core is no part of the work
    while time.thread_time() < end:
        pass

async def main(shard):
    echo = await shard.start(Echo)

    async def handle(reader, writer):
        while line := await reader.readline():
            match line.split():
                case [b"work", milliseconds]:
                    await shard.queue("foreground").group("tenant").spawn(spin(int(milliseconds)))
                case [b"calls", count]:
                    for number in range(int(count)):
                        await echo.on((shard.id + 1) % shard.count).echo(number)
                case [b"block"]:
                    await shard.queue("background").spawn(nap(), name="napper")
                case [b"die"]:
                    os.kill(os.getpid(), signal.SIGKILL)
            writer.write(b"%d %s" % (shard.id, line))
            await writer.drain()

    await shard.start_server(handle, queue="foreground")
    await shard.wait_stopped()
"""

ROOT = Path(__file__).parents[2]
KV = "examples.kv:main"
QUEUES = ("--queue", "foreground:8", "--queue", "background:1")


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the control sockets of this test are, and of no other."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "clockworker"


def start(serve: Serve, *arguments: str, shards: int = 2) -> Server:
    server = serve(APP, "--shards", str(shards), "--metrics", "127.0.0.1:0", *QUEUES, *arguments)
    server.wait_serving()
    return server


def metrics_address(server: Server) -> tuple[str, int]:
    match = server.wait_log(r"metrics on http://([\d.]+):(\d+)/metrics")[0]
    return match[1], int(match[2])


def get(server: Server, path: str, accept: str = "", method: str = "GET") -> tuple[int, str, str]:
    """Status, content type and body."""
    connection = http.client.HTTPConnection(*metrics_address(server), timeout=60)
    try:
        connection.request(method, path, headers={"Accept": accept} if accept else {})
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read().decode()
    finally:
        connection.close()


def samples(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status, _, body = get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(body)
        for sample in family.samples
    }


def total(found: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str, **labels: str) -> float:
    """The sum over all series of that name that have these labels."""
    return sum(value for (known, of), value in found.items() if known == name and labels.items() <= dict(of).items())


def stats(server: Server) -> ServerStats:
    return msgspec.json.decode(get(server, "/stats")[2], type=ServerStats)


def fresh(server: Server) -> ServerStats:
    """Statistics that were written after this was called, by every shard."""
    asked = time.monotonic_ns()

    def look() -> ServerStats | None:
        found = stats(server)
        return found if all(shard.since_start.written_ns > asked for shard in found.shards) else None

    return eventually(look, "new readings of all shards")


def test_pages(serve: Serve) -> None:
    server = start(serve)
    assert get(server, "/health")[::2] == (200, "the supervisor is well\n")
    assert get(server, "/ready")[::2] == (200, "ready: 2 of 2 shards\n")
    status, kind, body = get(server, "/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    families = {family.name: family for family in parse(body)}
    assert families["clockworker_queue_polls"].type == "counter"
    assert {tuple(sample.labels.values()) for sample in families["clockworker_queue_polls"].samples} == {
        (queue, str(shard)) for queue in ("foreground", "background") for shard in (0, 1)
    }
    status, kind, body = get(server, "/metrics", "application/openmetrics-text; version=1.0.0")
    assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
    assert {family.name for family in parse_openmetrics(body)} >= {"clockworker_queue_wait_seconds", "clockworker"}
    status, kind, body = get(server, "/stats")
    assert (status, kind) == (200, "application/json")
    assert [shard["state"] for shard in json.loads(body)["shards"]] == ["ready", "ready"]
    assert get(server, "/nothing")[::2] == (
        404,
        "there is no /nothing; there are /metrics, /stats, /health, /ready, /, /stats/summary, /stats/rings\n",
    )
    assert get(server, "/metrics", method="POST")[0] == 405
    assert get(server, "/health", method="HEAD")[::2] == (200, "")


def test_metrics_are_on_this_machine_only_unless_told(serve: Serve) -> None:
    server = start(serve)
    mine = [c for c in psutil.Process(server.pid).net_connections() if c.laddr.port == metrics_address(server)[1]]
    assert [connection.laddr.ip for connection in mine] == ["127.0.0.1"]


def test_several_requests_on_one_connection_and_nonsense_on_another(serve: Serve) -> None:
    server = start(serve, shards=1)
    connection = http.client.HTTPConnection(*metrics_address(server), timeout=60)
    for _ in range(3):
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b"the supervisor is well\n"
    connection.close()
    for nonsense in (b"\x00\xff\n\n", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000, b"GET /health HTTP/1.1\r\n\r\n"):
        with socket.create_connection(metrics_address(server), timeout=60) as client:
            client.sendall(nonsense)
            answer = b""
            while data := client.recv(4096):
                answer += data
            assert re.match(rb"HTTP/1.1 4\d\d \w+", answer)
    assert get(server, "/health")[0] == 200
    assert server.stop() == 0


def test_not_ready_while_starting_and_while_stopping(serve: Serve, tmp_path: Path) -> None:
    source = (
        "import os, asyncio\nasync def main(shard):\n    while not os.path.exists('go'): await asyncio.sleep(0.01)\n"
    )
    source += "    await shard.wait_stopped()\n    while not os.path.exists('stop'): await asyncio.sleep(0.01)\n"
    server = serve(source, "--shards", "1", "--metrics", "127.0.0.1:0")
    assert get(server, "/ready")[::2] == (503, "not ready: 0 of 1 shards\n")
    assert get(server, "/health")[0] == 200
    (tmp_path / "go").touch()
    server.wait_serving()
    assert get(server, "/ready")[0] == 200
    server.send(signal.SIGTERM)
    eventually(lambda: get(server, "/ready")[0] == 503, "not ready while stopping")
    (tmp_path / "stop").touch()
    assert server.wait_exit() == 0


def test_sums_agree_with_what_clients_and_the_kernel_counted(serve: Serve) -> None:
    server = start(serve)
    connections = [server.connect_to(0), server.connect_to(1)]
    before = fresh(server)
    cpu_before = [sum(psutil.Process(shard.pid).cpu_times()[:2]) for shard in before.shards]
    for _ in range(5):
        for connection in connections:
            ask(connection, b"calls 200")
            ask(connection, b"work 40")
    after = fresh(server)
    cpu_after = [sum(psutil.Process(shard.pid).cpu_times()[:2]) for shard in after.shards]

    lately = after.total.since_start.since(before.total.since_start)
    assert lately.calls.sent == lately.calls.received == 2000
    assert lately.queues["foreground"].spawned == 2010  # calls are tasks too
    # A step waits for no one: it takes at least what it spins.
    assert lately.queues["foreground"].busy_ns >= 10 * 40e6
    # The kernel was asked a moment later, and counts in hundredths.
    assert sum(cpu_after) - sum(cpu_before) == pytest.approx(lately.process.cpu_ns / 1e9, abs=0.1)
    assert after.total.since_start.process.cpu_ns == sum(s.since_start.process.cpu_ns for s in after.shards)
    assert {"tenant"} >= set(after.total.since_start.queues["foreground"].groups.service_ns)

    found = samples(server)
    assert total(found, "clockworker_calls_total", direction="sent") >= after.total.since_start.calls.sent
    sent = [total(found, "clockworker_calls_total", direction="sent", shard=str(shard)) for shard in (0, 1)]
    assert [value - one.since_start.calls.sent for value, one in zip(sent, before.shards, strict=True)] == [1000, 1000]
    assert total(found, "clockworker_connections_open") == 2
    bucket = total(found, "clockworker_queue_poll_seconds_bucket", queue="foreground", le="+Inf")
    assert bucket == total(found, "clockworker_queue_poll_seconds_count", queue="foreground")
    for connection in connections:
        connection.close()


def test_commands_and_cpu_of_a_load_are_what_clients_and_the_kernel_counted(serve: Serve) -> None:
    server = serve(None, "--shards", "2", "--metrics", "127.0.0.1:0", "--app-dir", str(ROOT), *QUEUES, app=KV)
    server.wait_serving()
    pairs = [b"SET key:%d 012345\r\nGET key:%d\r\n" % (number, number) for number in range(200)]
    requests, answer = b"".join(pairs), b"+OK\r\n$6\r\n012345\r\n" * len(pairs)
    connections = [server.connect() for _ in range(8)]
    before = fresh(server)
    started_ns = [cpu_clock_ns(shard.pid) for shard in before.shards]
    commands, used_s = 0, 0.0
    while used_s < 1.0:
        for connection in connections:
            connection.sendall(requests)
        for connection in connections:
            assert receive(connection, len(answer)) == answer
            commands += 2 * len(pairs)
        used_s = (sum(cpu_clock_ns(shard.pid) for shard in before.shards) - sum(started_ns)) / 1e9
    after = fresh(server)
    ended_ns = [cpu_clock_ns(shard.pid) for shard in after.shards]

    lately = after.total.since_start.since(before.total.since_start)
    assert lately.counters.values == {"kv_commands": commands}
    assert total(samples(server), "kv_commands_total") == commands
    for old, new, started, ended in zip(before.shards, after.shards, started_ns, ended_ns, strict=True):
        counted_ns = new.since_start.process.cpu_ns - old.since_start.process.cpu_ns
        assert counted_ns == pytest.approx(ended - started, rel=0.03)
    assert lately.calls.sent == lately.calls.received > 0
    for connection in connections:
        connection.close()


def cpu_clock_ns(pid: int | None) -> int:
    """What another process has used, of all its threads: clock_getcpuclockid(3)."""
    assert pid is not None
    return time.clock_gettime_ns(~pid << 3 | 2)


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return data


def test_rings_between_each_pair(serve: Serve) -> None:
    server = start(serve)
    with server.connect_to(0) as connection:
        ask(connection, b"calls 300")
        fresh(server)
        client = QueryClient(Path(os.environ["XDG_RUNTIME_DIR"]) / "clockworker" / f"{server.pid}.sock")
        rings = client.rings()
        client.close()
    assert rings[0][1].frames_sent >= 300
    assert rings[1][0].frames_received == rings[0][1].frames_sent
    assert rings[0][0].frames_sent == rings[1][1].frames_sent == 0


def test_a_shard_that_stalls_is_seen_without_its_help(serve: Serve) -> None:
    server = start(serve)
    with server.connect_to(0) as connection:
        fresh(server)
        pid = stats(server).shards[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            shown = eventually(lambda: (s := stats(server)).shards[0].age_s > 1 and s, "the age of the figures")
            assert shown.shards[0].state == "ready"
            assert shown.shards[0].connections_open == 1
        finally:
            os.kill(pid, signal.SIGCONT)
        ask(connection, b"hello")


def test_the_stall_report_names_everything_before_the_stall_ends(serve: Serve) -> None:
    server = start(serve, shards=1)
    with server.connect() as connection:
        ask(connection, b"hello")
        connection.sendall(b"block\n")
        server.wait_log(r"queue 'background', task 'napper'")
        eventually(lambda: "THE STALL" in server.log, "the stack")
        assert re.search(r'app\.py", line \d+, in nap', server.log)
        Path(f"/proc/{server.pid}/cwd/go").touch()
        assert connection.recv(100) == b"0 block\n"

    def counted() -> bool:
        """As often as it was found, which on a busy machine may be more than once."""
        found = stats(server).shards[0].stalls
        return found == total(samples(server), "clockworker_shard_stalls_total") >= 1

    eventually(counted, "the count of stalls")


def test_the_control_socket_is_ours_alone_and_gone_afterwards(serve: Serve, runtime_directory: Path) -> None:
    server = start(serve, shards=1)
    path = runtime_directory / f"{server.pid}.sock"
    assert stat.S_IMODE(runtime_directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # What is no request, or is too long, is refused; the supervisor lives on.
    for request in (b"\0\0\0\2{}", b"\0\0\0\x09[[[[[[[[[", b"\xff\xff\xff\xff"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(path))
            client.sendall(request)
            assert b'"type":"refused"' in client.recv(4096)
    client = QueryClient(path)
    with pytest.raises(ControlError, match="a trace of 1000 s is not possible"):
        client.trace(1000)
    assert client.stats().pid == server.pid
    client.close()
    assert server.stop() == 0
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_answered(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "control"
    start(serve, "--control", str(path), shards=1)
    # The files would let it in, the credentials do not.
    path.chmod(0o666)
    tmp_path.chmod(0o755)
    source = (
        "import os, socket\n"
        "os.setuid(12345)\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.settimeout(60)\n"
        "client.connect('control')\n"
        "try:\n"
        '    client.sendall(b\'\\0\\0\\0\\x10{"type":"stats"}\')\n'
        "    print(client.recv(100))\n"
        "except ConnectionError:\n"
        "    print('cut off')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout in ("cut off\n", "b''\n"), done.stderr


def test_a_socket_left_by_a_killed_supervisor_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = start(serve, "--control", str(path), shards=1)
    client = QueryClient(path)
    assert client.stats().app == "app:main"
    client.close()
    other = serve(None, "--shards", "1", "--control", str(path))
    assert other.wait_exit() == 1
    assert f"--control: unix:{path} is already in use" in other.log
    assert server.stop() == 0


def test_an_address_in_use_is_said_before_anything_starts(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = serve(APP, "--shards", "1", "--metrics", f"127.0.0.1:{port}", *QUEUES)
        assert server.wait_exit() == 1
    assert f"--metrics: 127.0.0.1:{port} is already in use" in server.log
    assert "shard 0" not in server.log


def test_without_the_extra_the_probes_are_answered_and_metrics_say_what_to_install(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules |= dict.fromkeys(('prometheus_client', 'h11'))\n"
    )
    server = serve(APP, "--shards", "1", "--metrics", "127.0.0.1:0", *QUEUES, environment={"PYTHONPATH": str(tmp_path)})
    advice = "/metrics needs prometheus-client, which is not installed: pip install 'clockworker[metrics]'"
    server.wait_serving()
    assert f"WARNING [supervisor] --metrics: {advice}" in server.log
    assert get(server, "/health")[0] == 200
    assert get(server, "/ready")[0] == 200
    assert get(server, "/stats")[0] == 200
    assert get(server, "/metrics") == (501, "text/plain; charset=utf-8", f"{advice}\n")
    assert server.stop() == 0


def test_a_name_with_two_addresses_is_listened_on_at_both(serve: Serve, tmp_path: Path) -> None:
    found = "lambda host, port, **_: [(f, 1, 6, '', (h, port)) for f, h in ((10, '::1'), (2, '127.0.0.1'))]"
    (tmp_path / "sitecustomize.py").write_text(f"import socket\nsocket.getaddrinfo = {found}\n")
    server = serve(
        APP,
        *QUEUES,
        "--metrics",
        "two:0",
        "--shards",
        "1",
        bind=("--bind", "two:0"),
        environment={"PYTHONPATH": str(tmp_path)},
    )
    server.wait_serving()
    for what in ("listening on ", "metrics on http://"):
        hosts_and_ports = re.findall(rf"{what}(\S+):(\d+)", server.log)
        assert sorted(host for host, _ in hosts_and_ports) == ["127.0.0.1", "[::1]"], server.log
        assert len({port for _, port in hosts_and_ports}) == 1
        for host, port in hosts_and_ports:
            socket.create_connection((host.strip("[]"), int(port)), timeout=60).close()
    assert server.stop() == 0


def test_what_is_shown_of_the_server_itself(serve: Serve, tmp_path: Path) -> None:
    server = start(serve, "--control", str(tmp_path / "control"), shards=1)
    client = QueryClient(tmp_path / "control")
    stats = client.stats()
    client.close()
    assert (stats.serving, stats.addresses) == (True, ["{}:{}".format(*server.address)])


def test_the_control_socket_of_a_successor_is_left(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "control"
    first = start(serve, "--control", str(path), shards=1)
    path.unlink()
    start(serve, "--control", str(path), shards=1)
    assert first.stop() == 0
    client = QueryClient(path)
    assert client.stats().serving
    client.close()
