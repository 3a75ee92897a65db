"""Machines as the kernel shows them: trees of /sys and /proc with what `_topology` reads, after real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from clockworker.shards.machine._placement import as_list


def cpu(
    root: Path,
    number: int,
    *,
    siblings: Iterable[int],
    node: int = 0,
    cache: Iterable[int] = (),
    capacity: int | None = None,
) -> None:
    directory = root / f"sys/devices/system/cpu/cpu{number}"
    write(directory / "topology/thread_siblings_list", ",".join(map(str, siblings)))
    (directory / f"node{node}").mkdir()
    for index, shared in enumerate((siblings, siblings, siblings, cache)):
        if shared:
            write(directory / f"cache/index{index}/shared_cpu_list", as_list(shared))
    if capacity is not None:
        write(directory / "cpu_capacity", str(capacity))


def online(root: Path, count: int) -> None:
    write(root / "sys/devices/system/cpu/online", as_list(range(count)))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def laptop(root: Path) -> None:
    """Core i7-8650U: 4 cores of 2 threads, the second ones in the upper half."""
    online(root, 8)
    for number in range(8):
        cpu(root, number, siblings=(number % 4, number % 4 + 4), cache=range(8))


def two_sockets(root: Path) -> None:
    """Two Xeons of 4 cores with 2 threads, numbered in turns: the even ones are on the first socket."""
    online(root, 16)
    for number in range(16):
        socket = number % 2
        cpu(root, number, siblings=(number % 8, number % 8 + 8), node=socket, cache=range(socket, 16, 2))


def epyc(root: Path) -> None:
    """EPYC in four nodes (NPS4), each of two core complexes of 2 cores with 2 threads and a cache of their own."""
    online(root, 32)
    for number in range(32):
        core = number % 16
        complex_ = [core - core % 2, core - core % 2 + 1]
        shared = [*complex_, *(other + 16 for other in complex_)]
        cpu(root, number, siblings=(core, core + 16), node=core // 4, cache=shared)


def big_little(root: Path) -> None:
    """RK3588: four Cortex-A55, then four Cortex-A76; no second threads."""
    online(root, 8)
    for number in range(8):
        cpu(root, number, siblings=(number,), cache=range(8), capacity=530 if number < 4 else 1024)


def single(root: Path) -> None:
    """The smallest virtual machine one can rent."""
    online(root, 1)
    cpu(root, 0, siblings=(0,), cache=(0,))


def container(root: Path) -> None:
    """A container on the laptop: cpuset 2-3,6-7 and half a CPU. Its cgroup is the root of what it sees."""
    laptop(root)
    cgroup_v2(root, "/", "/", {"/": "50000 100000"})


# Machine -> how its tree is made, the affinity mask.
MACHINES: dict[str, tuple[Callable[[Path], None], Iterable[int]]] = {
    "laptop": (laptop, range(8)),
    "two sockets": (two_sockets, range(16)),
    "epyc": (epyc, range(32)),
    "big.LITTLE": (big_little, range(8)),
    "container": (container, (2, 3, 6, 7)),
    "single": (single, (0,)),
}


def cgroup_v2(root: Path, group: str, mount_root: str, limits: dict[str, str]) -> None:
    """`limits` are the cpu.max of groups, by their path below the mount point."""
    write(root / "proc/self/cgroup", f"0::{group}")
    write(
        root / "proc/self/mountinfo",
        "25 31 0:23 / /sys rw,nosuid - sysfs sysfs rw\n"
        f"29 25 0:26 {mount_root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
    )
    for path, limit in limits.items():
        write(root / "sys/fs/cgroup" / path.lstrip("/") / "cpu.max", limit)


def cgroup_v1(root: Path, group: str, mount_root: str, limits: dict[str, tuple[int, int]]) -> None:
    """Version 1 beside a version 2 that has no controllers, as systemd's hybrid mode has it."""
    write(root / "proc/self/cgroup", f"5:memory:{group}\n4:cpu,cpuacct:{group}\n1:name=systemd:{group}\n0::{group}")
    write(
        root / "proc/self/mountinfo",
        "30 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        f"31 25 0:28 {mount_root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        f"32 25 0:29 {mount_root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    )
    for path, (quota, period) in limits.items():
        directory = root / "sys/fs/cgroup/cpu,cpuacct" / path.lstrip("/")
        write(directory / "cpu.cfs_quota_us", str(quota))
        write(directory / "cpu.cfs_period_us", str(period))
