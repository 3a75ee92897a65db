"""What CPUs this process may use and how they hang together, read from the kernel; `_placement` decides."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from clockworker.shards._config import parse_cpus
from clockworker.shards._placement import Cpu

SYSFS = Path("/sys/devices/system/cpu")


def allowed_cpus() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0))


def read_topology(cpus: Iterable[int], sysfs: Path = SYSFS) -> list[Cpu]:
    """Describe `cpus`. Where sysfs is silent (containers hide it at times), each CPU counts as a core of node 0."""
    return [Cpu(cpu, _core(cpu, sysfs), _node(cpu, sysfs)) for cpu in sorted(cpus)]


def _core(cpu: int, sysfs: Path) -> int:
    # Not core_id: it is unique within a package only. The lowest sibling is unique everywhere.
    try:
        siblings = (sysfs / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
        return min(parse_cpus(siblings))
    except (OSError, ValueError):
        return cpu


def _node(cpu: int, sysfs: Path) -> int:
    nodes = [int(path.name[4:]) for path in (sysfs / f"cpu{cpu}").glob("node[0-9]*")]
    return min(nodes, default=0)
