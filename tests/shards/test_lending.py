"""Who accepts for a shard that cannot: one that starts, is dead, stands still, or serves nothing."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.shards.supervisor._lending import choose_neighbours
from tests.shards.servers import DEADLINE, ECHO, Serve, Server, ask, eventually

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

DISTRIBUTIONS = ("kernel", "fixed", "least-connections")

# What holds up a shard is a file of its number: with "starts-N" it does not come to an end of its import, with "stands-N" a
# line "stand" keeps it from its loop.
HELD_UP = """
import os, time

own = os.environ["CLOCKWORKER_SHARD_ID"]
while os.path.exists(f"starts-{own}"):
    time.sleep(0.01)

async def main(shard):
    async def handle(reader, writer):
        while line := await reader.readline():
            if line == b"stand\\n":
                print("stands still", flush=True)
                while os.path.exists(f"stands-{own}"):
                    time.sleep(0.01)
            writer.write(b"%d %s" % (shard.id, line))

    if not os.path.exists(f"silent-{own}"):
        await shard.start_server(handle)
    shard.ready()
    while os.path.exists(f"silent-{own}") and not shard.stopping:
        await asyncio.sleep(0.01)
    if os.path.exists(f"late-{own}"):
        await shard.start_server(handle)
    await shard.wait_stopped()
"""
HELD_UP = "import asyncio\n" + HELD_UP


def started(serve: Serve, *arguments: str, shards: int = 2) -> Server:
    server = serve(HELD_UP, "--shards", str(shards), *arguments)
    server.wait_serving()
    return server


def connect(server: Server, last: int = 1) -> socket.socket:
    """From 127.0.0.N, of which a fixed distribution makes N modulo the shards."""
    return socket.create_connection(server.address, timeout=60, source_address=(f"127.0.0.{last}", 0))


def burst(server: Server, opened: ExitStack, count: int = 40) -> list[socket.socket]:
    """Clients that have asked and await an answer; with each distribution about half of them are for either shard."""
    clients = [opened.enter_context(connect(server, number + 1)) for number in range(count)]
    for client in clients:
        client.sendall(b"hello\n")
    return clients


def answers(clients: list[socket.socket]) -> set[bytes]:
    return {client.recv(100) for client in clients}


def of(server: Server, shard: int) -> socket.socket:
    """A connection that the shard has. On a busy machine it may look for a while as if it stood still, and gets none."""
    until = time.monotonic() + DEADLINE
    last = 0
    while time.monotonic() < until:
        last = last % 200 + 1
        client = connect(server, last)
        if ask(client, b"hello").startswith(b"%d " % shard):
            return client
        client.close()
    pytest.fail(f"no connection comes to shard {shard}")


def has_its_own_again(server: Server, shard: int) -> None:
    eventually(lambda: of(server, shard).close() or True, "it has connections again")


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_shard_that_was_killed_and_starts(serve: Serve, tmp_path: Path, distribution: str) -> None:
    server = started(serve, "--distribution", distribution)
    (tmp_path / "starts-1").touch()
    pid = server.shard_pids()[1]
    with ExitStack() as opened:
        os.kill(pid, signal.SIGSTOP)
        clients = burst(server, opened)  # some of them wait at the one that is about to die
        os.kill(pid, signal.SIGKILL)
        assert answers(clients) == {b"0 hello\n"}
        assert answers(burst(server, opened)) == {b"0 hello\n"}
        (tmp_path / "starts-1").unlink()
        server.wait_log("shard 1 ready", 2)
        has_its_own_again(server, 1)
    assert server.stop() == 0


def test_a_shard_that_has_never_been_ready(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "starts-1").touch()
    server = serve(HELD_UP, "--shards", "2")
    server.wait_log("shard 0 ready")
    with ExitStack() as opened:
        assert answers(burst(server, opened)) == {b"0 hello\n"}
        (tmp_path / "starts-1").unlink()
        server.wait_serving()
        has_its_own_again(server, 1)


@pytest.mark.parametrize("limit", [(), ("--max-connections", "1000")])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_shard_that_stands_still(serve: Serve, tmp_path: Path, distribution: str, limit: tuple[str, ...]) -> None:
    """Those that come before that shows are its neighbour's, too."""
    # A busy machine is not to have the burst answered only after the time by which the shard is killed.
    server = started(serve, "--distribution", distribution, "--timeout-shard-healthcheck", "300", *limit)
    (tmp_path / "stands-1").touch()
    with ExitStack() as opened:
        standing = opened.enter_context(of(server, 1))
        standing.sendall(b"stand\n")
        server.wait_log("stands still")
        assert answers(burst(server, opened)) == {b"0 hello\n"}
        (tmp_path / "stands-1").unlink()
        assert standing.recv(100) == b"1 stand\n"
        has_its_own_again(server, 1)
    assert server.stop() == 0


