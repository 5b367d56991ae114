"""Layouts of checkpoints. `test_damage.py` has the damaged ones. Covers `scan.py`, too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from lingbot.checkpoint.layout import find_checkpoint
from lingbot.config import PRESETS
from lingbot.dit.weights import load_dit
from lingbot.errors import WeightsError
from lingbot.files import read_state_dict
from lingbot.text.umt5 import load_umt5
from tests.lingbot.checkpoint.folders import (
    GOLDEN,
    TINY,
    tiny_tensors,
    write_base,
    write_config,
    write_diffusers,
    write_parts,
    write_shards,
    write_v2_14b,
    write_v2_small,
)
from tests.lingbot.tiny_umt5 import write_tokenizer
from tests.waiting import TIMEOUT_S

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
T5 = "models_t5_umt5-xxl-enc-bf16.pth"


def assert_loads(checkpoint, tensors=None):
    """The model that `find_checkpoint` chose is the one with these tensors."""
    tensors = tensors or tiny_tensors()
    model = load_dit(checkpoint, **CPU)
    assert torch.equal(model.head.head.weight, tensors["head.head.weight"].float())
    assert model.config == checkpoint.config


@pytest.mark.parametrize("fast_config", [True, False])
def test_the_fast_model_is_found_inside_the_base_folder(tmp_path, fast_config):
    """The base model's two DiTs have the same tensors, and configs that name its class."""
    write_base(tmp_path, fast_config=fast_config)
    found = find_checkpoint(tmp_path)
    fast = tmp_path / "lingbot_world_fast"
    assert found.dit == fast / "diffusion_pytorch_model.safetensors"
    assert [file.parent for file in found.dit_files] == [fast] * 4
    assert found.config == TINY
    assert found.config_file == (fast / "config.json" if fast_config else None)
    assert found.vae == tmp_path / "Wan2.1_VAE.pth"
    assert found.text_encoder == tmp_path / T5
    assert found.tokenizer == tmp_path / "google" / "umt5-xxl" / "tokenizer.json"
    assert found.dtypes == ("F32",)
    assert found.num_bytes == sum(t.numel() * 4 for t in tiny_tensors().values())
    assert list(found.missing) == ["tiny_vae"]
    assert_loads(found)


def test_folders_may_have_any_name(tmp_path):
    write_base(tmp_path)
    (tmp_path / "lingbot_world_fast").rename(tmp_path / "a.b-c")
    (tmp_path / "google").rename(tmp_path / "words")
    (tmp_path / "Wan2.1_VAE.pth").rename(tmp_path / "one.pth")
    (tmp_path / T5).rename(tmp_path / "two.pth")
    found = find_checkpoint(tmp_path)
    assert found.dit.parent.name == "a.b-c"
    assert found.require("vae").name == "one.pth"
    assert found.require("text_encoder").name == "two.pth"
    assert found.require("tokenizer").parent.parent.name == "words"


def test_the_fast_folder_alone_takes_its_parts_from_the_assets(tmp_path):
    write_base(tmp_path)
    found = find_checkpoint(tmp_path / "lingbot_world_fast")
    assert (found.vae, found.text_encoder, found.tokenizer) == (None, None, None)
    with pytest.raises(WeightsError, match=r"lingbot_world_fast: no Wan VAE, expected Wan2.1_VAE"):
        found.require("vae")
    found = find_checkpoint(tmp_path / "lingbot_world_fast", assets=tmp_path)
    assert found.vae == tmp_path / "Wan2.1_VAE.pth"
    assert_loads(found)


def test_a_model_without_a_config_is_told_by_its_shapes(tmp_path):
    write_v2_14b(tmp_path)
    found = find_checkpoint(tmp_path)
    assert found.dit == tmp_path / "transformers" / "model.safetensors"
    assert len(found.dit_files) == 8
    assert (found.config, found.config_file) == (TINY, None)
    assert found.vae == tmp_path / "Wan2.1_VAE.pth"
    assert_loads(found)


def test_numbered_shards_need_no_index(tmp_path):
    write_v2_small(tmp_path / "model")
    write_base(tmp_path / "base")  # its DiTs are not asked for
    found = find_checkpoint(tmp_path / "model", assets=tmp_path / "base")
    assert [file.name for file in found.dit_files] == [
        f"model-0000{number}-of-00006.safetensors" for number in range(1, 7)
    ]
    assert (found.config, found.config_file) == (TINY, None)
    assert found.tokenizer.is_relative_to(tmp_path / "base")
    assert_loads(found)


