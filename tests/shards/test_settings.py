"""Which source wins, and that each value's origin is told right."""

from __future__ import annotations

from pathlib import Path

import pytest

from clockworker._errors import ConfigurationError
from clockworker.shards.config._cluster import ClusterConfig
from clockworker.shards.config._config import (
    InheritedSocket,
    QueueConfig,
    QueueGroupConfig,
    ServeConfig,
    TcpAddress,
    UnixAddress,
)
from clockworker.shards.config._http import HttpConfig, Route
from clockworker.shards.config._options import OPTIONS
from clockworker.shards.config._settings import Settings, read_settings
from clockworker.shards.worker._shard_queues import queues_of


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(arguments: str = "", **environment: str) -> ServeConfig:
    return read_settings(arguments.split(), environment).config


def settings(arguments: str = "", file: str | None = None, env_file: str | None = None, **environment: str) -> Settings:
    if file is not None:
        Path("clockworker.toml").write_text(file)
    if env_file is not None:
        Path(".env").write_text(env_file)
        arguments += " --env-file .env"
    return read_settings(arguments.split(), environment)


def test_defaults() -> None:
    assert read_settings(["app:main"], {}) == Settings(ServeConfig("app:main"), {"app": "command line"}, {})


EVERY_OPTION = (
    "app:main --shards 3 --spares 2 --cpus 0-2 --no-pin --idle-poll 50 --credit 6 --max-message 2MiB --blocking-threads 4"
    " --processes 5 --switch-interval 0.001 --queue web:8:las --queue bg:1:preemptive --shard-queue 1:web:9 --queue-group g:4"
    " --shard-queue 1:x:2:qlas --bind :1 --bind admin=unix:/s --host ::1 --port 2 --uds /t --uds-mode 660 --fd 3 --backlog 9"
    " --ssl-certfile cert --ssl-keyfile key --ssl-keyfile-password secret --ssl-ca-certs ca --ssl-crl crl"
    " --ssl-cert-reqs optional --ssl-ciphers AES --ssl-version TLSv1.3"
    " --distribution fixed --max-connections 7 --factory --app-dir d --reload --reload-dir f --reload-dir g"
    " --reload-include *.html --reload-exclude gen --shard-lifetime 3600 --shard-max-rss 512MiB --umask 027"
    " --access-log-format %(h)s --proxy-protocol --limit-max-requests 1000 --limit-max-requests-jitter 50"
    " --interface asgi2 --route /r/*=bg:client --route /x=web --lifespan on --lifespan-queue bg --reset-contextvars"
    " --proxy-headers --http2 --forwarded-allow-ips 10.0.0.0/8 --root-path /api --header a:1 --header b:2 --server-header"
    " --date-header --ws-max-size 1MiB --ws-max-queue 5 --ws-ping-interval 6 --ws-ping-timeout 0 --ws-per-message-deflate"
    " --limit-request-line 4KiB --limit-request-field-size 1000 --limit-request-fields 20"
    " --h11-max-incomplete-event-size 32KiB --timeout-request-header 1 --timeout-request-body 2 --timeout-keep-alive 3"
    " --timeout-response 4 --limit-concurrency 100 --threads 16"
    " --timeout-graceful-shutdown 1.5 --timeout-hand-over 5 --timeout-shard-healthcheck 0 --timeout-startup 2 --no-respawn"
    " --log-level DEBUG"
    " --log-format json --log-config l --access-log --slow-poll 0.5 --metrics [::1]:4 --control c --pid-file p"
    " --cluster-url tls://a --cluster-url tls://b:5222 --cluster-name shop --cluster-node n1 --cluster-credentials c.creds"
    " --cluster-ca ca.pem --cluster-cert n1.pem --cluster-key n1.key --cluster-tls-first --cluster-node-timeout 2.5"
    " --cluster-partitions 128 --cluster-two-nodes lowest"
)
EVERY_FIELD = ServeConfig(
    app="app:main",
    shards=3,
    spares=2,
    cpus=(0, 1, 2),
    pin=False,
    idle_poll_us=50,
    credit=6,
    max_message=2 << 20,
    blocking_threads=4,
    processes=5,
    switch_interval=0.001,
    queues=(QueueConfig("web", 8, "las"), QueueConfig("bg", 1, preemptive=True)),
    queue_groups=(QueueGroupConfig("g", 4),),
    shard_queues={1: (QueueConfig("web", 9), QueueConfig("x", 2, "qlas"))},
    addresses=(
        TcpAddress("0.0.0.0", 1),
        UnixAddress("/s", 0o660, bind="admin"),
        TcpAddress("::1", 2),
        UnixAddress("/t", 0o660),
        InheritedSocket(3),
    ),
    backlog=9,
    distribution="fixed",
    max_connections=7,
    ssl_certfile="cert",
    ssl_keyfile="key",
    ssl_keyfile_password="secret",
    ssl_ca_certs="ca",
    ssl_crl="crl",
    ssl_cert_reqs="optional",
    ssl_ciphers="AES",
    ssl_version="1.3",
    factory=True,
    app_dir="d",
    reload=True,
    reload_dirs=("f", "g"),
    reload_include=("*.html",),
    reload_exclude=("gen",),
    shard_lifetime=3600.0,
    shard_max_rss=512 << 20,
    umask=0o027,
    access_log_format="%(h)s",
    timeout_graceful_shutdown=1.5,
    timeout_hand_over=5.0,
    timeout_shard_healthcheck=0.0,
    timeout_startup=2.0,
    respawn=False,
    log_level="debug",
    log_format="json",
    log_config="l",
    access_log=True,
    slow_poll=0.5,
    metrics=TcpAddress("::1", 4),
    control="c",
    pid_file="p",
    http=HttpConfig(
        interface="asgi2",
        lifespan="on",
        lifespan_queue="bg",
        reset_contextvars=True,
        routes=(Route("/r/*", "bg", group="client"), Route("/x", "web")),
        forwarded_allow_ips="10.0.0.0/8",
        proxy_protocol=True,
        limit_max_requests=1_000,
        limit_max_requests_jitter=50,
        root_path="/api",
        headers=(("a", "1"), ("b", "2")),
        ws_max_size=1 << 20,
        ws_max_queue=5,
        ws_ping_interval=6.0,
        ws_ping_timeout=0.0,
        limit_request_line=4096,
        limit_request_field_size=1000,
        limit_request_fields=20,
        incomplete_event_size=1 << 15,
        timeout_request_header=1.0,
        timeout_request_body=2.0,
        timeout_keep_alive=3.0,
        timeout_response=4.0,
        limit_concurrency=100,
        threads=16,
    ),
    cluster=ClusterConfig(
        url=("tls://a:4222", "tls://b:5222"),
        node="n1",
        name="shop",
        credentials="c.creds",
        ca="ca.pem",
        cert="n1.pem",
        key="n1.key",
        tls_first=True,
        node_timeout=2.5,
        partitions=128,
        two_nodes="lowest",
    ),
)


