"""The pocket world with umT5 in the place of its own text encoder: tiny random weights on disk.

`sitecustomize.py` in a folder of `PYTHONPATH` makes every process of a server know this preset.
"""

import shutil

import torch
from msgspec.structs import replace

from lingbot.config import PRESETS, ModelConfig
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import save_dit
from tests.lingbot.tiny_umt5 import SIZES, write_original

POCKET = PRESETS["pocket"]
SHAPE = ModelConfig(
    dim=48,
    ffn_dim=64,
    freq_dim=16,
    num_heads=4,
    num_layers=2,
    text_dim=SIZES["dim"],
    text_len=16,
)
PRESET = replace(POCKET, text_encoder="umt5", model=SHAPE)
SITE = f"""
from msgspec.structs import replace
from lingbot.config import PRESETS
pocket = PRESETS["pocket"]
model = replace(pocket.model, text_dim={SHAPE.text_dim}, text_len={SHAPE.text_len})
PRESETS["pocket"] = replace(pocket, text_encoder="umt5", model=model)
"""


def write_world(folder):
    """A checkpoint of `PRESET`: a random DiT, the pocket world's VAE, a tiny umT5."""
    torch.manual_seed(0)
    model = WorldModel(SHAPE).eval()
    for block in model.blocks:  # the prompt must show in the frames
        block.cross_attn.o.weight.data *= 20
    save_dit(model, folder)
    shutil.copy(POCKET.folder / POCKET.vae_file, folder)
    write_original(folder)