def test_an_index_may_have_another_name_than_its_shards(tmp_path):
    """Its shards are one DiT, and not a second one by their own names."""
    write_shards(tmp_path, tiny_tensors(), stem="model", total=2)
    (tmp_path / "model.safetensors.index.json").rename(tmp_path / "dit.safetensors.index.json")
    found = find_checkpoint(tmp_path)
    assert found.dit == tmp_path / "dit.safetensors"
    assert len(found.dit_files) == 2
    assert_loads(found)


def test_an_index_may_name_one_whole_file(tmp_path):
    write_shards(tmp_path, tiny_tensors(), stem="model", total=1)
    shard = tmp_path / "model-00001-of-00001.safetensors"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shard.name, "model.safetensors"))
    shard.rename(tmp_path / "model.safetensors")
    assert_loads(find_checkpoint(tmp_path))


def test_a_folder_of_diffusers_is_found(tmp_path):
    write_diffusers(tmp_path)
    found = find_checkpoint(tmp_path)
    assert found.dit.parent == tmp_path / "transformer"
    assert found.vae == tmp_path / "vae"
    assert found.text_encoder == tmp_path / "text_encoder"
    assert len(list(found.text_encoder.glob("*.safetensors"))) > 1
    assert found.tokenizer == tmp_path / "tokenizer" / "tokenizer.json"
    assert_loads(found, tiny_tensors(dtype=torch.bfloat16))


def test_the_pocket_presets_folder_is_a_checkpoint():
    preset = PRESETS["pocket"]
    found = find_checkpoint(preset.folder)
    assert found.dit == preset.folder / preset.dit_file
    assert found.tiny_vae == preset.folder / preset.vae_file
    assert found.dtypes == ("F16",)
    assert list(found.missing) == ["vae", "text_encoder", "tokenizer"]


def test_a_single_file_is_a_checkpoint(tmp_path):
    """Also where a second DiT lies beside it."""
    write_parts(tmp_path)
    tensors = tiny_tensors()
    save_file(
        {name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "a.safetensors"
    )
    save_file(tiny_tensors(seed=1), tmp_path / "b.safetensors")
    found = find_checkpoint(tmp_path / "a.safetensors")
    assert found.dit_files == (tmp_path / "a.safetensors",)
    assert found.dtypes == ("BF16",)
    assert found.vae == tmp_path / "Wan2.1_VAE.pth"
    bfloat16 = {name: tensor.bfloat16().float() for name, tensor in tensors.items()}
    assert_loads(found, bfloat16)


def test_an_index_names_its_checkpoint(tmp_path):
    write_base(tmp_path)
    index = "diffusion_pytorch_model.safetensors.index.json"
    found = find_checkpoint(tmp_path / "high_noise_model" / index)
    assert_loads(found, tiny_tensors(seed=1))


def test_several_dits_are_listed(tmp_path):
    write_base(tmp_path)
    (tmp_path / "lingbot_world_fast" / "config.json").unlink()
    for name in ("high_noise_model", "low_noise_model"):
        (tmp_path / name / "config.json").unlink()
    with pytest.raises(WeightsError) as raised:
        find_checkpoint(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}: 3 DiTs, expected the path of one of them: "
        "high_noise_model, lingbot_world_fast, low_noise_model"
    )


@pytest.mark.parametrize(
    "pointers", [["lingbot_world_fast"], ["lingbot_world_fast", "low_noise_model"]]
)
def test_a_base_model_is_not_taken_for_a_fast_one_with_damage(tmp_path, pointers):
    """A clone with git-lfs may hold some of three models, and pointers to the others."""
    write_base(tmp_path, fast_config=False)
    for name in pointers:
        for path in (tmp_path / name).glob("diffusion*"):
            path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match=r"lingbot_world_fast/.*is a git-lfs pointer"):
        find_checkpoint(tmp_path)


def test_a_dit_without_a_camera_is_not_chosen(tmp_path):
    write_shards(tmp_path / "world", tiny_tensors())
    plain = {n: t for n, t in tiny_tensors(seed=1).items() if "cam_" not in n and "c2ws" not in n}
    write_shards(tmp_path / "plain", plain)
    assert find_checkpoint(tmp_path).dit.parent == tmp_path / "world"


def test_a_snapshot_of_the_hugging_face_cache_is_read(tmp_path):
    """All its files are links to blobs without a suffix."""
    write_base(tmp_path / "base")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "4d7a"
    blobs.mkdir()
    for number, path in enumerate(sorted(p for p in (tmp_path / "base").rglob("*") if p.is_file())):
        link = snapshot / path.relative_to(tmp_path / "base")
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(blobs / str(number))
    found = find_checkpoint(snapshot)
    assert found.vae == snapshot / "Wan2.1_VAE.pth"
    assert_loads(found)


