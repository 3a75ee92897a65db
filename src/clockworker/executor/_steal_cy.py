# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
"""Steal: what others had of the time that a step took.

A step is timed by the wall clock. If another process runs on the core meanwhile, or the quota of the container is used up, or
the hypervisor lets another guest run, the step takes longer. Were its queue charged for that, it would lose what others had
taken, and a large queue would lose the most, being the one that mostly runs. So a queue is charged for what its steps *had*:
the time that they took less what was stolen. A step that blocks (`time.sleep`, a synchronous query) has the core as long as it
blocks, for no other step can run; if it waits for a core afterwards, that is stolen again.

*Which steps.* To ask the kernel takes a third of a microsecond or more, as long as a short step, and is done after long steps
only (`long_ns`): a step that was interrupted for long is one. Shorter interruptions are charged to the step that they hit. Nor
is it done more often than once in a millisecond, outside of the alert (below): what takes as long as that is asked about, and
of what is shorter and was not, nothing is given back.

*How much.* A reading compares with the reading before. Wall time less the thread's CPU time was lost. If any was,
/proc/thread-self/schedstat says how much of it the thread has waited for a core (its run delay; throttling by a quota
included), and how often it was given one. If it was not given one, it has never lost one as far as this kernel knows: then
what was lost was a hypervisor's, as KVM and Xen tell their guests (steal time). The rest was blocked. Where there is no
schedstat, all that was lost counts as stolen if the thread has not left its core of its own accord meanwhile (rusage), and
nothing does otherwise. Where neither can be asked, nothing is ever stolen: steps are charged by the wall clock.

*When.* A window from one reading to the next may hold more than the step that it ends with: short steps, and gaps, the time
between turns and without steps. A step is only given back what cannot have been stolen in the gaps: what is more than these;
and what it lost for certain, having taken longer than the thread has had the core in all of the window, if about as much was
stolen in that. On a core that is shared this is not good enough, and shorter interruptions, of which there may be thousands a
second, begin to count: they would be given back to long steps, and those that hit short steps would not. So for a second after
steal was noticeable (a thousandth of the time) the *alert* lasts: steps are long from 10 us on, and readings are taken after
long gaps and now and then between turns. Then a window is hardly more than its step. An executor that has its core for itself
reads after steps of 50 us, and after one long gap in 16.

Not seen: waiting for the interpreter's lock, which the kernel calls blocked; a process that is stopped (SIGSTOP, a freezer),
likewise; a hypervisor's steal in a window in which the guest's kernel took the core as well.

Rejected: the CPU clock at each step, half the price of a step. The CPU clock alone: a step that blocks would be free. `rseq`,
of which a field is cleared when a thread is preempted and costs one load to look at: a mistake in it ends the process.

Policy only: `Meter` asks the kernel, and times are arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

if TYPE_CHECKING:
    from clockworker.executor._meter_cy import Meter

# A step, or a gap, is long: a process that is given the core in the place of another mostly keeps it for a millisecond or more.
_LONG_NS = 50_000
# And in the alert: most interrupts take less, and readings cost 4 % at most.
_ALERT_LONG_NS = 10_000
_SECOND_NS = 1_000_000_000
_NOTICEABLE_NS = 1_000_000  # in a second
# Outside of the alert readings are so far apart.
_SELDOM_NS = 1_000_000
# How old a reading may be when a turn begins, in the alert.
_OFTEN_NS = 250_000
# One in so many long gaps is followed by a reading.
_GAPS = 16
# What is stolen when a sleeping thread wakes up, in the gap before a step that loses more: such a part of that at most.
_DELAYS = 4
# Two clocks that are read one after the other are so far apart.
_NOISE_NS = 5_000


@cython.final
@cython.cclass
class Steal:
    """Of one thread. Times are the core's clock's, in ns."""

    meter: Meter
    long_ns: int  # steps and gaps that are as long are to be reported
    alert_until: int
    _noticed_ns: int  # stolen in the second that began at
    _second: int
    _read_at: int
    _cpu_ns: int  # the thread's CPU clock then
    _had_ns: int  # CPU time in the window before
    _gaps: int  # since then
    _elsewhere_ns: int  # how long these took, and steps that were long and were not asked about

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.long_ns = _LONG_NS
        self.alert_until = 0
        self._noticed_ns = 0
        self._second = 0
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
        """What was stolen of a long step that ends now."""
        if now - self._read_at < _SELDOM_NS and now >= self.alert_until:
            self._elsewhere_ns += elapsed_ns
            return 0
        return self._of(elapsed_ns, now)

    def _of(self, elapsed_ns: int, now: int) -> int:
        elsewhere_ns = self._elsewhere_ns
        stolen_ns = self._read(now)
        if elsewhere_ns:
            lost_ns = elapsed_ns - self._had_ns
            # If more was lost than stolen, the step has blocked, and who knows for how long. If much more was stolen, the gaps
            # lost that, and the step may have blocked all the same.
            is_of_step = lost_ns - _NOISE_NS <= stolen_ns <= lost_ns + lost_ns // _DELAYS + _NOISE_NS
            certain_ns = max(lost_ns, 0) if is_of_step else 0
            stolen_ns = max(stolen_ns - elsewhere_ns, min(stolen_ns, certain_ns))
        return min(stolen_ns, elapsed_ns)

    def of_work(self, elapsed_ns: int, now: int) -> int:
        """As much of what a turn did beside its steps, or the loop in its own: nobody has told of what came before."""
        self._elsewhere_ns = now - self._read_at - elapsed_ns
        return self._of(elapsed_ns, now)

    def passed(self, gap_ns: int, now: int) -> None:
        """So much time has passed until now in no step. To be told of long gaps, and until `alert_until` of all."""
        if now < self.alert_until:
            if gap_ns >= self.long_ns or now - self._read_at >= _OFTEN_NS:
                self._read(now)
        else:
            self._gaps += 1
            self._elsewhere_ns += gap_ns
            if self._gaps == _GAPS:
                self._read(now)

    def _read(self, now: int) -> int:
        """What was stolen since the last reading."""
        cpu_ns = self.meter.cpu_ns()
        self._had_ns = cpu_ns - self._cpu_ns
        lost_ns = now - self._read_at - self._had_ns
        self._read_at = now
        self._cpu_ns = cpu_ns
        self._gaps = 0
        self._elsewhere_ns = 0
        stolen_ns = self.meter.ask(lost_ns) if lost_ns >= _NOISE_NS else 0
        if now - self._second >= _SECOND_NS:
            self._second = now
            self._noticed_ns = 0
        self._noticed_ns += stolen_ns
        if self._noticed_ns >= _NOTICEABLE_NS:
            self.alert_until = now + _SECOND_NS
            self.long_ns = _ALERT_LONG_NS
        elif now >= self.alert_until:
            self.long_ns = _LONG_NS
        return stolen_ns
