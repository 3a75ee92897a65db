"""Helps tests of preemptive queues: cuts come where a test says, not when some time has passed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

import clockworker as cw
from clockworker.executor import _fiber_cy, _preempt

why_not = _preempt.why_not()
needs_slices = pytest.mark.skipif(why_not is not None, reason=f"preemptive queues need {why_not}")


def queues() -> list[cw.Queue]:
    return [cw.Queue("foreground", 8), cw.Queue("background", preemptive=True)]


@contextlib.contextmanager
def alarms() -> Iterator[None]:
    """They ring, though the test is by hand otherwise."""
    _fiber_cy.cut_by_hand(False)
    try:
        yield
    finally:
        _fiber_cy.cut_by_hand(True)


@pytest.fixture
def by_hand() -> Iterator[None]:
    """No alarm rings: whatever is cut has asked for it."""
    _fiber_cy.cut_by_hand(True)
    yield
    _fiber_cy.cut_by_hand(False)


# Be cut where this returns, unless something forbids it. A function in C: the next instruction is the caller's own.
ask = _fiber_cy.ask


def compute_until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Compute without an await, and be cut again and again, until the condition holds."""
    for _ in range(1_000_000):
        if condition():
            return
        ask()
    raise AssertionError(f"{what} never came true: nobody else has run")


def ask_with(on: bool, condition: Callable[[], object]) -> None:
    """Be cut where this is called: once if the rule is on, which forbids it, and else until the condition holds, which others
    have to run for. Whether they are the next when something is cut is EEVDF's to say."""
    if on:
        ask()
    else:
        compute_until(condition)


def cuts(executor: cw.Executor) -> int:
    return executor.queue_stats()["background"].cuts


def refusals(executor: cw.Executor) -> dict[str, int]:
    return executor.queue_stats()["background"].refusals


@contextlib.contextmanager
def rule(name: str, on: bool) -> Iterator[None]:
    """Without the rule the hazard is there: so a test that is green without it shows nothing."""
    if not on:
        _fiber_cy.switch_rule(name, False)
    try:
        yield
    finally:
        if not on:
            _fiber_cy.switch_rule(name, True)


with_and_without = pytest.mark.parametrize("on", [True, False], ids=["rule", "no rule"])
