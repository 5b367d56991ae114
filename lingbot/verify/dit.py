"""Rollouts of the DiT, rerun from their recorded noise.

Tested in `tests/lingbot/test_verify.py`.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from msgspec import Struct
from torch import Tensor

from lingbot.checkpoint.official_config import CONFIG_FILE
from lingbot.config import (
    PATCH,
    SCHEDULE_V1,
    SCHEDULE_V2,
    SCHEDULE_V2_CLI,
    ScheduleConfig,
)
from lingbot.dit.camera_cache import CameraCache
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import WorldModel
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps, noise_levels
from lingbot.dit.weights import load_dit
from lingbot.errors import LingbotError
from lingbot.files import read_json
from lingbot.parallel.ulysses import SequenceParallelGroup
from lingbot.verify.recorded import Errors, read_recorded, relative_error

ROLLOUT_FILE = "rollout.safetensors"
SHIFTS = [half / 2 for half in range(2, 41)]  # 1 to 20
SIGMA_TOLERANCE = 1e-6  # the sigmas of neighbouring shifts differ by more than a hundredth
CACHE_BYTES = 2**14  # a few latent frames of a small model, so that some are evicted

# C chunks, S steps (R with noise), F latent frames of a chunk, N of all, h and w latent pixels.
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


class WindowSizes(Struct):
    """The keys of a config.json that give the KV window, in latent frames."""

    local_attn_size: int = -1  # -1: unlimited
    sink_size: int = 0


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
    """The schedule that visits the recorded timesteps: a published one, or one of another shift.

    Schedules of several shifts may visit the same timesteps: the sigmas decide. Raises LingbotError
    if no shift of SHIFTS fits.
    """
    timesteps = recorded["timesteps"].tolist()
    for schedule in (SCHEDULE_V1, SCHEDULE_V2, SCHEDULE_V2_CLI):
        if [step.timestep for step in build_steps(schedule)] == timesteps:
            return schedule
    is_falling = all(a > b for a, b in pairwise(timesteps))
    for shift in SHIFTS if is_falling else ():
        all_timesteps = noise_levels(shift)[1].tolist()
        if not set(timesteps) <= set(all_timesteps):
            continue
        schedule = ScheduleConfig(indices=tuple(map(all_timesteps.index, timesteps)), shift=shift)
        sigmas = [step.sigma for step in build_steps(schedule)]
        if error_of(sigmas, recorded["x0_sigmas"]) < SIGMA_TOLERANCE:
            return schedule
    raise LingbotError(f"timesteps {timesteps} belong to no known schedule")


def empty_window(
    model: WorldModel,
    folder: Path,
    recorded: dict[str, Tensor],
    group: SequenceParallelGroup,
    *,
    dtype: torch.dtype = torch.float32,
) -> KVWindow:
    """A window of the checkpoint's size and the rank's heads. Without a size it holds all frames.

    Raises LingbotError for a model that cannot be split over the ranks.
    """
    sizes = read_json(folder / CONFIG_FILE, WindowSizes)
    _, _, _, chunk, height, width = recorded["flow_pred"].shape
    num_tokens = height * width // PATCH**2
    group.check(model.config, tokens=num_tokens)
    all_frames = recorded["noise"].shape[1]
    return KVWindow.empty(
        model.config,
        window=sizes.local_attn_size if sizes.local_attn_size > 0 else all_frames,
        sink=sizes.sink_size,
        chunk=chunk,
        tokens=num_tokens,
        device=torch.device("cpu"),
        dtype=dtype,
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
