from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker._errors import ConfigurationError
from clockworker.shards.machine._placement import IDLE_POLL_US, Cpu, Machine, Quota, as_list, order, place
from clockworker.shards.machine._topology import read_machine
from tests.shards.machines import MACHINES


def plain(cpus: int, quota: float | None = None) -> Machine:
    """A machine of so many CPUs that have nothing to do with each other."""
    return Machine(tuple(Cpu(id, id) for id in range(cpus)), cpus, None if quota is None else Quota(quota, "cpu.max"))


# machine -> the order of its CPUs
ORDERS = {
    # Each core once, then again.
    "laptop": (0, 1, 2, 3, 4, 5, 6, 7),
    # The first socket's cores, the second's, and only then second threads.
    "two sockets": (0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15),
    "epyc": tuple(range(32)),
    # The fast ones first.
    "big.LITTLE": (4, 5, 6, 7, 0, 1, 2, 3),
    "container": (2, 3, 6, 7),
    "single": (0,),
}


@pytest.mark.parametrize("name", MACHINES)
def test_order(name: str, tmp_path: Path) -> None:
    make, allowed = MACHINES[name]
    make(tmp_path)
    assert order(read_machine(tmp_path, allowed).cpus) == ORDERS[name]


# machine -> what --shards auto makes of it, as the log says it
AUTO = {
    "laptop": "8 shards on CPUs 0, 1, 2, 3, 4, 5, 6, 7 (the machine has 8 CPUs; 4 cores with 8 threads)",
    "two sockets": "16 shards on CPUs 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15 "
    "(the machine has 16 CPUs; 8 cores with 16 threads, NUMA nodes 0, 1)",
    "epyc": "32 shards on CPUs 0-31 (the machine has 32 CPUs; 16 cores with 32 threads, NUMA nodes 0, 1, 2, 3)",
    "big.LITTLE": "8 shards on CPUs 4, 5, 6, 7, 0, 1, 2, 3 (the machine has 8 CPUs; 4 of them slower)",
    "container": "1 shard not pinned (cpu.max allows 0.5 CPUs; any of 4 CPUs, --cpus pins)",
    "single": "1 shard on CPU 0 (the machine has 1 CPU)",
}


@pytest.mark.parametrize("name", MACHINES)
def test_auto_and_what_is_said_of_it(name: str, tmp_path: Path) -> None:
    make, allowed = MACHINES[name]
    make(tmp_path)
    assert str(place(read_machine(tmp_path, allowed), "auto")) == AUTO[name]


def test_an_affinity_mask_of_one(tmp_path: Path) -> None:
    make, _ = MACHINES["two sockets"]
    make(tmp_path)
    placement = place(read_machine(tmp_path, [13]), "auto")
    assert str(placement) == "1 shard on CPU 13 (the affinity mask allows 1 of 16 CPUs; NUMA node 1)"
    assert not placement.crowded


def test_few_shards_stay_on_one_node_and_in_one_cache() -> None:
    # Node 0 has caches of CPUs 0, 2 and 1, 3: numbered across.
    cpus = tuple(Cpu(id, id, node=id // 4, cache=id % 2) for id in range(8))
    assert place(Machine(cpus, 8), 2).cpus == (0, 2)
    assert place(Machine(cpus, 8), 4).cpus == (0, 2, 1, 3)


def test_a_slow_core_comes_before_the_second_thread_of_a_fast_one() -> None:
    fast = [Cpu(id, core=id - id % 2) for id in range(4)]
    slow = [Cpu(id, core=id, capacity=600) for id in (4, 5)]
    assert order([*fast, *slow]) == (0, 2, 4, 5, 1, 3)


@pytest.mark.parametrize(("quota", "shards"), [(0.1, 1), (1.0, 1), (1.9, 1), (2.0, 2), (3.99, 3), (4.0, 4), (8.0, 4)])
def test_auto_starts_no_more_shards_than_the_quota_has_whole_cpus(quota: float, shards: int) -> None:
    assert place(plain(4, quota), "auto").count == shards


def test_where_the_quota_is_less_than_the_shards_nobody_polls() -> None:
    assert place(plain(4, 0.5), "auto").idle_poll_us == 0
    assert place(plain(4, 1.5), "auto").idle_poll_us == IDLE_POLL_US
    assert place(plain(4, 1.5), 2).idle_poll_us == 0


def test_more_shards_than_the_quota_has_cpus_are_allowed_and_said() -> None:
    assert str(place(plain(4, 0.5), 2)) == (
        "2 shards not pinned (as told, but cpu.max allows 0.5 CPUs, 0.25 for each; any of 4 CPUs, --cpus pins)"
    )


def test_under_a_quota_only_those_are_pinned_whose_cpus_were_given() -> None:
    """All containers of a machine would choose the same CPUs."""
    assert place(plain(4, 2.0), "auto").cpus == (None, None)
    assert place(plain(4, 2.0), 2).cpus == (None, None)
    assert place(plain(4, 2.0), 2, cpus=(3, 1)).cpus == (3, 1)
    assert place(plain(4, 4.0), "auto").cpus == (0, 1, 2, 3), "with as much time as there are CPUs these are ours"


def test_shards_take_the_cpus_in_order() -> None:
    placement = place(plain(8), 2, cpus=(4, 6, 5, 7))
    assert placement.cpus == (4, 6)
    assert not placement.crowded
    assert placement.idle_poll_us == IDLE_POLL_US
    assert str(placement) == "2 shards on CPUs 4, 6 (as told; --cpus)"


def test_auto_with_cpus_is_one_each() -> None:
    assert str(place(plain(8), "auto", cpus=(3, 1))) == "2 shards on CPUs 3, 1 (one each; --cpus)"


def test_cpus_that_may_not_be_used_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"--cpus: CPU 2,9 is not among those .* may use: 0-1"):
        place(plain(2), "auto", cpus=(0, 9, 2))


def test_more_pinned_shards_than_cpus_are_refused_with_the_reason() -> None:
    with pytest.raises(
        ConfigurationError, match=r"5 shards need 5 CPUs, and this machine has 2; .*--shards 2.*--no-pin"
    ):
        place(plain(2), 5)
    with pytest.raises(ConfigurationError, match="and --cpus names 1; "):
        place(plain(2), 2, cpus=(1,))
    masked = Machine((Cpu(1, 1), Cpu(2, 2)), 8)
    with pytest.raises(ConfigurationError, match="this process may use 2 of 8: 1-2; "):
        place(masked, 3)


def test_unpinned_shards_share_and_do_not_poll() -> None:
    placement = place(plain(2), 5, pin=False)
    assert placement.cpus == (None,) * 5
    assert placement.idle_poll_us == 0
    assert str(placement) == "5 shards not pinned (as told)"


@pytest.mark.parametrize(("cpus", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 8], "0-2,8"), ([5, 1, 2], "1-2,5")])
def test_lists_are_written_as_the_kernel_does(cpus: list[int], text: str) -> None:
    assert as_list(cpus) == text


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
