"""Controlled: by a clock wound by hand, where each run is the same as the last, under loads of different shapes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

import clockworker as cw
import clockworker.testing as testing
from clockworker.executor._controlled import Goal, next_share, share_for
from tests.conftest import Run, until

GOAL_S = 10.0
STEP_S = 0.0005


class Scene:
    """A job of a known size, beside a load that changes. All by one clock."""

    def __init__(
        self, job_s: float, load: Callable[[float], float], *, pieces: int = 0, finish: float = GOAL_S
    ) -> None:
        self.clock = testing.Clock(autojump=True)
        self.job_s = job_s
        self.load = load  # time -> of the core, that the foreground wants
        self.pieces = pieces  # in which progress is told; 0: in steps
        self.finish = finish
        self.done_s = 0.0
        self.ended_s = 0.0
        self.waits: list[
            tuple[float, float]
        ] = []  # of the foreground's requests: when each came, how long until it was served
        self.shares: list[int] = []

    def progress(self) -> float:
        done = self.done_s / self.job_s
        return math.floor(done * self.pieces) / self.pieces if self.pieces else done

    async def job(self) -> None:
        while self.done_s < self.job_s - 1e-9:
            self.clock.jump(STEP_S)
            self.done_s += STEP_S
            await asyncio.sleep(0)
        self.ended_s = self.clock.now

    async def request(self, came: float) -> None:
        self.clock.jump(STEP_S)
        self.waits.append((came, self.clock.now - came))

    async def foreground(self, queue: cw.QueueHandle) -> None:
        """As many requests as the load says, one after the other at even intervals."""
        loop = asyncio.get_running_loop()
        while not self.ended_s:
            load = self.load(self.clock.now)
            if load <= 0:
                await asyncio.sleep(0.01)
                continue
            queue.spawn(self.request(loop.time()))
            await asyncio.sleep(STEP_S / load)

    async def main(self, controlled: bool) -> None:
        executor = cw.current_executor()
        job = executor.queue("job")
        ticks = asyncio.ensure_future(self.foreground(executor.queue("foreground")))
        if controlled:
            with cw.Controlled(job, finish=self.finish, progress=self.progress) as control:
                handle = job.spawn(self.job())
                while not handle.done():
                    self.shares.append(job.share)
                    await asyncio.sleep(0.05)
                assert not control.active or control.stop() is None
            assert job.share == 3
        else:
            await asyncio.sleep(self.finish)
            self.ended_s = self.clock.now
        ticks.cancel()

    def play(self, controlled: bool = True) -> Scene:
        # The one who watches has a queue of its own, that nobody makes wait.
        queues = [cw.Queue("main", share=100), cw.Queue("foreground", share=8), cw.Queue("job", share=3)]
        testing.run(self.main(controlled), queues=queues, clock=self.clock)
        return self

    def p99(self, until: float) -> float:
        waits = sorted(wait for came, wait in self.waits if came < until)
        return waits[int(len(waits) * 0.99)]


LOADS: dict[str, Callable[[float], float]] = {
    "even": lambda now: 0.5,
    "bursts": lambda now: 0.9 if now % 2 < 1 else 0.1,
    "rising": lambda now: min(0.8, 0.08 * now),
    "falling": lambda now: max(0.0, 0.8 - 0.08 * now),
    "none": lambda now: 0.0,
    "saturated": lambda now: 3.0 if now < 9 else 0.5,
}


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("job_s", [1.0, 3.0])
def test_a_job_ends_on_time_and_no_earlier(name: str, job_s: float) -> None:
    scene = Scene(job_s, LOADS[name]).play()
    assert scene.ended_s == pytest.approx(GOAL_S, rel=0.05)


@pytest.mark.parametrize("name", ["even", "bursts", "rising"])
def test_the_foreground_hardly_notices(name: str) -> None:
    scene, quiet = Scene(1.5, LOADS[name]).play(), Scene(1.5, LOADS[name]).play(controlled=False)
    # A step of the job that has begun is waited for, and no more than that.
    until = 0.9 * GOAL_S
    assert scene.p99(until) <= 1.1 * quiet.p99(until) + STEP_S


@pytest.mark.parametrize("pieces", [10, 40])
def test_progress_in_pieces(pieces: int) -> None:
    scene = Scene(2.0, LOADS["even"], pieces=pieces).play()
    assert scene.ended_s == pytest.approx(GOAL_S, rel=0.05)


def test_a_job_that_is_too_much_for_its_time_has_all_that_it_can_get() -> None:
    scene = Scene(9.0, LOADS["bursts"]).play()
    assert max(scene.shares) > 1_000
    assert scene.ended_s < 1.2 * GOAL_S


def test_a_cap_of_the_share_is_kept() -> None:
    scene = Scene(4.0, LOADS["saturated"])

    async def main() -> None:
        executor = cw.current_executor()
        job = executor.queue("job")
        ticks = asyncio.ensure_future(scene.foreground(executor.queue("foreground")))
        with cw.Controlled(job, finish=1.0, progress=scene.progress, most=4):
            handle = job.spawn(scene.job())
            for _ in range(40):
                assert job.share <= 4
                await asyncio.sleep(0.05)
            handle.abort()
        ticks.cancel()

    testing.run(
        main(), queues=[cw.Queue("main", share=100), cw.Queue("foreground"), cw.Queue("job")], clock=scene.clock
    )


@pytest.mark.parametrize("answer", [math.nan, "half", None, True, KeyError("where")])
def test_progress_that_cannot_be_found_is_reported_once_and_the_job_goes_on(run: Run, answer: Any) -> None:
    def progress() -> Any:
        if isinstance(answer, KeyError):
            raise answer
        return answer

    async def body() -> None:
        async with cw.Executor([cw.Queue("job", scheduler=cw.LAS())]) as executor:
            job = executor.queue("job")
            control = cw.Controlled(job, finish=0.02, progress=progress)
            assert await job.spawn(asyncio.sleep(0.06, 5)) == 5
            assert control.active
            assert "0%" in repr(control)
            control.stop()
            control.stop()
            assert not control.active
            assert isinstance(job.scheduler, cw.LAS)

    run(body)
    [report] = run.reports
    run.reports.clear()
    assert report["message"] == "how much of a controlled job is done could not be found"


def test_progress_that_goes_back_or_too_far(run: Run) -> None:
    answers = iter([0.1, 0.5, 0.2, -7, 0.6, 5])

    async def body() -> None:
        async with cw.Executor([cw.Queue("job")]) as executor:
            job = executor.queue("job")
            control = cw.Controlled(job, finish=1.0, progress=lambda: next(answers))
            while control.active:
                await asyncio.sleep(0.001)
            assert job.share == 1

    run(body)
    assert next(answers, None) is None


def test_tasks_of_every_scheduler_come_through(run: Run) -> None:
    async def work(number: int) -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return number

    async def body() -> None:
        makes = [cw.RunnableFifo, cw.ArrivalFifo, cw.LAS, cw.QLAS, cw.FairGroups, cw.FairFifo, cw.EDF, cw.FairSRPT]
        queues = [cw.Queue(number, scheduler=make()) for number, make in enumerate(makes)]
        async with cw.Executor(queues) as executor:
            handles = []
            for queue in executor.queues():
                before = [queue.group("g").spawn(work(number)) for number in range(3)]
                control = cw.Controlled(queue, finish=0.05, progress=lambda: 0.5)
                during = [queue.group("g").spawn(work(number)) for number in range(3, 6)]
                await asyncio.sleep(0.002)
                after = [queue.group("g").spawn(work(number)) for number in range(6, 9)]
                control.stop()
                handles += [before + during + after]
            for each in handles:
                assert [await handle for handle in each] == list(range(9))

    run(body)


def test_an_executor_that_ends_ends_its_controllers(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("job")]) as executor:
            control = cw.Controlled(executor.queue("job"), finish=0.05, progress=lambda: 0.1)
            executor.queue("job").spawn(asyncio.sleep(3_600))
            assert control.active
        await until(lambda: not control.active)

    run(body)


def test_in_a_group_of_queues(run: Run) -> None:
    scene = Scene(0.5, LOADS["none"], finish=5.0)

    async def main() -> None:
        executor = cw.current_executor()
        job = executor.queue("job")
        with cw.Controlled(job, finish=5.0, progress=scene.progress):
            await job.spawn(scene.job())

    group = cw.QueueGroup("g", queues=[cw.Queue("job"), cw.Queue("beside", share=3)])
    testing.run(main(), queues=[cw.Queue("main", share=9), group], clock=scene.clock)
    assert scene.ended_s == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"finish": 0}, "finish is 0"),
        ({"finish": math.nan}, "finish is nan"),
        ({"finish": math.inf}, "finish is inf"),
        ({"finish": "soon"}, "finish is 'soon'"),
        ({"progress": 0.5}, "progress is 0.5; it must be a function"),
        ({"most": 0}, "at most, is 0"),
        ({"queue": "job"}, "of a running queue"),
    ],
)
def test_what_cannot_be_controlled(run: Run, options: dict[str, Any], wrong: str) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("job")]) as executor:
            given = {"queue": executor.queue("job"), "finish": 1.0, "progress": lambda: 0.0, **options}
            with pytest.raises(cw.ConfigurationError, match=wrong):
                cw.Controlled(given.pop("queue"), **given)

    run(body)


def test_twice_and_outside(run: Run) -> None:
    async def body() -> None:
        executor = cw.Executor([cw.Queue("job")])
        with pytest.raises(cw.UsageError):
            cw.Controlled(executor.queue("job"), finish=1, progress=lambda: 0)
        async with executor:
            async with cw.Controlled(executor.queue("job"), finish=1, progress=lambda: 0):
                with pytest.raises(cw.UsageError, match="controlled already"):
                    cw.Controlled(executor.queue("job"), finish=1, progress=lambda: 0)
            cw.Controlled(executor.queue("job"), finish=1, progress=lambda: 1)

    run(body)


# Policy


def test_the_share_that_is_worth_a_part() -> None:
    assert share_for(0.4, 4, 1.0, 10_000) == 4  # 0.4 and a quarter more: half of the core
    assert share_for(0.04, 9, 1.0, 10_000) == 1
    assert share_for(0.2, 4, 0.5, 10_000) == 4  # in a group that has half of it
    assert share_for(0.9, 4, 1.0, 10_000) == 10_000
    assert share_for(math.inf, 4, 1.0, 50) == 50
    assert share_for(0.5, 0, 1.0, 10_000) == 1


def test_a_share_sinks_while_others_leave_enough_and_doubles_when_they_do_not() -> None:
    assert next_share(40, 100, 0.2, 0.2) == 30
    assert [next_share(share, 100, 0.2, 0.17) for share in (1, 2, 3, 4, 5)] == [1, 1, 2, 3, 3]
    assert next_share(1, 100, 0.2, 0.1) == 2
    assert next_share(64, 100, 0.2, 0.1) == 100
    assert next_share(40, 5, 0.2, 0.2) == 5


def test_what_a_job_needs() -> None:
    goal = Goal(0.0, 100.0)
    assert goal.look(0.0, 0.0, 0).part is None
    # A tenth for a second, in a tenth of the time: nine more seconds in ninety, less the last hundredth.
    assert goal.look(10.0, 0.1, 1_000_000_000).part == pytest.approx(9 / 89)
    assert goal.look(50.0, 0.1, 1_000_000_000).part == pytest.approx(9 / 49)
    assert goal.look(50.0, 0.1, 2_000_000_000).part == pytest.approx(8 / 49)
    assert goal.look(99.0, 0.5, 5_000_000_000).part == math.inf
    assert goal.look(99.0, 1.0, 9_000_000_000).done
