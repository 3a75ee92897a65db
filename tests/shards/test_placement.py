from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.shards._placement import IDLE_POLL_US, Cpu, order, place
from clockworker.shards._topology import read_topology


def sysfs(root: Path, cores: list[tuple[list[int], int]]) -> Path:
    """A tree like /sys/devices/system/cpu: for each core its hardware threads and its NUMA node."""
    for threads, node in cores:
        for thread in threads:
            topology = root / f"cpu{thread}" / "topology"
            topology.mkdir(parents=True)
            (topology / "thread_siblings_list").write_text(",".join(map(str, threads)) + "\n")
            (root / f"cpu{thread}" / f"node{node}").mkdir()
    return root


# name -> cores (threads, node), allowed CPUs, the expected order
MACHINES = {
    "a virtual machine of two plain cores": ([([0], 0), ([1], 0)], [0, 1], (0, 1)),
    "a laptop: 4 cores, siblings next to each other": (
        [([0, 1], 0), ([2, 3], 0), ([4, 5], 0), ([6, 7], 0)],
        range(8),
        (0, 2, 4, 6, 1, 3, 5, 7),
    ),
    "a server: siblings in the upper half": (
        [([0, 4], 0), ([1, 5], 0), ([2, 6], 0), ([3, 7], 0)],
        range(8),
        (0, 1, 2, 3, 4, 5, 6, 7),
    ),
    "two sockets with interleaved numbers": (
        [([0, 4], 0), ([1, 5], 1), ([2, 6], 0), ([3, 7], 1)],
        range(8),
        (0, 2, 1, 3, 4, 6, 5, 7),
    ),
    "performance cores with, efficiency cores without a sibling": (
        [([0, 1], 0), ([2, 3], 0), ([4], 0), ([5], 0)],
        range(6),
        (0, 2, 4, 5, 1, 3),
    ),
    "a container with the second threads only": ([([0, 2], 0), ([1, 3], 0)], [2, 3], (2, 3)),
}


@pytest.mark.parametrize("name", MACHINES)
def test_order(name: str, tmp_path: Path) -> None:
    cores, allowed, expected = MACHINES[name]
    assert order(read_topology(allowed, sysfs(tmp_path, cores))) == expected


def test_without_sysfs_each_cpu_is_a_core(tmp_path: Path) -> None:
    assert read_topology([3, 1], tmp_path / "none") == [Cpu(1, 1), Cpu(3, 3)]


def test_this_machine_can_be_read() -> None:
    allowed = os.sched_getaffinity(0)
    assert sorted(order(read_topology(allowed))) == sorted(allowed)


def test_shards_take_the_cpus_in_order() -> None:
    placement = place(2, (4, 6, 5, 7))
    assert placement.cpus == (4, 6)
    assert not placement.crowded
    assert placement.idle_poll_us == IDLE_POLL_US


def test_more_shards_than_cpus_go_round_and_do_not_poll() -> None:
    placement = place(5, (0, 1))
    assert placement.cpus == (0, 1, 0, 1, 0)
    assert placement.crowded
    assert placement.idle_poll_us == 0


def test_unpinned_shards_do_not_poll() -> None:
    placement = place(2, (0, 1), pin=False)
    assert placement.cpus == (None, None)
    assert placement.idle_poll_us == 0


@given(st.lists(st.integers(1, 4), min_size=1, max_size=16), st.data())
def test_no_core_gets_a_second_shard_while_another_has_none(threads_of_cores: list[int], data: st.DataObject) -> None:
    numbers = iter(data.draw(st.permutations(range(sum(threads_of_cores)))))
    cpus = []
    for threads in threads_of_cores:
        ids = sorted(next(numbers) for _ in range(threads))
        cpus += [Cpu(id, ids[0]) for id in ids]
    ordered = order(cpus)
    assert sorted(ordered) == sorted(cpu.id for cpu in cpus)
    core_of = {cpu.id: cpu.core for cpu in cpus}
    first = ordered[: len(threads_of_cores)]
    assert len({core_of[cpu] for cpu in first}) == len(threads_of_cores)
