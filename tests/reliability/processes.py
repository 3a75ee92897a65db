"""Claims about processes: deaths, stops, restarts, on real shards."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from clockworker._errors import ApplicationError
from clockworker.shards.protocol._rest import REST_AFTER_S
from clockworker.shards.testing import Server, serving
from tests.reliability._beside import Beside
from tests.reliability._checks import Result, check
from tests.reliability._load import Load
from tests.reliability._server import Peer, main
from tests.shards.servers import shared_memory

# A shard that was ready for 2 s may die as if for the first time. Without such rest its first restart is immediate, a few
# more are delayed, and a sixth start within 10 s is taken for one that crashes again and again.
REST_S = 2.1
RESTLESS_ROUNDS = 4

# How long a condition is waited for that must come true some time: its time is what is measured.
DEADLINE_S = 60.0
LAST_LINES = 50


def wait(server: Server, condition: Callable[[], bool], what: str) -> float:
    """Seconds until the condition holds. If it does not, what the server has logged last may tell why: its log goes with it."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > DEADLINE_S:
            end = "\n".join(server.log.splitlines()[-LAST_LINES:])
            raise TimeoutError(f"{what}: not within {DEADLINE_S:g} s; the log ends with\n{end}")
        time.sleep(0.001)
    return time.monotonic() - started


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def milliseconds(values: list[float]) -> str:
    p50, p99 = (1000 * percentile(values, percent) for percent in (50, 99))
    return f"p50 {p50:.1f}, p99 {p99:.1f}, max {1000 * max(values):.1f} ms"


def rounds(trials: int, shards: int, first: int = 0) -> Iterator[list[int]]:
    """The shards to be struck, round by round, none twice in a round, with rest between if there are many rounds."""
    for at in range(0, trials, shards):
        if at and trials > RESTLESS_ROUNDS * shards:
            time.sleep(REST_S)
        yield [first + shard % shards for shard in range(at, min(at + shards, trials))]


@check("supervisor killed: processes, segments and stale sockets left 0, within 1 s", ci=20, release=500, pure=0)
def supervisor_killed(trials: int) -> Result:
    times = []
    memory = shared_memory()
    with tempfile.TemporaryDirectory() as directory, Beside() as beside:
        path = Path(directory) / "socket"
        for _ in range(trials):
            with serving(main, shards=2, options=["--port", "0", "--bind", f"unix:{path}"]) as server:
                pids = [server.pid(0), server.pid(1)]
                os.kill(server.supervisor_pid, signal.SIGKILL)
                times.append(wait(server, lambda: not any(map(is_alive, pids)), "the shards are gone"))  # noqa: B023
        # The file of the socket is taken over by each next server; the last is stopped and leaves none.
        with serving(main, shards=1, options=["--bind", f"unix:{path}"]) as server:
            assert path.exists()
            assert server.stop() == 0
        assert not path.exists()
    left = shared_memory() - memory
    assert not left, f"left in /dev/shm: {left}"
    assert max(times) <= beside.limit(1.0, release=trials >= 500), f"gone after {max(times):.2f} s"
    return Result(trials, f"gone after {milliseconds(times)}")


@check("TERM under load: accepted requests failed 0, exit within the grace", ci=10, release=100, pure=2)
def term_under_load(trials: int) -> Result:
    """Every other server accepts by itself, the others' shards do."""
    rate = 500 if trials < 100 else 2_000
    served, rates, times = 0, list[float](), list[float]()
    for trial in range(trials):
        distribution = ("kernel", "least-connections")[trial % 2]
        options = ["--timeout-graceful-shutdown", "30", "--distribution", distribution]
        with serving(main, shards=2, options=options) as server, Load(server.address, rate, each=1) as load:
            wait(server, lambda: len(load.outcomes) > rate / 5, "a steady load")
            rates.append(load.rate())
            started = time.monotonic()
            status = server.stop()
            times.append(time.monotonic() - started)
            assert status == 0, f"exit status {status}\n{server.log}"
            assert "killed" not in server.log, server.log
        assert not load.bad(), f"{distribution}: failed: {load.bad()}\n{server.log}"
        served += len(load.outcomes)
    median = percentile(rates, 50)
    return Result(trials, f"{served:,} requests at {median:,.0f}/s, 0 failed; stopped after {milliseconds(times)}")


