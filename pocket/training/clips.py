"""Training clips: random walks through random scenes, rendered.

Shape letters: T latent frames, F frames, H W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.config import POCKET
from pocket.renderer.conditions import change_conditions
from pocket.renderer.prompt import write_prompt
from pocket.renderer.render import FrameSize, Renderer
from pocket.renderer.scene import Scene, make_scene
from pocket.renderer.trajectory import random_actions, steady_actions, walk_poses
from pocket.training.config import SIZE

NUM_CHUNKS = 6  # of a clip: 18 latent frames, 69 frames
FIRST_HELD_OUT_SEED = 1_000_000  # training never sees a scene from here on
CHANGING_SHARE = 0.4  # of clips: their conditions change
COLLIDING_SHARE = 0.1  # of walks: drawn without regard to obstacles
COLLISION_ENDING_SHARE = 0.2  # of training walks: end in an obstacle, as play sometimes does
STEADY_SHARE = 0.3  # of training walks: hold one key, as players do to see what it does
BODY = 0.25  # scene units between a walk and obstacles


class Walk(NamedTuple):
    actions: list[str]  # keys of each latent frame
    relatives: Poses  # [T, 4, 4], as the model sees them
    poses: Poses  # [4T - 3, 4, 4] of the frames, camera to world, in scene units


DrawWalk = Callable[[Scene, Random, int], Walk]  # the number is of latent frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipShares:
    """The shares of special clips, see the constants."""

    changing: float = CHANGING_SHARE
    collision_ending: float = COLLISION_ENDING_SHARE
    steady: float = STEADY_SHARE


SHARES = ClipShares()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A rendered walk."""

    scene: Scene  # as at the beginning
    prompts: list[str]  # one for each chunk
    actions: list[str]  # keys, one string for each latent frame
    relatives: Poses  # [T, 4, 4], as the model sees them
    poses: Poses  # [4T - 3, 4, 4] of the frames, camera to world, in scene units
    frames: Tensor  # uint8 [4T - 3, H, W, 3]


def make_clip(
    seed: int,
    *,
    num_chunks: int = NUM_CHUNKS,
    size: FrameSize = SIZE,
    shares: ClipShares = ClipShares(),  # immutable
    draw: DrawWalk | None = None,
) -> Clip:
    """Render the clip of a seed. A seed always gives the same clip.

    If the conditions change, the first chunk of the new ones is a cross-fade. Without `draw`,
    training seeds draw all kinds of walks, and held-out seeds use `draw_walk`.
    """
    random = Random(f"walk {seed}")
    scene = make_scene(seed)
    if draw is None:
        draw = draw_walk
        if seed < FIRST_HELD_OUT_SEED:
            ordinary = 1 - shares.collision_ending - shares.steady
            kinds = (draw_walk, draw_collision_ending, draw_steady)
            weights = (ordinary, shares.collision_ending, shares.steady)
            draw = random.choices(kinds, weights)[0]
    walk = draw(scene, random, POCKET.chunk * num_chunks)
    prompts = [write_prompt(scene, random)] * num_chunks
    change_at = num_chunks
    if random.random() < shares.changing:
        change_at = random.randrange(1, max(2, num_chunks - 1))
    begin, end = first_frame_of(change_at), first_frame_of(change_at + 1)
    frames = Renderer(scene).render(walk.poses[:end], **size)
    if change_at < num_chunks:
        other = scene.under(change_conditions(scene.conditions, random))
        new_prompt = write_prompt(other, random, changed_from=scene.conditions)
        prompts[change_at:] = [new_prompt] * (num_chunks - change_at)
        after = Renderer(other).render(walk.poses[begin:], **size)
        faded = cross_fade(frames[begin:], after[: POCKET.chunk_frames])
        frames = torch.cat([frames[:begin], faded, after[POCKET.chunk_frames :]])
    return Clip(scene=scene, prompts=prompts, frames=frames, **walk._asdict())


