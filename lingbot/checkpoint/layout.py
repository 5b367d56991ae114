"""The parts of a checkpoint on disk, found by content: names of tensors, indexes and configs.

Folders may have any name. Weights are not read. Imports no torch.
"""

import re
from pathlib import Path
from typing import Literal

from msgspec import Struct

from lingbot.checkpoint.header import read_stored
from lingbot.checkpoint.official_config import CONFIG_FILE, is_causal, read_official_config
from lingbot.checkpoint.scan import INDEX, PTH, TENSORS, FoundPart, Scan, scan, tensor_names
from lingbot.checkpoint.shape import infer_config
from lingbot.config import ModelConfig
from lingbot.errors import WeightsError
from lingbot.files import check_tensors, refuse_other_kinds

Part = Literal["vae", "tiny_vae", "text_encoder", "tokenizer"]

# The files that an operator looks for when a part is missing.
EXPECTED: dict[Part, str] = {
    "vae": "Wan VAE, expected Wan2.1_VAE.pth or a folder of diffusers like vae",
    "tiny_vae": "tiny VAE, expected a file in TAEHV's layout like taew2_1.pth",
    "text_encoder": (
        "umT5, expected models_t5_*.pth or .safetensors, or a folder of diffusers like text_encoder"
    ),
    "tokenizer": "tokenizer.json, expected in a folder like google/umt5-xxl or tokenizer",
}
# The content of a damaged file does not give its part. Its name decides where it is reported.
NAME_HINTS: dict[Part, re.Pattern[str]] = {
    "vae": re.compile("vae", re.IGNORECASE),
    "tiny_vae": re.compile("tae|tiny", re.IGNORECASE),
    "text_encoder": re.compile("t5.*(pth|safetensors)|text", re.IGNORECASE),
    "tokenizer": re.compile("tokenizer", re.IGNORECASE),
}


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A DiT on disk, and the parts beside it. None for a part that is missing."""

    folder: Path
    dit: Path  # its file, or the name that its shards stand for
    dit_files: tuple[Path, ...]
    dtypes: tuple[str, ...]  # the DiT's, by safetensors' names
    num_bytes: int  # the DiT's tensors
    config: ModelConfig
    config_file: Path | None  # None: the shapes alone gave `config`
    vae: Path | None = None  # Wan2.1_VAE.pth, its .safetensors, or a folder of diffusers
    tiny_vae: Path | None = None
    text_encoder: Path | None = None  # models_t5_*.pth or .safetensors, or a folder
    tokenizer: Path | None = None  # tokenizer.json
    missing: dict[Part, str] = {}  # why a part is None

    def require(self, part: Part) -> Path:
        """The path of a part. Raises WeightsError with the reason why it is missing."""
        path: Path | None = getattr(self, part)
        if path is None:
            raise WeightsError(self.missing[part])
        return path


def find_checkpoint(folder: Path, *, assets: Path | None = None) -> Checkpoint:
    """The checkpoint in a folder, or the one whose DiT is a file. Reads headers only.

    The parts beside the DiT come from the folder `assets`, and from `folder` where that lacks them.
    Raises WeightsError for a folder without a readable DiT, or with several of them.
    """
    is_file = folder.name.endswith((TENSORS, INDEX)) and not folder.is_dir()
    if is_file:
        refuse_other_kinds(folder)
    scanned = scan(folder.parent if is_file else folder)
    if is_file:
        dit = folder.with_name(folder.name.removesuffix(".index.json"))
    else:
        dit = choose_dit(folder, scanned)
    stored = read_stored(dit)
    official = read_official_config(dit.parent)
    scans = [scanned] if assets is None else [scan(assets), scanned]
    parts = {part: find_part(part, scans, folder=folder) for part in EXPECTED}
    return Checkpoint(
        folder=folder,
        dit=dit,
        dit_files=tuple(check_tensors(dit)),
        dtypes=tuple(sorted({tensor.dtype for tensor in stored.values()})),
        num_bytes=sum(tensor.num_bytes for tensor in stored.values()),
        config=infer_config(stored, path=dit, official=official),
        config_file=None if official is None else dit.parent / CONFIG_FILE,
        missing={part: reason for part, reason in parts.items() if isinstance(reason, str)},
        **{part: path for part, path in parts.items() if isinstance(path, Path)},
    )


def choose_dit(folder: Path, scanned: Scan) -> Path:
    """The one DiT that has a camera and, by its config, generates chunk by chunk.

    A base model has the same tensors as the fast one: their configs alone differ. Raises
    WeightsError where none is left, or several.
    """
    dits = [part.tensors for part in scanned.found.get("dit", [])]
    if not dits:
        raise WeightsError(no_dit(folder, scanned))
    steered = [path for path in dits if any("cam_injector" in name for name in tensor_names(path))]
    dits = steered or dits
    for answer in (True, None):
        causal = [path for path in dits if says_causal(path) is answer]
        if len(causal) == 1:
            return causal[0]
        if causal:
            break
    else:  # base models alone: the fast one may be the one with damage
        if reason := unreadable_dit(scanned):
            raise WeightsError(reason)
        if len(dits) == 1:
            return dits[0]
    folders = {path.parent for path in dits}
    places = sorted(folders if len(folders) == len(dits) else dits)
    names = ", ".join(str(path.relative_to(folder)) for path in places)
    raise WeightsError(f"{folder}: {len(dits)} DiTs, expected the path of one of them: {names}")


def says_causal(dit: Path) -> bool | None:
    try:
        return is_causal(dit.parent)
    except WeightsError:
        return None  # reported if this DiT is the one that is read


def no_dit(folder: Path, scanned: Scan) -> str:
    """Why a folder has no DiT: a file that cannot be read, or no file at all."""
    if unreadable := unreadable_dit(scanned):
        return unreadable
    reason = "no DiT: no .safetensors file holds LingBot-World's tensors"
    if (folder / "model_index.json").exists():
        reason += ", expected in the transformer folder beside model_index.json"
    if (folder / "snapshots").is_dir():
        reason += ", expected a folder below snapshots"
    return f"{folder}: {reason}"


def unreadable_dit(scanned: Scan) -> str | None:
    """The line of a file that may be a DiT, first of one whose name is not that of a part."""
    reasons = [text for text in scanned.unreadable if TENSORS in name_in(text, scanned)]
    hints = NAME_HINTS.values()
    reasons.sort(key=lambda text: any(hint.search(name_in(text, scanned)) for hint in hints))
    return reasons[0] if reasons else None


def find_part(part: Part, scans: list[Scan], *, folder: Path) -> Path | str:
    """The part in the first scan that has it, or the reason why there is none."""
    for scanned in scans:
        if found := scanned.found.get(part):
            try:
                return choose_part(part, found)
            except WeightsError as exc:
                return str(exc)
    for scanned in scans:
        for reason in scanned.unreadable:
            if NAME_HINTS[part].search(name_in(reason, scanned)):
                return reason
    return f"{folder}: no {EXPECTED[part]}, here or in the folder `assets`"


def choose_part(part: Part, found: list[FoundPart]) -> Path:
    """The original file before its copy in safetensors, and that before diffusers' layout.

    Raises WeightsError for several files, or a damaged one.
    """
    if part != "tiny_vae":
        originals = [one for one in found if one.path.suffix == PTH]
        found = originals or [one for one in found if one.path.suffix == TENSORS] or found
    path, tensors = found[0]
    if len(found) > 1:
        others = ", ".join(str(other.path) for other in found[1:])
        raise WeightsError(
            f"{path}: is one of {len(found)} files of a {part}, expected one: also {others}"
        )
    if tensors.suffix == TENSORS:
        check_tensors(tensors)
    return path


def name_in(reason: str, scanned: Scan) -> str:
    """The name of the file that a line begins with, without the folder's own name."""
    return reason.partition(": ")[0].removeprefix(str(scanned.folder))
