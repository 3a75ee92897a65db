"""The checks: how one is written, and how they are found and run.

A check proves one claim with a number of trials, which is all that differs between the sizes:

    @check("killed shards: acked calls lost 0", ci=100, release=1_000)
    def kills(trials: int) -> Result:
        ...                                     # an exception is a failure; its message says what was seen
        return Result(trials, "0 lost, 0 hung, 52,113 acked")

A check that lacks something of the machine (a program, a permission) raises `Unavailable` saying what. `pace`, trials a
second on a machine of two cores, is for the announcement of how long a run will take.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
import traceback
from collections.abc import Callable

import msgspec

import clockworker as cw
import tests.reliability

SIZES = ("ci", "release")


class Unavailable(Exception):
    """The check cannot run here. Its message says what is missing."""


class Result(msgspec.Struct, frozen=True):
    """What a check that has passed reports."""

    trials: int  # that were really made
    figure: str


class Check(msgspec.Struct, frozen=True):
    """One claim. Sizes are numbers of trials; pure: the CI size of the pure version, where 0 leaves the check out. pace: trials
    a second on two cores, compiled; None: nobody has measured it."""

    name: str
    claim: str
    run: Callable[[int], Result]
    ci: int
    release: int
    pure: int
    pace: float | None = None

    def trials(self, size: str) -> int:
        """How many trials this size has, 0 if the check is left out in this kind of build."""
        if not cw.compiled:
            return self.pure if size == "ci" or self.pure == 0 else self.release
        return self.ci if size == "ci" else self.release

    def seconds(self, trials: int) -> float | None:
        """About how long so many take."""
        return None if self.pace is None else trials / self.pace


class Row(msgspec.Struct, frozen=True):
    """A check that was run."""

    name: str
    claim: str
    outcome: str  # passed, failed, unavailable, left out
    trials: int
    figure: str
    seconds: float


_checks: dict[str, Check] = {}


def check(
    claim: str, *, ci: int, release: int, pure: int | None = None, pace: float | None = None
) -> Callable[[Callable[[int], Result]], Callable[[int], Result]]:
    """Register a check under its function's name, with dashes. Without `pure` the pure version has the CI size too."""

    def register(run: Callable[[int], Result]) -> Callable[[int], Result]:
        name = run.__name__.replace("_", "-")
        known = _checks.get(name)
        if known is not None and known.run.__module__ != run.__module__:
            raise ValueError(f"{run.__module__} and {known.run.__module__} both have a check named {name}")
        _checks[name] = Check(name, claim, run, ci, release, ci if pure is None else pure, pace)
        return run

    return register


def checks() -> list[Check]:
    """All of them, in the order of modules and definitions."""
    for module in sorted(pkgutil.iter_modules(tests.reliability.__path__), key=lambda module: module.name):
        if not module.name.startswith(("_", "test_")):
            importlib.import_module(f"tests.reliability.{module.name}")
    return list(_checks.values())


def execute(check: Check, size: str, count: int | None = None) -> Row:
    """Run one, and tell what came of it. An exception is an outcome, and its traceback is printed. count: of trials, in the
    place of the size's."""
    trials = check.trials(size) if count is None else count
    if trials == 0:
        return Row(check.name, check.claim, "left out", 0, "says nothing about the pure version", 0.0)
    started = time.monotonic()
    try:
        result = check.run(trials)
    except Unavailable as missing:
        return Row(check.name, check.claim, "unavailable", 0, str(missing), time.monotonic() - started)
    except Exception as error:
        traceback.print_exc()
        figure = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return Row(check.name, check.claim, "failed", trials, figure, time.monotonic() - started)
    return Row(check.name, check.claim, "passed", result.trials, result.figure, time.monotonic() - started)
