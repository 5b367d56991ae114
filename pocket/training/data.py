"""The training clips: rendered once and kept on disk in shards."""

import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.config import POCKET
from pocket.renderer.conditions import change
from pocket.renderer.render import Renderer
from pocket.renderer.scene import Scene, describe, make_scene
from pocket.renderer.trajectory import random_actions, steady_actions, walk
from pocket.training.run import Machine, OutOfTime, save_whole

SIZE = {"width": POCKET.width, "height": POCKET.height}  # of the frames
CHUNKS = 6  # of a clip: 18 latent frames, 69 frames
CLIPS_A_SHARD = 10
FIRST_HELD_OUT_SEED = 1_000_000  # training never sees a scene from here on
CHANGING = 0.4  # share of the clips whose conditions change under way
HEEDLESS = 0.1  # share of the walks that go through whatever stands in the way
BUMPING = 0.2  # share of the training walks that do meet something: play must come out of it again
STEADY = 0.3  # share of the training walks that hold one key: so one plays, and sees what it does
BODY = 0.25  # scene units that a walker keeps from what stands in the way

Walk = tuple[list[str], Poses, Poses]  # keys, relative poses, frames' poses
Draw = Callable[[Scene, Random, int], Walk]  # the number is of latent frames

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clip:
    """A walk through a scene that nobody else has."""

    scene: Scene
    prompts: list[str]  # of each chunk
    actions: list[str]  # of each latent frame
    relatives: Poses  # [T, 4, 4], as the model sees them
    poses: Poses  # [4T - 3, 4, 4], of the frames, camera to world, in scene units
    frames: Tensor  # uint8 [4T - 3, H, W, 3]


def make_clip(seed: int, *, num_chunks: int = CHUNKS) -> Clip:
    """Render the walk of this seed: always the same one.

    Where its conditions change, the first chunk of the new ones fades from the old.
    """
    random = Random(f"walk {seed}")
    scene = make_scene(seed)
    draw: Draw = draw_walk
    if seed < FIRST_HELD_OUT_SEED:
        shares = (1 - BUMPING - STEADY, BUMPING, STEADY)
        draw = random.choices((draw_walk, draw_bump, draw_steady), shares)[0]
    actions, relatives, poses = draw(scene, random, POCKET.chunk * num_chunks)
    prompts = [describe(scene, random)] * num_chunks
    changed_at = (
        random.randrange(1, max(2, num_chunks - 1)) if random.random() < CHANGING else num_chunks
    )
    ends = first_frame_of(changed_at), first_frame_of(changed_at + 1)
    before = Renderer(scene).render(poses[: ends[1]], **SIZE)
    if changed_at == num_chunks:
        return Clip(scene, prompts, actions, relatives, poses, before)
    other = scene.under(change(scene.conditions, random))
    words = describe(other, random, changed_from=scene.conditions)
    prompts[changed_at:] = [words] * (num_chunks - changed_at)
    after = Renderer(other).render(poses[ends[0] :], **SIZE)
    faded = fade(before[ends[0] :], after[: POCKET.chunk_frames])
    frames = torch.cat([before[: ends[0]], faded, after[POCKET.chunk_frames :]])
    return Clip(scene, prompts, actions, relatives, poses, frames)


def first_frame_of(chunk: int) -> int:
    """The number of a chunk's first frame in its clip."""
    return max(0, POCKET.first_chunk_frames + POCKET.chunk_frames * (chunk - 1))


def fade(before: Tensor, after: Tensor) -> Tensor:
    """From one clip [F, H, W, 3] to another, frame by frame."""
    share = (torch.arange(len(before), device=before.device) + 1.0)[:, None, None, None]
    return torch.lerp(before.float(), after.float(), share / len(before)).round().to(torch.uint8)


def draw_walk(
    scene: Scene,
    random: Random,
    num_latent_frames: int,
    draw_actions: Callable[[Random, int], list[str]] = random_actions,
) -> Walk:
    """A walk that keeps clear of what stands there."""
    heedless = random.random() < HEEDLESS
    for _ in range(30):
        yaw = random.uniform(0, 360)
        if scene.place == "town" and random.random() < 0.7:
            yaw = random.choice((0, 90, 180, 270)) + 6 * random.choice((-2, -1, 0, 0, 0, 1, 2))
        start = (random.uniform(-0.9, 0.9), random.uniform(-0.9, 0.9), yaw)
        actions = draw_actions(random, num_latent_frames)
        relatives, poses = walk(actions, start=start)
        if heedless or is_clear(scene, poses):
            break
    return actions, relatives, poses


