"""`python -m lingbot.verify DIR`: rerun a golden folder and print the error of each quantity.

A golden folder holds inputs and outputs of the public reference; its file names give its kind. Exit
status: 0 if every error is below the tolerance, 1 if one is not, 2 for an unreadable folder.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from lingbot.camera.pose_file import actions_to_poses, interpolate_poses, relative_poses
from lingbot.camera.rays import Intrinsics, plucker_map
from lingbot.config import (
    PATCH,
    SCHEDULE_V1,
    SCHEDULE_V2,
    SCHEDULE_V2_CLI,
    SPATIAL_STRIDE,
    Positive,
    ScheduleConfig,
)
from lingbot.dit.camera_cache import CameraCache
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import WorldModel
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from lingbot.dit.weights import DIT_FILE, load_dit, read_config
from lingbot.errors import LingbotError, WeightsError
from lingbot.files import read_json, read_tensors, tensors_exist
from lingbot.parallel.process_group import spawn_ranks
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup

Errors = Iterator[tuple[str, float]]

ROLLOUT_FILE = "rollout.safetensors"
CAMERA_FILE = "camera.safetensors"
CAMERA_META = "camera.json"
CACHE_BYTES = 2**14  # a few latent frames of a small model, so that some are evicted

# Recorded tensors and their shapes. A letter is one size in all shapes of a file: C chunks, S steps
# (R with noise), F latent frames of a chunk, N of all, P poses, I cameras, A poses of the actions.
ROLLOUT_INPUTS = {
    "noise": "16 N h w",
    "y": "20 N h w",
    "plucker": "1 K N h w",
    "context": "L D",
    "step_noise": "C R 16 F h w",
    "timesteps": "S",
}
ROLLOUT_OUTPUTS = {
    "x0_sigmas": "S",
    "renoise_sigmas": "R",
    "flow_pred": "C S 16 F h w",
    "x0": "16 N h w",
    "kv0_k": "1 slots heads head_dim",
    "kvlast_v": "1 slots heads head_dim",
}
CAMERA_INPUTS = {"c2w": "P 4 4", "intrinsics": "I 4"}
CAMERA_OUTPUTS = {
    "action_c2w": "A 4 4",
    "intrinsics_scaled": "4",
    "interpolated": "N 4 4",
    "relative": "N 4 4",
    "plucker": "1 384 N h w",
}


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """`|ours - reference| / |reference|` in float64. Raises LingbotError for unequal shapes."""
    if ours.shape != reference.shape:
        raise LingbotError(f"expected the shape {list(ours.shape)}, not {list(reference.shape)}")
    reference = reference.double()
    return float((ours.double() - reference).norm() / reference.norm())


def read_recorded(path: Path, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of a golden file.

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


def verify_dit(folder: Path, group: SequenceParallelGroup) -> Errors:
    """Rerun a rollout of the DiT: its schedule, all flows and clean latents, and the window."""
    model = load_dit(folder, device=torch.device("cpu"), dtype=torch.float32).fuse()
    recorded = read_recorded(folder / ROLLOUT_FILE, ROLLOUT_INPUTS, ROLLOUT_OUTPUTS)
    schedule = find_schedule(recorded)
    steps = build_steps(schedule)
    yield "timesteps", error_of([step.timestep for step in steps], recorded["timesteps"])
    yield "x0_sigmas", error_of([step.sigma for step in steps], recorded["x0_sigmas"])
    renoise = [step.renoise_sigma for step in steps[1:]]
    yield "renoise_sigmas", error_of(renoise, recorded["renoise_sigmas"])

    window = empty_window(model, folder, recorded, group)
    flows, latents = rerun(model, window, recorded, schedule, group)
    yield "flow_pred", relative_error(flows, recorded["flow_pred"])
    yield "x0", relative_error(latents, recorded["x0"])
    first_k, last_v = group.to_tokens(window.k_NBFTHD[0]), group.to_tokens(window.v_NBFTHD[-1])
    for name, kept in (("kv0_k", first_k), ("kvlast_v", last_v)):
        yield name, slot_error(group.gather(kept, num_tokens=window.num_tokens)[0], recorded[name])


def error_of(ours: Sequence[float], reference: Tensor) -> float:
    return relative_error(torch.tensor(ours), reference)


def find_schedule(recorded: dict[str, Tensor]) -> ScheduleConfig:
    """The known schedule that visits the recorded timesteps. Raises LingbotError if none does."""
    timesteps = recorded["timesteps"].tolist()
    for schedule in (SCHEDULE_V1, SCHEDULE_V2, SCHEDULE_V2_CLI):
        if [step.timestep for step in build_steps(schedule)] == timesteps:
            return schedule
    raise LingbotError(f"timesteps {timesteps} belong to no known schedule")


def empty_window(
    model: WorldModel, folder: Path, recorded: dict[str, Tensor], group: SequenceParallelGroup
) -> KVWindow:
    """A window of the checkpoint's size and the rank's heads. Without a size it holds all frames.

    Raises LingbotError for a model that cannot be split over the ranks.
    """
    official = read_config(folder)
    _, _, _, chunk, height, width = recorded["flow_pred"].shape
    num_tokens = height * width // PATCH**2
    group.check(model.config, tokens=num_tokens)
    all_frames = recorded["noise"].shape[1]
    return KVWindow.empty(
        model.config,
        window=official.local_attn_size if official.local_attn_size > 0 else all_frames,
        sink=official.sink_size,
        chunk=chunk,
        tokens=num_tokens,
        device=torch.device("cpu"),
        dtype=torch.float32,
        num_ranks=group.num_ranks,
    )


def rerun(
    model: WorldModel,
    window: KVWindow,
    recorded: dict[str, Tensor],
    schedule: ScheduleConfig,
    group: SequenceParallelGroup,
) -> tuple[Tensor, Tensor]:
    """Fill the window with a recorded rollout of C chunks, S steps each.

    Returns flows [C, S, 16, F, h, w] and clean latents [16, C * F, h, w].
    """
    num_chunks, _, _, chunk, _, _ = recorded["flow_pred"].shape
    cache = CameraCache(model, budget_bytes=CACHE_BYTES, group=group)
    text = model.embed_text(recorded["context"][None])
    flows: list[Tensor] = []
    latents: list[Tensor] = []
    for index in range(num_chunks):
        here = slice(index * chunk, (index + 1) * chunk)
        step_noise = recorded["step_noise"][index][:, None]
        control = recorded["plucker"][:, :, here].split(1, dim=2)
        keys = [frame.numpy().tobytes() for frame in control]
        with cache.chunk(keys, control.__getitem__):
            pass  # the passes then use stored maps, and others that did not fit
        with cache.chunk(keys, control.__getitem__) as maps:
            condition = recorded["y"][None, :, here]
            inputs = prepare_next_chunk(
                model, window, condition=condition, maps=maps, text=text, group=group
            )
            latents += sample_chunk(
                model,
                inputs,
                noise=recorded["noise"][None, :, here],
                renoise=step_noise.__getitem__,
                steps=build_steps(schedule),
                observe=lambda _, flow: flows.append(flow[0]),
            )
        window.advance(chunk)
    return torch.stack(flows).unflatten(0, (num_chunks, -1)), torch.cat(latents, dim=1)


def slot_error(ours: Tensor, reference: Tensor) -> float:
    """Compare [F, T, H, D] with [1, F * T, H, D] as sets of latent frames.

    The order of slots may differ: each recorded frame is compared with the nearest of ours. The
    worst frame counts.
    """
    frames = reference[0].unflatten(0, (-1, ours.shape[1]))
    errors = torch.tensor([[relative_error(slot, frame) for slot in ours] for frame in frames])
    return float(errors.amin(dim=1).amax())  # unlike Python's min and max, these propagate NaN


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


class CameraMeta(msgspec.Struct, frozen=True, kw_only=True):
    """The camera.json of a golden folder."""

    width: Positive
    height: Positive
    source_width: Positive
    source_height: Positive
    latent_frames: Positive
    keys: list[list[str]]


# The files that a kind of folder holds, and its check. Each safetensors file may be in shards.
KINDS: dict[tuple[str, ...], Callable[[Path, SequenceParallelGroup], Errors]] = {
    (DIT_FILE, ROLLOUT_FILE): verify_dit,
    (CAMERA_META, CAMERA_FILE): verify_camera,
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
    for files, check in KINDS.items():
        if all(tensors_exist(folder / name) for name in files):
            return check
    known = "; ".join(" and ".join(files) for files in KINDS)
    raise LingbotError(f"{folder} holds none of: {known}")


def collect(group: SequenceParallelGroup, folder: Path) -> list[tuple[str, float]] | LingbotError:
    """All of `verify`, or its error, as a value that can be sent between processes."""
    try:
        return list(verify(folder, group))
    except LingbotError as exc:
        return exc


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lingbot.verify", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument(
        "--ranks", type=int, default=1, metavar="N", help="split the model over N processes"
    )
    options = parser.parse_args(argv)
    if options.ranks < 1:
        parser.error(f"--ranks must be at least 1, not {options.ranks}")
    if options.ranks == 1:
        errors = collect(SINGLE, options.folder)
    else:
        errors = spawn_ranks(options.ranks, collect, options.folder)
    if isinstance(errors, LingbotError):
        print("verify:", " ".join(str(errors).split()), file=sys.stderr)  # torch's have many lines
        return 2
    for name, error in errors:
        print(f"{name}: {error:.3g}")
    worst = max((math.inf if math.isnan(error) else error for _, error in errors), default=0.0)
    print(f"worst: {worst:.3g}")
    return 0 if worst < options.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
