from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from clockworker.shards.config._config import InheritedSocket, QueueConfig, ServeConfig, TcpAddress, UnixAddress
from clockworker.shards.config._http import HttpConfig, Route
from clockworker.shards.config._options import OPTIONS
from clockworker.shards.config._print import as_toml
from clockworker.shards.config._settings import read_settings
from tests.shards.test_settings import EVERY_FIELD


def read_back(config: ServeConfig, directory: Path, declared: list[QueueConfig] | None = None) -> ServeConfig:
    path = directory / "printed.toml"
    path.write_text(as_toml(config, {}, {}, declared))
    return read_settings(["--config", str(path)], {}).config


@pytest.mark.parametrize("config", [ServeConfig("app:main"), EVERY_FIELD])
def test_what_is_printed_says_the_same_when_it_is_read(config: ServeConfig, tmp_path: Path) -> None:
    secret = config.ssl_keyfile_password
    assert read_back(config, tmp_path) == structs.replace(config, ssl_keyfile_password=None)
    assert secret is None or secret not in (tmp_path / "printed.toml").read_text()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
QUEUES = st.builds(
    QueueConfig,
    name=TEXT,
    share=st.none() | st.integers(1, 10_000),
    scheduler=st.sampled_from([None, "fifo", "las", "a.b:C"]),
    slice=st.none() | st.floats(1e-6, 10),
    on_panic=st.sampled_from([None, "catch", "propagate"]),
    slow_poll=st.none() | st.floats(0, 100),
    preemptive=st.sampled_from([None, True, False]),
).filter(lambda queue: not queue.preemptive or queue.slice is None or 1e-4 <= queue.slice <= 1)
NAMES = st.sampled_from(["", "admin", "7", "an_other-One"])
ROUTES = st.builds(
    Route,
    path=st.sampled_from(["/a", "/é{x}/*", "/\"'"]),
    queue=st.none() | TEXT,
    methods=st.sampled_from([(), ("GET", "WEBSOCKET")]),
    host=st.sampled_from([None, "h.example"]),
    group=st.sampled_from([None, "client", "header:X-a"]),
    after=st.none() | TEXT,
    limit=st.integers(1, 9),
    waiting=st.none() | st.integers(0, 9),
    place=st.sampled_from([None, "shard:3"]),
)
HTTP = st.builds(
    HttpConfig,
    routes=st.lists(ROUTES, max_size=3, unique_by=lambda route: (route.path, route.methods, route.host)).map(tuple),
    headers=st.lists(st.sampled_from([("a", "b"), ("c", ""), ("d", 'é, "f": g')]), max_size=3).map(tuple),
    ws_max_size=st.integers(1, 1 << 30),
    incomplete_event_size=st.integers(1 << 10, 1 << 24),
    threads=st.none() | st.integers(1, 1024),
    server_header=st.booleans(),
    timeout_keep_alive=st.floats(1e-9, 1e6),
    root_path=st.sampled_from(["", "/a", "/é"]),
)


def place_of(address: TcpAddress | UnixAddress | InheritedSocket) -> object:
    """Two that have the same are refused."""
    match address:
        case TcpAddress(host, port):
            return (host, port) if port else address
        case UnixAddress(path):
            return path
        case InheritedSocket(descriptor):
            return descriptor


CONFIGS = st.builds(
    ServeConfig,
    app=st.just("app:main"),
    app_dir=TEXT,
    shards=st.just("auto") | st.integers(1, 1024),
    cpus=st.none() | st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True).map(tuple),
    queues=st.lists(QUEUES, max_size=3, unique_by=lambda queue: queue.name).map(tuple),
    addresses=st.lists(
        st.builds(TcpAddress, st.sampled_from(["127.0.0.1", "::1", "host"]), st.integers(0, 65535), NAMES)
        | st.builds(
            UnixAddress, TEXT.filter(lambda text: "\0" not in text), st.sampled_from([0o666, 0o600, 0o7]), NAMES
        )
        | st.builds(InheritedSocket, st.integers(0, 99), NAMES),
        max_size=3,
        unique_by=place_of,
    ).map(tuple),
    timeout_startup=st.floats(1e-9, 1e6),
    shard_lifetime=st.none() | st.floats(1e-9, 1e6),
    shard_max_rss=st.none() | st.integers(1 << 20, 1 << 50),
    umask=st.none() | st.integers(0, 0o777),
    access_log=st.booleans(),
    access_log_format=st.none() | st.sampled_from(['%(h)s "%(r)s"', "%({x-a}i)s 100%%"]),
    reload_include=st.lists(TEXT, max_size=2).map(tuple),
    reload_dirs=st.lists(TEXT, max_size=2).map(tuple),
    pin=st.booleans(),
    credit=st.integers(1, 1_000_000),
    max_message=st.integers(1 << 10, 1 << 30),
    blocking_threads=st.integers(1, 1_024),
    switch_interval=st.none() | st.floats(1e-6, 1),
    processes=st.none() | st.integers(1, 1_024),
    http=HTTP,
)


@given(CONFIGS, st.none() | st.lists(QUEUES, max_size=3, unique_by=lambda queue: queue.name))
def test_so_does_any_other(
    tmp_path_factory: pytest.TempPathFactory, config: ServeConfig, declared: list[QueueConfig] | None
) -> None:
    """Whatever the application declares."""
    assert read_back(config, tmp_path_factory.getbasetemp(), declared) == config


def test_every_value_says_where_it_came_from() -> None:
    lines = as_toml(EVERY_FIELD, {"backlog": "--backlog", "queue": "app.toml"}, {"shards": "why"}).splitlines()
    assert "backlog = 9                                 # --backlog" in lines
    assert "shards = 3                                  # default; why" in lines
    assert "# env_file                                  # not set" in lines
    assert all(" # " in line for line in lines if " = " in line and "bind" in line)
    assert lines.count("[[queue]]                                   # app.toml") == 2
    assert lines.count("[[route]]                                   # default") == 2
    assert (
        "# [[route]]                                 # not set: those of the application, or else all in the first queue"
        in (as_toml(ServeConfig("app:main"), {}, {}).splitlines())
    )
    assert lines.count("[[group]]                                   # default") == 1
    assert lines.count("[[shard.1.queue]]                           # default") == 2
    named = {line.removeprefix("# ").partition(" ")[0] for line in lines}
    for option in OPTIONS:
        if option.takes and option.name not in (
            "host",
            "port",
            "uds",
            "uds_mode",
            "fd",
            "queue",
            "queue_group",
            "route",
        ):
            assert option.name.removeprefix("cluster_") in named
