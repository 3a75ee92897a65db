"""How many shards, and which runs on which CPU. Pure policy: what the machine looks like is an argument (`_topology` reads
it), and what was decided comes with its reason, for the log.

CPUs are handed out in this order. One hardware thread of every physical core before any core's second thread, because
two shards on one core get about 1.2 cores' worth of work done between them. Then the faster cores first, where there are
two kinds. Then NUMA node by NUMA node, and within a node by shared last-level cache, so that a small number of shards
stay near each other's memory. CPUs given by hand (`--cpus`) are taken in the order given: whoever writes the list knows
better.

A quota (a container's CPU limit) is no set of CPUs but time: with a quota of 2.5 on 64 CPUs, 64 shards would each run for
4 ms of every 100 and stand still for the rest, all at once. So `auto` starts no more shards than the quota has whole
CPUs: with 2 there is something to spare, with 3 all would be stopped together at the end of each period. And none is
pinned, unless its CPU was given by hand: the CPUs are others' too, and of all the containers on a machine each would choose
the same ones, while the rest stand idle. (Where CPUs are really ours, the affinity mask says so.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from clockworker._errors import ConfigurationError

IDLE_POLL_US = 200
FULL_CAPACITY = 1024
MAX_PROCESSES = 8
MAX_LISTED = 16  # CPUs that a log line shows in the order of the shards, rather than as ranges


class Cpu(msgspec.Struct, frozen=True, order=True):
    """A hardware thread: its number, the lowest number among the threads of its core, its NUMA node, the lowest number
    among those that share its last-level cache, and its speed, of which 1024 is the machine's fastest."""

    id: int
    core: int
    node: int = 0
    cache: int = 0
    capacity: int = FULL_CAPACITY


class Quota(msgspec.Struct, frozen=True):
    """CPU time that the process and its children may use, in CPUs (0.5: half of one), and the kernel's name for it."""

    cpus: float
    source: str

    def __str__(self) -> str:
        return f"{self.source} allows {self.cpus:.4g} CPU{'s' if self.cpus != 1 else ''}"


class Machine(msgspec.Struct, frozen=True):
    """The CPUs that this process may use, how many there are, and the tightest quota."""

    cpus: tuple[Cpu, ...]
    online: int
    quota: Quota | None = None


class Placement(msgspec.Struct, frozen=True):
    """`cpus[i]` is where shard i runs, or None where nothing is pinned.

    `crowded` says that some shard has no CPU to itself: then polling for messages would only take time from another.
    `reason` says why it is so many and why there, for people. `processes` is how many a shard has for `run_process`, unless
    told otherwise: the CPUs beyond one for each shard are divided among them, and each has one at least and `MAX_PROCESSES` at
    most.
    """

    cpus: tuple[int | None, ...]
    crowded: bool
    reason: str = ""
    processes: int = 1

    @property
    def count(self) -> int:
        return len(self.cpus)

    @property
    def idle_poll_us(self) -> int:
        """How long an idle shard polls its rings before it sleeps, unless told otherwise."""
        return 0 if self.crowded else IDLE_POLL_US

    def __str__(self) -> str:
        pinned = [cpu for cpu in self.cpus if cpu is not None]
        numbers = ", ".join(map(str, pinned)) if len(pinned) <= MAX_LISTED else as_list(pinned)
        where = f"on CPU{'s' if len(pinned) > 1 else ''} {numbers}" if pinned else "not pinned"
        return f"{plural(self.count, 'shard')} {where} ({self.reason})"


def order(cpus: Iterable[Cpu]) -> tuple[int, ...]:
    """The CPUs' numbers, best first."""
    seen_of_core: dict[int, int] = {}
    ranked = []
    for cpu in sorted(cpus):
        thread = seen_of_core.get(cpu.core, 0)
        seen_of_core[cpu.core] = thread + 1
        ranked.append((thread, -cpu.capacity, cpu.node, cpu.cache, cpu.core, cpu.id))
    return tuple(cpu_id for *_, cpu_id in sorted(ranked))


