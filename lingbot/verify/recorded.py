"""Recorded inputs and outputs of the reference, and the error of ours.

Tested in `tests/lingbot/test_verify.py`.
"""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from lingbot.errors import LingbotError, WeightsError
from lingbot.files import read_tensors

Errors = Iterator[tuple[str, float]]  # the name of a quantity, and its relative error


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """`|ours - reference| / |reference|` in float64. Raises LingbotError for unequal shapes."""
    if ours.shape != reference.shape:
        raise LingbotError(f"expected the shape {list(ours.shape)}, not {list(reference.shape)}")
    reference = reference.double()
    return float((ours.double() - reference).norm() / reference.norm())


def read_recorded(path: Path, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of a golden file, by name.

    `inputs` and `outputs` give each tensor's shape. A number is that size. A letter or a word is
    one size in all shapes of the file.
    Raises WeightsError with the path unless all have their shapes and the inputs are finite. An
    output that is not finite is an error of its own: `verify` reports it.
    """
    recorded = read_tensors(path)
    sizes: dict[str, int] = {}
    for name, letters in (inputs | outputs).items():
        if name not in recorded:
            raise WeightsError(f"{path}: no tensor '{name}'")
        tensor, expected = recorded[name], letters.split()
        known = dict(zip(expected, tensor.shape, strict=False)) | sizes
        shape = [int(size) if size.isdigit() else known.get(size) for size in expected]
        if list(tensor.shape) != shape or not tensor.is_floating_point() or not tensor.numel():
            found = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            wanted = " ".join(str(sizes.get(size, size)) for size in expected)
            raise WeightsError(f"{path}: '{name}' is {found}, expected floats [{wanted}]")
        if name in inputs and not tensor.isfinite().all():
            raise WeightsError(f"{path}: '{name}' has values that are not finite")
        sizes |= {letter: known[letter] for letter in expected}
    return recorded
