"""Longer steps for the same keys."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")

from lingbot.camera.rays import default_intrinsics, plucker_map
from lingbot.dit.model import WorldModel
from pocket import calibrate
from pocket.calibrate import INPUTS, WALKS, lengthen, obedience
from pocket.evaluation.play import steady_walk
from pocket.renderer.conditions import Conditions
from pocket.renderer.render import Renderer
from pocket.renderer.scene import make_scene
from pocket.training.data import SIZE
from pocket.training.dit import MODEL


@pytest.mark.parametrize("keys, axes", [("ad", [0]), ("ws", [1, 2])])
def test_a_longer_step_is_what_a_longer_pose_would_be(keys, axes):
    torch.manual_seed(0)
    model = WorldModel(MODEL)
    pose, longer = np.eye(4)[None], np.eye(4)[None]
    pose[:, :3, 3] = longer[:, :3, 3] = 0.3, 0.5, -0.7
    longer[:, axes, 3] *= 1.4

    def embedded(pose):
        return model.embed_camera(plucker_map(pose, default_intrinsics(**SIZE), **SIZE)[None])

    told = embedded(longer)
    assert not torch.allclose(embedded(pose), told)
    lengthen(model, WALKS[keys], 1.4)
    torch.testing.assert_close(embedded(pose), told)


def test_the_gain_makes_up_for_steps_that_are_too_short(monkeypatch):
    town = next(scene for scene in map(make_scene, range(100)) if scene.place == "town")
    town = town.under(Conditions(time="noon", weather="clear", ground="grass"))
    engine = SimpleNamespace(model=WorldModel(MODEL))
    usual = engine.model.camera_embedding.weight.clone()

    def slow_play(engine, _first, _prompt, actions):
        gain = (engine.model.camera_embedding.weight / usual)[0, INPUTS].item()
        _, poses = steady_walk(town, actions[-1], num_chunks=len(actions) // 3)
        poses[1:, :3, 3] = poses[0, :3, 3] + 0.6 * gain * (poses[1:, :3, 3] - poses[0, :3, 3])
        return Renderer(town).render(poses, **SIZE)

    monkeypatch.setattr(calibrate, "GAINS", (1.0, 1.6))
    monkeypatch.setattr(calibrate, "CHUNKS", 2)
    monkeypatch.setattr(calibrate, "make_scene", lambda _: town)
    monkeypatch.setattr(calibrate, "play", slow_play)
    assert obedience(engine, "w", WALKS["ws"], 1) == {1.0: 0, 1.6: 1}
    assert torch.equal(engine.model.camera_embedding.weight, usual)