def draw_bump(scene: Scene, random: Random, num_latent_frames: int) -> Walk:
    """As `draw_walk`, but in the end straight through what stands there, if anything is near."""
    for _ in range(60):
        start = (random.uniform(-0.9, 0.9), random.uniform(-0.9, 0.9), random.uniform(0, 360))
        straight = random.randrange(1, num_latent_frames)
        actions = random_actions(random, straight) + ["w"] * (num_latent_frames - straight)
        relatives, poses = walk(actions, start=start)
        if not is_clear(scene, poses):
            break
    return actions, relatives, poses


def draw_steady(scene: Scene, random: Random, num_latent_frames: int) -> Walk:
    """As `draw_walk`, with one key held, or none.

    The key is drawn once: were it drawn anew with each place, those that turn would find room more
    often than those that walk.
    """
    actions = steady_actions(random, num_latent_frames)
    return draw_walk(scene, random, num_latent_frames, lambda *_: actions)


def is_clear(scene: Scene, poses: Poses) -> bool:
    """Whether a walk meets neither solids nor water."""
    places = poses[:, [0, 2], 3]
    return not any(
        (np.hypot(places[:, 0] - spot.x, places[:, 1] - spot.z) < spot.radius + BODY).any()
        for spot in (*scene.obstacles, *scene.lakes)
    )


def render_bank(folder: Path, machine: Machine, *, num_clips: int, seed: int) -> None:
    """Write the clips of seeds `seed`, `seed` + 1, ... to `folder`; go on where a run stopped.

    On all processors: a frame's few small operations would keep a GPU waiting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = seed + num_clips
    if seed % CLIPS_A_SHARD:
        raise ValueError(f"seed {seed} must be a multiple of {CLIPS_A_SHARD}: shards would overlap")
    shards = [(at, min(at + CLIPS_A_SHARD, end)) for at in range(seed, end, CLIPS_A_SHARD)]
    missing = [shard for shard in shards if not _shard_path(folder, shard[0]).exists()]
    with ProcessPoolExecutor(torch.get_num_threads(), get_context("spawn")) as processes:
        jobs = [processes.submit(_render_shard, folder, range(*shard)) for shard in missing]
        for job, (first, last) in zip(jobs, missing, strict=True):
            if machine.out_of_time:
                processes.shutdown(cancel_futures=True)
                raise OutOfTime
            job.result()
            logger.info("rendered clips %d to %d", first, last - 1)


def _shard_path(folder: Path, first: int) -> Path:
    return folder / f"{first:07}.pt"


def _render_shard(folder: Path, seeds: range) -> None:
    torch.set_num_threads(1)
    clips = [make_clip(seed) for seed in seeds]
    shard = {
        "seeds": list(seeds),
        "prompts": [clip.prompts for clip in clips],
        "relatives": torch.from_numpy(np.stack([clip.relatives for clip in clips])),
        "frames": torch.stack([clip.frames for clip in clips]),
    }
    save_whole(_shard_path(folder, seeds[0]), shard)


def shard_paths(folder: Path) -> list[Path]:
    """The finished shards of a bank, in the order of their seeds."""
    return sorted(folder.glob("*.pt"))


class Footage:
    """A bank's frames where they are drawn: mapped from the disk, or in a GPU's memory.

    The bank may still be growing. Raises FileNotFoundError while it is empty.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._seen = set[Path]()
        self.shards: list[Tensor] = []  # uint8 [N, F, H, W, 3]
        self.look_again()
        if not self.shards:
            raise FileNotFoundError(f"{folder} holds no clips yet")

    def look_again(self) -> None:
        """Take in what was rendered since."""
        for path in shard_paths(self._folder):
            if path not in self._seen:
                self._seen.add(path)
                self.shards.append(torch.load(path, mmap=True)["frames"].to(self._device))


def to_video(frames: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] -> float [..., 3, H, W] in 0..1."""
    return frames.movedim(-1, -3).float() / 255


def resize(video: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, F, 3, H, W] at rows and columns `size`, pixels averaged."""
    if video.shape[-2:] == size:
        return video
    flat = F.interpolate(video.flatten(0, 1), size=size, mode="bilinear", antialias=True)
    resized: Tensor = flat.unflatten(0, video.shape[:2])
    return resized


def mirror_frames(frames: Tensor) -> Tensor:
    """[..., H, W, 3] seen in a mirror."""
    return frames.flip(-2)


def mirror_relatives(relatives: Tensor) -> Tensor:
    """[..., 4, 4] in a mirror: x changes its sign on both sides."""
    mirror = torch.diag(torch.tensor([-1, 1, 1, 1], dtype=relatives.dtype))
    return mirror @ relatives @ mirror
