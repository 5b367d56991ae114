"""State dicts whose shapes give a network's widths, checked with reasons.

Tested in `tests/lingbot/vae/test_wan_weights.py`.
"""

from collections.abc import Mapping, Set
from pathlib import Path

from torch import Tensor

from lingbot.errors import WeightsError
from lingbot.files import read_state_dict, read_tensors


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a PyTorch file of any other ending."""
    return read_tensors(path) if path.suffix == ".safetensors" else read_state_dict(path)


def width_of(tensor: Tensor | None, name: str, *, source: Path) -> int:
    """A tensor's first dimension. Raises WeightsError if there is none, or one of 0."""
    if tensor is None:
        raise WeightsError(f"{source}: no tensor '{name}'")
    shape = list(tensor.shape)
    if not shape or not shape[0]:
        raise WeightsError(f"{source}: tensor '{name}' is {shape}, expected a width first")
    return shape[0]


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: Path) -> None:
    """Raise WeightsError, with the file and one tensor, unless names, shapes and kinds agree."""
    for text, names in (
        ("no tensor", expected.keys() - found.keys()),
        ("unknown tensor", found.keys() - expected.keys()),
    ):
        if names:
            raise WeightsError(f"{source}: {text} {first_of(names)}")
    for name, tensor in found.items():
        shape = list(expected[name].shape)
        if list(tensor.shape) != shape or not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{source}: tensor '{name}' is {kind} {list(tensor.shape)}, expected floats {shape}"
            )


def first_of(names: Set[str]) -> str:
    """The first name, and how many more there are."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"'{min(names)}'{more}"
