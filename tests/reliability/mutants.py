"""Mutations of the package's own source that the tests once let pass: each must turn a test red.

A test that cannot fail says nothing, and reading it does not show that. So for each rule of this list the line that keeps it is
changed, in a copy of the package that runs uncompiled, and the test that is named beside it must fail there, and pass without
the change. Whoever finds a mutation that survives adds it here with the test that kills it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.mutations import Mutation, copy_package, mutate
from tests.reliability._checks import Result, check

_ROOT = Path(__file__).parents[2]
# The statuses with which pytest ends: all that ran have passed; some have failed. All others say that it could not run them.
_PASSED, _FAILED = 0, 1


class Mutant(msgspec.Struct, frozen=True):
    """rule: what no longer holds. test: what finds it, a node of pytest's without what it is parametrized with."""

    rule: str
    mutation: Mutation
    test: str


# The last needs a server that is killed after its grace: seconds, which a run of CI spends once, on the test itself.
MUTANTS = (
    Mutant(
        "while a queue sleeps the loop has its turn four times as often",
        Mutation("executor/_steps_cy", "_ATTENTION = 4\n", "_ATTENTION = 1\n"),
        "executor/test_steps.py::test_while_a_queue_sleeps_the_loop_has_its_turn_after_a_quarter_of_the_time",
    ),
    Mutant(
        "a step of a sleeping queue that is held back ends the turn",
        Mutation("executor/_runnable_cy", "            self._turn_must_end = 0\n", "            pass\n"),
        "executor/test_runnable.py::test_a_step_that_is_held_back_and_whose_queue_sleeps_ends_the_turn",
    ),
    Mutant(
        "only a queue that is eligible preempts",
        Mutation("executor/_eevdf_cy", "return woken.eligible and woken.deadline <", "return woken.deadline <"),
        "executor/test_runnable.py::test_a_queue_that_owes_does_not_preempt_though_its_deadline_is_earlier",
    ),
    Mutant(
        "the grace that handing over has used is not given again: the drain takes it off",
        Mutation("shards/supervisor/_drain", "max(0.0, self._grace - self.spent)", "self._grace"),
        "shards/test_drain.py::test_what_was_spent_before_is_no_part_of_the_grace",
    ),
    Mutant(
        "with a peer's end its credit is whole again",
        Mutation(
            "ipc/calls/_credit_cy",
            "        self.lanes = {}\n        self._last = None\n        return waiting\n",
            "        return waiting\n",
        ),
        "ipc/test_link.py::test_credit_of_an_incarnation_ends_with_it",
    ),
    Mutant(
        "a shard that has stopped does not become ready",
        Mutation(
            "shards/supervisor/_lifecycle",
            "State.STOPPED: frozenset({State.STARTING}),",
            "State.STOPPED: frozenset({State.STARTING, State.READY}),",
        ),
        "shards/test_lifecycle.py::test_the_way_of_a_life",
    ),
    Mutant(
        "a counter does not go back",
        Mutation("shards/worker/_counter", "if count < 0:", "if count < -1:"),
        "shards/test_counter.py::test_a_counter_does_not_go_back",
    ),
    Mutant(
        "a module that says that it is pure knows no clock",
        Mutation(
            "shards/protocol/_rest",
            "from __future__ import annotations\n",
            "from __future__ import annotations\n\nimport time\n",
        ),
        "test_purity.py::test_who_claims_to_be_pure_is",
    ),
    Mutant(
        "a request of HTTP/1.1 has one Host",
        Mutation("http/_incoming_cy", "            if self._hosts != 1:", "            if False:"),
        "http/test_connection.py::test_refused",
    ),
    Mutant(
        "of a body that nobody takes no more is read",
        Mutation("http/_incoming_cy", "elif request.feed(data):", "elif request.feed(data) and False:"),
        "http/test_connection.py::test_reading_pauses_while_a_body_is_not_taken",
    ),
    Mutant(
        "a body is as long as its Content-Length says",
        Mutation("http/_outgoing_cy", "if size > request.remaining:", "if False:"),
        "http/test_connection.py::test_a_body_of_another_length_than_was_said_is_cut",
    ),
    Mutant(
        "trailers are dropped",
        Mutation(
            "http/_incoming_cy",
            "        if self.state != HEAD:\n            return  # a trailer",
            "        if False:\n            return  # a trailer",
        ),
        "http/test_connection.py::test_chunks_are_put_together_and_trailers_dropped",
    ),
    Mutant(
        "trailers are limited",
        Mutation("http/_incoming_cy", "self.state == HEAD or self.state == BODY\n", "self.state == HEAD\n"),
        "http/test_connection.py::test_trailers_are_limited_as_heads_are",
    ),
    Mutant(
        "the rest of a pipelined body is parsed at its request's turn",
        Mutation(
            "http/_connection_cy",
            "            if self.pipeline or self.parsing is not request or self.closing:\n                return\n",
            "            return\n",
        ),
        "http/test_connection.py::test_a_pipelined_body_waits_for_its_turn",
    ),
    Mutant(
        "nothing is run behind the last answer",
        Mutation("http/_incoming_cy", "        if self.closing:\n            self._stop_at(_QUIETLY)\n", ""),
        "http/test_connection.py::test_after_an_early_answer_not_any_amount_is_read",
    ),
    Mutant(
        "at the stop a connection is given a moment in which it may still ask",
        Mutation("http/_server", "if now - connection.idle_since < IDLE_S:", "if False:"),
        "http/test_connection.py::test_at_the_stop_a_connection_is_closed_when_it_was_idle_for_a_moment",
    ),
    Mutant(
        "calls to a peer that hands over its state wait",
        Mutation("ipc/calls/_link_cy", "self.holding = self.connection.connected", "self.holding = False"),
        "ipc/test_link.py::test_calls_to_a_suspended_peer_wait_and_go_to_its_successor_in_order",
    ),
    Mutant(
        "calls that are made within others are let through a suspended link",
        Mutation("ipc/calls/_link_cy", "                if lane.depth > 0:\n", "                if lane.depth > 1:\n"),
        "ipc/test_link.py::test_of_calls_to_a_suspended_peer_those_made_within_others_go_when_it_is_said_again",
    ),
    Mutant(
        "calls of a shard whose state has moved go where it is",
        Mutation("ipc/calls/_gate", "if self.state == MOVED and (outer", "if False and (outer"),
        "ipc/test_gate.py::test_calls_wait_until_it_is_known_where_the_state_is",
    ),
    Mutant(
        "a task that has outlived its call is no part of it",
        Mutation("ipc/calls/_gate", "                within.ended = True\n", "                pass\n"),
        "ipc/test_gate.py::test_what_a_running_call_calls_goes_through_and_what_comes_later_does_not",
    ),
    Mutant(
        "the grace that handing over has used is not given again: the supervisor says what it was",
        Mutation(
            "shards/supervisor/_shutdown",
            "self._drain.spent = asyncio.get_running_loop().time() - began",
            "self._drain.spent = 0.0",
        ),
        "shards/test_dispatch.py::test_the_time_of_handing_over_is_a_part_of_the_grace",
    ),
)


