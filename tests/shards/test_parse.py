from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker._errors import ConfigurationError
from clockworker.shards.config import _parse as parse
from clockworker.shards.config._config import InheritedSocket, TcpAddress, UnixAddress
from tests.shards.mistakes import right_or_told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        (":8000", TcpAddress("0.0.0.0", 8000)),
        ("[::1]:0", TcpAddress("::1", 0)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:/run/app.sock,mode=660", UnixAddress("/run/app.sock", 0o660)),
        ("admin=127.0.0.1:80", TcpAddress("127.0.0.1", 80, "admin")),
        ("An_other-1=:80", TcpAddress("0.0.0.0", 80, "An_other-1")),
        ("admin=unix:s,mode=660", UnixAddress("s", 0o660, "admin")),
        ("admin=fd:3", InheritedSocket(3, "admin")),
        # Only what comes before any : / or , is a name.
        ("unix:a=b", UnixAddress("a=b")),
        ("admin=unix:a=b", UnixAddress("a=b", bind="admin")),
        ("fd:3", InheritedSocket(3)),
    ],
)
def test_bind(text: str, expected: object) -> None:
    assert parse.parse_bind(text) == expected


def test_addresses_are_shown_as_they_are_written() -> None:
    for text in (
        "127.0.0.1:80",
        "[::1]:8000",
        "unix:/run/app.sock",
        "fd:3",
        "a=[::1]:80",
        "b=unix:s,mode=600",
        "c=fd:3",
    ):
        assert str(parse.parse_bind(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "8000",
        "::1:80",
        "localhost",
        "localhost:",
        "host:65536",
        "unix:",
        "unix:" + "x" * 108,
        "unix:s,mode=999",
        "fd:",
        "fd:x",
        "=127.0.0.1:80",
        "ad min=127.0.0.1:80",
        "admin=",
        "admin=none",
        "a=b=:80",
    ],
)
def test_wrong_bind(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse.parse_bind(text)


def test_a_wrong_name_says_what_is_one() -> None:
    with pytest.raises(ConfigurationError, match=r"'a\.b' is no name; give letters, digits, - and _ before the ="):
        parse.parse_bind("a.b=:80")


def test_no_address_is_said_alone() -> None:
    assert parse.parse_binds([]) == parse.parse_binds(["none"]) == ()
    with pytest.raises(ConfigurationError, match="none is for a server that listens on nothing"):
        parse.parse_binds([":80", "none"])


@pytest.mark.parametrize(("text", "expected"), [("0", "none"), ("2", "required"), ("Optional", "optional")])
def test_whether_clients_show_a_certificate(text: str, expected: str) -> None:
    assert parse.parse_cert_reqs(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("1.2", "1.2"), ("TLSv1.3", "1.3"), ("tlsv1.2", "1.2")])
def test_versions_of_tls(text: str, expected: str) -> None:
    assert parse.parse_tls_version(text) == expected
    with pytest.raises(ConfigurationError, match=r"unknown version of TLS '17'; choose one of 1.2, 1.3"):
        parse.parse_tls_version("17")


@pytest.mark.parametrize(("text", "expected"), [("0", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), ("3,1", (3, 1))])
def test_cpus(text: str, expected: tuple[int, ...]) -> None:
    assert parse.parse_cpus(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2048", 2048),
        ("4096B", 4096),
        ("64KiB", 1 << 16),
        (" 16 mib", 1 << 24),
        ("1GiB", 1 << 30),
        ("1025KiB", 1025 << 10),
    ],
)
def test_size(text: str, expected: int) -> None:
    assert parse.parse_max_message(text) == expected
    assert parse.parse_max_message(parse.show_size(expected)) == expected


def test_sizes_are_shown_in_the_largest_unit() -> None:
    sizes = (1500, 1 << 10, 3 << 19, 1 << 24, 1 << 30)
    assert [parse.show_size(size) for size in sizes] == ["1500B", "1KiB", "1536KiB", "16MiB", "1GiB"]


@pytest.mark.parametrize("text", ["", "MiB", "16M", "16MB", "1.5MiB", "-1", "0", "1023", "1025MiB", "9" * 30])
def test_wrong_size(text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse.parse_max_message(text)
    assert str(error.value) == (f"the largest message is {text!r}; give a size from 1KiB to 1GiB, for example 16MiB")


@pytest.mark.parametrize("text", ["", "a", "3-1", "0,0", "0-2,1", "-1", "1-", "0,,1", "0-99999999999"])
def test_wrong_cpus(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse.parse_cpus(text)


@given(st.sets(st.integers(0, 300), min_size=1).map(sorted))
def test_cpus_come_back_from_any_list(cpus: list[int]) -> None:
    assert parse.parse_cpus(",".join(map(str, cpus))) == tuple(cpus)


def test_shards() -> None:
    assert parse.parse_shards("auto") == "auto"
    assert parse.parse_shards("3") == 3
    for text in ("0", "-1", "many", "1.5", "1025"):
        with pytest.raises(ConfigurationError, match="give a whole number from 1 to 1024, or auto"):
            parse.parse_shards(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("app", "app:main"),
        ("app:", "app:main"),
        (":main", "app:main"),
        ("app.py", "app:main"),
        ("src/app.py:run", "src.app:run"),
        (".app:run", "app"),
        ("a..b:run", "app"),
        ("./app:run", ": app:run"),
        ("../app.py:run", "--app-dir .. app:run"),
        ("/app:run", "--app-dir / app:run"),
        ("app main", "for example app:main"),
    ],
)
def test_application_without_a_colon_or_with_a_file_name(text: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint):
        parse.parse_app(text)


@given(st.text(max_size=30))
def test_no_text_is_worse_than_a_configuration_error(text: str) -> None:
    for read in (
        parse.parse_app,
        parse.parse_bind,
        parse.parse_cpus,
        parse.parse_shards,
        parse.parse_port,
        parse.parse_seconds,
        parse.parse_flag,
        parse.parse_log_level,
        parse.parse_metrics,
        parse.parse_limit,
        parse.parse_trusted,
        parse.parse_root_path,
        parse.parse_header,
        parse.parse_head_size,
        parse.parse_switch_interval,
    ):
        with right_or_told():
            read(text)


@pytest.mark.parametrize(("text", "expected"), [("0", 0.0), ("1.5", 1.5), ("1e3", 1000.0)])
def test_seconds(text: str, expected: float) -> None:
    assert parse.parse_seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-1", "inf", "nan", "1e99"])
def test_times_are_never_endless(text: str) -> None:
    with pytest.raises(ConfigurationError, match="give seconds"):
        parse.parse_seconds(text)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="more than 0"):
        parse.parse_limit("0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", TcpAddress("127.0.0.1", 9464)), ("off", None), (":80", TcpAddress("0.0.0.0", 80))],
)
def test_metrics(text: str, expected: object) -> None:
    assert parse.parse_metrics(text) == expected


