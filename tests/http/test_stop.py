"""Replacing, killing and stopping a server under load: no request fails but what a killed shard held, and the shutdown of the
lifespan comes behind the last request."""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
import time

import msgspec

from tests.reliability._http import ENDED, LATE
from tests.shards.servers import DEADLINE, Serve, Server, eventually

THREADS = 6
PAUSE_S = 0.01  # between two requests of a thread


class Failure(msgspec.Struct, frozen=True):
    began: float
    ended: float
    error: str


class Load:
    """Threads that ask one thing after the other, and keep their connections."""

    def __init__(self, server: Server) -> None:
        self.answered = 0
        self.failures: list[Failure] = []
        self._address = server.address
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=DEADLINE)
        while not self._over.is_set():
            reused = connection.sock is not None
            began = time.monotonic()
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                body = response.read()
                assert (response.status, body[-2:]) == (200, b"ok")
                self.answered += 1
                self._over.wait(PAUSE_S)
            except ConnectionRefusedError:  # the server has stopped, or is not there yet
                connection.close()
                self._over.wait(PAUSE_S)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                connection.close()
                if not reused:  # else it was closed between two requests, as any server may
                    self.failures.append(Failure(began, time.monotonic(), repr(error)))
            except Exception as error:
                connection.close()
                self.failures.append(Failure(began, time.monotonic(), repr(error)))
        connection.close()


def test_replacing_and_stopping_a_server_fails_no_request(serve: Serve) -> None:
    server = serve(
        None,
        *("--shards", "2", "--spares", "0", "--access-log", "--app-dir", "."),
        app="tests.reliability._http:main",
        environment={"PYTHONPATH": os.getcwd()},
    )
    server.wait_serving()
    load = Load(server)

    def more(count: int) -> None:
        enough = load.answered + count
        eventually(lambda: load.answered >= enough or load.failures, f"{count} more answers")

    try:
        more(100)
        for number in (1, 2):
            server.send(signal.SIGHUP)
            server.wait_log(r"shard \d stopped", 2 * number)
            more(50)
        assert not load.failures, server.log
        killed = time.monotonic()
        ready = len(re.findall(r"shard 1 ready", server.log))
        os.kill(server.shard_pids()[1], signal.SIGKILL)
        server.wait_log("shard 1 ready", ready + 1)
        more(50)
        again = time.monotonic()
        excused = [failure for failure in load.failures if failure.began <= again and failure.ended >= killed]
        assert server.stop() == 0
    finally:
        load.end()
    assert load.failures == excused, server.log
    assert LATE not in server.log
    assert server.log.count(ENDED) == 2 * 3, "a shard that is killed ends nothing"
    lines = len(re.findall(r'"GET / HTTP/1\.1" 200 \d+ \d+\.\d default -\n', server.log))
    # Of the last moments before the kill lines are lost, and answers that have a line.
    assert load.answered - 60 <= lines <= load.answered + THREADS


def test_a_shard_that_has_answered_its_requests_is_replaced_and_none_fails(serve: Serve) -> None:
    server = serve(
        None,
        *("--shards", "2", "--spares", "0", "--app-dir", ".", "--limit-max-requests", "40"),
        *("--limit-max-requests-jitter", "20", "--distribution", "least-connections"),
        app="tests.reliability._http:main",
        environment={"PYTHONPATH": os.getcwd()},
    )
    server.wait_serving()
    load = Load(server)
    try:
        said = server.wait_log(
            r"shard (\d) \(pid \d+\) has answered (\d+) requests \(--limit-max-requests\): it is replaced", 4
        )
        server.wait_log(r"shard \d stopped", 4)
        assert not load.failures, server.log
        assert {match[1] for match in said} == {"0", "1"}
        assert all(int(match[2]) >= 40 for match in said)
        assert server.stop() == 0
    finally:
        load.end()
    assert not load.failures, server.log
    assert LATE not in server.log