def test_every_option_from_the_command_line() -> None:
    assert read(EVERY_OPTION) == EVERY_FIELD
    given = {word.lstrip("-").replace("-", "_") for word in EVERY_OPTION.split() if word.startswith("--")}
    elsewhere = {"app", "config", "env_file", "check_config", "print_config"}
    assert {option.name for option in OPTIONS} == (given - {"no_respawn"}) | {"respawn"} | elsewhere


def test_every_option_from_the_environment() -> None:
    words = EVERY_OPTION.split()
    environment: dict[str, str] = {"CLOCKWORKER_APP": words[0]}
    for word, following in zip(words[1:], [*words[2:], ""], strict=True):
        if word.startswith("--"):
            name = "CLOCKWORKER_" + word.lstrip("-").replace("-", "_").upper()
            value = "1" if following.startswith("--") else following
            between = "\n" if name == "CLOCKWORKER_HEADER" else ","
            environment[name] = f"{environment[name]}{between}{value}" if name in environment else value
    environment["CLOCKWORKER_RESPAWN"] = "no"
    assert read(**environment) == EVERY_FIELD


def test_the_order_is_option_environment_file_default() -> None:
    file = "app = 'file:main'\nshards = 4\nbacklog = 4\nlog_level = 'error'"
    found = settings("-w 2", file, CLOCKWORKER_SHARDS="3", CLOCKWORKER_BACKLOG="3")
    config = found.config
    assert (config.shards, config.backlog, config.log_level, config.app) == (2, 3, "error", "file:main")
    assert found.origins == {
        "app": "clockworker.toml",
        "shards": "--shards",
        "backlog": "CLOCKWORKER_BACKLOG",
        "log_level": "clockworker.toml",
    }


