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
import torch
from torch import Tensor

from lingbot.camera.pose_file import actions_to_poses, interpolate_poses, relative_poses
from lingbot.camera.rays import Intrinsics, plucker_map
from lingbot.config import PATCH, SCHEDULE_V1, SCHEDULE_V2, ScheduleConfig
from lingbot.dit.camera_cache import CameraCache
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import WorldModel
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from lingbot.dit.weights import DIT_FILE, load_dit, read_config
from lingbot.errors import LingbotError, WeightsError
from lingbot.files import read_json, read_tensors
from lingbot.parallel.process_group import spawn_ranks
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup

Errors = Iterator[tuple[str, float]]

CACHE_BYTES = 2**14  # a few latent frames of a small model, so that some are evicted


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """`|ours - reference| / |reference|` in float64. Raises LingbotError for unequal shapes."""
    if ours.shape != reference.shape:
        raise LingbotError(f"expected the shape {list(ours.shape)}, not {list(reference.shape)}")
    reference = reference.double()
    return float((ours.double() - reference).norm() / reference.norm())


def verify_dit(folder: Path, group: SequenceParallelGroup) -> Errors:
    """Rerun a rollout of the DiT: its schedule, all flows and clean latents, and the window."""
    model = load_dit(folder, device=torch.device("cpu"), dtype=torch.float32)
    recorded = read_tensors(folder / "rollout.safetensors")
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
    for schedule in (SCHEDULE_V1, SCHEDULE_V2):
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
    """Recompute the poses and maps of a pose file and of an action string."""
    recorded = read_tensors(folder / "camera.safetensors")
    meta = read_json(folder / "camera.json", CameraMeta)

    walked = actions_to_poses(["".join(keys) for keys in meta.keys])
    yield "action_c2w", relative_error(torch.from_numpy(walked), recorded["action_c2w"])

    intrinsics = Intrinsics(*recorded["intrinsics"][0].tolist()).scaled(
        source=(meta.source_width, meta.source_height), size=(meta.width, meta.height)
    )
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

    width: int
    height: int
    source_width: int
    source_height: int
    latent_frames: int
    keys: list[list[str]]


# The files that a kind of folder holds, and its check.
KINDS: dict[tuple[str, ...], Callable[[Path, SequenceParallelGroup], Errors]] = {
    (DIT_FILE, "rollout.safetensors"): verify_dit,
    ("camera.json", "camera.safetensors"): verify_camera,
}


def verify(folder: Path, group: SequenceParallelGroup = SINGLE) -> Errors:
    """Name and relative error of each quantity of a golden folder.

    All ranks of `group` call this, and all receive the same errors. Raises LingbotError for a
    folder of no known kind, or one with files that do not fit together.
    """
    if not folder.is_dir():
        raise LingbotError(f"{folder} is not a folder")
    try:
        with torch.inference_mode():
            yield from find_check(folder)(folder, group)
    except LingbotError:
        raise
    except KeyError as exc:
        raise WeightsError(f"{folder}: no tensor {exc}") from exc
    except (ValueError, IndexError, RuntimeError, OSError) as exc:
        raise WeightsError(f"{folder}: {exc}") from exc


def find_check(folder: Path) -> Callable[[Path, SequenceParallelGroup], Errors]:
    """Raises LingbotError for a folder of no known kind."""
    for files, check in KINDS.items():
        if all((folder / name).exists() for name in files):
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
        print(f"verify: {errors}", file=sys.stderr)
        return 2
    for name, error in errors:
        print(f"{name}: {error:.3g}")
    worst = max((math.inf if math.isnan(error) else error for _, error in errors), default=0.0)
    print(f"worst: {worst:.3g}")
    return 0 if worst < options.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
