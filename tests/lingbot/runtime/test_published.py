"""Published models in every layout, written from tiny ones and played."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lingbot.config import PRESETS, Size
from lingbot.errors import WeightsError
from lingbot.runtime.presets import load_engine
from lingbot.runtime.session import SessionSpec
from lingbot.vae.split import SplitVAE
from lingbot.vae.tiny import TinyVAE
from tests.lingbot.checkpoint.folders import (
    tiny_tensors,
    write_base,
    write_parts,
    write_shards,
    write_v2_14b,
    write_v2_small,
)
from tests.lingbot.toy import make_image

SIZE, TURNED = Size(64, 48), Size(48, 64)
OPTIONS = {"dtype": torch.float32, "camera_cache_bytes": 2**22}


def load(name, folder, *, variant=None, **options):
    world = PRESETS[name].configure(variant=variant, sizes=[str(SIZE), str(TURNED)], window=9)
    return load_engine(name, world=world, weights=folder, **OPTIONS, **options)


def play(engine, *, size=SIZE, num_chunks=10):
    """The frames of a walk. The prompt's context has the model's width."""
    context = np.ones((5, engine.model.config.text_dim), np.float32)
    session = engine.open(SessionSpec(first_frame=make_image(size), context=context, num_steps=2))
    actions = ["w"] * engine.config.chunk
    return [engine.step(session, actions) for _ in range(num_chunks)]


def assert_plays(engine, *, size=SIZE):
    chunk = engine.config.chunk
    chunks = play(engine, size=size)
    assert [len(frames) for frames in chunks] == [4 * chunk - 3, *[4 * chunk] * 9]
    assert all(frames.shape[1:] == (size.height, size.width, 3) for frames in chunks)
    assert all(frames.std() > 1 for frames in chunks)


def test_the_fast_model_beside_v1s_base_model_plays_at_two_sizes(tmp_path):
    write_base(tmp_path)
    engine = load("v1-14b", tmp_path)
    assert_plays(engine)
    assert_plays(engine, size=TURNED)
    assert engine.memory.weights == sum(weight.nbytes for weight in engine.model.parameters())


def test_an_action_model_plays(tmp_path):
    write_shards(tmp_path, tiny_tensors(control="act"))
    write_parts(tmp_path)
    assert_plays(load("v1-14b-act", tmp_path))


@pytest.mark.parametrize("variant, chunk", [("diffusers", 3), ("reference", 4)])
def test_v2_plays_in_both_variants(tmp_path, variant, chunk):
    write_v2_14b(tmp_path)
    engine = load("v2-14b", tmp_path, variant=variant)
    assert engine.config.chunk == chunk
    assert_plays(engine)


def test_parts_come_from_the_folder_of_assets(tmp_path):
    write_v2_small(tmp_path / "model")
    with pytest.raises(WeightsError, match="no Wan VAE"):
        load("v2-1.3b", tmp_path / "model")
    write_parts(tmp_path / "assets")
    assert_plays(load("v2-1.3b", tmp_path / "model", assets=tmp_path / "assets"))


@pytest.mark.parametrize("has_full", [True, False])
def test_a_tiny_vae_decodes_and_the_full_one_encodes_where_there_is_one(tmp_path, caplog, has_full):
    torch.manual_seed(0)
    write_base(tmp_path)
    save_file(
        TinyVAE(decoder_channels=(16, 16, 8, 8)).state_dict(), tmp_path / "taew2_1.safetensors"
    )
    if not has_full:
        (tmp_path / "Wan2.1_VAE.pth").unlink()
    engine = load("v1-14b", tmp_path, vae="tiny", tiny_vae=tmp_path / "taew2_1.safetensors")
    assert isinstance(engine.vae, SplitVAE) == has_full
    assert ("the tiny VAE encodes" in caplog.text) != has_full
    assert len(play(engine, num_chunks=2)[1]) == 12
