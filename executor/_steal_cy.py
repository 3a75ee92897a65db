# cython: language_level=3, annotation_typing=False, auto_pickle=False
"""Steal: what others had of the time that a step took.

A step is timed by the wall clock. If another process runs on the core meanwhile, or the quota of the container is used up, or
the hypervisor lets another guest run, the step takes longer. Were its queue charged for that, it would lose what others had
taken, and a large queue would lose the most, being the one that mostly runs. So a queue is charged for what its steps *had*:
the time that they took less what was stolen. A step that blocks (`time.sleep`, a synchronous query) has the core as long as it
blocks, for no other step can run; if it waits for a core afterwards, that is stolen again.

*Which steps.* To ask the kernel takes a third of a microsecond, as long as a short step, so only steps of `LONG_NS` are looked
at: a step that was interrupted for that long is one. Shorter interruptions are charged to the step that they hit, in long
steps as in short ones. They hit each queue in proportion to how long it runs, so what queues get stays in proportion.

*How much.* A reading compares with the reading before. Wall time less the thread's CPU time was lost. If any was,
/proc/thread-self/schedstat says how much of it the thread has waited for a core (its run delay; throttling by a quota
included), and how often it was given one. If it was not given one, it has never lost one as far as this kernel knows: then
what was lost was a hypervisor's, as KVM and Xen tell their guests (steal time). The rest was blocked. Where there is no
schedstat, all that was lost counts as stolen if the thread has not left its core of its own accord meanwhile (rusage), and
nothing does otherwise. Where neither can be asked, nothing is ever stolen: steps are charged by the wall clock.

*When.* A window from one reading to the next may hold more than the step that it ends with: short steps, in which nothing that
long can have been stolen, and gaps, the time between turns and without steps. A step is only given back what cannot have been
stolen in the gaps: what is more than these; and what it lost for certain, having taken longer than the thread has had the core
in all of the window. For a second after something was stolen, readings are taken after gaps as well, and every now and then
between turns: then the window is hardly more than the step. An executor that has its core for itself reads after long steps,
and after one long gap in 16.

Not seen: waiting for the interpreter's lock, which the kernel calls blocked; a process that is stopped (SIGSTOP, a freezer),
likewise; a hypervisor's steal in a window in which the guest's kernel took the core as well.

Rejected: the CPU clock at each step, half the price of a step. The CPU clock alone: a step that blocks would be free. `rseq`,
of which a field is cleared when a thread is preempted and costs one load to look at: a mistake in it ends the process.

Policy only: `Meter` asks the kernel, and times are arguments.
"""

from __future__ import annotations

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._meter import Meter

# An interrupt takes less. A process that is given the core in the place of another mostly keeps it for a millisecond or more.
LONG_NS = 50_000
# Two clocks that are read one after the other are so far apart.
_NOISE_NS = 5_000
# One in so many long gaps is followed by a reading.
_GAPS = 16
# For how long each gap is watched after something was stolen, and how old a reading may get meanwhile before a turn.
_ALERT_NS = 1_000_000_000
_OFTEN_NS = 250_000


@cython.final
@cython.cclass
class Steal:
    """Of one thread. Times are the core's clock's, in ns."""

    meter: Meter
    alert_until: int  # gaps are watched
    _read_at: int
    _cpu_ns: int  # the thread's CPU clock then
    _had_ns: int  # CPU time in the window before
    _gaps: int  # since then
    _elsewhere_ns: int  # how long they took

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.alert_until = 0
        self._read_at = 0
        self._cpu_ns = 0
        self._had_ns = 0
        self._gaps = 0
        self._elsewhere_ns = 0

    def begin(self, now: int) -> None:
        """The thread that calls is the one."""
        self._read_at = now
        self._cpu_ns = self.meter.cpu_ns()
        self._gaps = 0
        self._elsewhere_ns = 0
        self.meter.ask(0)

    def of(self, elapsed_ns: int, now: int) -> int:
        """What was stolen of a step, at least LONG_NS long, that ends now."""
        elsewhere_ns = self._elsewhere_ns
        stolen_ns = self._read(now)
        if elsewhere_ns:
            stolen_ns = max(stolen_ns - elsewhere_ns, min(stolen_ns, elapsed_ns - self._had_ns), 0)
        return min(stolen_ns, elapsed_ns)

    def passed(self, gap_ns: int, now: int) -> None:
        """So much time has passed until now in no step. To be told of gaps of LONG_NS, and of others until `alert_until`."""
        if now < self.alert_until:
            if gap_ns >= LONG_NS or now - self._read_at >= _OFTEN_NS:
                self._read(now)
        else:
            self._gaps += 1
            self._elsewhere_ns += gap_ns
            if self._gaps == _GAPS:
                self._read(now)

    def _read(self, now: int) -> int:
        """What was stolen since the last reading, if it was stolen in pieces of LONG_NS."""
        cpu_ns = self.meter.cpu_ns()
        self._had_ns = cpu_ns - self._cpu_ns
        lost_ns = now - self._read_at - self._had_ns
        self._read_at = now
        self._cpu_ns = cpu_ns
        self._gaps = 0
        self._elsewhere_ns = 0
        if lost_ns < _NOISE_NS:
            return 0
        stolen_ns = self.meter.ask(lost_ns)
        if stolen_ns < LONG_NS * self.meter.pieces:
            return 0
        self.alert_until = now + _ALERT_NS
        return stolen_ns
