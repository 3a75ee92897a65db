"""How late are a timer and a foreground beside hogs that never await, and what do the hogs lose by it?

One core. A timer of 2 ms, and a request each 5 ms, of two steps of 100 us, in a queue of share 8; beside them 1, 3 and 8 hogs
in flight all the time, each of 200 ms of Python without an await, in a queue of share 1. Set-ups take turns, round after round:

- plain uvloop, where hogs are tasks like any others;
- Clockworker with an ordinary queue for hogs, which waits for their steps as well;
- with a preemptive queue, by slice, and at the default slice with a queue for each hog;
- hogs in threads beside a plain loop, as `def` handlers are, by the interpreter's switch interval.

Latencies are from the time that was planned. Others may take the core from the benchmark, so there is a second figure, without
what they had of it meanwhile; where nothing else runs, the two are one.

A hog's loss is measured in spans that are cut and spans that are not, in turn, both as gaps in its own time and as work not
done in as much time; of the latter it takes tens of spans to see one per cent. By the wall's clock and by the thread's CPU
clock these are two different things: the CPU clock does not count what a timer's interrupt takes in the kernel and in a
hypervisor, and the wall's clock does. Within each clock the two ways agree. The wall's is what users lose, and is judged.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from bench._hogs import Kind, Late, Loss, measure_late, measure_loss, middle
from bench._processes import together
from bench._report import Summary, columns, percentile, progress, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT = "preemptive"
KINDS = (
    Kind("plain uvloop", ()),
    Kind("ordinary queue"),
    Kind("preemptive, 0.5 ms", preemptive=True, slice_ms=0.5),
    Kind("preemptive, 1 ms", preemptive=True, slice_ms=1),
    Kind("preemptive, 2 ms", preemptive=True, slice_ms=2),
    Kind(DEFAULT, preemptive=True),
    Kind("preemptive, a queue each", preemptive=True, queue_each=True),
    Kind("threads, switch 5 ms", (), switch_interval_ms=5),
    Kind("threads, switch 0.5 ms", (), switch_interval_ms=0.5),
)
MOST = 8  # hogs, of the goals
SLICES: dict[str, float | None] = {"0.5 ms": 0.5, "1 ms": 1, "2 ms": 2, "default": None}
TIMER, NOTHING = SITUATIONS = ("idle foreground, a timer of 2 ms", "nobody else")
GOALS = {
    f"timer p99 beside {MOST} hogs, ms": 2.0,
    f"foreground p99 beside {MOST} hogs, ms": 2.5,
    f"hogs' loss as gaps, {TIMER}, %": 5.0,
    f"the same as work, {TIMER}, %": 5.0,
    f"hogs' loss as gaps, {NOTHING}, %": 1.0,
    f"the same as work, {NOTHING}, %": 1.0,
}


class Result(msgspec.Struct, frozen=True):
    """Of one set-up and number of hogs. Milliseconds; a figure a round. own_: without what others had of the core meanwhile.
    hogs: how many, and hogs_work what they did, of a core. taken: by others, in ms a second."""

    setup: str
    hogs: int
    timer_p99: list[float]
    foreground_p99: list[float]
    own_timer_p99: list[float]
    own_foreground_p99: list[float]
    hogs_work: list[float]
    taken: list[float]


class Lost(msgspec.Struct, frozen=True):
    """Of each round, span by span."""

    slice: str
    situation: str
    rounds: list[list[Loss]]

    def middle(self) -> Loss:
        return middle([span for spans in self.rounds for span in spans])

    def percent(self, field: str) -> Summary:
        """Of all rounds' spans, with the rounds' own."""
        rounds = [100 * getattr(middle(spans), field) for spans in self.rounds]
        return Summary(100 * getattr(self.middle(), field), min(rounds), max(rounds))


class Preempt(msgspec.Struct, frozen=True):
    results: list[Result]
    losses: list[Lost]
    verdicts: dict[str, Summary]
    goals: dict[str, float]

    def table(self) -> str:
        rows = [
            [
                "ms: median (least-most) of the rounds",
                "hogs",
                "timer p99",
                "own",
                "foreground p99",
                "own",
                "hogs' work",
                "taken",
            ]
        ]
        for result in self.results:
            late = (result.timer_p99, result.own_timer_p99, result.foreground_p99, result.own_foreground_p99)
            cells = [str(summary(values)) for values in late]
            cells += [f"{statistics.median(result.hogs_work):.0%}", f"{statistics.median(result.taken):.0f}"]
            rows.append([result.setup, str(result.hogs), *cells])
        losses = [
            ["hogs' loss, %", "slice", "gaps", "work", "CPU: gaps", "CPU: work", "uncounted", "cuts/s", "cut, us"]
        ]
        for lost in self.losses:
            loss = lost.middle()
            parts = (loss.gaps_wall, loss.work_wall, loss.gaps_cpu, loss.work_cpu, loss.uncounted)
            percents = [f"{100 * part:.1f}" for part in parts]
            losses.append([lost.situation, lost.slice, *percents, f"{loss.cuts:.0f}", f"{loss.cut_us:.0f}"])
        verdicts = [["", "median (least-most)", "goal", ""]]
        for name, verdict in self.verdicts.items():
            goal = self.goals[name]
            verdicts.append([name, str(verdict), f"<= {goal:g}", "met" if verdict.median <= goal else "MISSED"])
        return "\n\n".join(columns(each) for each in (rows, losses, verdicts) if len(each) > 1)

    def plot(self, figure: Figure) -> None:
        """p99 against hogs."""
        for place, (what, title) in enumerate(
            (("own_timer_p99", "a timer of 2 ms"), ("own_foreground_p99", "a request")), 1
        ):
            axes = figure.add_subplot(1, 2, place, xlabel="hogs", yscale="log", title=title)
            axes.set_ylabel("p99, ms" if place == 1 else "")
            for setup in dict.fromkeys(result.setup for result in self.results):
                points = [(r.hogs, statistics.median(getattr(r, what))) for r in self.results if r.setup == setup]
                style = "-" if setup.startswith("preemptive") else "--" if setup.startswith("threads") else ":"
                axes.plot([hogs for hogs, _ in points], [late for _, late in points], f"o{style}", label=setup)
            hogs = sorted({result.hogs for result in self.results})
            axes.set_xticks(hogs, list(map(str, hogs)))
            axes.grid(alpha=0.3)
            if place == 2:
                axes.legend(fontsize="small")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each set-up in each round")
    parser.add_argument("--hogs", type=int, nargs="+", default=[1, 3, MOST])
    parser.add_argument(
        "--setups", nargs="+", choices=[kind.name for kind in KINDS], default=[kind.name for kind in KINDS]
    )
    parser.add_argument("--no-loss", action="store_true", help="latencies alone")


def run(options: argparse.Namespace) -> Preempt:
    late: dict[tuple[str, int], list[Late]] = {}
    lost: dict[tuple[str, str], list[list[Loss]]] = {}
    kinds = [kind for kind in KINDS if kind.name in options.setups]
    for number in range(options.rounds):
        for hogs in options.hogs:
            for kind in kinds:
                progress(f"round {number + 1} of {options.rounds}: {kind.name}, {hogs} hogs")
                [measured] = together([partial(measure_late, kind, hogs, options.seconds)], patience(options))
                late.setdefault((kind.name, hogs), []).append(measured)
        for situation in () if options.no_loss else SITUATIONS:
            for name, slice_ms in SLICES.items():
                progress(f"round {number + 1} of {options.rounds}: loss, {situation}, {name}")
                work = partial(measure_loss, slice_ms, situation == TIMER, options.seconds)
                lost.setdefault((situation, name), []).extend(together([work], patience(options)))
    results = [sum_up(setup, hogs, rounds) for (setup, hogs), rounds in late.items()]
    results.sort(key=lambda result: ([kind.name for kind in KINDS].index(result.setup), result.hogs))
    losses = [Lost(name, situation, rounds) for (situation, name), rounds in lost.items()]
    return Preempt(results, losses, judge(results, losses), GOALS)


def patience(options: argparse.Namespace) -> float:
    """Seconds after which a run is taken to hang: a loop that stands still ends late."""
    return 120 + 20 * float(options.seconds)


def sum_up(setup: str, hogs: int, rounds: list[Late]) -> Result:
    return Result(
        setup,
        hogs,
        [percentile(each.timer_ms, 99) for each in rounds],
        [percentile(each.foreground_ms, 99) for each in rounds],
        [percentile(each.own_timer_ms, 99) for each in rounds],
        [percentile(each.own_foreground_ms, 99) for each in rounds],
        [each.hogs for each in rounds],
        [each.taken for each in rounds],
    )


def judge(results: list[Result], losses: list[Lost]) -> dict[str, Summary]:
    found: dict[str, Summary] = {}
    timer, foreground, *of_situations = GOALS
    for result in results:
        if (result.setup, result.hogs) == (DEFAULT, MOST):
            found[timer] = summary(result.own_timer_p99)
            found[foreground] = summary(result.own_foreground_p99)
    goals = iter(of_situations)
    for situation in SITUATIONS:
        for field in ("gaps_wall", "work_wall"):
            goal = next(goals)
            for lost in losses:
                if (lost.slice, lost.situation) == ("default", situation):
                    found[goal] = lost.percent(field)
    return found
