"""The supervisor's eye on the loops of its shards: reports those that stall while they do, and says which are hung.

It looks at every pulse, twenty times a second while any loop works and at the shards' slow pace while all rest; what an age
means is `_health`'s to say. A stalled shard's witness is asked what holds up the loop. If there is no answer in time the
signal is tried, and if that brings nothing either, the kernel still knows the state of the process. A hung shard is killed
by whoever was told of it; not one that a debugger has stopped, the kernel's or Python's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from clockworker.shards.protocol._health import LOOK_S, Looks, Verdict
from clockworker.shards.protocol._pulse import DUMP_SIGNAL
from clockworker.shards.protocol._rest import BEAT_S, SUPERVISOR_AFTER_S, next_tick
from clockworker.shards.protocol._witness import Testimony
from clockworker.shards.supervisor._member import Member, Members
from clockworker.shards.supervisor._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")

# How long the witness, and after it the signal's handler, have to answer.
TESTIFY_S = 0.25
DUMP_S = 0.1

# A shard that has nothing to show may only have had no CPU. It is left alone for so long.
STARVED_S = 1.0

_STATES = {
    "R": "running",
    "S": "asleep in a system call",
    "D": "waiting for a device",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
}
_STOPPED = (_STATES["T"], _STATES["t"])


class Stall(msgspec.Struct, frozen=True):
    """One look at a loop that does not turn.

    age: seconds since it last did.
    testimony: None if the shard's own thread could not run. Then `dump` is what the signal's handler wrote, if anything.
    state: of the process, as the kernel has it.
    """

    shard: int
    pid: int
    age: float
    testimony: Testimony | None
    dump: str
    state: str

    @property
    def is_seen(self) -> bool:
        """Whether there is something to see: code of the application, or a process that has been stopped."""
        return bool(self.testimony.stack if self.testimony is not None else self.dump) or self.state in _STOPPED

    def __str__(self) -> str:
        what = f"shard {self.shard} (pid {self.pid}) has not come back to its loop for {self.age:.2f} s: "
        if self.testimony is None:
            if not self.dump:
                return f"{what}no Python stack to be had, the process is {self.state}"
            return f"{what}code that keeps the interpreter's lock, the process is {self.state}\n{self.dump}"
        if self.testimony.queue is not None:
            uncut = ", where it could not be cut" if self.testimony.preemptive else ""
            what += f"queue {self.testimony.queue!r}{uncut}, "
        what += f"task {self.testimony.task!r}" if self.testimony.task is not None else "no task"
        return f"{what}, the process is {self.state}\n{self.testimony.stack or '  not in code of the application'}"


class Watch:
    """pace: how often shards at rest are looked at, in seconds. report: told of each look at a stalled shard. hung: told of
    a ready shard that should be killed, and the age of its last beat. stands_still: told of a loop that does, and when it
    turns again."""

    def __init__(
        self,
        members: Members,
        pace: float,
        report: Callable[[Stall], None],
        hung: Callable[[Member, float], None],
        stands_still: Callable[[ShardProcess, bool], None],
    ) -> None:
        self._members = members
        self._pace = pace
        self._report = report
        self._hung = hung
        self._stands_still = stands_still
        self._still: set[ShardProcess] = set()
        self._asked: dict[ShardProcess, asyncio.TimerHandle] = {}
        self._traced: set[ShardProcess] = set()
        self._debugged: set[ShardProcess] = set()  # by a debugger of Python's, when they were asked last

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._looks = Looks()
        self._plan(quick=False)

    def add(self, member: Member, process: ShardProcess) -> None:
        self._loop.add_reader(process.witness.fileno(), self._testified, member, process)
        self.stirred()

    def stirred(self) -> None:
        """A shard works."""
        if not self._quick:
            self._next.cancel()
            self._plan(quick=True)

    def remove(self, process: ShardProcess) -> None:
        self._loop.remove_reader(process.witness.fileno())
        self._traced.discard(process)
        self._debugged.discard(process)
        self._still.discard(process)
        if process in self._asked:
            self._asked.pop(process).cancel()

    def stalled(self, process: ShardProcess) -> bool:
        """Whether it stood still at the last look, or its loop has left out two beats since."""
        self._see(process, self._looks.lost)
        return process in self._still or self._lateness(process) > 2 * BEAT_S

    def _look(self) -> None:
        now = self._loop.time()
        awake = self._looks.look(now)
        quick = True  # unless it is seen that nobody works
        try:
            quick = self._look_at_all(now, awake)
        finally:
            self._plan(quick)

    def _look_at_all(self, now: float, awake: bool) -> bool:
        """Whether one of them works, or is late."""
        quick = False
        for member in self._members.everyone():
            process = member.process
            if process is None or process.killed:
                continue
            self._see(process, self._looks.lost if awake else self._looks.lost_before)
            if awake:
                self._compare(process)
                self._judge(member, process, now)
            quick = quick or process.pulse.pace <= BEAT_S or self._lateness(process) > BEAT_S
        return quick

    def _plan(self, quick: bool) -> None:
        now = self._loop.time()
        due = now + LOOK_S if quick else next_tick(now, self._pace, SUPERVISOR_AFTER_S)
        self._quick = quick
        self._looks.plan(due)
        self._next = self._loop.call_at(due, self._look)

    def _compare(self, process: ShardProcess) -> None:
        """With the last look."""
        still = process.health.is_late(self._loop.time(), self._looks.lost)
        if still != (process in self._still):
            if still:
                self._still.add(process)
            else:
                self._still.discard(process)
            self._stands_still(process, still)

    def _judge(self, member: Member, process: ShardProcess, now: float) -> None:
        match process.health.judge(now, self._looks.lost):
            case Verdict.STALLED if process not in self._asked:
                process.witness.ask()
                self._asked[process] = self._loop.call_later(TESTIFY_S, self._no_testimony, member, process)
            case Verdict.HUNG if not self._is_traced(member, process):
                self._hung(member, self._age(process))

    def _testified(self, member: Member, process: ShardProcess) -> None:
        testimony = process.witness.receive()
        if testimony is None:
            self._loop.remove_reader(process.witness.fileno())  # its end shows at the pidfd
        elif process in self._asked:
            self._asked.pop(process).cancel()
            if not testimony.debugged:
                self._debugged.discard(process)
                self._tell(member, process, testimony, "")
            elif process not in self._debugged:
                self._debugged.add(process)
                log.info("%s is stopped in a debugger: not looked after until it goes on", member)

    def _no_testimony(self, member: Member, process: ShardProcess) -> None:
        process.pulse.clear_dump()
        process.send_signal(DUMP_SIGNAL)
        self._asked[process] = self._loop.call_later(DUMP_S, self._dumped, member, process)

    def _dumped(self, member: Member, process: ShardProcess) -> None:
        del self._asked[process]
        self._debugged.discard(process)
        self._tell(member, process, None, process.pulse.read_dump())

    def _tell(self, member: Member, process: ShardProcess, testimony: Testimony | None, dump: str) -> None:
        self._see(process, self._looks.lost)
        stall = Stall(member.id, process.pid, self._age(process), testimony, dump, process_state(process.pid))
        if self._lateness(process) <= BEAT_S:
            return  # it is over, and what was seen is not what held up the loop
        if stall.is_seen or self._lateness(process) > STARVED_S:
            self._report(stall)

    def _see(self, process: ShardProcess, lost: float) -> None:
        process.health.see(process.pulse.pace, process.pulse.beat, lost)

    def _age(self, process: ShardProcess) -> float:
        return process.health.age(self._loop.time(), self._looks.lost)

    def _lateness(self, process: ShardProcess) -> float:
        return process.health.lateness(self._loop.time(), self._looks.lost)

    def _is_traced(self, member: Member, process: ShardProcess) -> bool:
        if process in self._debugged:
            return True
        tracer = _status(process.pid).get("TracerPid", "0")
        if tracer == "0":
            if process not in self._traced:
                return False
            self._traced.discard(process)  # it has just been let go
            process.health.forgive(self._loop.time(), self._looks.lost)
            return True
        if process not in self._traced:
            self._traced.add(process)
            log.warning("%s does not turn its loop, but pid %s traces it: not killed", member, tracer)
        return True


def process_state(pid: int) -> str:
    """In words. The process is ours and not reaped, so the pid is its own."""
    letter = _status(pid).get("State", "?")[:1]
    return _STATES.get(letter, "gone" if letter in "?XZ" else f"in state {letter}")


def is_stopped(pid: int) -> bool:
    """By a signal, or a debugger."""
    return process_state(pid) in _STOPPED


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
