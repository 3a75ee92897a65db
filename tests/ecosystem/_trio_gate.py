"""A pytest plug-in for trio's own tests: every run of trio gets an executor with two queues, and all tasks run in the first.

Loaded with `-p` by `tests.ecosystem.trio_suite`, in a process of its own. Runs are given their executor where trio makes them
(`setup_runner`), and lose it where they end (`Runner.close`), so that no test sees an instrument more. Each turn takes up to a
thousand steps, whatever they last, and only steps of tasks that were runnable when it began would be trio's own rule: a turn
here goes on with what becomes runnable meanwhile.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from trio._core import _run

import clockworker as cw
from clockworker.trio import Executor
from clockworker.trio._tasks import Membership

OUTCOMES_VARIABLE = "CLOCKWORKER_OUTCOMES"  # the file for the outcome of each test
GATED_VARIABLE = "CLOCKWORKER_GATED"  # whether runs get executors

_outcomes: dict[str, str] = {}
_steps = 0


def _gate_every_run() -> None:
    setup_runner = _run.setup_runner
    close = _run.Runner.close
    executors: dict[int, Executor] = {}

    def with_executor(*arguments: Any, **options: Any) -> Any:
        runner = setup_runner(*arguments, **options)
        executor = Executor([cw.Queue("tests"), cw.Queue("other")], on_panic="catch", driver_yield=1.0)
        gate = executor._gate
        gate.default = Membership(gate, executor.queue("tests")._queue, None)
        gate.attach()
        executors[id(runner)] = executor
        return runner

    def without_executor(runner: Any) -> None:
        global _steps
        close(runner)
        executor = executors.pop(id(runner))
        _steps += executor.stats().polls
        executor._gate.detach()

    _run.setup_runner = with_executor
    _run.Runner.close = without_executor  # type: ignore[method-assign]


def pytest_configure(config: pytest.Config) -> None:
    if os.environ[GATED_VARIABLE] == "1":
        _gate_every_run()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.outcome != "passed":
        said = str(getattr(report, "wasxfail", "")) or report.longreprtext.strip().rpartition("\n")[2]
        _outcomes[item.nodeid] = f"{report.outcome}: {said}"
    elif report.when == "call":
        _outcomes[item.nodeid] = "passed"
    return report


def pytest_sessionfinish() -> None:
    Path(os.environ[OUTCOMES_VARIABLE]).write_text(json.dumps({"outcomes": _outcomes, "steps": _steps}))
