"""How fast is a call to the next core, and a message, beside what Python programs use between processes?

Pairs of processes, each pinned to a core. Set-ups take turns, round after round, in new processes each time; ratios are taken
within a round.

- messages: bytes one way (how many a second) and there and back (how long), over the bare ring, polling and asleep on its
  doorbell, and over its peers. Over the peers also as msgspec has them, encoded by the one and decoded with types by the
  other, and over the stream as requests, which run a method. Ours are `await service.send(1, Service.take, value)`, until
  the last has been run. Bytes are compared with bytes, and what has types with what has.
- calls: `echo(value: bytes) -> bytes` with types checked, one after the other and 64 in flight, between two shards, polling
  (`idle_poll` 200 us) and not, and as one would write it with msgspec over a Unix stream, with asyncio's protocols or, as most
  people do, with its streams. Over blocking peers one at a time. Beside them what two wake-ups take on this machine alone.
- local: a call to the own shard beside a plain spawn and await on the same executor; CPU time of the thread.
- growth: every shard calls every other one, eight at a time, without polling. More shards than cores share them.
- idle: CPU time of two shards that have nothing to do.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from bench import _calls, _messages, _station
from bench._messages import Pace
from bench._pace import CallPace
from bench._processes import cores
from bench._report import Summary, columns, progress, ratios, summary
from bench._station import Fleet, Idle, LocalCost
from bench._stream import FrameProtocol, FrameStream, Make, TypedProtocol, TypedStream
from bench._transports import Open, open_polling_ring, open_sleeping_ring, peers, typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

POLLING, SLEEPING = "polling", "not polling"
MSGSPEC, REQUESTS = "msgspec", "requests"
WAKE_UPS = "two wake-ups, no call"
STREAMS: dict[str, Make] = {"Unix stream, protocols": FrameProtocol, "Unix stream, asyncio streams": FrameStream}
OVER_STREAM: dict[str, Callable[[Sequence[int], float], list[Pace]]] = {
    "Unix stream, protocols": partial(_messages.protocols, FrameProtocol),
    f"Unix stream, protocols, {MSGSPEC}": partial(_messages.protocols, TypedProtocol),
    "Unix stream, asyncio streams": partial(_messages.streams, FrameStream),
    f"Unix stream, asyncio streams, {MSGSPEC}": partial(_messages.streams, TypedStream),
}
IDLE_POLL_US = {POLLING: 200, SLEEPING: 0}
CALL_SIZE = 64


class Messages(msgspec.Struct, frozen=True):
    """Over one transport; a figure a round."""

    transport: str
    size: int  # bytes
    per_second: list[float]
    p50_us: list[float]  # there and back; empty for typed requests, whose way back `Calls` has
    p99_us: list[float]


class Calls(msgspec.Struct, frozen=True):
    """A figure a round."""

    setup: str
    p50_us: list[float]  # one after the other
    p99_us: list[float]
    per_second: list[float]  # 64 in flight; empty over blocking peers


class Growth(msgspec.Struct, frozen=True):
    shards: int
    cores: int
    calls_per_second: float
    p50_us: float
    p99_us: float
    missed_wakeups: int
    idle_pair_kib: float  # physical memory of the rings between two shards, never used
    used_pair_kib: float


class Goal(msgspec.Struct, frozen=True):
    """What must be shown, as a ratio or a time; or what stands beside it, without a goal."""

    what: str
    goal: str
    measured: Summary
    reached: bool | None


class IpcReport(msgspec.Struct, frozen=True):
    messages: list[Messages]
    calls: list[Calls]
    local: list[LocalCost]
    growth: list[Growth]
    idle: dict[str, Idle]
    goals: list[Goal]
    missing: list[str]  # peers that are not installed

    def table(self) -> str:
        messages = [["messages: median (least-most)", "bytes", "a second, one way", "MB/s", "p50 us", "p99 us"]]
        for m in self.messages:
            rate = summary(m.per_second).median
            cells = [_thousands(m.per_second), f"{rate * m.size / 1e6:,.0f}", _tenths(m.p50_us), _tenths(m.p99_us)]
            messages.append([m.transport, f"{m.size:,}", *cells])
        calls = [[f"calls, {CALL_SIZE} bytes", "p50 us", "p99 us", "a second, 64 in flight"]]
        calls += [[c.setup, _tenths(c.p50_us), _tenths(c.p99_us), _thousands(c.per_second)] for c in self.calls]
        local = [["own shard", "ns a call", "ns a spawn and await"]]
        if self.local:
            local.append(
                ["", _thousands([c.call_ns for c in self.local]), _thousands([c.spawn_ns for c in self.local])]
            )
        growth = [["shards", "calls a second", "p50 us", "p99 us", "missed wake-ups", "KiB a pair, idle", "used"]]
        for g in self.growth:
            shards = f"{g.shards}" + f" (on {g.cores} cores)" * (g.shards > g.cores)
            figures = [f"{g.calls_per_second:,.0f}", f"{g.p50_us:,.1f}", f"{g.p99_us:,.1f}", f"{g.missed_wakeups}"]
            growth.append([shards, *figures, f"{g.idle_pair_kib:,.0f}", f"{g.used_pair_kib:,.0f}"])
        idle = [["idle", "ms of CPU a second, both shards"]]
        idle += [[setup, f"{each.cpu_ms / each.seconds:.2f}"] for setup, each in self.idle.items()]
        goals = [["goal", "wanted", "measured", ""]]
        verdicts = {True: "reached", False: "missed", None: ""}
        goals += [[g.what, g.goal, str(g.measured), verdicts[g.reached]] for g in self.goals]
        tables = [columns(rows) for rows in (messages, calls, local, growth, idle, goals) if len(rows) > 1]
        if self.missing:
            tables.append(f"not installed, so left out: {', '.join(self.missing)} (pip install 'clockworker[bench]')")
        return "\n\n".join(tables)

    def plot(self, figure: Figure) -> None:
        rate, trip = figure.subplots(1, 2)
        for name in dict.fromkeys(m.transport for m in self.messages):
            found = [m for m in self.messages if m.transport == name]
            sizes = [m.size for m in found]
            rate.plot(sizes, [summary(m.per_second).median for m in found], "o-", label=name)
            if found[0].p50_us:
                trip.plot(sizes, [summary(m.p50_us).median for m in found], "o-", label=name)
        for axes, label in ((rate, "messages a second, one way"), (trip, "us there and back, p50")):
            axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel=label)
        rate.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.08, help="of each measurement")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 64, 1024, 1 << 16, 1 << 20], help="of messages")
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 8, 32], help="for the growth")
    parser.add_argument("--idle", type=float, default=5.0, metavar="SECONDS", help="to measure idle shards for")
    parser.add_argument(
        "--only", nargs="+", choices=["messages", "calls", "local", "growth", "idle"], help="parts; all, unless given"
    )


def run(options: argparse.Namespace) -> IpcReport:
    if min(options.sizes) < 2:
        raise SystemExit("--sizes: a message of one byte is what ends a measurement; the least size is 2")
    wanted = set(options.only or ["messages", "calls", "local", "growth", "idle"])
    # 32 shards are a thousand rings, and every process inherits the descriptors of all.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    missing = [name for name, module in (("pyzmq", "zmq"), ("faster-fifo", "faster_fifo")) if not _installed(module)]
    messages = compare_messages(options) if "messages" in wanted else []
    calls = compare_calls(options) if "calls" in wanted else []
    local = [_station.local(20_000) for _ in range(options.rounds)] if "local" in wanted else []
    growth = [measure_growth(count, options) for count in options.shards] if "growth" in wanted else []
    idle: dict[str, Idle] = {}
    if "idle" in wanted:
        for setup, idle_poll_us in IDLE_POLL_US.items():
            progress(f"idle, {setup}")
            idle[setup] = _station.idle(idle_poll_us, options.idle)
    return IpcReport(messages, calls, local, growth, idle, goals(messages, calls, local), missing)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def compare_messages(options: argparse.Namespace) -> list[Messages]:
    transports: dict[str, Open] = {POLLING: open_polling_ring, SLEEPING: open_sleeping_ring}
    for name, open_peer in peers().items():
        transports |= {name: open_peer, f"{name}, {MSGSPEC}": typed(open_peer)}
    if len(cores()) < 2:
        del transports[POLLING]  # it would wait for the other to be taken off the only core
    setups: dict[str, Callable[[], list[Pace]]] = {
        name: lambda open_transport=open_transport: _messages.blocking(open_transport, options.sizes, options.seconds)  # type: ignore[misc]
        for name, open_transport in transports.items()
    }
    for name, over_stream in OVER_STREAM.items():
        setups[name] = lambda measure=over_stream: measure(options.sizes, options.seconds)  # type: ignore[misc]
    for name, make in STREAMS.items():
        setups[f"{name}, {REQUESTS}"] = lambda make=make: [  # type: ignore[misc]
            Pace(rate, {}) for rate in _calls.one_way_over_stream(make, options.sizes, options.seconds)
        ]
    for name, idle_poll_us in IDLE_POLL_US.items():
        setups[f"send, {name}"] = lambda idle=idle_poll_us: [  # type: ignore[misc]
            Pace(rate, {}) for rate in _station.one_way(idle, options.sizes, options.seconds)
        ]
    found = take_turns("messages", setups, options.rounds)
    return [
        Messages(
            f"ring, {name}" if name in IDLE_POLL_US else name,
            size,
            [paces[index].per_second for paces in found[name]],
            [paces[index].round_trip_us["p50"] for paces in found[name] if paces[index].round_trip_us],
            [paces[index].round_trip_us["p99"] for paces in found[name] if paces[index].round_trip_us],
        )
        for index, size in enumerate(options.sizes)
        for name in setups
    ]


def compare_calls(options: argparse.Namespace) -> list[Calls]:
    seconds = options.seconds * 2
    setups: dict[str, Callable[[], CallPace]] = {
        f"shards, {name}": lambda idle_poll_us=idle_poll_us: _station.calls(idle_poll_us, CALL_SIZE, seconds)  # type: ignore[misc]
        for name, idle_poll_us in IDLE_POLL_US.items()
    }
    for name, make in STREAMS.items():
        setups[name] = lambda make=make: _calls.over_stream(make, CALL_SIZE, seconds)  # type: ignore[misc]
    for name, open_transport in peers().items():
        setups[name] = lambda peer=open_transport: _calls.over_transport(peer, CALL_SIZE, seconds)  # type: ignore[misc]
    setups[WAKE_UPS] = lambda: _calls.wake_ups(seconds)
    return [
        Calls(
            name,
            [pace.sequential_us["p50"] for pace in paces],
            [pace.sequential_us["p99"] for pace in paces],
            [pace.per_second for pace in paces if pace.per_second],
        )
        for name, paces in take_turns("calls", setups, options.rounds).items()
    ]


def measure_growth(count: int, options: argparse.Namespace) -> Growth:
    progress(f"{count} shards")
    fleet: Fleet = _station.fleet(count, 8, options.seconds * 10)
    return Growth(
        count,
        len(cores()),
        fleet.calls_per_second,
        fleet.call_us["p50"],
        fleet.call_us["p99"],
        fleet.missed_wakeups,
        fleet.idle_pair_bytes / 1024,
        fleet.used_pair_bytes / 1024,
    )


def take_turns(what: str, setups: dict[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Each set-up once a round. Who goes first moves on, so that nobody always follows the same."""
    found: dict[str, list[T]] = {name: [] for name in setups}
    names = [*setups]
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            progress(f"{what}, round {number + 1} of {rounds}, {name}")
            found[name].append(setups[name]())
    return found


