"""Preemptive queues as they are declared, and what is said where there can be none."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

import clockworker as cw
from clockworker.executor import _guard_cy, _preempt, _queue
from tests.conftest import DEADLINE, Run
from tests.executor.slices import ask, cuts, needs_slices, queues, refusals, rule, with_and_without


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_preemptive_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match=r"preemptive of queue 'q' is .*; it must be True or False"):
        cw.Queue("q", preemptive=wrong)


@pytest.mark.parametrize("wrong", [0.000_05, 1.5, 10])
def test_a_slice_out_of_range(wrong: float) -> None:
    cw.Queue("q", slice=wrong)
    with pytest.raises(
        cw.ConfigurationError, match=r"slice of queue 'q' is .*; of a preemptive queue it must be 0.0001 to 1"
    ):
        cw.Queue("q", preemptive=True, slice=wrong)


@pytest.mark.parametrize("wrong", [float("nan"), "1", True])
def test_a_slice_that_is_none(wrong: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match="slice of queue 'q'"):
        cw.Queue("q", preemptive=True, slice=wrong)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=DEADLINE
    )


DECLARE = """
import clockworker as cw
cw.Queue("ordinary")
try:
    cw.Queue("reports", preemptive=True)
except cw.ConfigurationError as error:
    print(error)
"""


def said(code: str = DECLARE, **environment: str) -> str:
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("queue 'reports' is preemptive, which needs ")
    return lines[0].removeprefix("queue 'reports' is preemptive, which needs ")


def test_pure_mode_is_refused() -> None:
    assert "compiled" in said(CLOCKWORKER_PURE="1")


@needs_slices
def test_without_greenlet() -> None:
    hidden = "import sys; sys.modules['greenlet'] = None" + DECLARE
    assert said(hidden) == "greenlet, which is not installed: pip install 'clockworker[preempt]'"


@needs_slices
@pytest.mark.parametrize("name", _preempt.NEEDS)
def test_each_assumption_can_be_switched_off_alone(name: str) -> None:
    text = said(CLOCKWORKER_PLAIN=name)
    assert repr(name) in text
    assert "CLOCKWORKER_PLAIN" in text


@needs_slices
@pytest.mark.parametrize(
    ("name", "value", "word"),
    [("sys.platform", "'darwin'", "Linux"), ("sysconfig.get_config_var", "lambda name: 1", "free-threaded")],
)
def test_elsewhere(name: str, value: str, word: str) -> None:
    module = name.split(".")[0]
    assert word in said(f"import clockworker, {module}\n{name} = {value}" + DECLARE)


def test_greenlet_is_not_imported_for_nothing() -> None:
    code = """
import asyncio, sys
import clockworker as cw

async def main():
    async with cw.Executor([cw.Queue("q")]) as executor:
        with cw.no_preempt():
            await executor.queue("q").spawn(asyncio.sleep(0))

asyncio.run(main())
print("greenlet" in sys.modules)
"""
    assert python(code).stdout.strip() == "False"


@with_and_without
@needs_slices
def test_no_preempt(run: Run, by_hand: None, on: bool) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                with cw.no_preempt():
                    ask()
                    with cw.no_preempt():
                        ask()
                    ask()
                    await asyncio.sleep(0)
                    ask()
                    await executor.queue("background").spawn(child())
                    ask()

            async def child() -> None:
                before = cuts(executor)
                ask()
                assert cuts(executor) == before + 1, "a task that was started in it"

            async def after() -> None:
                with cw.no_preempt():
                    pass
                ask()

            await executor.queue("background").spawn(hog())
            assert (cuts(executor), refusals(executor).get("no_preempt", 0)) == ((1, 5) if on else (6, 0))
            await executor.queue("background").spawn(after())
            assert cuts(executor) == (2 if on else 7)

    with rule("no_preempt", on):
        run(body)


@needs_slices
def test_no_preempt_in_a_single_step(run: Run, by_hand: None) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            def first() -> None:
                with cw.no_preempt():
                    ask()
                    assert cuts(executor) == 0

            core = executor._core
            carrier = core.carrier("single")
            core.spawn_step(executor.queue("background")._membership, carrier, first)
            core.spawn_step(executor.queue("background")._membership, carrier, ask)
            await executor.drain()
            assert cuts(executor) == 0  # `ask` is C: there is no instruction after it before the step's end

    run(body)


def test_no_preempt_does_nothing_elsewhere() -> None:
    with cw.no_preempt(), cw.no_preempt():
        pass

    async def main() -> None:
        with pytest.raises(LookupError), cw.no_preempt():
            raise LookupError

    asyncio.run(main())


@pytest.mark.parametrize("wrong", ["", ".", "a..b", "a b", "a-b", 5, None, "a."])
def test_never_preempt_takes_names(wrong: Any) -> None:
    before = _guard_cy.guarded()
    with pytest.raises(cw.ConfigurationError, match=r"never_preempt\(\) was given"):
        cw.never_preempt("right", wrong)
    assert _guard_cy.guarded() == before


LIBRARY = """
def change(ask):
    ask()

def call(function):
    return function()
"""


@needs_slices
def test_never_preempt(run: Run, by_hand: None) -> None:
    def library(name: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": name}
        exec(LIBRARY, names)
        return names

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            pool, other = library("somebody.pool.core"), library("somebody.pools")

            async def hog() -> None:
                for each in (pool, other):
                    each["change"](ask)
                    each["call"](lambda: ask())

            await executor.queue("background").spawn(hog())
            assert cuts(executor) == 4
            cw.never_preempt("somebody.pool")
            try:
                await executor.queue("background").spawn(hog())
            finally:
                _guard_cy.unguard({"somebody.pool"})
            assert cuts(executor) == 6
            assert refusals(executor) == {"guarded": 2}
            await executor.queue("background").spawn(hog())
            assert cuts(executor) == 10

    run(body)


@needs_slices
def test_what_libraries_of_asyncio_share_with_the_loop_is_not_seen_in_pieces(run: Run, by_hand: None) -> None:
    """aiohttp makes the future that `connection_lost` sets when it is asked for; a cut between the question and the future
    would leave a client that closes waiting for ever."""
    client_proto = pytest.importorskip("aiohttp.client_proto")

    async def body() -> None:
        class Loop:
            def create_future(self) -> asyncio.Future[None]:
                ask()
                return asyncio.get_running_loop().create_future()

        async with cw.Executor(queues()) as executor:

            async def asks() -> None:
                protocol = client_proto.ResponseHandler(asyncio.get_running_loop())
                protocol._loop = Loop()
                asyncio.get_running_loop().call_soon(protocol.connection_lost, None)
                closed = protocol.closed
                assert closed is not None
                async with asyncio.timeout(DEADLINE):
                    await closed

            await executor.queue("background").spawn(asks())
            assert refusals(executor)["guarded"] >= 1

    run(body)


def test_the_bounds_of_a_slice() -> None:
    assert 0 < _queue.SHORTEST_SLICE < 0.001 < _queue.LONGEST_SLICE
