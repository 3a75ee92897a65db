"""What does a rolling deployment cost whose shards hand over all that they have, under a steady load?

examples/kv, `keeping`, filled with keys; requests at a fixed pace, each on a connection of its own, that set or get a key; and
HUP in the midst of that. Each request waits from the moment at which it was due. Afterwards every key is asked for, and has to
have the value that was acknowledged last. Memory is that of all processes together, and what they share counts for each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil
import uvloop

from bench._processes import stop
from bench._report import percentile, progress
from bench.kv import ROOT, free_port, wait_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIPELINE = 200
BEFORE_S = 3.0
AFTER_S = 2.0
ROLL_S = 300.0
HANGS_S = 300.0


class Roll(msgspec.Struct, frozen=True):
    """One HUP. waits_ms: of each request, in order of when it was due, and at which second of the load."""

    seconds: float
    hand_overs_s: list[float]
    due_s: list[float]
    waits_ms: list[float]
    failed: int
    lost: int
    memory_before: int
    memory_peak: int


class HandoverReport(msgspec.Struct, frozen=True):
    keys: int
    value_bytes: int
    rolls: list[Roll]

    def table(self) -> str:
        size = self.keys * self.value_bytes / 2**30
        lines = [f"{self.keys:,} keys of {self.value_bytes:,} bytes, {size:.2f} GiB"]
        for roll in self.rolls:
            waits = sorted(roll.waits_ms)
            took = ", ".join(f"{seconds:.2f}" for seconds in roll.hand_overs_s)
            lines += [
                "",
                f"all replaced after      {roll.seconds:.2f} s, of which handing over {took} s",
                f"requests                {len(waits):,}, {roll.failed} failed, {roll.lost} keys lost",
                f"waits                   p50 {percentile(waits, 50):.1f} ms, p99 {percentile(waits, 99):.1f}, "
                f"longest {waits[-1]:.0f}",
                f"memory                  {roll.memory_before / 2**30:.2f} GiB before, {roll.memory_peak / 2**30:.2f} at most",
            ]
        return "\n".join(lines)

    def plot(self, figure: Figure) -> None:
        axes = figure.subplots()
        for roll in self.rolls:
            axes.plot(roll.due_s, roll.waits_ms, ".", markersize=2)
        axes.set_yscale("log")
        axes.set_xlabel("seconds")
        axes.set_ylabel("wait, ms")

    def failures(self) -> list[str]:
        found = []
        for roll in self.rolls:
            if roll.failed or roll.lost:
                found.append(f"{roll.failed} requests failed, {roll.lost} keys are not what was acknowledged")
            if max(roll.waits_ms) > 1_000:
                found.append(f"the longest wait was {max(roll.waits_ms):.0f} ms; wanted is 1,000")
        return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=1_024)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rate", type=int, default=500, help="requests a second")
    parser.add_argument("--rounds", type=int, default=1, help="HUPs, one after the other")
    parser.add_argument("--check", action="store_true", help="fail if a request does, or waits for over a second")


def run(options: argparse.Namespace) -> HandoverReport:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # requests that wait are connections that are open
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port = free_port()
    command = [sys.executable, "-m", "clockworker.shards._cli", "examples.kv:keeping", "--port", str(port)]
    command += ["--shards", str(options.shards), "--timeout-hand-over", "120"]
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with log.open("wb") as opened:
            process = subprocess.Popen(command, cwd=ROOT, stdout=opened, stderr=opened, start_new_session=True)
        try:
            wait_for(port, process)
            return HandoverReport(options.keys, options.value_bytes, uvloop.run(_measure(port, process, log, options)))
        except BaseException:
            sys.stderr.write(log.read_text(errors="replace"))
            raise
        finally:
            stop(process)


async def _measure(port: int, process: subprocess.Popen[bytes], log: Path, options: argparse.Namespace) -> list[Roll]:
    keys = _Keys(port, options.keys, options.value_bytes)
    await keys.fill()
    return [await _roll(keys, process, log, options) for _ in range(options.rounds)]


async def _roll(keys: _Keys, process: subprocess.Popen[bytes], log: Path, options: argparse.Namespace) -> Roll:
    progress("HUP under load")
    load = asyncio.create_task(keys.load(options.rate))
    before = len(_lines_of(log, " stopped after "))
    with _Memory(process.pid) as memory:
        await asyncio.sleep(BEFORE_S)
        memory_before = memory.now()
        process.send_signal(signal.SIGHUP)
        began = time.monotonic()
        while len(_lines_of(log, " stopped after ")) < before + options.shards:
            if time.monotonic() > began + ROLL_S or process.poll() is not None or " ERROR " in _log_of(log):
                raise SystemExit("the shards were not replaced")
            await asyncio.sleep(0.02)
        seconds = time.monotonic() - began
        await asyncio.sleep(AFTER_S)
        keys.stop()
        due, waits, failed = await load
    took = [float(line.split(" bytes in ")[1].split()[0]) for line in _lines_of(log, " bytes in ")]
    lost = await keys.check()
    return Roll(seconds, took[-options.shards :], due, waits, failed, lost, memory_before, memory.peak)


def _log_of(log: Path) -> str:
    return log.read_text(errors="replace")


def _lines_of(log: Path, text: str) -> list[str]:
    return [line for line in _log_of(log).splitlines() if text in line]


class _Keys:
    """What the server has, by what it has acknowledged. Key i has the value of its version."""

    def __init__(self, port: int, count: int, size: int) -> None:
        self._port = port
        self._size = size
        self._versions = [0] * count
        self._busy: set[int] = set()
        self._unsure: set[int] = set()  # whose last value may have come or not
        self._stopped = False

    def _key(self, number: int) -> bytes:
        return b"key:%010d" % number

    def _value(self, number: int) -> bytes:
        return (b"%d:%d:" % (number, self._versions[number])).ljust(self._size, b"x")[: self._size]

    async def fill(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for start in range(0, len(self._versions), PIPELINE):
            numbers = range(start, min(start + PIPELINE, len(self._versions)))
            for number in numbers:
                writer.write(_command(b"SET", self._key(number), self._value(number)))
            await reader.readexactly(5 * len(numbers))
            if start % (100 * PIPELINE) == 0:
                progress(f"{start:,} keys")
        writer.close()

    async def check(self) -> int:
        """How many keys do not have what was acknowledged."""
        lost = 0
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for start in range(0, len(self._versions), PIPELINE):
            numbers = range(start, min(start + PIPELINE, len(self._versions)))
            writer.write(b"".join(_command(b"GET", self._key(number)) for number in numbers))
            for number in numbers:
                lost += await _read_value(reader) != self._value(number) and number not in self._unsure
        writer.close()
        return lost

    def stop(self) -> None:
        self._stopped = True

    async def load(self, rate: int) -> tuple[list[float], list[float], int]:
        """When each request was due, how many milliseconds it then waited, and how many failed."""
        self._stopped = False
        random_ = random.Random(1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        due: list[float] = []
        waits: list[float] = []
        failed = 0
        running: set[asyncio.Task[None]] = set()

        async def request(number: int, at: float, place: int) -> None:
            nonlocal failed
            try:
                async with asyncio.timeout(HANGS_S):
                    await self._request(number, place % 2 == 0)
            except Exception as error:
                failed += 1
                print(f"\na request failed: {type(error).__name__}: {error}", file=sys.stderr)
            due.append(at - began)
            waits.append((loop.time() - at) * 1e3)
            self._busy.discard(number)

        place = 0
        while not self._stopped:
            at = began + place / rate
            if (early := at - loop.time()) > 0:
                await asyncio.sleep(early)
            while (number := random_.randrange(len(self._versions))) in self._busy:
                pass
            self._busy.add(number)  # so that each key has one writer, and one value
            task = asyncio.create_task(request(number, at, place))
            running.add(task)
            task.add_done_callback(running.discard)
            place += 1
        await asyncio.gather(*running)
        order = sorted(range(len(due)), key=due.__getitem__)
        return [due[each] for each in order], [waits[each] for each in order], failed

    async def _request(self, number: int, sets: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            if sets:
                self._versions[number] += 1
                try:
                    writer.write(_command(b"SET", self._key(number), self._value(number)))
                    if (answer := await reader.readline()) != b"+OK\r\n":
                        raise ValueError(f"{answer!r}")
                except BaseException:
                    self._unsure.add(number)
                    raise
            else:
                writer.write(_command(b"GET", self._key(number)))
                if await _read_value(reader) != self._value(number) and number not in self._unsure:
                    raise ValueError("another value than was acknowledged")
        finally:
            writer.close()


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


async def _read_value(reader: asyncio.StreamReader) -> bytes | None:
    head = await reader.readline()
    if not head.startswith(b"$"):
        raise ValueError(f"{head!r}")
    size = int(head[1:])
    return None if size < 0 else (await reader.readexactly(size + 2))[:-2]


class _Memory:
    """Of a server's processes, looked at while the block runs."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak = 0

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def now(self) -> int:
        total = 0
        for process in [self._server, *self._server.children()]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            with contextlib.suppress(psutil.Error):
                self.peak = max(self.peak, self.now())