def test_web_concurrency_comes_after_our_own_variable_and_before_the_file() -> None:
    assert read("app:main", WEB_CONCURRENCY="5").shards == 5
    assert read("app:main", WEB_CONCURRENCY="5", CLOCKWORKER_SHARDS="2").shards == 2
    assert settings("app:main", "shards = 3", WEB_CONCURRENCY="5").config.shards == 5


def test_an_empty_variable_is_none() -> None:
    assert read("app:main", CLOCKWORKER_SHARDS="").shards == "auto"


def test_a_variable_may_have_several_values() -> None:
    assert read("app:main", CLOCKWORKER_BIND=" :1, unix:/s,mode=660,:2").addresses == (
        TcpAddress("0.0.0.0", 1),
        UnixAddress("/s", 0o660),
        TcpAddress("0.0.0.0", 2),
    )


def test_switches_can_be_turned_back() -> None:
    assert not read("app:main", CLOCKWORKER_RESPAWN="0").respawn
    assert read("app:main --respawn", CLOCKWORKER_RESPAWN="0").respawn
    assert not settings("app:main --no-access-log", "access_log = true").config.access_log
    assert read("app:main", CLOCKWORKER_NO_PIN="no").pin


def test_a_format_of_the_access_log_switches_it_on() -> None:
    assert read("app:main --access-log-format %(h)s").access_log
    assert read("app:main", CLOCKWORKER_ACCESS_LOG_FORMAT="%(h)s %(s)s").access_log_format == "%(h)s %(s)s"
    assert not read("app:main --access-log-format %(h)s --no-access-log").access_log
    assert not settings("app:main --access-log-format %(h)s", "access_log = false").config.access_log


def test_what_is_on_for_http_can_be_turned_off() -> None:
    switches = {"http2", "proxy_headers", "server_header", "date_header", "ws_per_message_deflate"}
    off = read("app:main " + " ".join(f"--no-{name.replace('_', '-')}" for name in switches)).http
    assert off == HttpConfig(**dict.fromkeys(switches, False))  # type: ignore[arg-type]
    assert read("app:main", **{f"CLOCKWORKER_{name.upper()}": "0" for name in switches}).http == off


def test_proxies_may_be_said_as_uvicorn_has_it() -> None:
    assert read("app:main", FORWARDED_ALLOW_IPS="*").http.forwarded_allow_ips == "*"
    both = {"FORWARDED_ALLOW_IPS": "*", "CLOCKWORKER_FORWARDED_ALLOW_IPS": "::1"}
    assert read("app:main", **both).http.forwarded_allow_ips == "::1"


def test_headers_in_a_variable_are_lines() -> None:
    headers = read("app:main", CLOCKWORKER_HEADER="a: b, c\nd: e f").http.headers
    assert headers == (("a", "b, c"), ("d", "e f"))


def test_routes_are_replaced_whole() -> None:
    file = "[[route]]\npath = '/a'\nqueue = 'x'\n[[route]]\npath = '/b'\nlimit = 2"
    assert settings("app:main", file).config.http.routes == (Route("/a", "x"), Route("/b", limit=2))
    assert settings("app:main --route /c=y", file).config.http.routes == (Route("/c", "y"),)
    found = settings("app:main", file, CLOCKWORKER_ROUTE="/d=y /e=z:client")
    assert found.config.http.routes == (Route("/d", "y"), Route("/e", "z", group="client"))
    assert found.origins["route"] == "CLOCKWORKER_ROUTE"


def test_lists_are_replaced_whole() -> None:
    file = "[[queue]]\nname = 'web'\n[[queue]]\nname = 'bg'"
    assert settings("app:main", file).config.queues == (QueueConfig("web"), QueueConfig("bg"))
    assert settings("app:main --queue x:2", file).config.queues == (QueueConfig("x", 2),)
    assert settings("app:main", file, CLOCKWORKER_QUEUE="x:2, y:3").config.queues == (
        QueueConfig("x", 2),
        QueueConfig("y", 3),
    )


