"""For tests of applications: run one on real shards, reach its addresses and its services, kill a shard, read the log.

    from clockworker.shards.testing import serving

    def test_a_value_survives_its_neighbours_death():
        with serving("app:main", shards=2, options=["--queue", "background:2"]) as server:
            server.call(0, Store.set, b"key", b"value")     # on shard 0; typed as the method is
            server.kill(1)                                  # and wait for its successor
            assert server.call(0, Store.get, b"key") == b"value"
            with server.connect() as client: ...

The shards are those of `clockworker-serve`, processes and all; nothing is simulated. When the block ends, however it does,
they are stopped, and when the process of the test is killed they stop as well; nothing is left of either. The server may be
started and used by any thread, and outlives it. What it is doing is asked for at its control socket, so that its log may be of
any form and level. `clockworker.testing` is where users find it, beside the rest of the kit.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import msgspec
import psutil

from clockworker._errors import ApplicationError, ControlError, RemoteError
from clockworker.ipc.calls._remote import result_type
from clockworker.shards._agent import (
    APPLICATION_VARIABLE,
    ENCODE_VARIABLE,
    SOCKETS_VARIABLE,
    Question,
    Reply,
    receive,
    send,
)
from clockworker.shards.observe._query_client import QueryClient

__all__ = ["Server", "Serving", "serving"]

T = TypeVar("T")
P = ParamSpec("P")

_PARENT_VARIABLE = "CLOCKWORKER_TESTING_PARENT"
_LOOK_S = 0.005
_LOOK_AT_PARENT_S = 0.1
_QUIT_S = 5.0  # that the server of a test that was killed has to stop


@contextmanager
def serving(
    app: str | Callable[..., Coroutine[Any, Any, object]],
    *,
    shards: int = 2,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    app_dir: str | os.PathLike[str] = ".",
    timeout: float = 60.0,
    encode_local_calls: bool = False,
) -> Iterator[Server]:
    """Run `app` while the block lasts, on a free port of 127.0.0.1 unless `options` say otherwise.

    app: MODULE:ATTRIBUTE, or the function itself if it has a place in a module. It is imported anew by every shard, with
    this process's `sys.path`.
    options: more of those of clockworker-serve. Where there are more shards than CPUs they share them, unpinned.
    environment: variables to set beside this process's own. app_dir: to import `app` from.
    timeout: seconds that any one wait may take.
    encode_local_calls: encode what a shard's calls to itself take and return, and make their exceptions anew, as is done with
    calls to another. Then a test with one shard sees what one with two would: a type that does not fit its annotation, a list
    that is shared rather than copied, an exception that does not travel.

    Raises `ApplicationError`, with the log, if the application cannot be started.
    """
    name = app if isinstance(app, str) else f"{app.__module__}:{app.__qualname__}"
    with tempfile.TemporaryDirectory(prefix="clockworker-") as directory:
        variables = {**(environment or {}), **({ENCODE_VARIABLE: "1"} if encode_local_calls else {})}
        server = Server(name, shards, options, variables, app_dir, timeout, Path(directory))
        try:
            server._wait(lambda: server._looks() and server._serving, "the server does not serve")
            yield server
        finally:
            server.stop()


class Serving(Protocol):
    """What the pytest fixture `serving` is: `serving` as a function, whose server is stopped when the test ends."""

    def __call__(
        self,
        app: str | Callable[..., Coroutine[Any, Any, object]],
        *,
        shards: int = 2,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        app_dir: str | os.PathLike[str] = ".",
        timeout: float = 60.0,
        encode_local_calls: bool = False,
    ) -> Server:
        """Options are those of `serving`. May be called several times in a test."""


class Server:
    """A server that runs for a test. Made by `serving`. All methods block; in an async test call them with
    `asyncio.to_thread`. Waits that take too long raise `TimeoutError`, and `ApplicationError` if the server has ended
    meanwhile; both show the log.

    app: MODULE:ATTRIBUTE. shards: how many there are.
    """

    def __init__(
        self,
        app: str,
        shards: int,
        options: Sequence[str],
        environment: Mapping[str, str],
        app_dir: str | os.PathLike[str],
        timeout: float,
        directory: Path,
    ) -> None:
        self.app = app
        self.shards = shards
        self._timeout = timeout
        self._sockets = directory
        self._log_path = directory / "log"
        self._control = _given(options, "--control") or str(directory / "control")
        self._serving = False
        self._addresses: list[str] = []
        self._ready_pids: dict[int, int] = {}
        variables = {
            _PARENT_VARIABLE: str(os.getpid()),
            APPLICATION_VARIABLE: app,
            SOCKETS_VARIABLE: str(directory),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, "-m", "clockworker.shards.testing", "clockworker.shards._agent:make", "--factory"]
        command += ["--app-dir", os.fspath(app_dir), "--shards", str(shards)]
        if not _given(options, "--bind", "-b", "--port", "-p", "--host", "--uds", "--fd"):
            command += ["--port", "0"]
        if not _given(options, "--control"):
            command += ["--control", self._control]
        if shards > len(os.sched_getaffinity(0)):
            command.append("--no-pin")
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *options],
                env={**os.environ, **environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """Everything that supervisor and shards have written, to standard output and standard error."""
        return self._log_path.read_text(errors="replace")

    @property
    def addresses(self) -> list[str]:
        """What the server listens on: `127.0.0.1:41234`, `admin=unix:/path`."""
        return list(self._addresses)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first TCP address that has no name."""
        return self.address_of("")

    def address_of(self, bind: str) -> tuple[str, int]:
        """Host and port of the first TCP address of this name, `bind`, empty for one without. Raises `LookupError` if there is
        none."""
        prefix = f"{bind}=" if bind else ""
        for address in self.addresses:
            if match := re.fullmatch(rf"{prefix}\[?([^\]/=]+?)\]?:(\d+)", address):
                return match[1], int(match[2])
        which = f"named {bind!r}" if bind else "without a name"
        raise LookupError(f"the server has no TCP address {which}, only {', '.join(self.addresses) or 'none at all'}")

    def connect(self, bind: str = "") -> socket.socket:
        """A new connection to `address`, or to `address_of(bind)`."""
        return socket.create_connection(self.address_of(bind), timeout=self._timeout)

    @property
    def supervisor_pid(self) -> int:
        """The process that was started; the shards are its children."""
        return self._process.pid

    def pid(self, shard: int) -> int:
        """The process of the shard's newest incarnation that has been ready. Raises `LookupError` before one has been."""
        self._looks()
        if shard not in self._ready_pids:
            raise LookupError(f"shard {shard} has not been ready; there are 0 to {self.shards - 1}")
        return self._ready_pids[shard]

    def call(
        self,
        shard: int,
        method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call a method of the instance of a service that the application has started on this shard: `Store.get`.

        Any method will do, `@remote` or not, as long as msgspec encodes what goes in and out. Raises `RemoteError` for an
        exception of the method, a service that has not been started, and a shard that dies meanwhile.
        """
        question = Question(method.__module__, method.__qualname__, list(args), dict(kwargs))
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(self._timeout)
                connection.connect(str(self._sockets / f"shard-{shard}"))
                send(connection, question)
                answer = receive(connection, Reply)
        except OSError as error:
            raise RemoteError(f"shard {shard} does not answer: {error}", type(error).__name__, "") from error
        if answer.error is not None:
            raise RemoteError(f"{method.__qualname__} on shard {shard}: {answer.error}", answer.type_name, answer.trace)
        result: T = msgspec.msgpack.decode(answer.result, type=result_type(method))
        return result

    def kill(self, shard: int, number: int = signal.SIGKILL, *, wait: bool = True) -> None:
        """Send the shard a signal, of this number, and wait until its successor is ready; not with `wait=False`."""
        before = self.pid(shard)
        os.kill(before, number)
        if wait:
            self._wait(lambda: self.pid(shard) != before, f"shard {shard} is not back")

    def replace(self) -> None:
        """Replace all shards, one at a time, as SIGHUP does, and wait until that is done."""
        before = [self.pid(shard) for shard in range(self.shards)]
        self._process.send_signal(signal.SIGHUP)
        self._wait(
            lambda: all(
                self.pid(shard) != pid and not os.path.exists(f"/proc/{pid}") for shard, pid in enumerate(before)
            ),
            "not all shards have been replaced",
        )

    def wait_log(self, pattern: str, times: int = 1) -> list[re.Match[str]]:
        """Wait until the regular expression `pattern` is found in the log `times` times, and return all of what is found."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found[:] = re.finditer(pattern, self.log, re.MULTILINE)
            return len(found) >= times

        self._wait(look, f"{pattern!r} is not in the log {times} times")
        return found

    def stop(self) -> int:
        """Stop in good order, and kill what does not stop in time. Returns the exit status."""
        self._process.terminate()
        try:
            return self._process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            return self._process.wait()
        finally:
            self._kill_session()
            self._process.wait()

    def _kill_session(self) -> None:
        """What is left of it, and wait until that has ended: whoever's child it is, it is not ours to reap."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        while any(map(self._is_in_session, psutil.pids())):
            time.sleep(_LOOK_S)

    def _is_in_session(self, pid: int) -> bool:
        if pid == self._process.pid:
            return False
        try:
            return os.getsid(pid) == self._process.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    def _looks(self) -> bool:
        """Ask the supervisor what there is. False if it does not answer: it is starting, or has ended."""
        try:
            with contextlib.closing(QueryClient(Path(self._control))) as client:
                stats = client.stats()
        except ControlError:
            return False
        self._serving = stats.serving
        self._addresses = stats.addresses
        self._ready_pids |= {shard.id: shard.pid for shard in stats.shards if shard.state == "ready" and shard.pid}
        return True

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            ended = self._process.poll()  # before the log is read: what is said until then counts
            if condition():
                return
            if ended is not None:
                raise ApplicationError(f"the server ended with status {ended}:\n{self.log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} after {self._timeout:g} s:\n{self.log}")
            time.sleep(_LOOK_S)


def _given(options: Sequence[str], *names: str) -> str | None:
    """The value of the last of these options that is given."""
    value = None
    for option, following in itertools.pairwise((*options, "")):
        name, equals, text = option.partition("=")
        if name in names:
            value = text if equals else following
    return value


class _Parent:
    """The process of the test. Where it ends without having stopped us, as by kill -9, we stop by ourselves, and remove the
    directory that it has made for us.

    Rejected: PR_SET_PDEATHSIG, which means the thread that has started us, and kills: files and sockets of ours would be left.
    """

    def __init__(self, pid: int, directory: str) -> None:
        self._pid = pid
        self._directory = directory
        # Until the supervisor has a handler of its own.
        signal.signal(signal.SIGQUIT, lambda *_: sys.exit(1))
        threading.Thread(target=self._watch, name="the test's end", daemon=True).start()

    def has_ended(self) -> bool:
        return os.getppid() != self._pid

    def remove_directory(self) -> None:
        while os.path.isdir(self._directory):  # a shard may be making its socket there
            shutil.rmtree(self._directory, ignore_errors=True)

    def _watch(self) -> None:
        self._wait()
        os.kill(os.getpid(), signal.SIGQUIT)
        time.sleep(_QUIT_S)
        self.remove_directory()
        os.killpg(0, signal.SIGKILL)  # of the session that the test has given us

    def _wait(self) -> None:
        try:
            ended = os.pidfd_open(self._pid)
        except OSError:  # an old kernel, or a sandbox
            ended = -1
        if ended >= 0 and not self.has_ended():  # else it may be another process's
            waiting = select.poll()
            waiting.register(ended)
            waiting.poll()
        while not self.has_ended():
            time.sleep(_LOOK_AT_PARENT_S)


def _main() -> None:
    parent = _Parent(int(os.environ.pop(_PARENT_VARIABLE)), os.environ[SOCKETS_VARIABLE])
    try:
        from clockworker.shards._cli import main

        main()
    finally:
        if parent.has_ended():
            parent.remove_directory()


if __name__ == "__main__":
    _main()