def test_assets_go_before_the_folders_own_parts(tmp_path):
    write_diffusers(tmp_path / "a")
    write_parts(tmp_path / "b")
    found = find_checkpoint(tmp_path / "a", assets=tmp_path / "b")
    assert found.vae == tmp_path / "b" / "Wan2.1_VAE.pth"


def test_the_original_vae_goes_before_the_copy_of_diffusers(tmp_path):
    write_diffusers(tmp_path)
    write_parts(tmp_path / "original")
    (tmp_path / "original" / "google" / "umt5-xxl" / "tokenizer.json").unlink()
    original = tmp_path / "original" / "Wan2.1_VAE.pth"
    assert find_checkpoint(tmp_path).vae == original
    copy = original.with_suffix(".safetensors")
    save_file(read_state_dict(original), copy)
    assert find_checkpoint(tmp_path).vae == original
    original.unlink()
    assert find_checkpoint(tmp_path).vae == copy


def test_original_parts_may_be_safetensors_files(tmp_path):
    write_v2_small(tmp_path)
    for name, part in (("vae", "vae_wan21/Wan2.1_VAE.pth"), ("t5", "t5/models_t5_tiny.pth")):
        save_file(read_state_dict(GOLDEN / part), tmp_path / f"{name}.safetensors")
    found = find_checkpoint(tmp_path)
    assert found.vae == tmp_path / "vae.safetensors"
    assert found.text_encoder == tmp_path / "t5.safetensors"
    write_tokenizer(tmp_path / "tokenizer.json")
    load_umt5(found.text_encoder, tokenizer=tmp_path / "tokenizer.json", text_len=512)


def test_damage_of_a_safetensors_umt5_is_the_reason_why_it_is_missing(tmp_path):
    write_v2_small(tmp_path)
    path = tmp_path / "models_t5_umt5-xxl-enc-bf16.safetensors"
    path.write_bytes(b"junk" * 9)
    with pytest.raises(WeightsError, match=f"^{path}: not a whole safetensors file"):
        find_checkpoint(tmp_path).require("text_encoder")


@pytest.mark.parametrize("name", ["taew2_1.pth", "lighttaew2_1.safetensors"])
def test_a_tiny_vae_is_found(tmp_path, name):
    write_v2_small(tmp_path)
    parameters = json.loads((GOLDEN / "taew2_1" / "config.json").read_text())["parameters"]
    tensors = {key: torch.zeros(shape) for key, shape in parameters.items()}
    if name.endswith("pth"):
        torch.save(tensors, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name)
    found = find_checkpoint(tmp_path)
    assert (found.tiny_vae, found.vae) == (tmp_path / name, None)


def test_two_files_of_a_part_are_listed_where_it_is_needed(tmp_path):
    write_v2_small(tmp_path)
    write_parts(tmp_path / "a")
    write_parts(tmp_path / "b")
    found = find_checkpoint(tmp_path)
    assert found.vae is None
    for part in ("vae", "text_encoder", "tokenizer"):
        with pytest.raises(WeightsError, match=rf"is one of 2 files of a {part}, expected one"):
            found.require(part)


def test_hidden_folders_are_not_searched(tmp_path):
    write_base(tmp_path)
    write_shards(tmp_path / ".cache" / "copy", tiny_tensors())
    write_config(tmp_path / ".cache" / "copy")
    assert find_checkpoint(tmp_path).dit.parent.name == "lingbot_world_fast"


def test_the_search_ends_in_a_folder_that_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("lingbot.checkpoint.scan.MAX_ENTRIES", 10)
    for number in range(11):
        (tmp_path / str(number)).touch()
    with pytest.raises(WeightsError, match="holds over 10 files, so is no checkpoint"):
        find_checkpoint(tmp_path)


def test_a_folder_that_links_to_itself_is_searched_once(tmp_path):
    write_v2_small(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path)
    assert find_checkpoint(tmp_path).dit == tmp_path / "model.safetensors"


def test_an_action_model_is_told_by_its_control_channels(tmp_path):
    write_shards(tmp_path, tiny_tensors(control="act"))
    found = find_checkpoint(tmp_path)
    assert found.config == replace(TINY, control="act")
    assert_loads(found, tiny_tensors(control="act"))


def test_a_search_imports_no_torch():
    folder = Path(PRESETS["pocket"].folder)
    code = (
        "import sys; from pathlib import Path; from lingbot.checkpoint.layout import "
        f"find_checkpoint; find_checkpoint(Path({str(folder)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=TIMEOUT_S).returncode == 0
