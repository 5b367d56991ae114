import numpy as np
import torch

from lingbot.vae.codec import LatentCodec
from lingbot.vae.split import SplitVAE
from lingbot.vae.tiny import DecoderState, TinyVAE
from tests.lingbot.vae.toy_wan import make_wan_vae


@torch.inference_mode()
def test_one_part_encodes_and_the_other_decodes():
    full = make_wan_vae()
    channels = (4, 4, 4, 4)
    network = TinyVAE(encoder_channels=channels, decoder_channels=channels).eval()
    tiny = LatentCodec(network, torch.zeros(16, 1, 1, 1), torch.ones(16, 1, 1, 1))
    vae = SplitVAE(encoder=full, decoder=tiny)
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    ours, theirs = vae.encode_image(image, chunk=3), full.encode_image(image, chunk=3)
    assert all(map(torch.equal, ours.chunks, theirs.chunks))
    latents = torch.randn(1, 16, 3, 2, 3)
    state = vae.new_decoder_state()
    assert isinstance(state, DecoderState)
    frames = [vae.decode(latents, state) for _ in range(2)]
    state = tiny.new_decoder_state()
    assert all(np.array_equal(shown, tiny.decode(latents, state)) for shown in frames)
