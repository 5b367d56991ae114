"""Folders in the layouts of the published models, written from a tiny DiT."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from msgspec.structs import replace
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from lingbot.config import ModelConfig
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import to_checkpoint
from tests.lingbot.tiny_umt5 import write_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"
PAGE = b"<!DOCTYPE html><html><body>Not found</body></html>"
V1_STEM = "diffusion_pytorch_model"
V2_STEM = "model"

# One head of the official width, so that the shapes alone give the config.
TINY = ModelConfig(
    dim=128, ffn_dim=96, freq_dim=32, num_heads=1, num_layers=3, text_dim=64, text_len=512
)


def tiny_tensors(*, control="cam", seed=0, dtype=torch.float32, **changes):
    """A DiT's random tensors by their official names."""
    torch.manual_seed(seed)
    model = WorldModel(replace(TINY, control=control, **changes)).to(dtype)
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
    folder.mkdir(exist_ok=True)
    shutil.copy(GOLDEN / "vae_wan21" / "Wan2.1_VAE.pth", folder)
    t5 = GOLDEN / "t5" / "models_t5_tiny.pth"
    shutil.copy(t5, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    write_tokenizer(folder / "google" / "umt5-xxl" / "tokenizer.json")


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


def write_alone(folder):
    """v1's fast model in one file, and no other part."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tiny_tensors(dtype=torch.bfloat16), folder / f"{V1_STEM}.safetensors")


def write_diffusers(folder):
    """A folder of diffusers. The classes that read the parts write them, under their own names."""
    write_shards(folder / "transformer", tiny_tensors(dtype=torch.bfloat16))
    write_config(folder / "transformer", _class_name="CausalLingBotWorldTransformer3DModel")
    AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(folder / "vae")
    sizes = {"d_model": TINY.text_dim, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=128, **sizes))
    encoder.save_pretrained(folder / "text_encoder", max_shard_size="50KB")
    write_tokenizer(folder / "tokenizer" / "tokenizer.json")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LingBotPipeline"}))
