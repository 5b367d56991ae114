"""Clips and the walks that they show."""

from random import Random

import numpy as np
import torch

from lingbot.config import POCKET
from pocket.renderer.scene import make_scene
from pocket.renderer.trajectory import walk_poses
from pocket.training.clips import (
    FIRST_HELD_OUT_SEED,
    ClipShares,
    Walk,
    cross_fade,
    draw_collision_ending,
    draw_walk,
    first_frame_of,
    is_clear,
    make_clip,
)
from tests.pocket.conftest import SMALL, sizes


@sizes(SMALL)
def test_a_seed_is_a_clip(size):
    one, other = (make_clip(11, num_chunks=3, size=size) for _ in range(2))
    assert (one.prompts, one.actions) == (other.prompts, other.actions)
    assert torch.equal(one.frames, other.frames)
    num_frames = POCKET.first_chunk_frames + 2 * POCKET.chunk_frames
    assert one.frames.shape == (num_frames, size["height"], size["width"], 3)
    assert one.poses.shape == (num_frames, 4, 4)
    assert len(one.prompts) == 3 and len(one.actions) == len(one.relatives) == 9


@sizes(SMALL)
def test_conditions_change_at_a_chunk_and_fade_within_it(size):
    still = [""] * 12
    clip = make_clip(
        FIRST_HELD_OUT_SEED,
        num_chunks=4,
        size=size,
        shares=ClipShares(changing=1.0),
        draw=lambda *_: Walk(still, *walk_poses(still, start=(0, 0, 0))),
    )
    changed_at = next(i for i, prompt in enumerate(clip.prompts) if prompt != clip.prompts[0])
    assert len(set(clip.prompts[changed_at:])) == 1
    begin, end = first_frame_of(changed_at), first_frame_of(changed_at + 1)
    assert torch.equal(clip.frames[0], clip.frames[begin - 1])
    assert torch.equal(clip.frames[end - 1], clip.frames[-1])
    distance = (clip.frames[begin - 1 : end].float() - clip.frames[0].float()).abs()
    assert (distance.mean((1, 2, 3)).diff() > 0).all()


def test_a_cross_fade_ends_in_the_other_clip():
    before, after = torch.zeros(4, 2, 2, 3).byte(), torch.full((4, 2, 2, 3), 200).byte()
    assert cross_fade(before, after)[:, 0, 0, 0].tolist() == [50, 100, 150, 200]


def test_training_walks_hold_a_key_while_held_out_ones_do_not():
    shares = ClipShares(collision_ending=0.0, steady=1.0)
    training, held_out = (
        make_clip(seed, num_chunks=2, size=SMALL, shares=shares)
        for seed in (0, FIRST_HELD_OUT_SEED + 1)
    )
    assert len(set(training.actions[1:])) == 1
    assert len(set(held_out.actions[1:])) > 1


def test_walks_keep_clear_unless_they_may_collide():
    scenes = [make_scene(seed) for seed in range(12)]
    walks = [draw_walk(scene, Random(scene.seed), 18, colliding_share=0.0) for scene in scenes]
    clear = [is_clear(scene, walk.poses) for scene, walk in zip(scenes, walks, strict=True)]
    assert np.mean(clear) > 0.9  # some places stay crowded after thirty tries


def test_walks_that_end_in_a_collision_meet_an_obstacle_and_go_on():
    scene = next(scene for scene in map(make_scene, range(100)) if scene.place == "town")
    for seed in range(5):
        actions, relatives, poses = draw_collision_ending(scene, Random(seed), 18)
        assert not is_clear(scene, poses)
        assert len(actions) == len(relatives) == 18 and len(poses) == 69
        assert actions[-1] == "w"
