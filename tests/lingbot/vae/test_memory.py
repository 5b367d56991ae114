import pytest
import torch

from lingbot.vae.memory import condition_bytes, tiny_decoder_bytes, wan_decoder_bytes
from lingbot.vae.tiny import DecoderState, TinyVAE


def test_published_decoders_keep_what_others_measured_of_them():
    """1,801 MiB and 67 MB a session at 832x480, in bfloat16."""
    size = {"width": 832, "height": 480, "itemsize": 2}
    assert round(wan_decoder_bytes(**size) / 2**20) == 1801
    assert round(tiny_decoder_bytes(**size) / 1e6) == 67


@torch.inference_mode()
@pytest.mark.parametrize("channels", [(12, 10, 8, 6), (4, 4, 4, 4)])
def test_a_tiny_decoder_keeps_the_planned_size(channels):
    """`test_wan.py` has the same of the Wan decoder and of the condition."""
    vae = TinyVAE(encoder_channels=(4, 4, 4, 4), decoder_channels=channels).eval()
    state = DecoderState()
    for _ in range(2):
        vae.decode(torch.randn(1, 3, 16, 2, 3), state)
        kept = sum(last.nbytes for last in state.memory)
        assert kept == tiny_decoder_bytes(width=24, height=16, itemsize=4, channels=channels)


def test_a_condition_is_small():
    assert condition_bytes(width=832, height=480, latent_frames=30) < 15 * 2**20
