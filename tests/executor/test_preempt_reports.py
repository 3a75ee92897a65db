"""What is said of steps that were cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run
from tests.executor.slices import ask, by_hand, needs_slices, queues  # noqa: F401  # a fixture

pytestmark = [needs_slices, pytest.mark.usefixtures("by_hand")]


def test_a_long_step_is_reported_whole_and_a_short_one_is_not(run: Run) -> None:
    async def body() -> None:
        said: list[tuple[Hashable, str, int, int]] = []

        def report(key: Hashable, task: asyncio.Task[Any], elapsed_ns: int, slices: int) -> None:
            said.append((key, task.get_name(), elapsed_ns, slices))

        async with cw.Executor(queues()) as executor:
            executor.report_slow_polls({"foreground": 0.02, "background": 0.02}, lambda *_: None)
            executor.report_long_steps(report)

            async def compute(slices: int, seconds: float) -> None:
                end = time.thread_time() + seconds  # what others have meanwhile is no part of the step
                for _ in range(slices - 1):
                    ask()
                while time.thread_time() < end:
                    pass

            background = executor.queue("background")
            await background.spawn(compute(4, 0.05), name="long")
            await background.spawn(compute(3, 0), name="cut, and short")
            await executor.queue("foreground").spawn(compute(2, 0.05), name="of an ordinary queue")
        [(key, name, elapsed_ns, slices)] = said
        assert (key, name, slices) == ("background", "long", 4)
        stats = executor.queue_stats()["background"]
        assert 0 < elapsed_ns == stats.whole_step.max_ns
        assert executor.stats().cuts == stats.cuts == 3 + 2
        assert stats.poll_time.count == 4 + 3
        assert stats.whole_step.count == stats.polls == 2
        assert stats.whole_step.total_ns == stats.poll_time.total_ns == stats.busy_ns
        ordinary = executor.queue_stats()["foreground"]
        assert ordinary.whole_step == ordinary.poll_time
        assert (ordinary.cuts, ordinary.refusals) == (0, {})

    run(body)


def test_who_reports_may_fail(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        contexts: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))

        def report(*_: object) -> None:
            raise ValueError("as made to")

        async with cw.Executor(queues()) as executor:
            executor.report_slow_polls({"background": 0.001}, lambda *_: None)
            executor.report_long_steps(report)

            async def compute() -> int:
                ask()
                end = time.thread_time() + 0.005
                while time.thread_time() < end:
                    pass
                return 1

            assert await executor.queue("background").spawn(compute()) == 1
        assert [str(context["exception"]) for context in contexts] == ["as made to"]

    run(body)
