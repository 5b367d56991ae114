import torch

from lingbot.dit.conditioner import CameraConditioner, PrecomputedMaps


@torch.inference_mode()
def test_a_conditioner_scales_and_shifts_by_its_maps():
    torch.manual_seed(0)
    conditioner = CameraConditioner(8)
    x, camera_tokens = torch.randn(2, 1, 3, 6, 8)
    scale, shift = conditioner.compute_scale_shift(camera_tokens)
    torch.testing.assert_close(conditioner(x, (scale, shift)), (1 + scale) * x + shift)
    maps = PrecomputedMaps([scale, 2 * scale], [shift, 2 * shift])
    torch.testing.assert_close(conditioner(x, maps.scale_shift(1)), (1 + 2 * scale) * x + 2 * shift)


@torch.inference_mode()
def test_a_frames_maps_are_those_of_all_conditioners(engine):
    camera_tokens = torch.randn(1, 1, 6, 48)
    maps = engine.model.compute_frame_maps(camera_tokens)
    assert maps.shape == (2, 2, 1, 1, 6, 48)
    for layer, block in enumerate(engine.model.blocks):
        scale, shift = block.camera.compute_scale_shift(camera_tokens)
        assert torch.equal(maps[layer, 0], scale) and torch.equal(maps[layer, 1], shift)


def test_maps_in_bfloat16_lose_nothing_more_to_the_stream():
    """1 + scale in bfloat16 would drop the smaller part of this scale."""
    scale = torch.full((1, 1, 1, 8), 2.0**-6 + 2.0**-10, dtype=torch.bfloat16)
    x, shift = torch.randn(1, 1, 3, 8), torch.randn(1, 1, 3, 8).to(torch.bfloat16)
    y = CameraConditioner(8)(x, (scale, shift))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, (1 + scale.float()) * x + shift.float())
