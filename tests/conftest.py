"""What all tests share. There is no pytest plug-in for asyncio here: a test hands its body to the fixture `run`."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import hypothesis
import pytest
import uvloop

import clockworker as cw
from tests import preemptive
from tests.rewriting import share_rewriting
from tests.watchdog import watch

T = TypeVar("T")

# Seconds after which a test that waits for something is taken to hang. Generous: the machine may be busy with other things.
DEADLINE = 120.0

# Examples take as long as the machine lets them; slowness is no failure.
hypothesis.settings.register_profile("clockworker", deadline=None, print_blob=True)
hypothesis.settings.load_profile("clockworker")


def pytest_report_header() -> str:
    off, slice_us = cw.switched_off(), preemptive.slice_us()
    return f"clockworker: {'compiled' if cw.compiled else 'pure Python'}" + (
        (f", switched off: {', '.join(off)}" if off else "")
        + (f", every queue preemptive with slices of {slice_us:g} us" if slice_us is not None else "")
    )


def needs(assumption: str) -> pytest.MarkDecorator:
    """For a test of what is done only where Clockworker may assume that of CPython (`cw.switched_off`)."""
    off = cw.switched_off()
    return pytest.mark.skipif(assumption in off, reason=f"{assumption} is switched off: {off.get(assumption)}")


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it runs in the background ignore it, and libraries put back what they take for the usual.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    preemptive.install()
    watchdog = watch()

    def dismiss() -> None:
        watchdog.kill()
        watchdog.wait()

    config.add_cleanup(dismiss)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    share_rewriting(session.config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (why := preemptive.reason_for(item.nodeid)) is not None:
            item.add_marker(pytest.mark.skip(reason=f"every queue is preemptive: {why}"))


def pytest_collection_finish() -> None:
    # Thousands of tests, and what they import, are there to the end: a test that has garbage collected need not look at them.
    gc.collect()
    gc.freeze()


# Signals that some test has a handler for, or a library that tests run.
_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGCHLD", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGRTMAX")
    if hasattr(signal, name)
]
_handlers: pytest.StashKey[dict[int, Any]] = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_handlers] = {number: signal.getsignal(number) for number in _SIGNALS}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """A test that leaves a handler behind fails itself, and no other that comes later in its process."""
    yield
    left = []
    for number, handler in item.stash.get(_handlers, {}).items():
        if (now := signal.getsignal(number)) is not handler:
            left.append(f"{signal.Signals(number).name} is {now!r}, and was {handler!r}")
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if left:
        pytest.fail(f"the test leaves handlers of signals behind: {'; '.join(left)}", pytrace=False)


LOOPS_VARIABLE = "TESTS_LOOPS"


def loop_names() -> list[str]:
    """On which event loops tests run. TESTS_LOOPS=rloop,package:factory names others, whose factory is `new_event_loop` unless
    it is given; docs/runtimes.md has what came of those that can be had."""
    given = os.environ.get(LOOPS_VARIABLE, "")
    return [name.strip() for name in given.split(",")] if given else ["asyncio", "uvloop"]


def other_loop(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The factory of that name. ImportError, AttributeError if there is none."""
    package, _, factory = name.partition(":")
    found: Callable[[], asyncio.AbstractEventLoop] = getattr(
        importlib.import_module(package), factory or "new_event_loop"
    )
    return found


class Run:
    """Runs the body of a test on a new loop, and fails the test for what was reported to the loop meanwhile."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop_factory = loop_factory
        self.reports: list[dict[str, Any]] = []  # a test that provokes some takes them out

    def __call__(
        self,
        body: Callable[[], Coroutine[Any, Any, T]],
        *,
        debug: bool = False,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(DEADLINE):
                return await body()

        with asyncio.Runner(loop_factory=loop_factory or self.loop_factory, debug=debug) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: self.reports.append(context))
            return runner.run(bounded())


@pytest.fixture(params=loop_names())
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "asyncio":
        return asyncio.new_event_loop
    if request.param == "uvloop":
        return uvloop.new_event_loop
    return other_loop(request.param)


@pytest.fixture
def run(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Run]:
    runner = Run(loop_factory)
    yield runner
    assert not runner.reports


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until the condition holds."""
    deadline = asyncio.get_running_loop().time() + DEADLINE / 2
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what} never came true"
        await asyncio.sleep(0.001)


async def until_done(*awaitables: Awaitable[Any]) -> None:
    """Wait for all of them, whatever becomes of them."""
    await asyncio.gather(*awaitables, return_exceptions=True)
