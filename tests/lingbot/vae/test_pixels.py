import numpy as np
import torch

from lingbot.vae.pixels import to_frames, to_signed, to_unit

ALL = np.arange(256, dtype=np.uint8)
IMAGE = np.stack([ALL, ALL[::-1], np.zeros(256, np.uint8)], axis=-1)[None]  # [1, 256, 3]


def test_signed_pixels_are_the_references_bit_for_bit():
    """Its `to_tensor` divides by 255 in float32; then it subtracts 0.5 and divides by 0.5."""
    reference = torch.from_numpy(ALL).to(torch.float32).div(255).sub_(0.5).div_(0.5)
    signed = to_signed(IMAGE)
    assert signed.shape == (3, 1, 256) and signed.dtype == torch.float32
    assert torch.equal(signed[0, 0], reference)
    assert torch.equal(signed[1, 0], reference.flip(0))
    assert (signed[2] == -1).all() and signed[0, 0, 255] == 1
    np.testing.assert_allclose(signed[0, 0], ALL / 127.5 - 1, atol=1e-7)


def test_frames_undo_both_mappings():
    for tensor in (to_unit(IMAGE), to_signed(IMAGE) * 0.5 + 0.5):
        assert np.array_equal(to_frames(tensor[None]), IMAGE[None])


def test_frames_are_clamped_and_rounded():
    values = torch.tensor([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.7])
    frames = to_frames(values.expand(1, 3, 1, 6))
    assert frames.shape == (1, 1, 6, 3) and frames.flags.c_contiguous
    assert frames[0, 0, :, 1].tolist() == [0, 0, 0, 1, 255, 255]
