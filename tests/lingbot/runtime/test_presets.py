import shutil

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from lingbot.config import PRESETS
from lingbot.errors import LingbotError, WeightsError
from lingbot.runtime.presets import fastest_dtype, load_engine, load_text_encoder
from lingbot.text.pocket import WORDS

POCKET = PRESETS["pocket"]


@pytest.mark.parametrize("has_products, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_an_engine_uses_the_type_of_the_processors_products(monkeypatch, has_products, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_products)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert fastest_dtype("cpu") == load_engine("pocket").dtype == dtype
    assert load_engine("pocket", dtype=torch.float32).dtype == torch.float32
    assert fastest_dtype("cuda") == torch.bfloat16


@pytest.mark.parametrize("load", [load_engine, load_text_encoder])
def test_an_unknown_preset_names_the_known_ones(load):
    with pytest.raises(LingbotError, match=r"unknown preset 'big', expected one of \['pocket'\]"):
        load("big")


def test_a_preset_without_weights_needs_a_folder(monkeypatch):
    monkeypatch.setitem(PRESETS, "bare", replace(POCKET, folder=None))
    with pytest.raises(LingbotError, match="preset 'bare' needs a folder of weights") as refused:
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
    monkeypatch.setitem(PRESETS, "wide", replace(POCKET, text_dim=4096))
    with pytest.raises(WeightsError, match="must be 16 and 4096, not 16 and 64"):
        load_engine("wide")


def test_a_presets_text_encoder_gives_contexts_that_its_model_takes():
    context = load_text_encoder("pocket").encode(" ".join(WORDS))
    shape = load_engine("pocket").model.config
    assert context.shape == (shape.text_len, shape.text_dim)
    assert context.dtype == np.float32