def place(
    machine: Machine, shards: int | Literal["auto"], *, cpus: Sequence[int] | None = None, pin: bool = True
) -> Placement:
    """Decide. Raises `ConfigurationError` for CPUs that may not be used, and for more pinned shards than CPUs."""
    allowed = {cpu.id for cpu in machine.cpus}
    if cpus is not None and (missing := sorted(set(cpus) - allowed)):
        raise ConfigurationError(
            f"--cpus: CPU {as_list(missing)} is not among those that this process may use: {as_list(allowed)}"
        )
    usable = order(machine.cpus) if cpus is None else tuple(cpus)
    if shards == "auto":
        count, reason = _auto(machine, len(usable), by_hand=cpus is not None)
    else:
        count, reason = shards, "as told"
        if pin and count > len(usable):
            raise ConfigurationError(_too_many(machine, count, len(usable), by_hand=cpus is not None))
    chosen = usable[:count]
    quota = machine.quota
    crowded = not pin or count > len(usable) or (quota is not None and quota.cpus < count)
    if quota is not None and quota.cpus < count and shards != "auto":
        reason += f", but {quota}, {quota.cpus / count:.2g} for each"
    processes = _processes(machine, count)
    if not pin:
        return Placement((None,) * count, crowded, reason, processes)
    if quota is not None and quota.cpus < len(usable) > 1 and cpus is None:
        return Placement((None,) * count, crowded, f"{reason}; any of {len(usable)} CPUs, --cpus pins", processes)
    remark = _remark([cpu for cpu in machine.cpus if cpu.id in chosen]) if cpus is None else "--cpus"
    return Placement(chosen, crowded, "; ".join(filter(None, (reason, remark))), processes)


def _auto(machine: Machine, usable: int, *, by_hand: bool) -> tuple[int, str]:
    quota = machine.quota
    if quota is not None and quota.cpus < usable:
        count = max(1, int(quota.cpus))
        return count, str(quota)
    if by_hand:
        return usable, "one each"
    if usable < machine.online:
        return usable, f"the affinity mask allows {usable} of {machine.online} CPUs"
    return usable, f"the machine has {plural(usable, 'CPU')}"


def _processes(machine: Machine, shards: int) -> int:
    cpus = len(machine.cpus) if machine.quota is None else min(len(machine.cpus), int(machine.quota.cpus))
    return min(max(1, (cpus - shards) // shards), MAX_PROCESSES)


def _too_many(machine: Machine, count: int, usable: int, *, by_hand: bool) -> str:
    if by_hand:
        why = f"--cpus names {usable}"
    elif usable < machine.online:
        why = f"this process may use {usable} of {machine.online}: {as_list(cpu.id for cpu in machine.cpus)}"
    else:
        why = f"this machine has {usable}"
    return f"{count} shards need {count} CPUs, and {why}; give --shards {usable} or auto, or --no-pin to let them share"


def _remark(chosen: Sequence[Cpu]) -> str:
    """What is worth knowing of the CPUs that were chosen."""
    parts = []
    if (cores := len({cpu.core for cpu in chosen})) < len(chosen):
        parts.append(f"{cores} core{'s' if cores > 1 else ''} with {len(chosen)} threads")
    nodes = sorted({cpu.node for cpu in chosen})
    if len(nodes) > 1 or nodes[0] != 0:
        parts.append(f"NUMA node{'s' if len(nodes) > 1 else ''} {', '.join(map(str, nodes))}")
    if slow := [cpu for cpu in chosen if cpu.capacity < max(other.capacity for other in chosen)]:
        parts.append(f"{len(slow)} of them slower")
    return ", ".join(parts)


def as_list(cpus: Iterable[int]) -> str:
    """As the kernel writes it: `0-3,8`."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
