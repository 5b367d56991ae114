import shutil

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from lingbot.config import PRESETS
from lingbot.dit.fp8 import Float8Linear
from lingbot.dit.precision import cast_weights
from lingbot.errors import LingbotError, WeightsError
from lingbot.runtime import presets
from lingbot.runtime.presets import check_switches, load_engine, load_text_encoder, speed_up
from lingbot.text.pocket import WORDS
from tests.lingbot import toy

POCKET = PRESETS["pocket"]


@pytest.mark.parametrize("faster", [torch.bfloat16, torch.float32])
def test_an_engine_on_a_cpu_computes_in_the_type_that_was_measured_as_faster(monkeypatch, faster):
    asked = []
    monkeypatch.setattr(presets, "fastest_dtype", lambda *shape: asked.append(shape) or faster)
    engine = load_engine("pocket")
    assert engine.dtype == next(engine.vae.network.parameters()).dtype == faster
    assert asked == [(engine.model.config, POCKET.world)]


def test_a_named_type_is_not_measured(monkeypatch):
    monkeypatch.delattr(presets, "fastest_dtype")
    assert load_engine("pocket", dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("load", [load_engine, load_text_encoder])
def test_an_unknown_preset_names_the_known_ones(load):
    with pytest.raises(
        LingbotError, match=r"unknown preset 'big', expected one of \['pocket', 'v1-"
    ):
        load("big")


def test_a_preset_without_weights_needs_a_folder(monkeypatch):
    monkeypatch.setitem(PRESETS, "bare", replace(POCKET, folder=None))
    with pytest.raises(LingbotError, match="preset 'pocket' needs a folder of weights") as refused:
        load_engine("bare")
    assert refused.value.field == "weights"
    assert load_engine("bare", weights=POCKET.folder).config == POCKET.world


def test_a_folder_of_weights_is_read_by_the_presets_file_names(monkeypatch, tmp_path):
    (tmp_path / "dit").mkdir()
    shutil.copy(POCKET.folder / "config.json", tmp_path / "dit")
    shutil.copy(POCKET.folder / POCKET.dit_file, tmp_path / "dit" / "model.safetensors")
    other = replace(POCKET, dit_file="dit/model.safetensors", vae_file="vae.safetensors")
    monkeypatch.setitem(PRESETS, "other", other)
    with pytest.raises(WeightsError, match=r"vae\.safetensors"):
        load_engine("other", weights=tmp_path)
    shutil.copy(POCKET.folder / POCKET.vae_file, tmp_path / "vae.safetensors")
    assert load_engine("other", weights=tmp_path).config == POCKET.world


def test_weights_for_another_text_encoder_are_refused(monkeypatch):
    model = replace(POCKET.model, text_dim=4096)
    monkeypatch.setitem(PRESETS, "wide", replace(POCKET, model=model))
    with pytest.raises(WeightsError, match="holds a model of text_dim 64, but preset 'pocket' has"):
        load_engine("wide")


def test_a_presets_text_encoder_gives_contexts_that_its_model_takes():
    context = load_text_encoder("pocket").encode(" ".join(WORDS))
    shape = load_engine("pocket").model.config
    assert context.shape == (shape.text_len, shape.text_dim)
    assert context.dtype == np.float32


def test_a_world_that_does_not_fit_is_refused_with_the_sum_before_its_weights_are_read(monkeypatch):
    monkeypatch.setattr(presets, "free_for_rank", lambda device, group, **_: 2**20)
    monkeypatch.delattr(presets, "load_dit")
    with pytest.raises(LingbotError, match=r"weights 0\.03 .* window 12 .* 0\.00 are free: 0 fit"):
        load_engine("pocket", dtype=torch.float32)


def test_a_camera_cache_below_one_pose_is_logged(caplog):
    load_engine("pocket", dtype=torch.bfloat16, camera_cache_bytes=532_480)
    assert "stores nothing" not in caplog.text
    load_engine("pocket", dtype=torch.bfloat16, camera_cache_bytes=532_479)
    assert "camera_cache_bytes 532479 stores nothing: a pose takes 532480" in caplog.text


def test_an_engine_carries_the_plan_of_its_memory():
    plan = load_engine("pocket", dtype=torch.bfloat16, camera_cache_bytes=2**20).memory
    assert plan.camera_cache == 2**20
    assert plan.num_fitting(plan.largest) > 10


def test_switches_that_cannot_work_are_refused_before_weights_are_loaded(monkeypatch):
    monkeypatch.delattr(presets, "load_dit")
    with pytest.raises(LingbotError, match="fp8 needs a GPU, not cpu"):
        load_engine("pocket", fp8=True)
    monkeypatch.setattr(presets.shutil, "which", lambda name: None)
    with pytest.raises(LingbotError, match=r"compile needs one of g\+\+, gcc") as refused:
        load_engine("pocket", compile=True)
    assert refused.value.field == "compile"
    monkeypatch.setattr(presets, "find_spec", lambda name: None)
    with pytest.raises(LingbotError, match="compile needs the module triton"):
        check_switches(torch.device("cuda"), torch.bfloat16, compile=True)


def test_a_damaged_vae_is_refused_before_the_weights_are_loaded(tmp_path, monkeypatch):
    monkeypatch.delattr(presets, "load_dit")
    shutil.copytree(POCKET.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / POCKET.vae_file).write_bytes(b"junk")
    with pytest.raises(WeightsError, match="tiny_vae.safetensors: not a whole safetensors file"):
        load_engine("pocket", weights=tmp_path, dtype=torch.float32)


def test_another_attention_than_the_plain_one_is_refused_on_a_cpu(monkeypatch):
    assert load_engine("pocket", dtype=torch.float32).attention == "sdpa"
    monkeypatch.delattr(presets, "load_dit")  # before minutes of reading
    with pytest.raises(LingbotError, match="attention 'cudnn' cannot run here: it needs a GPU"):
        load_engine("pocket", dtype=torch.float32, attention="cudnn")


@pytest.mark.slow
@pytest.mark.timeout(900)  # an empty cache of the compiler took 200 s of a busy machine
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own
@pytest.mark.parametrize("fp8", [False, True])
def test_a_compiled_model_generates_the_chunk_of_the_plain_one(fp8):
    """Through the real compiler, in bfloat16."""
    engines = [toy.make_engine() for _ in range(2)]
    latents = []
    for engine, compile in zip(engines, (False, True), strict=True):
        cast_weights(engine.model, torch.bfloat16)
        engine.dtype = torch.bfloat16
        speed_up(engine.model, compile=compile, fp8=fp8)
        attention = engine.model.blocks[0].self_attn
        assert isinstance(attention.qkv, Float8Linear) == fp8
        latents.append(engine.denoise(engine.open(toy.make_spec(num_steps=2)), toy.WALK[1]))
    plain, compiled = latents
    # Fused operations round less often, and 8-bit inputs round to another neighbour.
    assert (compiled - plain).norm() / plain.norm() < (0.05 if fp8 else 0.01)
