"""A config's threads, type and switches on a rank, in this process."""

from types import SimpleNamespace

import pytest
import torch

from deployments.build_engine import build_engine
from deployments.config import ServiceConfig, parse_args
from lingbot.runtime import cpu_cores, presets


@pytest.fixture
def built(monkeypatch):
    """Builds with a config on a machine of so many cores: torch's threads, and the type."""
    before = torch.get_num_threads()
    monkeypatch.setattr(
        presets, "load_engine", lambda *args, dtype, **rest: (torch.get_num_threads(), dtype)
    )

    def build(config, *, cores=8, num_ranks=1):
        monkeypatch.setattr(cpu_cores, "usable_cores", lambda: cores)
        return build_engine(config, SimpleNamespace(num_ranks=num_ranks))

    yield build
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "cores, num_ranks, threads", [(2, 1, 1), (8, 1, 4), (8, 3, 2), (8, 8, 1), (1, 1, 1)]
)
def test_ranks_and_decoding_share_the_cores_by_default(built, cores, num_ranks, threads):
    assert built(ServiceConfig(), cores=cores, num_ranks=num_ranks) == (threads, None)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_number_of_threads_stays_a_number(built, threads):
    assert built(parse_args({"threads": threads}), num_ranks=2) == (threads, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_named_type_stays_as_it_is(built, dtype):
    name = str(dtype).removeprefix("torch.")
    assert built(parse_args({"dtype": name}))[1] == dtype


def test_switches_reach_the_engine(monkeypatch):
    given = {"attention": "cudnn", "compile": True, "fp8": True, "other_gpu_bytes": 7}
    monkeypatch.setattr(presets, "load_engine", lambda *args, **options: options)
    assert (
        given.items() <= build_engine(ServiceConfig(**given), SimpleNamespace(num_ranks=1)).items()
    )
