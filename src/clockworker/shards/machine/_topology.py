"""What CPUs this process may use, how they hang together, and how much of their time and how many processes it may have, read
from the kernel; `_placement` decides. `root` is where /proc and /sys are, for tests.

Of the quota's two generations: in cgroup v2 `cpu.max` has "quota period" or "max period"; in v1 `cpu.cfs_quota_us` has -1
for none. Every group up to the root may have one, and the tightest is in force. Where the hierarchy is mounted, and which
part of it we see (a container sees its own group as the root), is told by /proc/self/mountinfo.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from clockworker._errors import ConfigurationError
from clockworker.shards.config._parse import parse_cpus
from clockworker.shards.machine._placement import FULL_CAPACITY, Cpu, Machine, Quota

ROOT = Path("/")


def read_machine(root: Path = ROOT, allowed: Iterable[int] | None = None) -> Machine:
    """`allowed` is the affinity mask, this process's unless given; it has what the cpuset of a cgroup leaves over."""
    cpus = os.sched_getaffinity(0) if allowed is None else set(allowed)
    sysfs = root / "sys/devices/system/cpu"
    online = _cpu_list(sysfs / "online") or cpus
    return Machine(tuple(read_topology(cpus, sysfs)), len(set(online) | cpus), read_quota(root))


def read_topology(cpus: Iterable[int], sysfs: Path) -> list[Cpu]:
    """Describe `cpus`. Where sysfs is silent (containers hide it at times), each CPU counts as a core of node 0."""
    return [_describe(cpu, sysfs / f"cpu{cpu}") for cpu in sorted(cpus)]


def read_quota(root: Path = ROOT) -> Quota | None:
    """The tightest CPU quota over this process, or None."""
    quotas = [quota for group in _groups(root, "cpu") if (quota := _quota_of(group)) is not None]
    return min(quotas, key=lambda quota: quota.cpus, default=None)


def read_process_limit(root: Path = ROOT) -> tuple[int, int] | None:
    """Of the cgroup over this process that has the fewest left: how many processes and threads there are, and may be."""
    found = [limit for group in _groups(root, "pids") if (limit := _process_limit_of(group)) is not None]
    return min(found, key=lambda limit: limit[1] - limit[0], default=None)


def _describe(cpu: int, directory: Path) -> Cpu:
    # Not core_id: it is unique within a package only. The lowest sibling is unique everywhere.
    siblings = _cpu_list(directory / "topology" / "thread_siblings_list")
    nodes = [int(path.name[4:]) for path in _find(directory, "node[0-9]*")]
    caches = sorted(_find(directory, "cache/index[0-9]"))
    shared = _cpu_list(caches[-1] / "shared_cpu_list") if caches else ()
    capacity = _read(directory / "cpu_capacity")
    return Cpu(
        cpu,
        core=min(siblings, default=cpu),
        node=min(nodes, default=0),
        cache=min(shared, default=0),
        capacity=int(capacity) if capacity.isdecimal() else FULL_CAPACITY,
    )


def _groups(root: Path, wanted: str) -> Iterator[Path]:
    """The directories of this process's cgroup of that controller, and of all those above it that can be seen."""
    ours = dict(_own_groups(root, wanted))
    for line in _read(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        mount, system = left.split(), right.split()
        if len(mount) < 5 or len(system) < 3:
            continue
        version = {"cgroup2": 2, "cgroup": 1}.get(system[0])
        if version not in ours or (version == 1 and wanted not in system[2].split(",")):
            continue
        mount_root, mount_point = PurePosixPath(mount[3]), root / mount[4].lstrip("/")
        group = PurePosixPath(ours[version])
        # A group outside of what is mounted: the mount is the container's own group.
        below = group.relative_to(mount_root) if group.is_relative_to(mount_root) else PurePosixPath()
        for path in (below, *below.parents):
            yield mount_point / path


def _own_groups(root: Path, wanted: str) -> Iterator[tuple[int, str]]:
    """Version of the hierarchy, and the group's path in it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif wanted in controllers.split(","):
            yield 1, path


def _quota_of(group: Path) -> Quota | None:
    match _read(group / "cpu.max").split():
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            return Quota(int(quota) / int(period), "cpu.max")
    quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        return Quota(int(quota) / int(period), "cpu.cfs_quota_us")
    return None


def _process_limit_of(group: Path) -> tuple[int, int] | None:
    used, limit = _read(group / "pids.current"), _read(group / "pids.max")
    return (int(used), int(limit)) if used.isdecimal() and limit.isdecimal() else None


def _cpu_list(path: Path) -> tuple[int, ...]:
    try:
        return parse_cpus(_read(path))
    except ConfigurationError:
        return ()


def _find(directory: Path, pattern: str) -> list[Path]:
    try:
        return list(directory.glob(pattern))
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