def test_a_shards_own_queues_build_on_those_in_force() -> None:
    file = "[[queue]]\nname = 'web'\nscheduler = 'las'\n[[shard.1.queue]]\nname = 'web'\nshare = 5"
    assert queues_of(settings("app:main", file).config, 1, ()) == (QueueConfig("web", 5, "las"),)
    assert queues_of(settings("app:main --queue web:2:qlas", file).config, 1, ()) == (QueueConfig("web", 5, "qlas"),)
    assert settings("app:main --shard-queue 0:x:1", file).config.shard_queues == {0: (QueueConfig("x", 1),)}
    Path("clockworker.toml").unlink()
    config = read("app:main --shard-queue 0:x:1")
    assert queues_of(config, 0, ()) == (QueueConfig("default"), QueueConfig("x", 1))
    assert queues_of(config, 1, ()) == (QueueConfig("default"),)


def test_a_shard_is_told_of_its_own_queues_only() -> None:
    config = read("app:main --queue web:2 --shard-queue 0:x:1")
    assert config.of_shard(0) == config
    assert config.of_shard(1) == ServeConfig("app:main", queues=(QueueConfig("web", 2),))


@pytest.mark.parametrize(
    ("arguments", "environment", "file", "expected", "origin"),
    [
        ("", "", 'bind = ":1"', [TcpAddress("0.0.0.0", 1)], "clockworker.toml"),
        ("--bind :2", "", 'bind = ":1"', [TcpAddress("0.0.0.0", 2)], "--bind"),
        ("--uds /s", ":3", 'bind = ":1"', [UnixAddress("/s")], "--uds"),
        ("", ":3", "port = 1", [TcpAddress("0.0.0.0", 3)], "CLOCKWORKER_BIND"),
        # A port alone keeps the host that was set further back, and a host the port.
        ("--port 2", "", "host = '::1'\nport = 1", [TcpAddress("::1", 2)], "clockworker.toml, --port"),
        ("--host ::1", "", "port = 1\nuds = '/s'", [TcpAddress("::1", 1)], "--host, clockworker.toml"),
        ("--port 2", "", "uds = '/s'", [TcpAddress("127.0.0.1", 2)], "--port"),
        ("--port 2 --uds /s", "", "", [TcpAddress("127.0.0.1", 2), UnixAddress("/s")], "--port, --uds"),
        ("--host ::1", "", "", [TcpAddress("::1", 8000)], "--host"),
        # None at all is a value like any other.
        ("--bind none", "", 'bind = ":1"', [], "--bind"),
        ("", "none", "port = 1", [], "CLOCKWORKER_BIND"),
        ("", "", "bind = []", [], "clockworker.toml"),
        ("--port 2", "", "bind = []", [TcpAddress("127.0.0.1", 2)], "--port"),
        (
            "--bind admin=:2 --port 3",
            "",
            "",
            [TcpAddress("0.0.0.0", 2, "admin"), TcpAddress("127.0.0.1", 3)],
            "--bind, --port",
        ),
        (
            "",
            "admin=unix:/s,mode=660,:3",
            "",
            [UnixAddress("/s", 0o660, "admin"), TcpAddress("0.0.0.0", 3)],
            "CLOCKWORKER_BIND",
        ),
    ],
)
def test_the_foremost_source_of_any_address_decides(
    arguments: str, environment: str, file: str, expected: list[object], origin: str
) -> None:
    found = settings(f"app:main {arguments}", file, CLOCKWORKER_BIND=environment)
    assert list(found.config.addresses) == expected
    assert found.origins["bind"] == origin


def test_a_mode_for_sockets_that_have_none() -> None:
    found = settings("app:main --bind unix:/a --bind unix:/b,mode=600 --bind :1", "uds_mode = '660'").config.addresses
    assert found == (UnixAddress("/a", 0o660), UnixAddress("/b", 0o600), TcpAddress("0.0.0.0", 1))
    assert read("app:main --uds-mode 600") == read("app:main")
    with pytest.raises(ConfigurationError, match="--uds-mode: '999' is no mode of a file; give three octal digits"):
        read("app:main --uds-mode 999")