def test_a_shard_that_is_stopped(serve: Serve) -> None:
    server = started(serve)
    os.kill(server.shard_pids()[1], signal.SIGSTOP)
    with ExitStack() as opened:
        assert answers(burst(server, opened)) == {b"0 hello\n"}
        os.kill(server.shard_pids()[1], signal.SIGCONT)
        has_its_own_again(server, 1)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_shard_that_serves_nothing_is_told_so(serve: Serve, tmp_path: Path, distribution: str) -> None:
    for name in ("silent-1", "late-1"):
        (tmp_path / name).touch()
    server = started(serve, "--distribution", distribution)
    with ExitStack() as opened:
        assert answers(burst(server, opened)) == {b"0 hello\n"}
        server.wait_log("shard 1 is ready and serves none of its sockets: .*start_server.*create_server")
        (tmp_path / "silent-1").unlink()  # now it makes a server after all
        has_its_own_again(server, 1)
    assert server.stop() == 0
    assert server.log.count("serves none of its sockets") == 1


def test_a_shard_that_serves_nothing_has_no_part_in_the_stop(serve: Serve, tmp_path: Path) -> None:
    """Nor has one that was started after a kill: what waits for either is served by the one that is left."""
    for name in ("silent-1",):
        (tmp_path / name).touch()
    server = started(serve, shards=3)
    with ExitStack() as opened:
        (tmp_path / "starts-2").touch()
        os.kill(server.shard_pids()[2], signal.SIGKILL)
        server.wait_log("shard 2 is restarted")
        (tmp_path / "stands-0").touch()
        standing = opened.enter_context(connect(server))
        standing.sendall(b"stand\n")
        server.wait_log("stands still")
        clients = burst(server, opened)
        server.send(signal.SIGTERM)
        server.wait_log("SIGTERM: stopping")
        (tmp_path / "stands-0").unlink()
        assert standing.recv(100) == b"0 stand\n"
        assert answers(clients) == {b"0 hello\n"}
        assert server.wait_exit() == 0


def test_the_neighbour_may_fail_in_its_turn(serve: Serve, tmp_path: Path) -> None:
    server = started(serve, shards=3)
    with ExitStack() as opened:
        for shard in (1, 2):
            (tmp_path / f"starts-{shard}").touch()
            os.kill(server.shard_pids()[shard], signal.SIGKILL)
            server.wait_log(f"shard {shard} is restarted")
            assert answers(burst(server, opened)) <= {b"0 hello\n", b"2 hello\n"}
        assert answers(burst(server, opened)) == {b"0 hello\n"}
        (tmp_path / "starts-2").unlink()
        server.wait_log("shard 2 ready", 2)
        has_its_own_again(server, 2)


def test_unix_sockets_are_everybodys_anyway(serve: Serve, tmp_path: Path) -> None:
    server = serve(ECHO, "--shards", "2", bind=("--bind", f"unix:{tmp_path}/s"))
    server.wait_serving()
    os.kill(server.shard_pids()[1], signal.SIGSTOP)
    server.wait_log("shard 1 .* the process is stopped by a signal")
    for _ in range(10):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(f"{tmp_path}/s")
            assert ask(client, b"hello") == b"0 hello"


def test_lent_sockets_are_closed_when_they_are_given_back(serve: Serve, tmp_path: Path) -> None:
    server = started(serve)
    pids = server.shard_pids()

    def listening() -> int:
        sockets = psutil.Process(pids[0]).net_connections("tcp")
        return sum(sock.status == psutil.CONN_LISTEN for sock in sockets)

    eventually(lambda: listening() == 1, "its own")
    for round in range(3):
        os.kill(server.shard_pids()[1], signal.SIGKILL)
        server.wait_log("shard 1 ready", round + 2)
        eventually(lambda: listening() == 1, "its own alone")


# The policy.

shards = st.integers(min_value=1, max_value=8).flatmap(
    lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)), st.sets(st.integers(0, count - 1)))
)


@given(shards)
def test_every_needy_shard_has_one_able_neighbour(given_: tuple[int, set[int], set[int]]) -> None:
    count, able, needy = given_
    chosen = choose_neighbours(count, able, needy, {})
    if not able:
        assert chosen == {}
        return
    assert chosen.keys() == needy
    assert set(chosen.values()) <= able
    lent = [[*chosen.values()].count(shard) for shard in able]
    assert max(lent) - min(lent) <= 1, "nobody has two more than another"
    assert choose_neighbours(count, able, needy, chosen) == chosen


def test_the_next_in_order_is_the_neighbour() -> None:
    assert choose_neighbours(4, {0, 2, 3}, {1}, {}) == {1: 2}
    assert choose_neighbours(4, {0, 1, 2}, {3}, {}) == {3: 0}
    assert choose_neighbours(4, {0, 1}, {2, 3}, {}) == {2: 0, 3: 1}


def test_a_neighbour_keeps_what_it_has_while_it_can() -> None:
    assert choose_neighbours(4, {0, 2, 3}, {1}, {1: 3}) == {1: 3}
    assert choose_neighbours(4, {0, 2}, {1, 3}, {1: 3}) == {1: 2, 3: 0}
