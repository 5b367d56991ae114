import json
import sys

import pytest
import torch

from benchmarks import chunk

SMALL = ["--dim", "48", "--ffn", "64", "--heads", "4", "--layers", "2", "--text", "6"]
SMALL += ["--width", "48", "--height", "32", "--window", "6", "--sink", "3", "--chunks", "2"]


def run(monkeypatch, capsys, *options):
    """The JSON of the command with these options, on the CPU."""
    monkeypatch.setattr(sys, "argv", ["chunk", "--device", "cpu", *SMALL, *options])
    chunk.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    "options",
    [
        ["--vae", "tiny"],
        ["--camera-cache", "off"],
        ["--fp8", "--dtype", "bfloat16"],
    ],
)
def test_the_parts_of_a_chunk_add_up(monkeypatch, capsys, options):
    figures = run(monkeypatch, capsys, *options)
    parts = figures["parts"]
    total = parts.pop("chunk")
    assert total["ms"] == pytest.approx(figures["chunk_ms"], rel=1e-2) and total["ms"] > 0
    assert sum(part["ms"] for part in parts.values()) == pytest.approx(total["ms"], abs=0.1)
    assert sum(part["tflop"] for part in parts.values()) == pytest.approx(total["tflop"], rel=1e-2)
    assert min(parts[name]["ms"] for name in ("embed", "linear", "attention")) > 0
    assert (parts["conditioner"]["ms"] > 0) == ("off" in options)
    assert (figures["vae_decode_ms"] is not None) == ("tiny" in options)
    assert figures["matmul_tflops"] > 0 and figures["attention_backend"] == "sdpa"


def test_memory_is_that_of_the_tensors(monkeypatch, capsys):
    figures = run(monkeypatch, capsys)
    window = 2 * 2 * 6 * 6 * 48 * 4  # keys and values, layers, frames, tokens, dim, float32
    assert figures["window_gib"] == pytest.approx(window / 2**30, rel=1e-3)
    assert figures["session_gib"] > figures["window_gib"]
    assert min(figures[f"{name}_ms"] for name in ("first_suspend", "suspend", "resume")) > 0
    options = figures["options"]
    assert (options["window"], options["dim"], options["dtype"]) == (6, 48, "float32")


def test_a_full_vae_is_left_out_where_its_library_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(chunk, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["chunk", "--device", "cpu", *SMALL, "--vae", "full"])
    chunk.main()
    lines = capsys.readouterr().out.splitlines()
    assert "vae full: left out, it needs diffusers and lingbot.vae.wan" in lines
    assert json.loads(lines[-1])["vae_decode_ms"] is None


def test_a_gpu_has_one_rank(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["chunk", "--device", "cuda", *SMALL, "--ranks", "2"])
    with pytest.raises(SystemExit, match="a GPU has one rank"):
        chunk.main()


def test_a_models_shape_can_be_changed_on_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["chunk", "--model", "1.3b", "--layers", "2"])
    options = chunk.read_options()
    assert (options.dim, options.ffn, options.heads, options.layers) == (1536, 8960, 12, 2)
    assert getattr(torch, options.dtype).is_floating_point
