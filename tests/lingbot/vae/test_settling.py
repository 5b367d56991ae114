import pytest
import torch

from lingbot.vae.settling import encode_until_settled
from tests.lingbot.vae.toy_wan import make_network


def calls_of(modules):
    """Counts the calls of each module, by its place."""
    calls = [0] * len(modules)

    def count(place):
        def hook(*_):
            calls[place] += 1

        return hook

    for place, module in enumerate(modules):
        module.register_forward_hook(count(place))
    return calls


@torch.inference_mode()
@pytest.mark.parametrize("shape", [{}, {"depth": 2}, {"temperal_downsample": [True, True, False]}])
def test_settling_gives_the_bits_of_the_whole_encoder(shape):
    encoder = make_network(**shape).encoder
    image, grey = torch.randn(1, 3, 1, 16, 24), torch.zeros(1, 3, 4, 16, 24)
    state = [None] * 64
    expected = [encoder(image, feat_cache=state, feat_idx=[0])]
    expected += [encoder(grey, feat_cache=state, feat_idx=[0]) for _ in range(40)]
    settled = list(encode_until_settled(encoder, image, grey, num_groups=40))
    assert all(map(torch.equal, settled, expected)) and len(settled) == 41
    changes = [not torch.equal(a, b) for a, b in zip(expected, expected[1:], strict=False)]
    assert changes.index(False) > 10, "settles too early to be a test"


@torch.inference_mode()
def test_layers_near_the_image_run_for_a_few_groups():
    """At the published depth: two residual blocks a level."""
    encoder = make_network(depth=2).encoder
    image, grey = torch.randn(1, 3, 1, 16, 24), torch.zeros(1, 3, 4, 16, 24)
    calls = calls_of([encoder.conv_in, *encoder.down_blocks, encoder.mid_block, encoder.conv_out])
    list(encode_until_settled(encoder, image, grey, num_groups=100))
    # The image, then grey: by level two blocks and a downsampler.
    assert calls == [3, 4, 5, 5, 6, 7, 8, 10, 12, 13, 17, 21, 29, 31]


@torch.inference_mode()
def test_one_video_leaves_nothing_for_the_next():
    encoder = make_network().encoder
    image, grey = torch.randn(1, 3, 1, 16, 24), torch.zeros(1, 3, 4, 16, 24)
    first, again = (
        list(encode_until_settled(encoder, image, grey, num_groups=3)) for _ in range(2)
    )
    assert all(map(torch.equal, first, again))
