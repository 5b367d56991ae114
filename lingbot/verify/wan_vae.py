"""Wan 2.1's VAE: a decoded and an encoded video, and the condition of a world's first picture.

Tested in `tests/lingbot/test_verify_vae.py`.
"""

from pathlib import Path

import msgspec
import torch
from torch import Tensor

from lingbot.errors import WeightsError
from lingbot.files import read_json, tensors_exist
from lingbot.parallel.ulysses import SequenceParallelGroup
from lingbot.vae.wan import WanVAE, load_wan_vae
from lingbot.verify.recorded import Errors, read_recorded, relative_error

WAN_FILE = "Wan2.1_VAE.pth"
WAN_CONFIG = "config.json"
ROUNDTRIP_FILE = "roundtrip.safetensors"
CONDITION_FILE = "condition.safetensors"

CHUNK = 3  # latent frames that are decoded at a time

# F latent frames, T frames; Y X pixels of the encoded video.
DECODED = {"z": "1 16 F h w", "decoded": "1 3 T H W"}
ENCODED = {"video": "1 3 U Y X", "encoded": "1 16 E y x"}
CONDITION_INPUTS = {"image": "3 H W"}
CONDITION_OUTPUTS = {"latents": "16 N h w"}


class WanConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The config.json of a golden folder. The tensors give the same numbers."""

    dim: int | None = None
    z_dim: int | None = None
    dim_mult: list[int] | None = None
    num_res_blocks: int | None = None
    temporal_downsample: list[bool] | None = None


def verify_wan_vae(folder: Path, group: SequenceParallelGroup) -> Errors:
    """Decode in chunks, encode, and condition: each quantity whose file is there."""
    vae = load_wan_vae(folder / WAN_FILE, device=torch.device("cpu"), dtype=torch.float32)
    check_config(vae, folder / WAN_CONFIG)
    if tensors_exist(folder / ROUNDTRIP_FILE):
        recorded = read_recorded(
            folder / ROUNDTRIP_FILE,
            {"z": DECODED["z"], "video": ENCODED["video"]},
            {"decoded": DECODED["decoded"], "encoded": ENCODED["encoded"]},
        )
        state = vae.new_decoder_state()
        pieces = [vae.decode_video(part, state) for part in recorded["z"].split(CHUNK, dim=2)]
        yield "decoded", relative_error(torch.cat(pieces, dim=2), recorded["decoded"])
        encoded = vae.encode(recorded["video"], vae.new_encoder_state())
        yield "encoded", relative_error(encoded, recorded["encoded"])
    if tensors_exist(folder / CONDITION_FILE):
        path = folder / CONDITION_FILE
        recorded = read_recorded(path, CONDITION_INPUTS, CONDITION_OUTPUTS)
        yield "condition", relative_error(*condition_pair(vae, recorded))


def condition_pair(vae: WanVAE, recorded: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Ours as a live world has it, with the last latent frame repeated, and the recorded one."""
    expected = recorded["latents"]
    ours = vae.encode_condition(recorded["image"][None])[0]
    missing = max(0, expected.shape[1] - ours.shape[1])
    repeated = ours[:, -1:].expand(-1, missing, -1, -1)
    return torch.cat([ours[:, : expected.shape[1]], repeated], dim=1), expected


def check_config(vae: WanVAE, path: Path) -> None:
    """Raises WeightsError where the folder's config.json, if there is one, states other shapes."""
    if not path.exists():
        return
    stated = msgspec.to_builtins(read_json(path, WanConfig))
    shape = vae.network.config
    found = {
        "dim": shape.base_dim,
        "z_dim": shape.z_dim,
        "dim_mult": shape.dim_mult,
        "num_res_blocks": shape.num_res_blocks,
        "temporal_downsample": shape.temperal_downsample,
    }
    for name, value in found.items():
        if stated[name] not in (None, value):
            raise WeightsError(f"{path}: {name} is {stated[name]}, but {WAN_FILE} has {value}")
