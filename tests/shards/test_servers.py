"""Several servers in one application, each with addresses of its own: named, served, limited, drained and replaced."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.shards.servers import Serve, Server, ask, eventually
from tests.shards.threads import Threads

DISTRIBUTIONS = ("kernel", "fixed", "least-connections")

# Lines at the addresses without a name, a protocol at those that are called admin; answers say which, and the shard. A file
# "no-admin-N" keeps shard N from serving admin for as long as it is there.
TWO = """
import asyncio, os

class Admin(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(b"admin %d %s" % (shard_id, data))

async def main(shard):
    global shard_id
    shard_id = shard.id

    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(b"plain %d %s" % (shard.id, line))
            await writer.drain()

    await shard.start_server(handle)
    own = f"no-admin-{shard.id}"
    if os.path.exists(own):
        shard.ready()
        while os.path.exists(own) and not shard.stopping:
            await asyncio.sleep(0.01)
    await shard.create_server(Admin, bind="admin")
    await shard.wait_stopped()
"""

BINDS = ("--bind", "127.0.0.1:0", "--bind", "admin=127.0.0.1:0")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(serve: Serve, *arguments: str, source: str = TWO, shards: int = 2, bind: tuple[str, ...] = BINDS) -> Server:
    server = serve(source, "--shards", str(shards), *arguments, bind=bind)
    server.wait_serving()
    return server


def connect(server: Server, name: str = "", last: int = 1) -> socket.socket:
    """From 127.0.0.N, of which a fixed distribution makes N modulo the shards."""
    pattern = rf"listening on {name}=127\.0\.0\.1:(\d+)" if name else r"listening on 127\.0\.0\.1:(\d+)"
    port = int(server.wait_log(pattern)[0][1])
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(f"127.0.0.{last}", 0))


def burst(server: Server, opened: ExitStack, name: str, count: int = 30) -> list[socket.socket]:
    """Clients that have asked and await an answer."""
    clients = [opened.enter_context(connect(server, name, number + 1)) for number in range(count)]
    for client in clients:
        client.sendall(b"hello\n")
    return clients


def answers(clients: list[socket.socket]) -> set[bytes]:
    return {client.recv(100) for client in clients}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_each_address_has_its_own_server_on_every_shard(serve: Serve, opened: ExitStack, distribution: str) -> None:
    server = started(serve, "--distribution", distribution)

    def both(name: str, said: str) -> None:
        expected = {f"{said} {shard} hello\n".encode() for shard in (0, 1)}
        seen: set[bytes] = set()

        def more() -> bool:
            with ExitStack() as clients:
                seen.update(answers(burst(server, clients, name)))
            return seen >= expected

        eventually(more, "both shards answer")
        assert seen == expected

    both("", "plain")
    both("admin", "admin")
    server.send(signal.SIGHUP)
    server.wait_log(r"shard \d ready", 4)
    eventually(lambda: len({*server.shard_pids().values()}) == 2, "two")
    both("", "plain")
    both("admin", "admin")
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    assert answers(burst(server, opened, "admin")) <= {b"admin 0 hello\n", b"admin 1 hello\n"}
    assert server.stop() == 0
    assert "serves none" not in server.log
    assert "does not serve" not in server.log


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_shard_that_does_not_serve_a_name_has_none_of_its_connections(
    serve: Serve, tmp_path: Path, opened: ExitStack, distribution: str
) -> None:
    (tmp_path / "no-admin-1").touch()
    server = started(serve, "--distribution", distribution)
    server.wait_log("shard 1 is ready and does not serve the addresses named 'admin': .* with bind=\"admin\"")
    assert answers(burst(server, opened, "admin")) == {b"admin 0 hello\n"}
    eventually(lambda: b"plain 1 hello\n" in answers(burst(server, opened, "")), "the other name is served by both")
    (tmp_path / "no-admin-1").unlink()  # and now it serves that, too
    eventually(lambda: b"admin 1 hello\n" in answers(burst(server, opened, "admin")), "both")
    assert server.stop() == 0
    assert server.log.count("does not serve") == 1


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_what_waits_at_any_name_is_served_before_the_stop(
    serve: Serve, tmp_path: Path, opened: ExitStack, distribution: str
) -> None:
    """One shard serves both names, the other is gone or serves one."""
    (tmp_path / "no-admin-1").touch()
    server = started(serve, "--distribution", distribution)
    pids = server.shard_pids()
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    clients = {name: burst(server, opened, name, 12) for name in ("", "admin")}
    server.send(signal.SIGTERM)
    server.wait_log("SIGTERM: stopping")
    for pid in pids.values():
        os.kill(pid, signal.SIGCONT)
    assert answers(clients["admin"]) == {b"admin 0 hello\n"}
    assert answers(clients[""]) <= {b"plain 0 hello\n", b"plain 1 hello\n"}
    for client in clients["admin"]:
        client.close()
    assert server.wait_exit() == 0


@pytest.mark.parametrize("distribution", ["kernel", "least-connections"])
def test_a_servers_own_limit_counts_apart(serve: Serve, opened: ExitStack, distribution: str) -> None:
    """The common one is full; so is admin's; neither holds up the other."""
    source = TWO.replace('bind="admin"', 'bind="admin", max_connections=1')
    server = started(serve, "--max-connections", "2", "--distribution", distribution, source=source, shards=1)
    plain = [opened.enter_context(connect(server)) for _ in range(2)]
    assert [ask(client, b"hello") for client in plain] == [b"plain 0 hello"] * 2
    late = opened.enter_context(connect(server))
    late.sendall(b"late\n")
    admin = opened.enter_context(connect(server, "admin"))
    assert ask(admin, b"hello") == b"admin 0 hello"
    second = opened.enter_context(connect(server, "admin"))
    second.sendall(b"second\n")
    for waits in (late, second):
        waits.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waits.recv(100)
        waits.settimeout(60)
    plain[0].close()
    assert late.recv(100) == b"plain 0 late\n"
    admin.close()
    assert second.recv(100) == b"admin 0 second\n"


def test_what_is_handed_over_goes_to_a_server_that_has_room(serve: Serve, opened: ExitStack) -> None:
    """Each shard has one; nobody waits at that whose server is full while the other's is not."""
    source = TWO.replace('bind="admin"', 'bind="admin", max_connections=1')
    server = started(serve, "--distribution", "least-connections", source=source)
    clients = [opened.enter_context(connect(server, "admin")) for _ in range(2)]
    assert {ask(client, b"hello") for client in clients} == {b"admin 0 hello", b"admin 1 hello"}
    for _ in range(8):
        late = opened.enter_context(connect(server, "admin"))
        late.sendall(b"late\n")
        with connect(server) as other:
            ask(other, b"hello")  # by then the supervisor has seen the late one
        clients.pop(0).close()
        assert late.recv(100).endswith(b" late\n")
        clients.append(late)


@pytest.mark.parametrize("distribution", ["kernel", "least-connections"])
def test_servers_without_a_limit_of_their_own_share_the_common_one(
    serve: Serve, opened: ExitStack, distribution: str
) -> None:
    server = started(serve, "--max-connections", "2", "--distribution", distribution, shards=1)
    plain, admin = opened.enter_context(connect(server)), opened.enter_context(connect(server, "admin"))
    assert ask(plain, b"hello") == b"plain 0 hello"
    assert ask(admin, b"hello") == b"admin 0 hello"
    late = {name: opened.enter_context(connect(server, name)) for name in ("", "admin")}
    for client in late.values():
        client.sendall(b"late\n")
        client.settimeout(0.3)
    for client in late.values():
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(60)
    plain.close()  # room for one of the two
    first = eventually(lambda: next((c for c in late.values() if _has_come(c)), None), "one of them is served")
    assert first.recv(100).endswith(b"late\n")
    admin.close()
    [last] = [client for client in late.values() if client is not first]
    assert last.recv(100).endswith(b"late\n")


def _has_come(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        client.settimeout(60)


def test_statistics_are_of_all_servers_together(serve: Serve, opened: ExitStack, tmp_path: Path) -> None:
    server = started(serve, shards=1)
    for name in ("", "admin", "admin"):
        ask(opened.enter_context(connect(server, name)), b"hello")
    assert server.stop() == 0
    assert re.search(r"shard 0 stopped after .* s: 3 connections", server.log)


MISTAKES = {
    "an unknown name": (
        BINDS,
        'start_server(handle, bind="adm")',
        "no address is named 'adm', only 'admin'; give one with --bind adm=HOST:PORT",
    ),
    "a name where none has one": (
        ("--port", "0"),
        'start_server(handle, bind="admin")',
        "no address is named 'admin', all addresses are without a name; give one with --bind admin=HOST:PORT",
    ),
    "no name where all have one": (
        ("--bind", "admin=127.0.0.1:0", "--bind", "other=127.0.0.1:0"),
        "start_server(handle)",
        "no address is without a name; say which is served, bind='admin' or bind='other', or give one with --bind HOST:PORT",
    ),
    "a second server of a name": (
        BINDS,
        'start_server(handle, bind="admin"); await shard.create_server(object, bind="admin")',
        "the addresses named 'admin' are served already; for another server name its addresses, --bind NAME=HOST:PORT",
    ),
    "no address at all": (
        ("--bind", "none"),
        "start_server(handle)",
        "there is nothing to serve: no address is listened on (--bind none, or bind = [] in the file)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_says_what_there_is(serve: Serve, mistake: str) -> None:
    bind, call, message = MISTAKES[mistake]
    source = f"async def main(shard):\n    handle = print\n    await shard.{call}\n    await shard.wait_stopped()\n"
    server = serve(source, "--shards", "1", bind=bind)
    assert server.wait_exit() == 3
    assert f"UsageError: {message}" in server.log


WORKER = """
async def main(shard):
    print(f"worker {shard.id} works", flush=True)
    await shard.wait_stopped()
"""


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_worker_has_no_socket_and_no_warning(serve: Serve, distribution: str, tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text("bind = []\n")
    server = serve(WORKER, "--shards", "2", "--distribution", distribution, bind=())
    server.wait_log(r"worker \d works", 2)
    server.wait_serving()
    assert "listening on no address" in server.log
    os.kill(server.shard_pids()[1], signal.SIGKILL)
    server.wait_log("shard 1 ready", 2)
    server.send(signal.SIGHUP)
    server.wait_log(r"shard \d ready", 5)
    for process in server.members():
        with suppress(psutil.NoSuchProcess):  # it has been replaced
            assert not process.net_connections()
    assert server.stop() == 0
    assert server.warnings() == []


PASSED = """
import os, socket, sys

for number in (3, 4):
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    assert listening.fileno() == number, listening
    listening.set_inheritable(True)
    listening.detach()
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": sys.argv.pop(1)}
from clockworker.shards._cli import main  # libraries of its imports may open files, and systemd's come first
main()
"""


@pytest.mark.parametrize("names", ["app.socket:admin", "unknown:admin"])
def test_systemd_gives_names(serve: Serve, tmp_path: Path, names: str) -> None:
    (tmp_path / "passed.py").write_text(PASSED)
    server = serve(TWO, "--shards", "2", bind=(), command=[sys.executable, "passed.py", names])
    server.wait_log(rf"listening on fd:3 \({names.partition(':')[0]}\)")
    server.wait_log("listening on admin=fd:4")
    server.wait_serving()
    ports = sorted(c.laddr.port for c in server.members()[0].net_connections() if c.status == "LISTEN")
    said = set()
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            said.add(ask(client, b"hello").split()[0])
    assert said == {b"plain", b"admin"}
    assert server.stop() == 0


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_unix_socket_and_several_addresses_may_share_a_name(serve: Serve, tmp_path: Path, distribution: str) -> None:
    bind = (*BINDS, "--bind", f"admin=unix:{tmp_path}/admin.sock,mode=600")
    server = started(serve, "--distribution", distribution, bind=bind)
    assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(tmp_path / "admin.sock"))
        assert ask(client, b"hello").startswith(b"admin ")
    with connect(server, "admin") as other:
        assert ask(other, b"hello").startswith(b"admin ")
    assert server.stop() == 0


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_no_connection_is_lost_while_both_are_rolled(serve: Serve, distribution: str) -> None:
    server = started(serve, "--distribution", distribution)
    failed, asked = [], {"": 0, "admin": 0}

    def load(name: str) -> None:
        last = 0
        while not clients.over.wait(0.003):
            last = last % 200 + 1
            try:
                with connect(server, name, last) as client:
                    ask(client, b"hello")
                asked[name] += 1
            except OSError as error:
                failed.append(f"{name or 'plain'}: {error!r}")

    clients = Threads(*(partial(load, name) for name in asked))
    with clients:
        server.send(signal.SIGHUP)
        server.wait_log(r"shard \d ready", 4)
        before = dict(asked)
        eventually(lambda: all(asked[name] > before[name] for name in asked), "they are served after it")
    assert not failed
    assert server.stop() == 0
