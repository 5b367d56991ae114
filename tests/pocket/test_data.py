from random import Random

import numpy as np
import torch

from lingbot.config import POCKET
from pocket.renderer.scene import make_scene
from pocket.renderer.trajectory import walk
from pocket.training import data
from pocket.training.data import (
    FIRST_HELD_OUT_SEED,
    draw_bump,
    draw_walk,
    fade,
    first_frame_of,
    is_clear,
    make_clip,
)


def test_a_seed_is_a_clip():
    one, other = (make_clip(11, num_chunks=3) for _ in range(2))
    assert (one.prompts, one.actions) == (other.prompts, other.actions)
    assert torch.equal(one.frames, other.frames)
    num_frames = POCKET.first_chunk_frames + 2 * POCKET.chunk_frames
    assert one.frames.shape == (num_frames, 128, 208, 3)
    assert one.poses.shape == (num_frames, 4, 4)
    assert len(one.prompts) == 3 and len(one.actions) == len(one.relatives) == 9


def test_conditions_change_at_a_chunk_and_fade_within_it(monkeypatch):
    monkeypatch.setattr(data, "CHANGING", 1.0)
    still = [""] * 12
    monkeypatch.setattr(data, "draw_walk", lambda *_: (still, *walk(still, start=(0, 0, 0))))
    clip = make_clip(FIRST_HELD_OUT_SEED, num_chunks=4)
    changed_at = next(i for i, prompt in enumerate(clip.prompts) if prompt != clip.prompts[0])
    assert len(set(clip.prompts[changed_at:])) == 1
    begin, end = first_frame_of(changed_at), first_frame_of(changed_at + 1)
    assert torch.equal(clip.frames[0], clip.frames[begin - 1])
    assert torch.equal(clip.frames[end - 1], clip.frames[-1])
    away = (clip.frames[begin - 1 : end].float() - clip.frames[0].float()).abs().mean((1, 2, 3))
    assert (away.diff() > 0).all()


def test_a_fade_ends_in_the_other_clip():
    before, after = torch.zeros(4, 2, 2, 3).byte(), torch.full((4, 2, 2, 3), 200).byte()
    assert fade(before, after)[:, 0, 0, 0].tolist() == [50, 100, 150, 200]


def test_training_walks_hold_a_key_while_held_out_ones_do_not(monkeypatch):
    monkeypatch.setattr(data, "STEADY", 1.0)
    monkeypatch.setattr(data, "BUMPING", 0.0)
    assert len(set(make_clip(0, num_chunks=2).actions[1:])) == 1
    assert len(set(make_clip(FIRST_HELD_OUT_SEED + 1, num_chunks=2).actions[1:])) > 1


def test_walks_keep_clear_unless_heedless(monkeypatch):
    monkeypatch.setattr(data, "HEEDLESS", 0.0)
    walks = [draw_walk(make_scene(seed), Random(seed), 18)[2] for seed in range(12)]
    clear = [is_clear(make_scene(seed), poses) for seed, poses in enumerate(walks)]
    assert np.mean(clear) > 0.9  # thirty tries, and some places are crowded


def test_walks_that_bump_meet_something_and_go_on():
    scene = next(scene for scene in map(make_scene, range(100)) if scene.place == "town")
    for seed in range(5):
        actions, relatives, poses = draw_bump(scene, Random(seed), 18)
        assert not is_clear(scene, poses)
        assert len(actions) == len(relatives) == 18 and len(poses) == 69
        assert actions[-1] == "w"