def run_tests(directory: Path, tests: list[str]) -> tuple[int, str]:
    """pytest's status and what it said, with the package in `directory`."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "xdist", "-m", ""]
    command += [f"tests/{test}" for test in tests]
    # Without the plug-ins that happen to be installed, of which none is used but the one whose options pyproject.toml gives: to
    # load them takes longer than most of the tests.
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=300)
    said = ended.stdout + ended.stderr
    if "clockworker: pure Python" not in said and ended.returncode in (_PASSED, _FAILED):
        raise AssertionError(f"the tests have not run the copy:\n{said}")
    return ended.returncode, said


@check(
    "each mutation of a rule that tests once let pass turns its test red",
    ci=len(MUTANTS) - 1,
    release=len(MUTANTS),
    pure=0,  # it is the pure version that is mutated
    pace=1.0,
)
def mutants(trials: int) -> Result:
    """Once unchanged, all tests; then each mutation with its own."""
    chosen = MUTANTS[:trials]
    with tempfile.TemporaryDirectory() as directory:
        copy_package(Path(directory))
        status, said = run_tests(Path(directory), [mutant.test for mutant in chosen])
        if status != _PASSED:
            raise AssertionError(f"the tests do not pass without a mutation:\n{said}")
    survived = []
    for mutant in chosen:
        with tempfile.TemporaryDirectory() as directory:
            mutate(copy_package(Path(directory)), mutant.mutation)
            status, said = run_tests(Path(directory), [mutant.test])
            if status not in (_PASSED, _FAILED):
                raise AssertionError(f"{mutant.mutation} cannot be tested:\n{said}")
            if status == _PASSED:
                survived.append(f"{mutant.rule} ({mutant.mutation})")
    if survived:
        raise AssertionError(f"{len(survived)} mutations survived their tests: {'; '.join(survived)}")
    return Result(len(chosen), "all found")
