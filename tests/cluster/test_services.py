"""The tests of calls, streams, versions and topics between shards, over far links: with the same services, unchanged.

Each test of those modules that makes a fleet runs here too, with nodes in place of its shards. Those that do not are named
below, with the reason.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import test_call
import test_mesh
import test_service
import test_stream
import test_threads
import test_topics
import test_waits

from tests.cluster.nodes import nodes
from tests.conftest import Run

MODULES = [test_mesh, test_call, test_stream, test_service, test_threads, test_waits, test_topics]

RINGS = "it is about rings, doorbells or descriptors"
DIES = "it kills a process; test_far.py has what becomes of calls then"
NAMES = "it looks for another shard's name, or number, in what is said"
BROKER = "it counts frames between shards, and between nodes it is the broker who knows who hears"
TYPES = "nodes do not tell each other of their topics' types; a message of another is dropped, and said so"
STOPS = "it stops a process for a while"
COUNTS = "it counts frames, which sessions add to"

NOT_HERE: dict[str, str] = {
    "test_a_shard_that_sleeps_on_its_own_core_is_rung_ahead_of_a_call": RINGS,
    "test_full_rings_both_ways_do_not_deadlock": RINGS,
    "test_a_poisoned_ring_is_dropped": RINGS,
    "test_a_mesh_leaves_no_descriptors_and_no_maps": RINGS,
    "test_with_polling_it_works_and_still_falls_asleep": RINGS,
    "test_calls_reach_the_shard_that_they_name": COUNTS,
    "test_a_peer_that_is_killed": DIES,
    "test_kills_under_load": DIES,
    "test_a_replaced_peer_gets_nothing_that_was_meant_for_the_old": DIES,
    "test_a_stream_of_a_shard_that_dies_ends": DIES,
    "test_one_way_work_of_a_peer_that_died_goes_on": DIES,
    "test_one_way_requests_to_a_shard_that_is_down_and_of_what_cannot_be_sent": DIES,
    "test_who_waits_for_a_shard_that_dies_waits_no_longer": DIES,
    "test_who_subscribes_does_not_wait_for_a_shard_that_has_died": DIES,
    "test_a_request_whose_caller_leaves_before_its_turn_is_not_run": STOPS,
    "test_opening_a_stream_uses_credit_until_the_peer_has_begun": STOPS,
    "test_a_slow_shard_has_publish_wait_and_publish_nowait_raise": STOPS,
    "test_the_first_failure_of_a_map_cancels_the_rest": DIES,
    "test_a_broadcast_reaches_all_and_then_says_who_failed": DIES,
    "test_calls_of_a_service_that_is_never_started_end": NAMES,
    "test_the_group_travels": NAMES,
    "test_a_thousand_subscribers_of_a_shard_cost_one_crossing": BROKER,
    "test_a_subscriber_that_has_left_is_sent_nothing": BROKER,
    "test_whatever_cannot_be_decoded_is_answered": "what it does to the encoder, it does to what a session begins with",
    "test_a_function_that_the_other_shard_does_not_have": "both nodes are one process",
    "test_another_type_under_the_same_name": TYPES,
}


def makes_a_fleet(test: Callable[..., None]) -> bool:
    return "fleet(" in inspect.getsource(test)


def chosen() -> Iterator[Any]:
    for module in MODULES:
        for name, test in vars(module).items():
            if name.startswith("test_") and inspect.isfunction(test) and makes_a_fleet(test) and name not in NOT_HERE:
                found = arguments_of(test)
                for number, arguments in enumerate(found):
                    yield pytest.param(module, name, arguments, id=name + (f"-{number}" if len(found) > 1 else ""))


def arguments_of(test: Callable[..., None]) -> list[dict[str, Any]]:
    """What the test's own marks give it, each alone."""
    found: list[dict[str, Any]] = [{}]
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = (
                [each.strip() for each in mark.args[0].split(",")] if isinstance(mark.args[0], str) else mark.args[0]
            )
            values = [each if len(names) > 1 else (each,) for each in mark.args[1]]
            found = [{**one, **dict(zip(names, each, strict=True))} for one in found for each in values]
    return found


@pytest.mark.parametrize(("module", "name", "arguments"), [*chosen()])
def test_over_far_links(
    module: ModuleType,
    name: str,
    arguments: dict[str, Any],
    run: Run,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "fleet", _fleet)
    monkeypatch.setattr(os, "kill", None)  # the process of all shards is this one
    replaced = test_call.Probe.note_replaced  # whose code a test replaces
    monkeypatch.setattr(replaced, "__code__", replaced.__code__)
    test = getattr(module, name)
    given = {"run": run, "caplog": caplog, "monkeypatch": monkeypatch, **arguments}
    test(**{each: given[each] for each in inspect.signature(test).parameters})


def _fleet(count: int = 2, **options: Any) -> Any:
    for of_rings in ("ring", "cores", "topics"):
        options.pop(of_rings, None)
    options.setdefault("silence_s", 20.0)  # no test of these is about it, and all nodes are threads of one busy process
    return nodes(count, short_names=True, **options)


def test_what_is_left_out_is_there() -> None:
    names = {name for module in MODULES for name in vars(module)}
    assert set(NOT_HERE) <= names