@check("crash on boot: 5 starts, then exit 1", ci=1, release=10, pure=0)
def crash_on_boot(trials: int) -> Result:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "crashing.py").write_text("import os\nos.write(2, b'boot\\n')\nos._exit(7)\n")
        for _ in range(trials):
            said = ""
            try:
                with serving("crashing:main", shards=1, app_dir=directory):
                    pass
            except ApplicationError as error:
                said = str(error)
            assert "the server ended with status 1" in said, said
            assert said.count("boot\n") == 5, said
    return Result(trials, "5 starts each")


@check("restarts: same descriptors, no zombies, the supervisor's memory flat", ci=26, release=1_000, pure=0)
def restarts(trials: int) -> Result:
    shards = 13
    with serving(main, shards=shards) as server:
        supervisor = psutil.Process(server.supervisor_pid)
        memory, descriptors = 0, list[str]()

        def is_whole() -> bool:
            """Each shard is there, a spare process, and who forks those: they have descriptors of the supervisor's, too."""
            return len(supervisor.children()) == shards + 2

        for struck in rounds(trials, shards):
            before = {shard: server.pid(shard) for shard in struck}
            for shard in struck:
                server.kill(shard, wait=False)
            wait(server, lambda: all(server.pid(shard) != pid for shard, pid in before.items()), "all are back")  # noqa: B023
            if not memory:  # what is made once has been made
                wait(server, is_whole, "each shard, and a spare process")
                memory, descriptors = supervisor.memory_info().rss, settled_descriptors(server.supervisor_pid)
        wait(server, is_whole, "each shard, and a spare process")
        wait(server, lambda: descriptors_of(server.supervisor_pid) == descriptors, "the same descriptors")
        assert all(child.status() != psutil.STATUS_ZOMBIE for child in supervisor.children())
        grown = (supervisor.memory_info().rss - memory) / 2**20
        assert grown < 2, f"the supervisor has grown by {grown:.1f} MiB"
        return Result(trials, f"{len(descriptors)} descriptors; memory {memory / 2**20:.1f} MiB, grown {grown:.2f} MiB")


@check("killed shard ready again within 500 ms", ci=10, release=100, pure=0)
def ready_again(trials: int) -> Result:
    shards, times = 10, []
    with Beside() as beside, serving(main, shards=shards) as server:
        for struck in rounds(trials, shards):
            for shard in struck:
                started = time.monotonic()
                server.kill(shard)
                times.append(time.monotonic() - started)
            beside.measure()
    # One pause of a machine that is busy with other things says nothing; half of them would. Most of a start is what any
    # process takes that imports as much.
    release = trials >= 100
    limit = beside.limit(0.5, release=release)
    if not release:
        limit = max(limit, 3 * beside.start_s)
    said = f"{milliseconds(times)}; a process beside started within {1000 * beside.start_s:.0f} ms"
    assert percentile(times, 99 if release else 50) <= limit, f"ready again after {said}"
    return Result(trials, said)


@check("stopped or blocked shard found and killed within the timeout + 1 s", ci=8, release=100, pure=0)
def hung(trials: int) -> Result:
    timeout, shards, over = 1.0, 8, []
    options = ["--timeout-shard-healthcheck", str(timeout)]
    with Beside() as beside, serving(main, shards=shards, options=options) as server:
        for struck in rounds(trials, shards):
            since = {}
            for shard in struck:
                if shard % 2:
                    os.kill(server.pid(shard), signal.SIGSTOP)
                else:
                    server.call(shard, Peer.block)
                since[server.pid(shard)] = time.monotonic()
            for pid, started in since.items():
                wait(server, lambda: not is_alive(pid), "it is killed")  # noqa: B023
                over.append(time.monotonic() - started - timeout)
            wait(server, lambda: not {server.pid(shard) for shard in struck} & set(since), "they are replaced")  # noqa: B023
    assert max(over) <= beside.limit(1.0, release=trials >= 100), f"killed {milliseconds(over)} after the timeout"
    return Result(trials, f"killed after the timeout of {timeout:g} s and {milliseconds(over)}")


