"""Wan 2.1's VAE files: `Wan2.1_VAE.pth` with the official names, or a diffusers folder `vae/`."""

import re
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import msgspec
import torch
from torch import Tensor

from lingbot.config import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from lingbot.errors import WeightsError
from lingbot.extra import import_extra
from lingbot.files import read_json
from lingbot.state_dict import compare, read_weights, width_of
from lingbot.vae.statistics import WAN_MEAN, WAN_STD

FOLDER_CONFIG = "config.json"
FOLDER_WEIGHTS = "diffusion_pytorch_model.safetensors"

# Parts of the official names, and those of diffusers. "^" stands before a name.
NAMES = (
    ("^conv1.", "^quant_conv."),
    ("^conv2.", "^post_quant_conv."),
    ("coder.conv1.", "coder.conv_in."),
    (".head.0.", ".norm_out."),
    (".head.2.", ".conv_out."),
    (".middle.0.", ".mid_block.resnets.0."),
    (".middle.1.", ".mid_block.attentions.0."),
    (".middle.2.", ".mid_block.resnets.1."),
    (".downsamples.", ".down_blocks."),
    (".residual.0.", ".norm1."),
    (".residual.2.", ".conv1."),
    (".residual.3.", ".norm2."),
    (".residual.6.", ".conv2."),
    (".shortcut.", ".conv_shortcut."),
)
UPSAMPLE = re.compile(r"decoder\.upsamples\.(\d+)\.")
UP_BLOCK = re.compile(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.")

PerChannel = Annotated[
    tuple[float, ...], msgspec.Meta(min_length=LATENT_CHANNELS, max_length=LATENT_CHANNELS)
]


class FolderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The config.json of a diffusers folder. Only the statistics are not in the tensors."""

    base_dim: int | None = None
    decoder_base_dim: int | None = None
    z_dim: int | None = None
    dim_mult: list[int] | None = None
    num_res_blocks: int | None = None
    temperal_downsample: list[bool] | None = None
    latents_mean: PerChannel = WAN_MEAN
    latents_std: PerChannel = WAN_STD


class WanWeights(NamedTuple):
    """A network with its weights, and the statistics of its latents."""

    network: Any  # diffusers' AutoencoderKLWan
    mean: tuple[float, ...]
    std: tuple[float, ...]


class FileNames(NamedTuple):
    """The names of a file's tensors, to those of diffusers and back.

    The official decoder counts the residual blocks and the upsampler of all levels in one row.
    """

    blocks: int | None  # in a level, its upsampler included; None: the names are diffusers' own

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        names = list(names)
        if any(".down_blocks." in name for name in names):
            return cls(None)
        resampled = (UPSAMPLE.match(name) for name in names if ".resample." in name)
        return cls(1 + min((int(at[1]) for at in resampled if at), default=0))

    def to_diffusers(self, name: str) -> str:
        if self.blocks is None:
            return name
        if at := UPSAMPLE.match(name):
            level, index = divmod(int(at[1]), self.blocks)
            part = "upsamplers.0" if index == self.blocks - 1 else f"resnets.{index}"
            name = f"decoder.up_blocks.{level}.{part}.{name[at.end() :]}"
        name = f"^{name}"
        for official, diffusers in NAMES:
            name = name.replace(official, diffusers)
        return name[1:]

    def to_file(self, name: str) -> str:
        if self.blocks is None:
            return name
        if at := UP_BLOCK.match(name):
            index = self.blocks - 1 if at[2] == "upsamplers" else int(at[3])
            row = int(at[1]) * self.blocks + index
            name = f"decoder.upsamples.{row}.{name[at.end() :]}"
        name = f"^{name}"
        for official, diffusers in reversed(NAMES):
            name = name.replace(diffusers, official)
        return name[1:]


def load_weights(path: Path) -> WanWeights:
    """The VAE of a file with either names, or of a diffusers folder; its widths are of any size.

    Raises WeightsError with the file, and the tensor or field that is missing or wrong.
    """
    if not path.is_dir():
        return WanWeights(build(read_weights(path), source=path), WAN_MEAN, WAN_STD)
    config = read_json(path / FOLDER_CONFIG, FolderConfig)
    tensors = read_weights(path / FOLDER_WEIGHTS)
    network = build(tensors, source=path / FOLDER_WEIGHTS, config=path / FOLDER_CONFIG)
    return WanWeights(network, config.latents_mean, config.latents_std)


def build(tensors: Mapping[str, Tensor], *, source: Path, config: Path | None = None) -> Any:
    """diffusers' network on these tensors. Errors name the file `source` and the file's names."""
    names = FileNames.of(tensors)
    found = {names.to_diffusers(name): tensor for name, tensor in tensors.items()}
    shape = infer_shape(found, names, source=source)
    if config is not None:
        check_config(shape, config, source=source)
    autoencoder = import_extra("diffusers").AutoencoderKLWan
    with torch.device("meta"):
        network = autoencoder(**shape)
    expected = {names.to_file(name): tensor for name, tensor in network.state_dict().items()}
    compare(tensors, expected, source=source)
    network.load_state_dict(found, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def infer_shape(tensors: Mapping[str, Tensor], names: FileNames, *, source: Path) -> dict[str, Any]:
    """The arguments of diffusers' class, from shapes of tensors with diffusers' names.

    Raises WeightsError for an autoencoder with other strides than the DiT's latents have.
    """

    def width(name: str) -> int:
        return width_of(tensors.get(name), names.to_file(name), source=source)

    base = width("encoder.conv_in.weight")
    widths, depths, time = [base], [0], []  # by level; a level's end halves the frames or not
    for index in count():
        block = f"encoder.down_blocks.{index}"
        if f"{block}.conv2.weight" in tensors:
            widths[-1] = width(f"{block}.conv2.weight")
            depths[-1] += 1
        elif f"{block}.resample.1.weight" in tensors:
            widths.append(base)
            depths.append(0)
            time.append(f"{block}.time_conv.weight" in tensors)
        else:
            break
    strides = (2 ** len(time), 2 ** sum(time))
    if strides != (SPATIAL_STRIDE, TEMPORAL_STRIDE) or not all(depths):
        raise WeightsError(
            f"{source}: encodes {strides[0]} pixels and {strides[1]} frames as one, expected "
            f"{SPATIAL_STRIDE} and {TEMPORAL_STRIDE}, with residual blocks at each size"
        )
    multipliers = [max(1, inner // base) for inner in widths]
    return {
        "base_dim": base,
        "decoder_base_dim": width("decoder.norm_out.gamma") // multipliers[0],
        "z_dim": LATENT_CHANNELS,
        "dim_mult": multipliers,
        "num_res_blocks": depths[0],
        "temperal_downsample": time,
    }


def check_config(shape: Mapping[str, Any], path: Path, *, source: Path) -> None:
    """Raises WeightsError where a folder's config.json contradicts its tensors."""
    config = read_json(path, FolderConfig)
    for name, found in shape.items():
        stated = getattr(config, name)
        if stated is not None and stated != found:
            raise WeightsError(f"{path}: {name} is {stated}, but {source.name} has {found}")
