"""The pytest plugin: fixtures `serving`, `clockworker_clock` and `clockworker_seed`.

pytest loads it wherever Clockworker is installed, before coverage measures anything and for tests that have never heard of us.
So it is a module beside the package and imports that only in a fixture that a test has asked for: until then it costs one
option and one hook.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from clockworker.testing import Clock, Server, Serving

_LOG_SHOWN = 20_000  # characters of a failed test's server

_servers = pytest.StashKey[list["Server"]]()
_seed = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("clockworker").addoption(
        "--clockworker-seed",
        type=_to_seed,
        metavar="N",
        help="what the fixture clockworker_seed is, 0 to 2**64 - 1; another number in each run unless given. A test that fails "
        "prints it",
    )


def _to_seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 64:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; one is a whole number from 0 to 2**64 - 1")
    return int(text)


@pytest.fixture
def clockworker_clock() -> Clock:
    """A `clockworker.testing.Clock` that the test winds by hand."""
    from clockworker.testing import Clock

    return Clock()


@pytest.fixture
def clockworker_seed(request: pytest.FixtureRequest) -> int:
    """The number of `--clockworker-seed`, or one that is new in each run of pytest."""
    given: int | None = request.config.getoption("clockworker_seed")
    seed = request.config.stash.setdefault(_seed, secrets.randbits(32)) if given is None else given
    request.node.add_report_section("setup", "clockworker_seed", f"run again with --clockworker-seed={seed}")
    return seed


@pytest.fixture
def serving(request: pytest.FixtureRequest) -> Iterator[Serving]:
    """`clockworker.testing.serving` as a function: `server = serving("app:main", shards=2)`. Servers are stopped when the test
    ends; their log is shown if it fails."""
    from clockworker.testing import serving as start

    servers = request.node.stash.setdefault(_servers, [])
    with ExitStack() as stack:

        def serve(app: str | Callable[..., Coroutine[Any, Any, object]], **options: Any) -> Server:
            server = stack.enter_context(start(app, **options))
            servers.append(server)
            return server

        yield serve
    servers.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, None, None]:
    if call.when == "call" and call.excinfo is not None:
        for server in item.stash.get(_servers, []):
            item.add_report_section("call", f"log of {server.app}", server.log[-_LOG_SHOWN:])
    yield
