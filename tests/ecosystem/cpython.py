"""CPython's own tests of asyncio, with an executor on every loop and without: the outcomes must be the same, test by test.

    python -m tests.ecosystem.cpython [--loop asyncio|uvloop] [--preemptive US] [MODULE ...]

Each module of `test.test_asyncio` (those of the running Python) runs in processes of its own, with plain loops and with
executors. What differs is run again by itself, for a test of timing may fail by chance on a busy machine; what differs still
is printed and makes the exit status 1. `--loop` is asyncio's own or uvloop; both unless given.

How the loops get their executor, without a change to any test:

- `asyncio.new_event_loop()`, `asyncio.run()`, `Runner` and `IsolatedAsyncioTestCase` all come to the loop factory of asyncio's
  default policy, which is replaced. It outlives the `set_event_loop_policy(None)` that these tests are fond of. Those that
  name `asyncio.EventLoop` as their factory get the same.
- `TestCase.new_test_loop()` of CPython's `test_asyncio.utils` (a loop with a clock that the test winds) and `new_loop()` of
  `test_runners` (one without a selector) make loops by themselves; both are wrapped. These are asyncio's, whatever `--loop`.

With `--loop uvloop`, `TestCase.close_loop()`, which looks into a private attribute of asyncio's loop, is replaced in both runs:
or else every test of streams and some of those of tasks would fail in both, and compare nothing. What fails on uvloop alone
and passes with an executor is printed, and is no difference to complain of.

Every loop gets two queues, so that the choice between queues is made too; a task that names none runs in the first. A turn is
not cut short by time, which would make what a timer of 1 ms may overtake depend on the machine; by the number of steps it is.
With `--preemptive 100` both queues are preemptive, in slices of 100 us, so whatever the tests compute in a task is cut.
Left out: loops that a test makes in a subprocess, tasks written in Python (`asyncio.tasks._PyTask`, which the executor
leaves to the loop; half of `test_tasks` is about them, and must pass beside an executor all the same), mocks of loops.
The steps that went through executors are counted and printed, so that nobody is fooled by a run that tested nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import functools
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import uvloop

import clockworker as cw
from tests import preemptive

Outcomes = dict[str, str]  # test -> ok, skipped, failed, error, ...; with what it said after a colon

MODULES = (
    "test_tasks",
    "test_eager_task_factory",
    "test_futures",
    "test_futures2",
    "test_taskgroups",
    "test_timeouts",
    "test_waitfor",
    "test_locks",
    "test_queues",
    "test_streams",
    "test_runners",
)
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}

# Tests that cannot have the same outcome, in whichever of a module's classes, and why. On both loops unless one is named.
EXCEPTIONS = {
    "test_tasks.test_cancel_yield": "counts rounds of the loop, one step each; in one round an executor runs many steps",
    "test_tasks.test_log_destroyed_pending_task": "wants a pending task collected; an executor's are kept until done",
    "test_streams.test_async_writer_api_exception_after_close on uvloop": "takes it that after sleep(0) connection_lost() "
    "has been called; uvloop's transports queue that call inside the loop, where no seam sees it",
}

# Modules that cannot be run with every queue preemptive, and why.
NEVER_PREEMPTIVE = {"test_runners": "makes loops that have no add_reader, on which preemptive queues are refused"}

# Seconds after which a test is taken to hang, and a module.
TEST_DEADLINE = 15
DEADLINE = 300
ATTEMPTS = 3


def available() -> tuple[str, ...]:
    """Those of MODULES that this Python has; none if it came without its tests, as Linux distributions' do."""
    try:
        return tuple(name for name in MODULES if importlib.util.find_spec(f"test.test_asyncio.{name}") is not None)
    except ModuleNotFoundError:
        return ()


class _Steps(cw.RunnableFifo):
    """The default scheduler, counting over all loops."""

    seen = 0

    def observe(self, task: cw.ScheduledTask, elapsed_ns: int) -> None:
        _Steps.seen += 1


def _with_executor(make: Callable[[], asyncio.AbstractEventLoop]) -> asyncio.AbstractEventLoop:
    queues = [cw.Queue("tests", scheduler=_Steps()), cw.Queue("other")]
    return cw.new_event_loop(queues, loop_factory=make, driver_yield=1.0)


