"""A golden folder: its file names give its kind, and its kind the check.

Tested in `tests/lingbot/test_verify.py`.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from lingbot.checkpoint.scan import tensor_names
from lingbot.dit.weights import DIT_FILE
from lingbot.errors import LingbotError, WeightsError
from lingbot.files import tensors_exist
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.verify.camera import CAMERA_FILE, CAMERA_META, verify_camera
from lingbot.verify.dit import ROLLOUT_FILE, verify_dit
from lingbot.verify.recorded import Errors
from lingbot.verify.text import FORWARD_FILE, T5_FILES, verify_t5
from lingbot.verify.tiny_vae import TINY_CONFIG, TINY_FILE, verify_tiny_vae
from lingbot.verify.wan_vae import CONDITION_FILE, ROUNDTRIP_FILE, WAN_FILE, verify_wan_vae

# The files that a kind of folder holds, by name or pattern, and its check. Each safetensors file
# may be in shards. The first kind whose files are all there is taken.
KINDS: dict[tuple[str, ...], Callable[[Path, SequenceParallelGroup], Errors]] = {
    (DIT_FILE, ROLLOUT_FILE): verify_dit,
    (CAMERA_META, CAMERA_FILE): verify_camera,
    (WAN_FILE, ROUNDTRIP_FILE): verify_wan_vae,
    (WAN_FILE, CONDITION_FILE): verify_wan_vae,
    (TINY_CONFIG, TINY_FILE): verify_tiny_vae,
    (T5_FILES, FORWARD_FILE): verify_t5,
}


def verify(folder: Path, group: SequenceParallelGroup = SINGLE) -> Errors:
    """Name and relative error of each quantity of a golden folder.

    All ranks of `group` call this, and all receive the same errors. Raises LingbotError for a
    folder of no known kind, or one with files that do not fit together.
    """
    try:
        if not folder.is_dir():
            raise LingbotError(f"{folder} is not a folder")
        with torch.inference_mode(), np.errstate(all="raise", under="ignore"):
            yield from find_check(folder)(folder, group)
    except LingbotError:
        raise
    # The folder is all that a check depends on, so any error is about its content. numpy and torch
    # raise nearly every type for numbers that do not fit together.
    except Exception as exc:
        raise WeightsError(f"{folder}: {exc or type(exc).__name__}") from exc


def find_check(folder: Path) -> Callable[[Path, SequenceParallelGroup], Errors]:
    """Raises LingbotError for a folder of no known kind."""
    if is_wan(folder):  # its reader names weights that are missing
        return verify_wan_vae
    for files, check in KINDS.items():
        if all(tensors_exist(folder / name) or fits(folder, name) for name in files):
            return check
    known = "; ".join(" and ".join(files) for files in KINDS)
    raise LingbotError(f"{folder} holds none of: {known}")


def is_wan(folder: Path) -> bool:
    """True for a recorded video of the full VAE. A tiny one's has the same file names."""
    if tensors_exist(folder / CONDITION_FILE):
        return True
    with suppress(WeightsError):  # reported where the file is read
        return "z" in tensor_names(folder / ROUNDTRIP_FILE)
    return False


def fits(folder: Path, pattern: str) -> bool:
    """True if the folder has a file of this pattern."""
    return any(path.is_file() for path in folder.glob(pattern))


def collect(group: SequenceParallelGroup, folder: Path) -> list[tuple[str, float]] | LingbotError:
    """All of `verify`, or its error, as a value that can be sent between processes."""
    try:
        return list(verify(folder, group))
    except LingbotError as exc:
        return exc
