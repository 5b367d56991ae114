import pytest
import torch

from lingbot.parallel.ulysses import SINGLE
from lingbot.runtime import free_memory
from lingbot.runtime.free_memory import free_for_rank, free_host_memory

MEMINFO = "MemTotal: 24684092 kB\nMemFree: 100 kB\nMemAvailable: 1000 kB\nHugePages_Total: 0\n"


@pytest.fixture
def machine(tmp_path):
    """Builds a Linux machine of these files."""

    def build(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return build


def test_without_cgroups_the_kernels_estimate_counts(machine):
    assert free_host_memory(machine({"proc/meminfo": MEMINFO})) == 1000 * 1024


@pytest.mark.parametrize(
    "limit, used, stat, free",
    [
        ("500000", "300000", "", 200_000),
        ("500000", "300000", "anon 1\ninactive_file 50000\n", 250_000),  # the cache is given back
        ("500000", "600000", "", 0),
        ("max", "300000", "", 1000 * 1024),
        ("9999999999", "0", "", 1000 * 1024),
    ],
)
def test_a_cgroup_of_version_2_bounds_the_estimate(machine, limit, used, stat, free):
    pod = "sys/fs/cgroup/pod"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/pod/box\n",
        f"{pod}/memory.max": limit,
        f"{pod}/memory.current": used,
        f"{pod}/memory.stat": stat,
    }
    assert free_host_memory(machine(files)) == free


def test_a_cgroup_of_version_1_bounds_the_estimate(machine):
    box = "sys/fs/cgroup/memory/box"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "5:cpuset:/\n4:memory:/box\n0::/\n",
        f"{box}/memory.limit_in_bytes": "400000\n",
        f"{box}/memory.usage_in_bytes": "350000\n",
        f"{box}/memory.stat": "cache 7\ntotal_inactive_file 10000\n",
    }
    assert free_host_memory(machine(files)) == 60_000


def test_another_system_does_not_say(tmp_path):
    assert free_host_memory(tmp_path) is None


def test_ranks_on_a_cpu_share_the_hosts_memory(monkeypatch):
    class Three:
        num_ranks = 3
        from_rank_0 = staticmethod(lambda compute: compute())

    assert free_for_rank(torch.device("cpu"), SINGLE) > 2**20
    monkeypatch.setattr(free_memory, "free_host_memory", lambda: 100)
    assert free_for_rank(torch.device("cpu"), Three()) == 33
    monkeypatch.setattr(free_memory, "free_host_memory", lambda: None)
    assert free_for_rank(torch.device("cpu"), Three()) is None


def test_a_rank_on_a_gpu_has_that_gpus_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 80))
    assert free_for_rank(torch.device("cuda"), SINGLE) == 7


@pytest.mark.parametrize("now, free", [(80, 69), (75, 69), (69, 69), (60, 60), (5, 5)])
def test_other_processes_count_before_and_after_they_take_a_gpus_memory(monkeypatch, now, free):
    """The text encoder loads before a rank measures, meanwhile, or after."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (now, 80))
    assert free_for_rank(torch.device("cuda"), SINGLE, other_bytes=11) == free
    assert free_for_rank(torch.device("cuda"), SINGLE, other_bytes=99) == 0