def _close_any_loop(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _give_executors(module: ModuleType) -> None:
    """Let the loops that the module's tests make for themselves have executors too."""
    utils: Any = importlib.import_module("test.test_asyncio.utils")
    new_test_loop = utils.TestCase.new_test_loop

    def test_loop_with_executor(case: Any, gen: Any = None) -> asyncio.AbstractEventLoop:
        return _with_executor(lambda: new_test_loop(case, gen))

    utils.TestCase.new_test_loop = test_loop_with_executor
    base = getattr(module, "BaseTest", None)
    new_loop = getattr(base, "new_loop", None)
    if base is not None and new_loop is not None:
        base.new_loop = lambda case: _with_executor(lambda: new_loop(case))


class _Hang(SystemExit):
    """Not an ordinary exception: a loop would report that and go on hanging."""


def _hang(signal_number: int, frame: object) -> None:
    raise _Hang(f"hangs: no end after {TEST_DEADLINE} s")


class _Recorder(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.outcomes: Outcomes = {}
        signal.signal(signal.SIGALRM, _hang)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        signal.setitimer(signal.ITIMER_REAL, TEST_DEADLINE, 1)

    def stopTest(self, test: unittest.TestCase) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        super().stopTest(test)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.outcomes.setdefault(test.id(), "ok")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.outcomes[test.id()] = f"skipped: {reason}"

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._add("failed", test, err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._add("error", test, err)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.outcomes[test.id()] = "failed as expected"

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.outcomes[test.id()] = "succeeded against expectation"

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self._add("failed" if issubclass(err[0], test.failureException) else "error", test, err)

    def _add(self, what: str, test: unittest.TestCase, err: Any) -> None:
        # unittest's own formatting leaves out its own frames.
        print(f"{test.id()} {what}\n{self._exc_info_to_string(err, test)}", file=sys.stderr)  # type: ignore[attr-defined]
        self.outcomes[test.id()] = f"{what}: {err[0].__name__}: {err[1]}"


def _child(name: str, loop: str, executor: bool, output: Path, tests: Iterable[str]) -> None:
    faulthandler.dump_traceback_later(DEADLINE - 5, exit=True)
    preemptive.install()
    make = LOOPS[loop]
    policy: Any = asyncio.DefaultEventLoopPolicy
    factory: Any = staticmethod((lambda: _with_executor(make)) if executor else make)
    policy._loop_factory = factory
    asyncio.EventLoop = factory  # type: ignore[misc]
    module = importlib.import_module(f"test.test_asyncio.{name}")
    if executor:
        _give_executors(module)
    if loop == "uvloop":
        utils: Any = importlib.import_module("test.test_asyncio.utils")
        utils.TestCase.close_loop = staticmethod(_close_any_loop)
    loader = unittest.defaultTestLoader
    recorder = _Recorder()
    (loader.loadTestsFromNames(tests) if tests else loader.loadTestsFromModule(module)).run(recorder)
    output.write_text(json.dumps({"outcomes": recorder.outcomes, "steps": _Steps.seen}))


def run_module(
    name: str, loop: str, *, executor: bool, tests: Iterable[str] = (), slice_us: float | None = None
) -> tuple[Outcomes, int]:
    """The outcome of each test of a module, and how many steps went through executors. Raises RuntimeError if it hangs.

    slice_us: of queues that are all preemptive; None: none is, unless the environment says so (tests/preemptive.py).
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "outcomes.json")
        arguments = ["--child", name, "--loop", loop, "--output", str(output), *tests]
        if executor:
            arguments.append("--executor")
        process = subprocess.run(
            [sys.executable, "-m", __name__ if __name__ != "__main__" else "tests.ecosystem.cpython", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=DEADLINE,
            cwd=Path(__file__).parents[2],
            env=os.environ if slice_us is None else {**os.environ, preemptive.VARIABLE: f"{slice_us:g}"},
        )
        if not output.exists():
            raise RuntimeError(f"{name} on {loop}: exit status {process.returncode}\n{process.stdout[-8000:]}")
        result = json.loads(output.read_text())
        return result["outcomes"], result["steps"]


@functools.cache
def _plain(name: str, loop: str) -> Outcomes:
    """Of a whole module, which is compared with more than one kind of queues."""
    return run_module(name, loop, executor=False)[0]


def _run_both(
    name: str, loop: str, slice_us: float | None, tests: Iterable[str] = ()
) -> tuple[Outcomes, Outcomes, int]:
    # Side by side: they mostly sleep.
    with ThreadPoolExecutor(1) as pool:
        if tests:
            future = pool.submit(lambda: run_module(name, loop, executor=False, tests=tests)[0])
        else:
            future = pool.submit(_plain, name, loop)
        ours, steps = run_module(name, loop, executor=True, tests=tests, slice_us=slice_us)
        return future.result(), ours, steps


def _kind(outcome: str | None) -> str:
    """ok, skipped, error: TypeError, and so on; what else an error says may hold addresses and times."""
    return "not run" if outcome is None else ":".join(outcome.split(":")[: 1 if outcome.startswith("skipped") else 2])


def _differing(plain: Outcomes, ours: Outcomes) -> list[str]:
    tests = plain.keys() | ours.keys()
    return sorted(test for test in tests if _kind(plain.get(test)) != _kind(ours.get(test)))


def _exceptions(name: str, loop: str) -> list[str]:
    return [test for test in EXCEPTIONS if test.startswith(f"{name}.") and test.partition(" on ")[2] in ("", loop)]


def differences(
    name: str, loop: str, report: Callable[[str], None] = print, *, slice_us: float | None = None
) -> list[str]:
    """A line for each test of the module whose outcome is another with an executor. Those of EXCEPTIONS must be other."""
    started = time.monotonic()
    plain, ours, steps = _run_both(name, loop, slice_us)
    exceptions = {test.partition(" on ")[0].partition(".")[2] for test in _exceptions(name, loop)}
    differing = _differing(plain, ours)
    exempt = {test for test in differing if test.rpartition(".")[2] in exceptions}
    differing = [test for test in differing if test not in exempt]
    for _ in range(ATTEMPTS - 1):
        if not differing:
            break
        again_plain, again_ours, _ = _run_both(name, loop, slice_us, differing)
        steady = _differing(again_plain, again_ours)
        for test in differing:
            if test not in steady:
                report(
                    f"  {test}: the same when run again; at first {plain.get(test)}, and with an executor {ours.get(test)}"
                )
        differing = steady
    kinds = [_kind(ours.get(test)).partition(":")[0] for test in ours if test not in exempt]
    counts = [f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))]
    report(
        f"{name} on {loop}: {', '.join(counts)}, {len(exempt)} exempt; {steps} steps in executors, "
        f"{time.monotonic() - started:.0f} s"
    )
    found = []
    for test in differing:
        line = (
            f"{test} on {loop}: {plain.get(test, 'did not run')}, and with an executor {ours.get(test, 'did not run')}"
        )
        if loop == "uvloop" and ours.get(test) == "ok":
            report(f"  {line}")
        else:
            found.append(line)
    found += [
        f"{test} is listed as an exception, but has the same outcome on {loop}"
        for test in _exceptions(name, loop)
        if not any(f"{name}.{other.rpartition('.')[2]}" == test.partition(" on ")[0] for other in exempt)
    ]
    if steps == 0:
        found.append(f"{name} on {loop}: no step went through an executor, so nothing was tested")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="MODULE")
    parser.add_argument("--loop", choices=sorted(LOOPS))
    parser.add_argument("--preemptive", type=float, metavar="US", help="every queue is, in slices of so many us")
    parser.add_argument("--child", metavar="MODULE", help=argparse.SUPPRESS)
    parser.add_argument("--executor", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        _child(arguments.child, arguments.loop, arguments.executor, arguments.output, arguments.names)
        return 0
    if not available():
        print(f"{sys.executable} came without the package `test`", file=sys.stderr)
        return 2
    found: list[str] = []
    names = [name for name in available() if arguments.preemptive is None or name not in NEVER_PREEMPTIVE]
    for name in arguments.names or names:
        for loop in [arguments.loop] if arguments.loop else sorted(LOOPS):
            found += differences(name, loop, slice_us=arguments.preemptive)
    print(*(found or ["no differences"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
