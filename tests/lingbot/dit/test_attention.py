import logging

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from lingbot.dit import attention as module
from lingbot.dit.attention import BACKENDS, choose_backend, find_obstacle, use_backend
from lingbot.errors import LingbotError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def machine(**obstacles):
    """A finder of these obstacles and no others, and the list of backends it is asked for."""
    asked = []

    def find(backend):
        asked.append(backend)
        return obstacles.get(backend, "")

    return find, asked


@pytest.mark.parametrize(
    "obstacles, chosen, line",
    [
        ({}, "flash4", "attention: flash4 (the fastest)"),
        ({"flash4": "no module a"}, "flash3", "attention: flash3 (no flash4: no module a)"),
        (
            {"flash4": "old", "flash3": "old", "cudnn": "no kernel"},
            "sdpa",
            "attention: sdpa (no flash4: old; no flash3: old; no cudnn: no kernel)",
        ),
    ],
)
def test_auto_takes_the_first_without_an_obstacle_and_logs_why(caplog, obstacles, chosen, line):
    find, asked = machine(**obstacles)
    with caplog.at_level(logging.INFO):
        assert choose_backend("auto", find) == chosen
    assert asked == list(BACKENDS[: BACKENDS.index(chosen) + 1])  # trying one may activate it
    assert caplog.messages == [line]


@pytest.mark.parametrize("wanted", BACKENDS)
def test_a_configured_backend_is_taken_or_refused_with_the_reason(caplog, wanted):
    find, asked = machine()
    with caplog.at_level(logging.INFO):
        assert choose_backend(wanted, find) == wanted
    assert asked == [wanted] and caplog.messages == [f"attention: {wanted}, as configured"]
    find, _ = machine(**{wanted: "no kernel"})
    with pytest.raises(LingbotError, match=f"'{wanted}' cannot run here: no kernel") as caught:
        choose_backend(wanted, find)
    assert caught.value.field == "attention"


def obstacle(backend, device=CUDA):
    return find_obstacle(backend, device=device, dtype=torch.bfloat16, head_dim=128)


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose GPU runs every kernel; the calls that would reach it."""
    calls = []
    monkeypatch.setattr(module, "run_alone", lambda backend, **shape: calls.append(backend))
    monkeypatch.setattr(module, "has_module", lambda name: True)
    for name in ("activate", "restore"):
        monkeypatch.setattr(
            module.torch_attention,
            f"{name}_flash_attention_impl",
            lambda *impl, name=name: calls.append((name, *impl)),
            raising=False,
        )
    return calls


def test_only_plain_attention_runs_without_a_gpu():
    reasons = [obstacle(backend, CPU) for backend in BACKENDS]
    assert reasons == ["it needs a GPU, not cpu"] * 3 + [""]


def test_flash_attention_is_activated_then_tried(gpu):
    assert [obstacle(backend) for backend in BACKENDS] == [""] * 4
    assert gpu == [("activate", "FA4"), "flash4", ("activate", "FA3"), "flash3", "cudnn"]


def test_flash_attention_that_fails_is_taken_back(gpu, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("No available kernel. Aborting execution.\nMore lines.")

    monkeypatch.setattr(module, "run_alone", fail)
    for backend in ("flash4", "flash3", "cudnn"):
        assert obstacle(backend) == "No available kernel. Aborting execution."
    assert [call[0] for call in gpu] == ["activate", "restore"] * 2


def test_an_older_torch_and_a_missing_module_are_obstacles(gpu, monkeypatch):
    monkeypatch.setattr(module, "has_module", lambda name: False)
    assert obstacle("flash4") == "no module flash_attn.cute.interface"
    assert obstacle("flash3") == "no module flash_attn_interface"
    monkeypatch.delattr(module.torch_attention, "activate_flash_attention_impl")
    assert obstacle("flash4") == f"torch {torch.__version__} cannot activate it"
    assert obstacle("cudnn") == "" and gpu == ["cudnn"]


@pytest.mark.parametrize("name, found", [("torch.nn", True), ("torch.no", False), ("no.no", False)])
def test_a_module_is_found_without_importing_it(name, found):
    assert module.has_module(name) == found


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_preference_ends_with_its_block_and_falls_back_on_a_cpu(backend):
    order = torch._C._get_sdp_priority_order
    before = order()
    q = torch.randn(1, 2, 8, 16)
    expected = F.scaled_dot_product_attention(q, q, q)
    with use_backend(backend):
        first = {"cudnn": SDPBackend.CUDNN_ATTENTION, "sdpa": None}.get(
            backend, SDPBackend.FLASH_ATTENTION
        )
        assert order()[0] == (before[0] if first is None else first.value)
        torch.testing.assert_close(F.scaled_dot_product_attention(q, q, q), expected)
    assert order() == before