@check(
    "a call in flight to a killed shard ends in ShardDied: p99 within 50 ms, all within 250",
    ci=22,
    release=1_000,
    pure=11,
)
def call_to_the_killed(trials: int) -> Result:
    peers, times = 11, []
    with Beside() as beside, serving(main, shards=1 + peers) as server:
        for struck in rounds(trials, peers, first=1):
            for shard in struck:
                pid = server.pid(shard)
                times.append(server.call(0, Peer.time_of_death, shard))
                wait(server, lambda: server.pid(shard) != pid, "it is replaced")  # noqa: B023
    release = trials >= 1_000
    assert percentile(times, 99 if release else 90) <= beside.limit(0.05, release=release), milliseconds(times)
    assert max(times) <= beside.limit(0.25, release=release), milliseconds(times)
    return Result(trials, milliseconds(times))


@check(
    "HUP every 5 s and kill -9 every 7 s under load: failed only what the killed shard held", ci=8, release=60, pure=0
)
def hup_and_kill(seconds: int) -> Result:
    """A trial is a second. A run of a few makes haste."""
    hup_every, kill_every = (5.0, 7.0) if seconds >= 60 else (2.0, 3.0)
    hups = kills = 0
    killed: dict[int, tuple[float, float]] = {}  # pid -> when it was killed, and when its successor was ready
    with (
        serving(main, shards=2) as server,
        Load(server.address, 250, each=1) as plain,
        Load(server.address, 250, each=5, line=b"call\n") as calling,
    ):
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            if now >= kill_every * (kills + 1):  # first: a HUP takes its time
                kills += 1
                pid, when = server.pid(kills % 2), time.monotonic()
                server.kill(kills % 2)
                killed[pid] = when, time.monotonic()
            elif now >= hup_every * (hups + 1):
                hups += 1
                server.replace()
            else:
                time.sleep(0.01)
        assert server.stop() == 0
        log = server.log
    # A request that finds the connection of an earlier one closed is nobody's failure; every client asks again.
    bad = plain.bad() + calling.bad()
    for outcome in bad:
        # Either the connection has had no answer yet, and nobody can say whose it was, or a peer did not answer.
        excused = any(outcome.started <= ready and outcome.ended >= when for when, ready in killed.values())
        assert excused, f"{outcome} at {outcome.ended - began:.2f} s; killed at {sorted(killed.items())}\n{log}"
    said = (
        f"{hups} HUPs, {kills} kills; of {len(plain.outcomes):,} requests {len(plain.bad())} failed, of "
        f"{len(calling.outcomes):,} that call a peer {len(calling.bad())}, all while a killed shard was replaced"
    )
    return Result(seconds, said)


@check(
    "a server that has nothing to do uses no CPU: within 1 ms a second, supervisor and each shard",
    ci=3,
    release=30,
    pure=0,
)
def idle_server(seconds: int) -> Result:
    """A trial is a second."""
    with serving(main, shards=2) as server:
        pids = {"supervisor": server.supervisor_pid, "shard 0": server.pid(0), "shard 1": server.pid(1)}
        time.sleep(2 * REST_AFTER_S)
        used = dict.fromkeys(pids, float("inf"))
        for _ in range(5):  # on a busy machine the same takes longer: no cache has what it needs
            before = {name: cpu_ms(pid) for name, pid in pids.items()}
            time.sleep(seconds)
            used = {name: min(used[name], (cpu_ms(pid) - before[name]) / seconds) for name, pid in pids.items()}
            if max(used.values()) < 1.0:
                break
    said = ", ".join(f"{name} {each:.2f} ms" for name, each in used.items())
    assert max(used.values()) < 1.0, said
    return Result(seconds, f"a second: {said}")


def cpu_ms(pid: int) -> float:
    """Of all its threads. (`cpu_times` counts in ticks of 10 ms.)"""
    stats = [Path(f"/proc/{pid}/task/{thread}/schedstat").read_text() for thread in os.listdir(f"/proc/{pid}/task")]
    return sum(int(stat.split()[0]) for stat in stats) / 1e6


def settled_descriptors(pid: int) -> list[str]:
    """While a process is being started there are more."""
    before: list[str] = []
    while (now := descriptors_of(pid)) != before:
        before = now
        time.sleep(0.2)
    return now


def descriptors_of(pid: int) -> list[str]:
    links = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return sorted(re.sub(r"\d+", "N", link) for link in links)
