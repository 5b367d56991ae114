import os

import pytest

from lingbot.runtime import cpu_cores
from lingbot.runtime.cpu_cores import threads_per_rank, usable_cores, usable_cpus


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Builds a Linux machine of 8 CPUs; `siblings` are the CPUs of each core."""

    def build(*, siblings=(), affinity=range(8), files=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(affinity), raising=False)
        topology = {
            f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{core}\n"
            for core in siblings
            for cpu in map(int, core.split(","))
        }
        for name, text in {**topology, **(files or {})}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return build


PAIRS = ("0,4", "1,5", "2,6", "3,7")
SINGLES = tuple("01234567")


@pytest.mark.parametrize(
    "siblings, affinity, cores",
    [
        (SINGLES, range(8), 8),
        (PAIRS, range(8), 4),
        (PAIRS, [0, 4], 1),  # both threads of one core
        (PAIRS, [0, 1, 2], 3),
        (PAIRS, [7], 1),
        ((), [0, 1, 5], 3),  # no topology, as in some sandboxes
    ],
)
def test_threads_of_one_core_count_once_and_other_cpus_not_at_all(
    machine, siblings, affinity, cores
):
    assert usable_cores(machine(siblings=siblings, affinity=affinity)) == cores


V1 = "5:cpuset:/\n4:cpuacct,cpu:/pod/box\n1:name=systemd:/pod\n"


@pytest.mark.parametrize(
    "files, cores",
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 2),
        # The limit of a group around ours
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "400000 100000\n"}, 4),
        # A path that only the host sees
        ({"proc/self/cgroup": "0::/host/id\n", "sys/fs/cgroup/cpu.max": "500000 100000\n"}, 5),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/pod/box/cpu.cfs_quota_us": "600000\n",
                "sys/fs/cgroup/cpu/pod/box/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
        ({}, 8),
    ],
)
def test_a_cgroup_quota_limits_the_cores(machine, files, cores):
    assert usable_cores(machine(siblings=SINGLES, files=files)) == cores


def test_without_affinities_every_cpu_is_a_core(machine, monkeypatch):
    root = machine()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(root) == 6


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinities here")
def test_this_process_counts_the_cores_that_it_may_run_on():
    allowed = os.sched_getaffinity(0)
    assert 1 <= usable_cores() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    "cores, num_ranks, threads",
    [(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 2), (8, 1, 4), (8, 2, 2), (8, 4, 1), (2, 4, 1)],
)
def test_ranks_and_decoding_share_the_cores(monkeypatch, cores, num_ranks, threads):
    monkeypatch.setattr(cpu_cores, "usable_cores", lambda: cores)
    assert threads_per_rank(num_ranks) == threads


@pytest.mark.parametrize(
    "num_cpus, threads", [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4), (32, 4), (0.5, 1)]
)
def test_a_groups_cpus_are_its_share_of_the_cores(monkeypatch, num_cpus, threads):
    """Of 8 cores, which Ray counts as 16 CPUs."""
    monkeypatch.setattr(cpu_cores, "usable_cores", lambda: 8)
    monkeypatch.setattr(cpu_cores, "usable_cpus", lambda: 16)
    assert threads_per_rank(1, num_cpus=num_cpus) == threads


def test_ray_counts_each_thread_of_a_core_and_a_part_of_one(machine):
    assert usable_cpus(machine(siblings=PAIRS)) == 8
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}
    assert usable_cpus(machine(siblings=PAIRS, files=files)) == 0.5
