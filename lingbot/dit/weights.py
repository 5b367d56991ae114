"""Checkpoint folders in the official layout: read as a DiT, and written from one."""

import json
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor

from lingbot.config import ModelConfig
from lingbot.dit.model import WorldModel
from lingbot.dit.precision import cast_weights
from lingbot.errors import WeightsError
from lingbot.files import read_json, read_tensors

CONFIG_FILE = "config.json"
DIT_FILE = "diffusion_pytorch_model.safetensors"

# Parts of the checkpoint's tensor names, and the internal ones.
NAMES = (
    ("patch_embedding_wancamctrl.", "camera_embedding."),
    ("c2ws_hidden_states_layer", "camera_layer"),
    (".cam_injector_layer", ".camera.layer"),
    (".cam_scale_layer.", ".camera.scale."),
    (".cam_shift_layer.", ".camera.shift."),
)


class OfficialConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of an official config.json that the code needs. Tensor shapes give the rest."""

    dim: int
    ffn_dim: int
    freq_dim: int
    num_heads: int
    num_layers: int
    text_len: int
    control_type: str = "cam"
    eps: float = 1e-6
    in_dim: int = 36
    out_dim: int = 16
    local_attn_size: int = -1  # the window in latent frames; -1: unlimited
    sink_size: int = 0  # latent frames


def read_config(folder: Path) -> OfficialConfig:
    """Raises WeightsError with the file and the wrong field."""
    return read_json(folder / CONFIG_FILE, OfficialConfig)


def to_internal(name: str) -> str:
    """The model's name of a checkpoint's tensor."""
    for official, internal in NAMES:
        name = name.replace(official, internal)
    return name


def to_checkpoint(name: str) -> str:
    """The checkpoint's name of a model's tensor."""
    for official, internal in NAMES:
        name = name.replace(internal, official)
    return name


def load_dit(
    folder: Path, *, device: torch.device, dtype: torch.dtype, file: str = DIT_FILE
) -> WorldModel:
    """The DiT of a checkpoint folder in the official layout.

    `file` is relative to the folder, and its config.json lies beside it. Raises WeightsError for a
    missing file, a missing or unknown tensor, or a wrong shape.
    """
    path = folder / file
    official = read_config(path.parent)
    tensors = {to_internal(name): t for name, t in read_tensors(path).items()}
    model = build_dit(official, tensors, source=path)
    return cast_weights(model.to(device), dtype).eval().requires_grad_(False)


def build_dit(official: OfficialConfig, tensors: dict[str, Tensor], *, source: Path) -> WorldModel:
    """The model of a config and its tensors; errors name the file `source`."""
    try:
        shape = {
            "text_dim": tensors["text_embedding.0.weight"].shape[1],
            "control": official.control_type,
            **msgspec.to_builtins(official),
        }
        fields = ModelConfig.__struct_fields__
        config = msgspec.convert({name: shape[name] for name in fields}, ModelConfig)
    except (KeyError, IndexError) as exc:
        raise WeightsError(f"{source}: no tensor 'text_embedding.0.weight' [dim, width]") from exc
    except msgspec.ValidationError as exc:
        raise WeightsError(f"{source.with_name(CONFIG_FILE)}: {exc}") from exc
    if config.num_layers > len(tensors):  # a wrong number must not build a million blocks
        raise WeightsError(f"{source}: {len(tensors)} tensors cannot be {config.num_layers} layers")
    with torch.device("meta"):
        model = WorldModel(config)
    compare_tensors(tensors, model.state_dict(), source=source)
    model.load_state_dict(tensors, strict=True, assign=True)
    return model


def compare_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], *, source: Path) -> None:
    """Raise WeightsError, with the file and one tensor, unless names, shapes and kinds agree."""
    for text, names in (
        ("no tensor", expected.keys() - found.keys()),
        ("unknown tensor", found.keys() - expected.keys()),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise WeightsError(f"{source}: {text} '{to_checkpoint(min(names))}'{more}")
    for name, tensor in found.items():
        shape = list(expected[name].shape)
        if list(tensor.shape) != shape or not tensor.is_floating_point():
            raise WeightsError(
                f"{source}: tensor '{to_checkpoint(name)}' is {tensor.dtype} {list(tensor.shape)}, "
                f"expected numbers of floating point {shape}"
            )


def save_dit(model: WorldModel, folder: Path) -> None:
    """Write a checkpoint folder with official names, which `load_dit` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    config = msgspec.to_builtins(model.config)
    config["control_type"] = config.pop("control")
    config.pop("text_dim")
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")
    tensors = {to_checkpoint(k): v.contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / DIT_FILE)
