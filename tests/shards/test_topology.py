from __future__ import annotations

import os
from pathlib import Path

import pytest

from clockworker.shards.machine._placement import Cpu, Quota, order
from clockworker.shards.machine._topology import read_machine, read_process_limit, read_quota, read_topology
from tests.shards.machines import MACHINES, big_little, cgroup_v1, cgroup_v2, epyc, laptop, write


@pytest.mark.parametrize("name", MACHINES)
def test_every_allowed_cpu_is_described_once(name: str, tmp_path: Path) -> None:
    make, allowed = MACHINES[name]
    make(tmp_path)
    machine = read_machine(tmp_path, allowed)
    assert [cpu.id for cpu in machine.cpus] == sorted(allowed)


def test_siblings_nodes_caches_and_speeds_are_read(tmp_path: Path) -> None:
    epyc(tmp_path / "epyc")
    assert read_machine(tmp_path / "epyc", [22]).cpus == (Cpu(22, core=6, node=1, cache=6),)
    big_little(tmp_path / "rk3588")
    assert read_machine(tmp_path / "rk3588", [0, 4]).cpus == (
        Cpu(0, core=0, cache=0, capacity=530),
        Cpu(4, core=4, cache=0, capacity=1024),
    )


def test_how_many_cpus_there_are_is_told_apart_from_those_allowed(tmp_path: Path) -> None:
    laptop(tmp_path)
    machine = read_machine(tmp_path, [3])
    assert (len(machine.cpus), machine.online) == (1, 8)


def test_without_sysfs_each_cpu_is_a_core(tmp_path: Path) -> None:
    assert read_topology([3, 1], tmp_path / "none") == [Cpu(1, 1), Cpu(3, 3)]
    machine = read_machine(tmp_path / "none", [3, 1])
    assert (machine.online, machine.quota) == (2, None)


def test_this_machine_can_be_read() -> None:
    allowed = os.sched_getaffinity(0)
    machine = read_machine()
    assert sorted(order(machine.cpus)) == sorted(allowed)
    assert machine.online >= len(allowed)
    assert machine.quota is None or machine.quota.cpus > 0


# The quota.


def test_cpu_max_of_a_container(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/", "/", {"/": "50000 100000"})
    assert read_quota(tmp_path) == Quota(0.5, "cpu.max")


def test_a_container_that_sees_the_path_of_the_host(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/docker/4f3a", "/docker/4f3a", {"/": "150000 100000"})
    assert read_quota(tmp_path) == Quota(1.5, "cpu.max")


def test_a_group_below_a_mount_that_is_not_the_root(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/docker/4f3a/web", "/docker/4f3a", {"/web": "250000 100000", "/": "max 100000"})
    assert read_quota(tmp_path) == Quota(2.5, "cpu.max")


def test_a_group_that_is_not_below_what_is_mounted(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/../../user.slice", "/", {"/": "300000 100000"})
    assert read_quota(tmp_path) == Quota(3.0, "cpu.max")


def test_the_tightest_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    limits = {"/system.slice/web.service": "400000 100000", "/system.slice": "200000 100000", "/": "max 100000"}
    cgroup_v2(tmp_path, "/system.slice/web.service", "/", limits)
    assert read_quota(tmp_path) == Quota(2.0, "cpu.max")


@pytest.mark.parametrize("text", ["max 100000", "max", "", "50000", "50000 0", "-1 100000", "a b c"])
def test_no_quota_or_one_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/", "/", {"/": text})
    assert read_quota(tmp_path) is None


def test_version_1(tmp_path: Path) -> None:
    cgroup_v1(tmp_path, "/docker/4f3a", "/docker/4f3a", {"/": (250000, 100000)})
    assert read_quota(tmp_path) == Quota(2.5, "cpu.cfs_quota_us")


def test_version_1_without_a_quota(tmp_path: Path) -> None:
    cgroup_v1(tmp_path, "/", "/", {"/": (-1, 100000)})
    assert read_quota(tmp_path) is None


def test_mountinfo_that_makes_no_sense_is_passed_over(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/", "/", {"/": "50000 100000"})
    write(tmp_path / "proc/self/mountinfo", "\n29 25\n - cgroup2\n29 25 0:26 / /x rw - cgroup2")
    assert read_quota(tmp_path) is None


def test_the_limit_on_processes_that_leaves_the_fewest(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/system.slice/web.service", "/", {"/": "max 100000"})
    assert read_process_limit(tmp_path) is None
    mount = tmp_path / "sys/fs/cgroup"
    for group, used, most in (
        ("", "900", "max"),
        ("system.slice", "300", "1000"),
        ("system.slice/web.service", "5", "100"),
    ):
        write(mount / group / "pids.current", used)
        write(mount / group / "pids.max", most)
    assert read_process_limit(tmp_path) == (5, 100)
    write(mount / "system.slice/pids.current", "990")
    assert read_process_limit(tmp_path) == (990, 1000)