def first_frame_of(chunk: int) -> int:
    """Return the number of a chunk's first frame in its clip."""
    return max(0, POCKET.first_chunk_frames + POCKET.chunk_frames * (chunk - 1))


def cross_fade(before: Tensor, after: Tensor) -> Tensor:
    """Fade from one clip to another, both uint8 [F, H, W, 3], frame by frame."""
    share = (torch.arange(len(before), device=before.device) + 1.0)[:, None, None, None]
    return torch.lerp(before.float(), after.float(), share / len(before)).round().to(torch.uint8)


def draw_walk(
    scene: Scene,
    random: Random,
    num_latent_frames: int,
    *,
    draw_actions: Callable[[Random, int], list[str]] = random_actions,
    colliding_share: float = COLLIDING_SHARE,
) -> Walk:
    """Draw a walk up to 30 times until it meets no obstacle. Some walks may meet obstacles."""
    may_collide = random.random() < colliding_share
    for _ in range(30):
        yaw = random.uniform(0, 360)
        if scene.place == "town" and random.random() < 0.7:
            yaw = random.choice((0, 90, 180, 270)) + 6 * random.choice((-2, -1, 0, 0, 0, 1, 2))
        start = (random.uniform(-0.9, 0.9), random.uniform(-0.9, 0.9), yaw)
        actions = draw_actions(random, num_latent_frames)
        relatives, poses = walk_poses(actions, start=start)
        if may_collide or is_clear(scene, poses):
            break
    return Walk(actions, relatives, poses)


def draw_collision_ending(scene: Scene, random: Random, num_latent_frames: int) -> Walk:
    """Draw a walk that ends straight ahead, up to 60 times until it meets an obstacle."""
    for _ in range(60):
        start = (random.uniform(-0.9, 0.9), random.uniform(-0.9, 0.9), random.uniform(0, 360))
        straight = random.randrange(1, num_latent_frames)
        actions = random_actions(random, straight) + ["w"] * (num_latent_frames - straight)
        relatives, poses = walk_poses(actions, start=start)
        if not is_clear(scene, poses):
            break
    return Walk(actions, relatives, poses)


def draw_steady(scene: Scene, random: Random, num_latent_frames: int) -> Walk:
    """Draw a walk, as `draw_walk` does, with one key held, or none.

    The key is drawn once for all tries. If it were drawn with each start, turns would be more
    frequent than steps, because they meet no obstacles.
    """
    actions = steady_actions(random, num_latent_frames)
    return draw_walk(scene, random, num_latent_frames, draw_actions=lambda *_: actions)


def is_clear(scene: Scene, poses: Poses) -> bool:
    """Return whether a walk meets neither obstacles nor water."""
    places = poses[:, [0, 2], 3]
    return not any(
        (np.hypot(places[:, 0] - spot.x, places[:, 1] - spot.z) < spot.radius + BODY).any()
        for spot in (*scene.obstacles, *scene.lakes)
    )


def to_video(frames: Tensor) -> Tensor:
    """Convert frames, uint8 [..., H, W, 3], to float [..., 3, H, W] in 0..1."""
    return frames.movedim(-1, -3).float() / 255


def resize(video: Tensor, size: FrameSize) -> Tensor:
    """Resize a video [B, F, 3, H, W] with antialiasing."""
    rows_columns = (size["height"], size["width"])
    if video.shape[-2:] == rows_columns:
        return video
    flat = F.interpolate(video.flatten(0, 1), size=rows_columns, mode="bilinear", antialias=True)
    resized: Tensor = flat.unflatten(0, video.shape[:2])
    return resized


def mirror_frames(frames: Tensor) -> Tensor:
    """Mirror frames [..., H, W, 3] left to right."""
    return frames.flip(-2)


def mirror_relatives(relatives: Tensor) -> Tensor:
    """Mirror relative poses [..., 4, 4] left to right: x changes its sign on both sides."""
    mirror = torch.diag(torch.tensor([-1, 1, 1, 1], dtype=relatives.dtype))
    return mirror @ relatives @ mirror
