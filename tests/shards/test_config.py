from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker import executor
from clockworker._errors import ConfigurationError
from clockworker.shards import _config as config
from clockworker.shards._config import InheritedSocket, QueueConfig, TcpAddress, UnixAddress


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web:8", QueueConfig("web", 8, "fifo")),
        ("web:8:las", QueueConfig("web", 8, "las")),
        ("b g:10000:runnable-fifo", QueueConfig("b g", 10000, "runnable-fifo")),
    ],
)
def test_queue(text: str, expected: QueueConfig) -> None:
    assert config.parse_queue(text) == expected


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("web", "'web'", "NAME:SHARE[:SCHEDULER]"),
        (":8", "':8'", "NAME:SHARE[:SCHEDULER]"),
        ("web:8:las:9", "'web:8:las:9'", "foreground:8:las"),
        ("web:0", "share is 0", "1 to 10000"),
        ("web:10001", "share is 10001", "1 to 10000"),
        ("web:eight", "'eight'", "whole number from 1"),
        ("web:8:lifo", "unknown scheduler 'lifo'", "runnable-fifo"),
    ],
)
def test_wrong_queue_names_what_is_wrong_and_what_would_be_right(text: str, wrong: str, right: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.parse_queue(text)
    assert wrong in str(caught.value)
    assert right in str(caught.value)
    assert "\n" not in str(caught.value)


def test_queues_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'web' is given 2 times"):
        config.parse_queues(["web:1", "other:1", "web:2"])


@pytest.mark.parametrize("name", config.available_schedulers())
def test_every_scheduler_on_offer_can_be_made(name: str) -> None:
    assert type(config.make_scheduler(name)).__name__ == config.SCHEDULERS[name]
    assert QueueConfig("web", 3, name).declare().share == 3


def test_schedulers_that_do_not_exist_are_not_on_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(executor, "QLAS", raising=False)
    assert "qlas" not in config.available_schedulers()
    with pytest.raises(ConfigurationError, match="choose one of fifo, runnable-fifo"):
        config.make_scheduler("qlas")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        (":8000", TcpAddress("0.0.0.0", 8000)),
        ("[::1]:0", TcpAddress("::1", 0)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
    ],
)
def test_bind(text: str, expected: object) -> None:
    assert config.parse_bind(text) == expected


def test_addresses_are_shown_as_they_are_written() -> None:
    for text in ("127.0.0.1:80", "[::1]:8000", "unix:/run/app.sock"):
        assert str(config.parse_bind(text)) == text
    assert str(InheritedSocket(3)) == "fd:3"


@pytest.mark.parametrize(
    "text", ["8000", "::1:80", "localhost", "localhost:", "host:65536", "unix:", "unix:" + "x" * 108]
)
def test_wrong_bind(text: str) -> None:
    with pytest.raises(ConfigurationError):
        config.parse_bind(text)


@pytest.mark.parametrize(("text", "expected"), [("0", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), ("3,1", (3, 1))])
def test_cpus(text: str, expected: tuple[int, ...]) -> None:
    assert config.parse_cpus(text) == expected


@pytest.mark.parametrize("text", ["", "a", "3-1", "0,0", "0-2,1", "-1", "1-", "0,,1", "0-99999999999"])
def test_wrong_cpus(text: str) -> None:
    with pytest.raises(ConfigurationError):
        config.parse_cpus(text)


@given(st.sets(st.integers(0, 300), min_size=1).map(sorted))
def test_cpus_come_back_from_any_list(cpus: list[int]) -> None:
    assert config.parse_cpus(",".join(map(str, cpus))) == tuple(cpus)


def test_shards() -> None:
    assert config.parse_shards("auto") == "auto"
    assert config.parse_shards("3") == 3
    for text in ("0", "-1", "many", "1.5", "1025"):
        with pytest.raises(ConfigurationError, match="give a whole number from 1 to 1024, or auto"):
            config.parse_shards(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("app", "app:main"),
        ("app:", "app:main"),
        (":main", "app:main"),
        ("app.py", "app:main"),
        ("src/app.py:run", "src.app:run"),
    ],
)
def test_application_without_a_colon_or_with_a_file_name(text: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint):
        config.parse_app(text)


@given(st.text(max_size=30))
def test_no_text_is_worse_than_a_configuration_error(text: str) -> None:
    for parse in (
        config.parse_app,
        config.parse_queue,
        config.parse_bind,
        config.parse_cpus,
        config.parse_shards,
        config.parse_port,
        config.parse_seconds,
        config.parse_flag,
        config.parse_log_level,
    ):
        with contextlib.suppress(ConfigurationError):
            parse(text)
