"""trio's own tests, with every task of every run in a queue of an executor and without: the outcomes must be the same.

    python -m tests.ecosystem.trio_suite [--show] [MODULE ...]

The tests are those that the installed trio brings along, run as they are. Each module runs in two processes, with plain runs
and with an executor in each (`_trio_gate`). What differs is run again, for a test of timing may fail by chance on a busy
machine; what differs still is printed and makes the exit status 1. The steps that went through executors are counted and
printed, so that nobody is fooled by a run that tested nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

# Tasks, cancellation, nurseries, and what is made of them.
MODULES = (
    "trio._core._tests.test_run",
    "trio._core._tests.test_cancelled",
    "trio._core._tests.test_parking_lot",
    "trio._core._tests.test_guest_mode",
    "trio._core._tests.test_instrumentation",
    "trio._core._tests.test_ki",
    "trio._core._tests.test_local",
    "trio._core._tests.test_mock_clock",
    "trio._core._tests.test_asyncgen",
    "trio._core._tests.test_unbounded_queue",
    "trio._core._tests.test_io",
    "trio._tests.test_sync",
    "trio._tests.test_channel",
    "trio._tests.test_timeouts",
    "trio._tests.test_threads",
    "trio._tests.test_contextvars",
    "trio._tests.test_testing",
    "trio._tests.test_signals",
    "trio._tests.test_scheduler_determinism",
    "trio._tests.test_highlevel_serve_listeners",
)

# Tests that cannot have the same outcome, and why.
EXCEPTIONS = {
    "test_the_trio_scheduler_is_not_deterministic": "wants batches in a random order; a queue's scheduler has one",
}

PLUGIN = "tests.ecosystem._trio_gate"
ROOT = Path(__file__).parents[2]
DEADLINE = 300  # seconds for a module
ATTEMPTS = 3

Outcomes = dict[str, str]  # by test: passed, or skipped, failed with what it said after a colon


def available() -> tuple[str, ...]:
    """Those of MODULES that the installed trio has."""
    try:
        return tuple(name for name in MODULES if importlib.util.find_spec(name) is not None)
    except ModuleNotFoundError:
        return ()


def run_module(name: str, *, gated: bool, tests: Sequence[str] = (), show: bool = False) -> tuple[Outcomes, int]:
    """The outcome of each test of a module, and how many steps went through executors. Raises RuntimeError if it hangs."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin)
    folder = path.parents[len(name.split("."))]  # above the package
    with tempfile.TemporaryDirectory() as scratch:
        output, empty = Path(scratch, "outcomes.json"), Path(scratch, "pytest.ini")
        empty.write_text("[pytest]\n")
        command = [sys.executable, "-m", "pytest", "-c", str(empty), "--rootdir", str(folder), "-q", "-W", "error"]
        command += ["-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
        command += ["-p", "trio._tests.pytest_plugin", "-p", PLUGIN, "-p", "no:cacheprovider", "--tb", "short"]
        command += tests or [str(path)]
        environment = {
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "CLOCKWORKER_OUTCOMES": str(output),
            "CLOCKWORKER_GATED": "1" if gated else "0",
        }
        ended = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=None if show else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=DEADLINE,
        )
        if not output.exists():
            raise RuntimeError(f"{name}: exit status {ended.returncode}\n{(ended.stdout or '')[-8000:]}")
        result = json.loads(output.read_text())
        return result["outcomes"], result["steps"]


def _kind(outcome: str | None) -> str:
    return "not run" if outcome is None else outcome.partition(":")[0]


def _plain_name(test: str) -> str:
    return test.rpartition("::")[2].partition("[")[0]


def differences(name: str, report: Callable[[str], None] = print, *, show: bool = False) -> list[str]:
    """A line for each test of the module whose outcome is another with an executor. Those of EXCEPTIONS must be other."""
    plain, _ = run_module(name, gated=False, show=show)
    ours, steps = run_module(name, gated=True, show=show)
    if not ours:
        raise RuntimeError(f"{name} has no tests")
    differing = [test for test in sorted(plain.keys() | ours.keys()) if _kind(plain.get(test)) != _kind(ours.get(test))]
    exempt = {_plain_name(test) for test in differing} & EXCEPTIONS.keys()
    differing = [test for test in differing if _plain_name(test) not in EXCEPTIONS]
    for _ in range(ATTEMPTS - 1):
        if not differing:
            break
        again_plain, _ = run_module(name, gated=False, tests=differing)
        again_ours, _ = run_module(name, gated=True, tests=differing)
        for test in [*differing]:
            if _kind(again_plain.get(test)) == _kind(again_ours.get(test)):
                report(f"  {test}: the same when run again; at first {plain.get(test)}, and gated {ours.get(test)}")
                differing.remove(test)
    kinds = [_kind(outcome) for test, outcome in ours.items() if _plain_name(test) not in exempt]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted({*kinds}))
    report(f"{name}: {counts}, {len(exempt)} exempt; {steps:,} steps in executors")
    found = [f"{test}: {plain.get(test, 'not run')}, and gated {ours.get(test, 'not run')}" for test in differing]
    ran = {_plain_name(test) for test in ours}
    found += [
        f"{test} is listed as an exception, but has the same outcome" for test in EXCEPTIONS if test in ran - exempt
    ]
    if steps == 0:
        found.append(f"{name}: no step went through an executor, so nothing was tested")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="MODULE")
    parser.add_argument("--show", action="store_true", help="what pytest says, as it says it")
    arguments = parser.parse_args()
    if not available():
        print("trio is not installed, or came without its tests", file=sys.stderr)
        return 2
    found: list[str] = []
    for name in arguments.names or available():
        found += differences(name, show=arguments.show)
    print(*(found or ["no differences"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
