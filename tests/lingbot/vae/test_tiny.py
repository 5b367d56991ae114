import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lingbot.vae.tiny import DecoderState, TinyVAE, repeat_first
from lingbot.verify.tiny_vae import formula_weights

GOLDEN = Path(__file__).parents[2] / "golden" / "taew2_1"


@pytest.fixture(scope="module")
def official():
    config = json.loads((GOLDEN / "config.json").read_text())
    weights = formula_weights(config["parameters"], seed=config["seed"])
    return TinyVAE.from_state_dict(weights).eval()


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "roundtrip.safetensors")


@pytest.fixture
def narrow():
    torch.manual_seed(0)
    return TinyVAE(encoder_channels=(4, 6, 8, 10), decoder_channels=(12, 10, 8, 6)).eval()


def relative_error(out, expected):
    return ((out - expected).norm() / expected.norm()).item()


@torch.inference_mode()
@pytest.mark.parametrize("fused", [False, True])
def test_decode_matches_the_golden_frames(official, golden, fused):
    vae = deepcopy(official).fuse() if fused else official
    decoded = vae.decode(golden["latents"], DecoderState())
    assert decoded.shape == golden["decoded"].shape
    assert relative_error(decoded, golden["decoded"]) < 1e-5


@torch.inference_mode()
def test_encode_matches_the_golden_latents(official, golden):
    assert relative_error(official.encode(golden["video"]), golden["encoded"]) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("sizes", [(1, 3, 2), (3, 3), (2, 1, 1, 2)])
def test_decoding_in_pieces_equals_decoding_at_once(narrow, sizes):
    latents = torch.randn(2, sum(sizes), 16, 3, 4)
    whole = narrow.decode(latents, DecoderState())
    state = DecoderState()
    pieces = [narrow.decode(piece, state) for piece in latents.split(sizes, dim=1)]
    assert whole.shape == (2, 4 * sum(sizes) - 3, 3, 24, 32)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("widths", [(12, 10, 8, 6), (6, 8, 4, 16), (5, 5, 5, 5)])
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (1, 5)])
def test_fused_decoding_equals_the_layers_one_by_one(widths, size):
    torch.manual_seed(0)
    plain = TinyVAE(encoder_channels=(4, 4, 4, 4), decoder_channels=widths).eval()
    fused = deepcopy(plain).fuse()
    states = [DecoderState(), DecoderState()]
    for num_frames in (1, 3, 2):
        latents = 3 * torch.randn(2, num_frames, 16, *size)
        slow, fast = (
            vae.decode(latents, state, clamp=False)
            for vae, state in zip((plain, fused), states, strict=True)
        )
        assert slow.std() > 1e-3
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_decoding_does_not_change_a_cloned_state(narrow):
    latents = torch.randn(1, 4, 16, 2, 2)
    state = DecoderState()
    narrow.decode(latents[:, :2], state)
    kept = state.clone()
    first = narrow.decode(latents[:, 2:], state)
    torch.testing.assert_close(narrow.decode(latents[:, 2:], kept), first, rtol=0, atol=0)


@torch.inference_mode()
def test_a_latent_depends_on_no_later_frame(narrow):
    video = torch.rand(1, 9, 3, 16, 16)
    changed = video.clone()
    changed[:, 1:] = 0.5
    one, other = (narrow.encode(repeat_first(clip))[:, 0] for clip in (video, changed))
    torch.testing.assert_close(one, other)


def test_encode_refuses_an_incomplete_group(narrow):
    with pytest.raises(ValueError, match="9 frames of 16x16"):
        narrow.encode(torch.rand(1, 9, 3, 16, 16))
