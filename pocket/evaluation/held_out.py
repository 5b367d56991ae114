"""Held-out scenes and clips, which training never sees, and walks through them.

Tested in `tests/pocket/test_control_accuracy.py`.
"""

from collections.abc import Iterator
from random import Random

from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.config import POCKET
from pocket.renderer.prompt import write_prompt
from pocket.renderer.render import FrameSize, Renderer
from pocket.renderer.scene import Scene, make_scene
from pocket.renderer.trajectory import walk_poses
from pocket.training.clips import FIRST_HELD_OUT_SEED, Clip, draw_walk, is_clear, make_clip
from pocket.training.config import SIZE


def held_out_clips(count: int) -> Iterator[Clip]:
    """Yield held-out clips with at least one key and without a change of conditions."""
    seed = FIRST_HELD_OUT_SEED
    while count:
        clip = make_clip(seed)
        if len(set(clip.prompts)) == 1 and any(clip.actions):
            count -= 1
            yield clip
        seed += 1


def held_out_scenes(count: int) -> Iterator[Scene]:
    return (make_scene(FIRST_HELD_OUT_SEED + 1000 + i) for i in range(count))


def draw_opening(
    renderer: Renderer, random: Random, *, size: FrameSize = SIZE
) -> tuple[Tensor, str]:
    """Render a random view of the scene: first frame uint8 [H, W, 3], and the scene's prompt."""
    poses = draw_walk(renderer.scene, random, 6).poses
    return renderer.render(poses[:1], **size)[0], write_prompt(renderer.scene)


def steady_walk(scene: Scene, key: str, *, num_chunks: int) -> tuple[list[str], Poses]:
    """Hold one key from the second latent frame on. Returns actions and the poses of all frames.

    The start is drawn up to 30 times until the walk meets no obstacle.
    """
    random = Random(f"steady {scene.seed}")
    actions = ["", *[key] * (POCKET.chunk * num_chunks - 1)]
    for _ in range(30):
        start = (random.uniform(-0.9, 0.9), random.uniform(-0.9, 0.9), 90.0 * random.randrange(4))
        _, poses = walk_poses(actions, start=start)
        if is_clear(scene, poses):
            break
    return actions, poses


def stroll_actions(random: Random) -> list[str]:
    """Draw twelve latent frames of ordinary play: turn, walk ahead, then stop or sidestep."""
    turned, ahead = random.choice((2, 3, 4)), random.choice((4, 5, 6))
    turn, last = random.choice(("", "", "j", "l")), random.choice(("w", "", "d"))
    return ["w" + turn] * turned + ["w"] * ahead + [last] * (12 - turned - ahead)
