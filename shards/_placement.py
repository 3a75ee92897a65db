"""Which shard runs on which CPU. Pure policy: what the machine looks like is an argument (`_topology` reads it).

CPUs are handed out in this order: one hardware thread of every physical core before any core's second thread, because
two shards on one core get about 1.2 cores' worth of work done between them; and NUMA node by NUMA node, so that a small
number of shards stay near each other's memory. More shards than CPUs go round again from the start.

CPUs given by hand (`--cpus`) are taken in the order given: whoever writes the list knows better.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

IDLE_POLL_US = 200


class Cpu(msgspec.Struct, frozen=True, order=True):
    """A hardware thread: its number, the lowest number among the threads of its core, and its NUMA node."""

    id: int
    core: int
    node: int = 0


class Placement(msgspec.Struct, frozen=True):
    """`cpus[i]` is where shard i runs, or None where nothing is pinned.

    `crowded` says that some shard has no CPU to itself: then polling for messages would only take time from another.
    """

    cpus: tuple[int | None, ...]
    crowded: bool

    @property
    def count(self) -> int:
        return len(self.cpus)

    @property
    def idle_poll_us(self) -> int:
        """How long an idle shard polls its rings before it sleeps, unless told otherwise."""
        return 0 if self.crowded else IDLE_POLL_US


def order(cpus: Iterable[Cpu]) -> tuple[int, ...]:
    """The CPUs' numbers, best first."""
    seen_of_core: dict[int, int] = {}
    ranked = []
    for cpu in sorted(cpus):
        thread = seen_of_core.get(cpu.core, 0)
        seen_of_core[cpu.core] = thread + 1
        ranked.append((thread, cpu.node, cpu.core, cpu.id))
    return tuple(cpu_id for *_, cpu_id in sorted(ranked))


def place(shards: int, ordered_cpus: tuple[int, ...], *, pin: bool = True) -> Placement:
    """Give each of `shards` (at least 1) a CPU out of `ordered_cpus` (at least 1)."""
    crowded = not pin or shards > len(ordered_cpus)
    if not pin:
        return Placement((None,) * shards, crowded)
    return Placement(tuple(ordered_cpus[shard % len(ordered_cpus)] for shard in range(shards)), crowded)