def goals(messages: list[Messages], calls: list[Calls], local: list[LocalCost]) -> list[Goal]:
    """What was measured of what must be shown."""
    found = []

    def goal(what: str, wanted: str, measured: Summary, reached: bool | None) -> None:
        found.append(Goal(what, wanted, measured, reached))

    def best(of: list[list[float]], better: Callable[[list[float]], float]) -> list[float]:
        return [better(list(values)) for values in zip(*of, strict=True)]

    by_setup = {each.setup: each for each in calls}
    if calls:
        polling, sleeping = (by_setup[f"shards, {name}"] for name in (POLLING, SLEEPING))
        others = [each.p50_us for each in calls if not each.setup.startswith("shards") and each.setup != WAKE_UPS]
        p50 = summary(polling.p50_us)
        goal("call, polling, p50 us", "<= 10", p50, p50.median <= 10)
        ratio = ratios(polling.p50_us, best(others, min))
        goal("call, polling, p50 / best peer", "<= 0.17", ratio, ratio.median <= 1 / 6)
        for name in STREAMS:
            ratio = ratios(sleeping.p50_us, by_setup[name].p50_us)
            goal(f"call, not polling, p50 / {name}", "<= 0.80", ratio, ratio.median <= 0.8)
        ratio = ratios(sleeping.p50_us, by_setup[WAKE_UPS].p50_us)
        goal(f"beside it: call, not polling, p50 / {WAKE_UPS}", "", ratio, None)
        for each in (polling, sleeping):
            for name in STREAMS:
                ratio = ratios(each.per_second, by_setup[name].per_second)
                what = f"64 in flight, {each.setup.partition(', ')[2]} / {name}"
                goal(what, ">= 2.50", ratio, ratio.median >= 2.5)
    for size in dict.fromkeys(each.size for each in messages):
        if size not in (CALL_SIZE, 1 << 20):
            continue
        wanted = 1.5 if size == CALL_SIZE else 1.0
        here = {m.transport: m.per_second for m in messages if m.size == size}
        types = [rates for name, rates in here.items() if name.endswith((MSGSPEC, REQUESTS))]
        peers_with_bytes = (OVER_STREAM.keys() | peers().keys()) & here.keys()
        bare = [here[name] for name in peers_with_bytes if not name.endswith(MSGSPEC)]
        for ours, peer, others in (("ring", "bytes", bare), ("send", "typed messages", types)):
            for poll in IDLE_POLL_US:
                if f"{ours}, {poll}" in here:
                    ratio = ratios(here[f"{ours}, {poll}"], best(others, max))
                    what = f"{ours}, {poll}, {size:,} bytes one way / best peer with {peer}"
                    goal(what, f">= {wanted:.2f}", ratio, ratio.median >= wanted)
        for poll in IDLE_POLL_US:
            ratio = ratios(here[f"send, {poll}"], best(bare, max))
            goal(f"beside it: send, {poll}, {size:,} bytes one way / best peer with bytes", "", ratio, None)
    if local:
        ratio = ratios([cost.call_ns for cost in local], [cost.spawn_ns for cost in local])
        goal("call to the own shard / spawn and await", "<= 1.50", ratio, ratio.median <= 1.5)
    return found


def _thousands(values: list[float]) -> str:
    if not values:
        return ""
    found = summary(values)
    return f"{found.median:,.0f} ({found.least:,.0f}-{found.most:,.0f})"


def _tenths(values: list[float]) -> str:
    if not values:
        return ""
    found = summary(values)
    return f"{found.median:,.1f} ({found.least:,.1f}-{found.most:,.1f})"
