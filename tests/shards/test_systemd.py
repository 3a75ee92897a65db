from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clockworker._errors import ConfigurationError
from clockworker.shards.config._config import InheritedSocket, ServeConfig
from clockworker.shards.machine._systemd import Notifier, activated_sockets, with_activated_sockets
from tests.shards.servers import ECHO, Serve, ask

pytestmark = pytest.mark.once  # what is tested is Python in both kinds


@pytest.fixture
def notices(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        yield manager


def receive(notices: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in notices.recv(4096).decode().splitlines())


def test_passed_sockets_are_named_and_said_once() -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "http:admin", "HOME": "/"}
    assert activated_sockets(environment) == (
        InheritedSocket(3, "http"),
        InheritedSocket(4, "admin"),
        InheritedSocket(5),
    )
    assert environment == {"HOME": "/"}
    assert activated_sockets(environment) == ()


def test_sockets_passed_to_another_process_are_not_ours() -> None:
    environment = {"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1"}
    assert activated_sockets(environment) == ()
    assert environment == {}


def test_a_number_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="LISTEN_FDS is 'many'"):
        activated_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"})


def test_passed_sockets_take_the_place_of_the_default_address_only() -> None:
    config = ServeConfig("app:main")
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    of_default = with_activated_sockets(config, dict(environment), asked_for=False).addresses
    assert of_default == (InheritedSocket(3),)
    asked_for = with_activated_sockets(config, dict(environment), asked_for=True).addresses
    assert asked_for == (*config.addresses, InheritedSocket(3))
    assert with_activated_sockets(config, {}, asked_for=False) == config


def test_a_socket_that_is_asked_for_by_its_number_is_served_once() -> None:
    config = ServeConfig("app:main", addresses=(InheritedSocket(4, "admin"),))
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "app.socket:other.socket"}
    both = with_activated_sockets(config, environment, asked_for=True).addresses
    assert both == (InheritedSocket(4, "admin"), InheritedSocket(3, "app.socket"))


@pytest.mark.parametrize(("name", "bind"), [("", ""), ("app.socket", ""), ("unknown", ""), ("admin", "admin")])
def test_the_name_of_a_passed_socket_is_its_binds_if_it_can_be(name: str, bind: str) -> None:
    assert InheritedSocket(3, name).bind == bind


def test_without_anybody_to_notify_nothing_is_sent() -> None:
    notifier = Notifier({})
    notifier.ready("")
    assert notifier.watchdog_interval is None


def test_a_watchdog_for_another_process_is_not_ours() -> None:
    assert Notifier({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "1000000"}).watchdog_interval == 0.5
    others = {"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getppid())}
    assert Notifier(others).watchdog_interval is None


def test_an_abstract_socket_is_notified_and_one_that_is_gone_is_no_error() -> None:
    name = f"@clockworker-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:])
        manager.settimeout(60)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        notifier.status("fine")
        assert receive(manager) == {"STATUS": "fine"}
    notifier.status("nobody listens")


def test_a_service_from_start_to_stop(serve: Serve, tmp_path: Path, notices: socket.socket) -> None:
    server = serve(
        ECHO,
        "--shards",
        "2",
        environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"},
    )
    seen: list[dict[str, str]] = []

    def wait_for(key: str) -> dict[str, str]:
        while key not in (notice := receive(notices)):
            seen.append(notice)
        return notice

    ready = wait_for("READY")
    assert ready == {"READY": "1", "MAINPID": str(server.pid), "STATUS": "serving with 2 shards"}
    assert wait_for("WATCHDOG") == wait_for("WATCHDOG") == {"WATCHDOG": "1"}
    server.send(signal.SIGHUP)
    assert int(wait_for("RELOADING")["MONOTONIC_USEC"]) > 0
    assert wait_for("READY") == ready
    server.send(signal.SIGTERM)
    assert wait_for("STOPPING")["STOPPING"] == "1"
    assert server.wait_exit() == 0
    assert all(notice == {"WATCHDOG": "1"} for notice in seen)


# As systemd does: the descriptors from 3 on, and the pid of the process that is to be.
ACTIVATE = """
import os, sys
listening = int(sys.argv[1])
os.dup2(listening, 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "app.socket"}
os.execv(sys.executable, [sys.executable, "-m", "clockworker.shards._cli", *sys.argv[2:]])
"""


def test_a_passed_socket_is_served_and_nothing_of_it_is_inherited(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "activate.py").write_text(ACTIVATE)
    source = "import os\nprint('LISTEN' in ' '.join(os.environ), flush=True)\n" + ECHO
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = serve(
            source,
            "--shards",
            "2",
            bind=(),
            fds=[listening.fileno()],
            command=[sys.executable, str(tmp_path / "activate.py"), str(listening.fileno())],
        )
        server.wait_log(r"listening on fd:3 \(app.socket\)")
        server.wait_serving()
        with socket.create_connection(listening.getsockname(), timeout=60) as client:
            assert ask(client, b"hello").endswith(b"hello")
        assert server.stop() == 0
    assert server.log.count("False\n") == 2
