import numpy as np
import pytest
import torch

from lingbot.vae.codec import LatentCodec
from lingbot.vae.tiny import TinyVAE


@pytest.fixture
def codec():
    torch.manual_seed(0)
    network = TinyVAE(encoder_channels=(4, 4, 4, 4), decoder_channels=(4, 4, 4, 4)).eval()
    mean, std = torch.randn(16, 1, 1, 1), 1 + torch.rand(16, 1, 1, 1)
    return LatentCodec(network, mean, std)


@torch.inference_mode()
def test_latents_are_normalised_and_decoding_undoes_it(codec):
    video = torch.rand(1, 12, 3, 16, 24)
    latents = codec.encode(video)
    raw = codec.network.encode(video).transpose(1, 2)
    torch.testing.assert_close(latents * codec.std + codec.mean, raw)
    frames = codec.decode(latents, codec.new_decoder_state())
    expected = codec.network.decode(raw.transpose(1, 2), codec.new_decoder_state())[0]
    assert frames.shape == (9, 16, 24, 3) and frames.dtype == np.uint8
    pixels = (255 * expected).permute(0, 2, 3, 1).numpy()
    assert np.abs(frames - pixels).max() <= 0.51


@torch.inference_mode()
def test_an_image_conditions_the_first_chunk_by_its_mask_and_all_chunks_by_its_latents(codec):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    condition = codec.encode_image(image, chunk=3)
    assert condition.of_chunk(0) is condition.first
    assert condition.of_chunk(1) is condition.of_chunk(9) is condition.later
    for part in condition:
        assert part.shape == (1, 20, 3, 2, 3)
    assert (condition.first[:, :4, 0] == 1).all() and not condition.first[:, :4, 1:].any()
    assert not condition.later[:, :4].any()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    latents = torch.cat([condition.first, condition.later], dim=2)[:, 4:]
    torch.testing.assert_close(latents, codec.encode_condition(pixels, chunk=3))
