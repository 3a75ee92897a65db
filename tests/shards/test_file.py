from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker._errors import ConfigurationError
from clockworker.shards.config import _toml
from clockworker.shards.config._config import QueueConfig, TcpAddress, UnixAddress
from clockworker.shards.config._file import find_file, read_file
from clockworker.shards.config._http import Route
from clockworker.shards.config._options import OPTIONS
from tests.shards.mistakes import right_or_told


def write(directory: Path, text: str) -> str:
    path = directory / "some.toml"
    path.write_text(text)
    return str(path)


def test_values_of_every_type(tmp_path: Path) -> None:
    text = """
        app = "app:main"
        shards = "auto"
        cpus = [3, 1]
        idle-poll = 50
        bind = ["127.0.0.1:1", "unix:/s"]
        timeout_startup = 5
        timeout_graceful_shutdown = 0.5
        respawn = false
        metrics = true
        header = "a: b, c"
        ws-max-size = "1MiB"
        forwarded_allow_ips = ["::1", "10.0.0.0/8"]
        [[queue]]
        name = "web"
        [[route]]
        path = "/x"
        methods = ["GET"]
    """
    assert read_file(write(tmp_path, text)) == {
        "app": "app:main",
        "shards": "auto",
        "cpus": (3, 1),
        "idle_poll": 50,
        "bind": (TcpAddress("127.0.0.1", 1), UnixAddress("/s")),
        "timeout_startup": 5.0,
        "timeout_graceful_shutdown": 0.5,
        "respawn": False,
        "metrics": TcpAddress("127.0.0.1", 9464),
        "header": (("a", "b, c"),),
        "ws_max_size": 1 << 20,
        "forwarded_allow_ips": "::1,10.0.0.0/8",
        "queue": (QueueConfig("web"),),
        "route": (Route("/x", methods=("GET",)),),
    }


def test_an_option_of_two_names_has_both(tmp_path: Path) -> None:
    for name in ("switch_interval", "gil_switch_interval", "gil-switch-interval"):
        assert read_file(write(tmp_path, f"{name} = 0.001")) == {"switch_interval": 0.001}
    with pytest.raises(ConfigurationError, match="gil_switch_interval: is given twice"):
        read_file(write(tmp_path, "switch_interval = 0.001\ngil_switch_interval = 0.002"))


def test_one_value_will_do_where_there_may_be_several(tmp_path: Path) -> None:
    assert read_file(write(tmp_path, 'bind = ":1"\nreload-dir = "src"\ncpus = "0-1"')) == {
        "bind": (TcpAddress("0.0.0.0", 1),),
        "reload_dir": ("src",),
        "cpus": (0, 1),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shrads = 2", "{}: shrads: unknown key; did you mean shards?"),
        ("timeout-starup = 2", "{}: timeout-starup: unknown key; did you mean timeout_startup?"),
        ("queues = []", "{}: queues: unknown key; did you mean queue?"),
        ("workers-kill-timeout = 2", "did you mean timeout_graceful_shutdown?"),
        ("zzz = 2", "{}: zzz: unknown key; known are access_log, access_log_format, app, "),
        ('shards = "four"', "{}: shards: the number of shards is 'four'; give a whole number from 1 to 1024, or auto"),
        ("shards = 0", "{}: shards: the number of shards is 0; give"),
        ("shards = 1.5", "{}: shards: the value 1.5 is a number; give a whole number or a string (N|auto)"),
        ("respawn = 1", "{}: respawn: the value 1 is a whole number; give true or false"),
        ('factory = "yes"', '{}: factory: the value "yes" is a string; give true or false'),
        ("port = true", "{}: port: the value true is a boolean; give a whole number (PORT)"),
        ('timeout_startup = "5"', '{}: timeout_startup: the value "5" is a string; give a number (S)'),
        ('bind = ["none", ":1"]', "{}: bind: none is for a server that listens on nothing; take it out"),
        ("bind = [1]", "{}: bind: 1 in the list is a whole number; give a string"),
        ("cpus = ['1']", '{}: cpus: "1" in the list is a string; give a whole number'),
        ("cpus = []", "{}: cpus: '' is not a list of CPUs"),
        ("host = 1979-05-27", "{}: host: the value 1979-05-27 is a date; give a string (HOST)"),
        ("config = 'x'", "{}: config: is for the command line and the environment (CLOCKWORKER_CONFIG) only"),
        ("shard_queue = ['0:x:1']", "{}: shard_queue: is for the command line"),
        ("app_dir = 'a'\napp-dir = 'b'", "{}: app-dir: is given twice, with - and with _; give it once"),
        ("[[queue]]\nshare = 1", "{}: queue: [[queue]]: there is no name"),
        ("[[route]]\nqueue = 'x'", "{}: route: [[route]]: there is no path"),
        (
            "[[route]]\npath = '/x'\ngruop = 'client'",
            "{}: route: [[route]] '/x': unknown key 'gruop'; did you mean 'group'?",
        ),
        ("route = 1", "{}: route: route is 1; give tables [[route]]"),
        ("header = [1]", "{}: header: 1 in the list is a whole number; give a string"),
        ("root_path = 'api'", "{}: root_path: 'api' is no root path"),
        ("[shard.0]\nport = 1", "{}: shard: [shard.0]: unknown key 'port'"),
        ("shards = 2\n[", "{} is not TOML: "),
        ("shards == 2", "(at line 1, column 9)"),
    ],
)
def test_a_mistake_names_file_key_value_and_what_would_be_right(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        read_file(path)
    assert message.format(path) in str(caught.value)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--config: no.toml cannot be read: No such file"):
        read_file("no.toml")
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text, from byte 5 on"):
        read_file(str(tmp_path / "bytes.toml"))


def test_the_file_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file() is None
    (tmp_path / "clockworker.toml").touch()
    assert find_file() == "clockworker.toml"


KEYS = st.sampled_from([option.name for option in OPTIONS] + ["shard", "x"])
SCALARS = st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)


@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_no_document_is_worse_than_a_configuration_error(document: dict[str, object]) -> None:
    with pytest.MonkeyPatch.context() as patch, right_or_told():
        patch.setattr(_toml, "load", lambda *_: document)
        read_file("x.toml")
