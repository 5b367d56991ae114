"""Calibration of the length of steps."""

import numpy as np
import pytest
import torch

from tests.pocket.conftest import MEDIUM, SMALL, require_cv2, sizes

require_cv2()

from lingbot.camera.rays import default_intrinsics, plucker_map
from lingbot.dit.model import WorldModel
from pocket.calibrate import AXES, NUM_INPUTS, accuracy_by_gain, scale_translation_weights
from pocket.evaluation.held_out import steady_walk


@pytest.mark.parametrize("keys, axes", [("ad", [0]), ("ws", [1, 2])])
def test_scaled_weights_equal_a_longer_step(config, keys, axes):
    torch.manual_seed(0)
    model = WorldModel(config.model)
    pose, longer = np.eye(4)[None], np.eye(4)[None]
    pose[:, :3, 3] = longer[:, :3, 3] = 0.3, 0.5, -0.7
    longer[:, axes, 3] *= 1.4

    def embedded(pose):
        return model.embed_camera(plucker_map(pose, default_intrinsics(**SMALL), **SMALL)[None])

    expected = embedded(longer)
    assert not torch.allclose(embedded(pose), expected)
    scale_translation_weights(model, AXES[keys], 1.4)
    torch.testing.assert_close(embedded(pose), expected)


@sizes(MEDIUM)
def test_the_gain_compensates_for_steps_that_are_too_short(plain, config, size):
    model = WorldModel(config.model)
    weights = model.camera_embedding.weight.clone()

    def generate_slowly(_first, _prompt, actions):
        gain = (model.camera_embedding.weight / weights)[0, NUM_INPUTS].item()
        _, poses = steady_walk(plain.scene, actions[-1], num_chunks=len(actions) // 3)
        poses[1:, :3, 3] = poses[0, :3, 3] + 0.6 * gain * (poses[1:, :3, 3] - poses[0, :3, 3])
        return plain.render(poses, **size)

    shares = accuracy_by_gain(
        model, generate_slowly, [plain], "w", AXES["ws"], gains=(1.0, 1.6), num_chunks=2, size=size
    )
    assert shares == {1.0: 0, 1.6: 1}
    assert torch.equal(model.camera_embedding.weight, weights)
