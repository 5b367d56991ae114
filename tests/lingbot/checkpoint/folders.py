"""Folders in the layouts of the published models, written from a tiny DiT."""

import json
import shutil
from pathlib import Path

import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from lingbot.config import ModelConfig
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import to_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"
PAGE = b"<!DOCTYPE html><html><body>Not found</body></html>"
V1_STEM = "diffusion_pytorch_model"
V2_STEM = "model"

# One head of the official width, so that the shapes alone give the config.
TINY = ModelConfig(
    dim=128, ffn_dim=96, freq_dim=32, num_heads=1, num_layers=3, text_dim=64, text_len=512
)
TOKENIZER = {"version": "1.0", "model": {"type": "Unigram", "vocab": [["<pad>", 0], ["</s>", 0]]}}


def tiny_tensors(*, control="cam", seed=0, **changes):
    """A DiT's random tensors by their official names."""
    torch.manual_seed(seed)
    model = WorldModel(replace(TINY, control=control, **changes))
    return {to_checkpoint(name): t.contiguous() for name, t in model.state_dict().items()}


def shard_name(stem, number, total):
    return f"{stem}-{number:05}-of-{total:05}.safetensors"


def write_shards(folder, tensors, *, stem=V1_STEM, total=4, index=True):
    """Write neighbouring tensors to the same shard, as the published checkpoints do."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    weight_map = {
        n: shard_name(stem, 1 + i * total // len(names), total) for i, n in enumerate(names)
    }
    for shard in set(weight_map.values()):
        save_file({n: tensors[n] for n in names if weight_map[n] == shard}, folder / shard)
    if index:
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
        (folder / f"{stem}.safetensors.index.json").write_text(text)
    return weight_map


def write_parts(folder):
    """The original VAE, umT5 and tokenizer."""
    (folder / "google" / "umt5-xxl").mkdir(parents=True)
    shutil.copy(GOLDEN / "vae_wan21" / "Wan2.1_VAE.pth", folder)
    t5 = GOLDEN / "t5" / "models_t5_tiny.pth"
    shutil.copy(t5, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    (folder / "google" / "umt5-xxl" / "tokenizer.json").write_text(json.dumps(TOKENIZER))


def write_config(folder, **changes):
    """A config.json with the official keys."""
    keys = ("dim", "ffn_dim", "freq_dim", "num_heads", "num_layers", "text_len")
    config = {"_class_name": "WanModelFast", "control_type": "cam", "eps": 1e-6, "in_dim": 36}
    config |= {key: getattr(TINY, key) for key in keys} | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def write_base(folder, *, fast_config=True):
    """v1: the fast model as a sub-folder of the base model, whose two DiTs have its tensors."""
    for seed, name in enumerate(("high_noise_model", "low_noise_model"), 1):
        write_shards(folder / name, tiny_tensors(seed=seed))
        write_config(folder / name, _class_name="WanModel")
    write_shards(folder / "lingbot_world_fast", tiny_tensors())
    if fast_config:
        write_config(folder / "lingbot_world_fast", local_attn_size=-1, sink_size=0)
    write_parts(folder)


def write_v2_14b(folder):
    """v2 14B: the root's config is not the DiT's."""
    write_shards(folder / "transformers", tiny_tensors(), stem=V2_STEM, total=8)
    (folder / "config.json").write_text(json.dumps({"_class_name": "Pipeline", "dim": 7}))
    write_parts(folder)


def write_v2_small(folder):
    """v2 1.3B: shards without index and config, and no other part."""
    write_shards(folder, tiny_tensors(), stem=V2_STEM, total=6, index=False)


def write_diffusers(folder):
    """A folder of diffusers, with the names of its own VAE and text encoder."""
    write_shards(folder / "transformer", tiny_tensors())
    write_config(folder / "transformer", _class_name="CausalLingBotWorldTransformer3DModel")
    for name, tensor in (
        ("vae", "decoder.conv_in.weight"),
        ("text_encoder", "encoder.block.0.layer.0.SelfAttention.q.weight"),
    ):
        (folder / name).mkdir()
        save_file({tensor: torch.zeros(1)}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text("{}")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LingBotPipeline"}))