def test_wrong_metrics() -> None:
    for text in ("unix:/s", "fd:3"):
        with pytest.raises(ConfigurationError):
            parse.parse_metrics(text)
    with pytest.raises(ConfigurationError, match=r"give HOST:PORT \(monitor:9464\)"):
        parse.parse_metrics("monitor")


def test_a_choice_that_is_none_names_those_there_are() -> None:
    assert parse.parse_log_level("INFO") == "info"
    with pytest.raises(ConfigurationError, match=r"unknown log level 'loud'; choose one of critical, .*, debug"):
        parse.parse_log_level("loud")
    with pytest.raises(ConfigurationError, match="choose one of kernel, least-connections, fixed"):
        parse.parse_distribution("random")
    with pytest.raises(ConfigurationError, match="choose one of text, json"):
        parse.parse_log_format("xml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("*", "*"), ("127.0.0.1, ::1", "127.0.0.1,::1"), ("10.0.0.0/8,fd00::/8,unix", "10.0.0.0/8,fd00::/8,unix")],
)
def test_trusted_proxies(text: str, expected: str) -> None:
    assert parse.parse_trusted(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "localhost",
            "'localhost' is no address of a proxy; give addresses and networks, for example 10.0.0.0/8,::1; unix",
        ),
        ("10.0.0.1/8", "'10.0.0.1/8' is no address of a proxy (10.0.0.1/8 has host bits set); give"),
        ("10.0.0.0/33", "'10.0.0.0/33' is no address"),
        ("127.0.0.1,", "'' is no address"),
        ("*,::1", r"* is for all; take it out, or the rest"),
    ],
)
def test_proxies_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse.parse_trusted(text)
    assert message in str(caught.value)


def test_root_paths() -> None:
    assert [parse.parse_root_path(text) for text in ("", "/api", "/a/b")] == ["", "/api", "/a/b"]
    for text, right in {"api": "/api", "/api/": "/api", "/": "/api", "/a?b": "/a"}.items():
        with pytest.raises(ConfigurationError, match=f"is no root path; give one that .*: {right}$"):
            parse.parse_root_path(text)


def test_headers() -> None:
    assert parse.parse_headers(["x-frame-options: DENY", "A:", "b: c: d"]) == (
        ("x-frame-options", "DENY"),
        ("A", ""),
        ("b", "c: d"),
    )
    for text, message in {
        "x": "is no header; give NAME:VALUE",
        ": x": "is no header",
        "a b: c": "is no header",
        "a: b\r\nc: d": "the value has what no header can have",
        "a: \u20ac": "the value has what no header can have",
        "Content-Length: 3": "Content-Length is of one response only; take it out",
        "transfer-encoding: chunked": "is of one response only",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            parse.parse_header(text)


@pytest.mark.parametrize(
    ("read", "right", "wrong"),
    [
        (parse.parse_interface, {"WSGI": "wsgi", "auto": "auto"}, ["rsgi", "asgi"]),
        (parse.parse_lifespan, {"on": "on"}, ["yes"]),
        (parse.parse_ws_max_size, {"1": 1, "16MiB": 1 << 24}, ["0", "2GiB"]),
        (parse.parse_ws_max_queue, {"1": 1}, ["0", "x"]),
        (parse.parse_head_size, {"64": 64, "8KiB": 8192}, ["63", "2MiB", "0"]),
        (parse.parse_limit_request_fields, {"100": 100}, ["0", "32769"]),
        (parse.parse_event_size, {"64KiB": 65536}, ["1023", "17MiB"]),
        (parse.parse_limit_concurrency, {"1": 1}, ["0"]),
        (parse.parse_threads, {"1024": 1024}, ["0", "1025"]),
        (parse.parse_switch_interval, {"0.0005": 0.0005, "1": 1.0}, ["0", "2", "x"]),
    ],
)
def test_values_of_http(read: Callable[[str], object], right: dict[str, object], wrong: list[str]) -> None:
    assert {text: read(text) for text in right} == right
    for text in wrong:
        with pytest.raises(ConfigurationError, match=r"give|choose"):
            read(text)
