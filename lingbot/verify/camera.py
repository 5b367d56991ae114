"""Pose files and action strings, and the maps that they become for `cam` and `act` models.

Tested in `tests/lingbot/test_verify.py`.
"""

from pathlib import Path

import msgspec
import torch

from lingbot.camera.motion import Poses
from lingbot.camera.pose_file import actions_to_poses, interpolate_poses, relative_poses
from lingbot.camera.rays import Intrinsics, control_map, plucker_map
from lingbot.config import SPATIAL_STRIDE, TEMPORAL_STRIDE, Positive
from lingbot.errors import WeightsError
from lingbot.files import read_json, tensors_exist
from lingbot.parallel.ulysses import SequenceParallelGroup
from lingbot.verify.recorded import Errors, read_recorded, relative_error

CAMERA_FILE = "camera.safetensors"
CAMERA_META = "camera.json"
ACT_FILE = "act.safetensors"  # may be absent

# P poses, I cameras, A poses of the actions, N latent frames, h and w latent pixels.
CAMERA_INPUTS = {"c2w": "P 4 4", "intrinsics": "I 4"}
CAMERA_OUTPUTS = {
    "action_c2w": "A 4 4",
    "intrinsics_scaled": "4",
    "interpolated": "N 4 4",
    "relative": "N 4 4",
    "plucker": "1 384 N h w",
}
ACT_INPUTS = {"wasd": "V 4"}  # V video frames
ACT_OUTPUTS = {"control": "1 448 N h w"}


class CameraMeta(msgspec.Struct, frozen=True, kw_only=True):
    """The camera.json of a golden folder."""

    width: Positive
    height: Positive
    source_width: Positive
    source_height: Positive
    latent_frames: Positive
    keys: list[list[str]]


def verify_camera(folder: Path, group: SequenceParallelGroup) -> Errors:
    """Recompute the poses and maps of a pose file and of an action string.

    Raises WeightsError for another size than that of the maps, or a focal length of 0 or less.
    """
    recorded = read_recorded(folder / CAMERA_FILE, CAMERA_INPUTS, CAMERA_OUTPUTS)
    meta = read_json(folder / CAMERA_META, CameraMeta)
    num_frames, *map_size = recorded["plucker"].shape[2:]
    frame_size = [SPATIAL_STRIDE * size for size in map_size]
    if [num_frames, *frame_size] != [meta.latent_frames, meta.height, meta.width]:
        raise WeightsError(
            f"{folder / CAMERA_META}: latent_frames, height and width are not {num_frames} and "
            f"{frame_size}, as in {CAMERA_FILE}"
        )

    walked = actions_to_poses(["".join(keys) for keys in meta.keys])
    yield "action_c2w", relative_error(torch.from_numpy(walked), recorded["action_c2w"])

    intrinsics = Intrinsics(*recorded["intrinsics"][0].tolist()).scaled(
        source=(meta.source_width, meta.source_height), size=(meta.width, meta.height)
    )
    if intrinsics.fx <= 0 or intrinsics.fy <= 0:
        raise WeightsError(f"{folder / CAMERA_FILE}: 'intrinsics' needs fx and fy above 0")
    scaled_error = relative_error(torch.tensor(intrinsics), recorded["intrinsics_scaled"])
    yield "intrinsics_scaled", scaled_error
    c2w = recorded["c2w"].double().numpy()
    interpolated = interpolate_poses(c2w, meta.latent_frames)
    yield "interpolated", relative_error(torch.from_numpy(interpolated), recorded["interpolated"])
    relative = relative_poses(interpolated)
    yield "relative", relative_error(torch.from_numpy(relative), recorded["relative"])
    plucker = plucker_map(relative, intrinsics, width=meta.width, height=meta.height)
    yield "plucker", relative_error(plucker, recorded["plucker"][0])
    if tensors_exist(folder / ACT_FILE):
        yield "control", act_error(folder / ACT_FILE, relative, intrinsics, meta)


def act_error(path: Path, relative: Poses, intrinsics: Intrinsics, meta: CameraMeta) -> float:
    """The error of the control maps of an `act` model for these poses [N, 4, 4].

    Raises WeightsError for too few keys, or keys other than 0 and 1.
    """
    recorded = read_recorded(path, ACT_INPUTS, ACT_OUTPUTS)
    held = recorded["wasd"][::TEMPORAL_STRIDE][: len(relative)]  # as every fourth frame has them
    if len(held) < len(relative) or not ((held == 0) | (held == 1)).all():
        raise WeightsError(
            f"{path}: 'wasd' needs 0 or 1 for each of {len(relative)} latent frames, "
            f"{TEMPORAL_STRIDE} rows apart"
        )
    actions = ["".join(key for key, on in zip("wasd", row, strict=True) if on) for row in held]
    size = {"width": meta.width, "height": meta.height}
    control = control_map("act", relative, actions, intrinsics, **size)
    return relative_error(control, recorded["control"][0])