@pytest.mark.parametrize(("arguments", "file"), [("--bind none --port 3", ""), ("", "bind = []\nport = 3")])
def test_no_address_and_one_are_a_contradiction(arguments: str, file: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no address is to be listened on, but .* gives one \(port\)"):
        settings(f"app:main {arguments}", file)


@pytest.mark.parametrize(
    "arguments",
    [
        "--bind :1 --bind :1",
        "--bind a=:1 --bind b=:1",
        "--bind unix:s --bind unix:s,mode=600",
        "--fd 7 --bind fd:7",
        "--metrics 127.0.0.1:8000",
    ],
)
def test_an_address_is_given_once(arguments: str) -> None:
    """A start would say that another server has it."""
    with pytest.raises(ConfigurationError, match=r"is an address (that is given twice|of the application)"):
        settings(f"app:main {arguments} {'--port 8000' if 'metrics' in arguments else ''}")


def test_any_free_port_is_given_as_often_as_one_likes() -> None:
    assert len(read("app:main --bind 127.0.0.1:0 --bind 127.0.0.1:0 --metrics 127.0.0.1:0").addresses) == 2


def test_the_names_of_binds_are_in_their_order() -> None:
    assert read("app:main --bind b=:1 --bind :2 --bind a=:3 --bind b=:4").binds == ("b", "", "a")


def test_metrics_alone_is_a_switch() -> None:
    default = ServeConfig("app:main", metrics=TcpAddress("127.0.0.1", 9464))
    assert read("--metrics app:main") == read("app:main --metrics") == default
    assert read("app:main", CLOCKWORKER_METRICS="1") == default
    assert read("--metrics :1 app:main").metrics == TcpAddress("0.0.0.0", 1)
    assert settings("app:main", "metrics = false").config.metrics is None


def test_a_file_elsewhere_is_named() -> None:
    Path("other.toml").write_text("shards = 7")
    Path("clockworker.toml").write_text("shards = 1")
    found = settings("app:main --config other.toml")
    assert (found.config.shards, found.origins["shards"]) == (7, "other.toml")
    assert settings("app:main", CLOCKWORKER_CONFIG="other.toml").config.shards == 7


def test_variables_of_the_env_file_stand_behind_the_environment_and_before_the_file() -> None:
    env_file = "CLOCKWORKER_SHARDS=3\nCLOCKWORKER_BACKLOG=3\nWHO=file\nHOME=/file\n"
    found = settings("app:main", "shards = 4", env_file, CLOCKWORKER_BACKLOG="2", HOME="/mine")
    assert (found.config.shards, found.config.backlog) == (3, 2)
    assert found.origins["shards"] == "CLOCKWORKER_SHARDS in .env"
    assert found.variables == {"CLOCKWORKER_SHARDS": "3", "WHO": "file"}
    assert found.config.env_file == ".env"


def test_the_file_may_name_the_env_file() -> None:
    Path("some.env").write_text("A=1")
    assert settings("app:main", "env_file = 'some.env'").variables == {"A": "1"}


@pytest.mark.parametrize("name", ["CONFIG", "ENV_FILE", "PRINT_CONFIG"])
def test_what_had_to_be_known_before_the_env_file_cannot_be_in_it(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\.env: CLOCKWORKER_{name} comes too late here; give --"):
        settings("app:main", None, f"CLOCKWORKER_{name}=1")


@pytest.mark.parametrize("name", ["PURE", "PLAIN"])
def test_what_is_decided_at_import_cannot_be_in_the_env_file(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"\.env: CLOCKWORKER_{name} comes too late here; set it in the environ"
    ):
        settings("app:main", None, f"CLOCKWORKER_{name}=1")


def test_commands() -> None:
    assert settings("app:main --check-config").check_only
    assert not settings("app:main").print_only
    assert settings("app:main", CLOCKWORKER_PRINT_CONFIG="1").print_only


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ("app:main", {"WEB_CONCURRENCY": "lots"}, "^WEB_CONCURRENCY: the number of shards is 'lots'"),
        ("app:main", {"CLOCKWORKER_PORT": "-1"}, "^CLOCKWORKER_PORT: the port is -1"),
        ("app:main", {"CLOCKWORKER_PORT": "tcp://10.0.0.1:80"}, "^CLOCKWORKER_PORT: .*enableServiceLinks: false"),
        ("app:main --port x", {}, "^--port: the port is 'x'"),
        ("app", {}, "^'app' does not say what to run"),
        ("", {"CLOCKWORKER_APP": "app"}, "^CLOCKWORKER_APP: 'app' does not say"),
        ("", {}, "^say what to run: clockworker-serve MODULE:ATTRIBUTE"),
    ],
)
def test_a_wrong_value_is_blamed_on_where_it_came_from(
    arguments: str, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(arguments, **environment)
