import pytest
import torch

from lingbot.vae.condition import settled_condition, with_mask


def test_the_mask_is_on_the_images_latent_frame_alone():
    latents = torch.randn(1, 16, 5, 2, 3)
    frames = with_mask(latents)
    assert (frames[:, :4, 0] == 1).all() and not frames[:, :4, 1:].any()
    assert torch.equal(frames[:, 4:], latents)


@pytest.mark.parametrize("num_frames", [2, 5, 6, 7])
@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_the_last_latent_frame_repeats_for_ever(num_frames, chunk):
    latents = torch.randn(1, 16, num_frames, 2, 3)
    repeated = latents[:, :, -1:].expand(-1, -1, 30, -1, -1)
    endless = with_mask(torch.cat([latents, repeated], dim=2))
    condition = settled_condition(latents, chunk=chunk)
    for index in range(30 // chunk):
        expected = endless[:, :, index * chunk : (index + 1) * chunk]
        assert torch.equal(condition.of_chunk(index), expected)
    assert torch.equal(condition.of_chunk(10**9), expected)
