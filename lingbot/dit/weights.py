"""The tensors of a DiT: streamed from a checkpoint into a model, and written from one."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lingbot.checkpoint.header import StoredTensor, read_stored
from lingbot.checkpoint.layout import Checkpoint
from lingbot.checkpoint.official_config import CONFIG_FILE, read_official_config
from lingbot.checkpoint.progress import LoadProgress
from lingbot.checkpoint.shape import infer_config, label_of
from lingbot.dit.model import WorldModel
from lingbot.dit.precision import stays_float32
from lingbot.errors import WeightsError
from lingbot.state_dict import first_of

DIT_FILE = "diffusion_pytorch_model.safetensors"

# Parts of the checkpoint's tensor names, and the internal ones.
NAMES = (
    ("patch_embedding_wancamctrl.", "camera_embedding."),
    ("c2ws_hidden_states_layer", "camera_layer"),
    (".cam_injector_layer", ".camera.layer"),
    (".cam_scale_layer.", ".camera.scale."),
    (".cam_shift_layer.", ".camera.shift."),
)

# The stored types that a model can be loaded from, by safetensors' names.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


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
    source: Path | Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    file: str = DIT_FILE,
    stays_float32: Callable[[str], bool] = stays_float32,
    log_every_s: float = 10.0,
) -> WorldModel:
    """The DiT of a checkpoint, or the one in `file` of a folder.

    Tensors are read, cast and placed one by one, so that host memory holds the model, if it is
    there, and the largest tensor. Those whose name in the checkpoint `stays_float32` accepts are
    float32, and all others `dtype`. Raises WeightsError for a missing file, a missing or unknown
    tensor, a wrong shape or type, and a config.json that contradicts the tensors.
    """
    path = source.dit if isinstance(source, Checkpoint) else source / file
    model, stored = build_on_meta(path)
    targets = {name: torch.float32 if stays_float32(name) else dtype for name in stored}
    fill(model, stored, device=device, targets=targets, log_every_s=log_every_s)
    return model.eval().requires_grad_(False)


def build_on_meta(path: Path) -> tuple[WorldModel, dict[str, StoredTensor]]:
    """A model without memory for the DiT at `path`, and its tensors, which fit. Reads headers only.

    Raises WeightsError as `load_dit` does.
    """
    stored = read_stored(path)
    official = read_official_config(path.parent)
    config = infer_config(stored, path=path, official=official)
    with torch.device("meta"):
        model = WorldModel(config)
    shapes = {to_checkpoint(name): list(t.shape) for name, t in model.state_dict().items()}
    compare_tensors(stored, shapes, path=path)
    return model, stored


def compare_tensors(
    stored: dict[str, StoredTensor], expected: dict[str, list[int]], *, path: Path
) -> None:
    """Raise WeightsError, with the file and one tensor, unless names, shapes and types fit."""
    if unknown := stored.keys() - expected.keys():
        raise WeightsError(f"{stored[min(unknown)].file}: unknown tensor {first_of(unknown)}")
    if missing := expected.keys() - stored.keys():
        raise WeightsError(f"{label_of(path)}: no tensor {first_of(missing)}")
    for name, tensor in sorted(stored.items()):
        if list(tensor.shape) != expected[name] or tensor.dtype not in DTYPES:
            raise WeightsError(
                f"{tensor.file}: tensor '{name}' is {tensor.dtype} {list(tensor.shape)}, "
                f"expected {expected[name]} of {', '.join(DTYPES)}"
            )


def fill(
    model: WorldModel,
    stored: dict[str, StoredTensor],
    *,
    device: torch.device,
    targets: dict[str, torch.dtype],
    log_every_s: float,
) -> None:
    """Give each parameter of a model on `meta` its tensor, in the order of the files."""
    progress = LoadProgress(sum(t.num_bytes for t in stored.values()), every_s=log_every_s)
    staging = torch.empty(max(t.num_bytes for t in stored.values()), dtype=torch.uint8)
    by_place = sorted(stored.items(), key=lambda item: (item[1].file, item[1].start))
    for name, tensor in by_place:
        # A tensor that needs neither a copy nor a cast is read where it will stay.
        stays = device.type == "cpu" and DTYPES[tensor.dtype] == targets[name]
        memory = torch.empty(tensor.num_bytes, dtype=torch.uint8) if stays else staging
        raw = read_into(memory[: tensor.num_bytes], tensor, name=name)
        # Cast on the device: a GPU is faster at it.
        set_parameter(model, to_internal(name), raw.to(device).to(targets[name]))
        progress.add(tensor.num_bytes)


def read_into(memory: Tensor, tensor: StoredTensor, *, name: str) -> Tensor:
    """Read a tensor into `memory`, bytes that the result is a view of."""
    try:
        with tensor.file.open("rb") as file:
            file.seek(tensor.start)
            num_bytes = file.readinto(memory.numpy().data)
    except OSError as exc:
        raise WeightsError(f"{tensor.file}: {exc.strerror}") from exc
    if num_bytes != tensor.num_bytes:
        raise WeightsError(f"{tensor.file}: ends within tensor '{name}'")
    return memory.view(DTYPES[tensor.dtype]).view(tensor.shape)


def set_parameter(model: nn.Module, name: str, value: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Parameter(value, requires_grad=False))


def save_dit(model: WorldModel, folder: Path) -> None:
    """Write a checkpoint folder with official names, which `load_dit` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    config = msgspec.to_builtins(model.config)
    config["control_type"] = config.pop("control")
    config.pop("text_dim")
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")
    tensors = {to_checkpoint(k): v.contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / DIT_FILE)
