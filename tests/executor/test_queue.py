from __future__ import annotations

from typing import Any

import pytest

import clockworker as cw


def test_a_declaration_is_frozen_and_has_defaults() -> None:
    queue = cw.Queue("background")
    assert (queue.key, queue.share, queue.scheduler, queue.slice, queue.on_panic) == ("background", 1, None, None, None)
    with pytest.raises(AttributeError):
        queue.share = 2  # type: ignore[misc]


@pytest.mark.parametrize("key", ["name", 3, ("tenant", 1), None, frozenset("ab")])
def test_keys_are_anything_hashable(key: Any) -> None:
    executor = cw.Executor([cw.Queue(key), cw.Queue("other")])
    assert executor.queue(key).key == key


def test_an_unhashable_key() -> None:
    with pytest.raises(cw.ConfigurationError, match=r"queue key \['a'\] is not hashable"):
        cw.Queue(["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0, -1, 10_001, 1.5, "8", True, None])
def test_a_share_that_is_no_share(share: Any) -> None:
    with pytest.raises(
        cw.ConfigurationError, match=r"share of queue 'q' is .*; it must be a whole number from 1 to 10,000"
    ):
        cw.Queue("q", share)
    handle = cw.Executor([cw.Queue("q", 7)]).queue("q")
    with pytest.raises(cw.ConfigurationError, match="share of queue 'q'"):
        handle.share = share
    assert handle.share == 7


@pytest.mark.parametrize("slice_s", [0, -1.0, 11, "1", True, float("nan")])
def test_a_slice_that_is_no_slice(slice_s: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match="slice of queue 'q'"):
        cw.Queue("q", slice=slice_s)


def test_a_scheduler_must_be_an_instance() -> None:
    with pytest.raises(cw.ConfigurationError, match=r"must be an instance of a Scheduler, such as LAS\(\)"):
        cw.Queue("q", scheduler=cw.LAS)  # type: ignore[arg-type]


def test_on_panic_is_one_of_two() -> None:
    with pytest.raises(cw.ConfigurationError, match="on_panic is 'ignore'; it must be 'propagate' or 'catch'"):
        cw.Queue("q", on_panic="ignore")  # type: ignore[arg-type]


def test_a_handle_shows_its_queue() -> None:
    handle = cw.Executor([cw.Queue("q", 7)]).queue("q")
    assert repr(handle) == "<Queue 'q' share=7 runnable=0>"
    assert handle.group("g").key == "g"
    handle.share = 10_000
    assert handle.share == 10_000
