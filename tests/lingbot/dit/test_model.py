import pytest
import torch

from lingbot.dit.layers import apply_rope, patchify, rope_freqs, unpatchify
from lingbot.errors import LingbotError
from tests.lingbot.toy import WALK, make_engine, make_spec


@torch.inference_mode()
def test_a_frame_s_maps_are_those_of_every_conditioner(engine):
    camera_tokens = torch.randn(1, 1, 6, 48)
    maps = engine.model.compute_frame_maps(camera_tokens)
    assert maps.shape == (2, 2, 1, 1, 6, 48)
    for layer, block in enumerate(engine.model.blocks):
        scale, shift = block.camera.compute_scale_shift(camera_tokens)
        assert torch.equal(maps[layer, 0], scale) and torch.equal(maps[layer, 1], shift)


def test_a_prompt_is_padded_with_zeros_before_its_embedding(engine):
    context = torch.randn(1, 2, 8)
    padded = torch.cat([context, torch.zeros(1, 4, 8)], dim=1)
    for short, long in zip(
        engine.model.embed_text(context), engine.model.embed_text(padded), strict=True
    ):
        assert torch.equal(short.k, long.k) and torch.equal(short.v, long.v)


def test_a_prompt_of_too_many_tokens_is_refused(engine):
    with pytest.raises(LingbotError, match="at most 6 tokens"):
        engine.model.embed_text(torch.zeros(1, 7, 8))


def test_a_block_is_compiled_once_for_all_chunks_of_a_full_window():
    """In one graph, also for another session; the eager block gives the same bits."""
    compiled, eager = make_engine(), make_engine()
    graphs = []

    def record(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    pairs = [[engine.open(make_spec(seed=seed)) for engine in (compiled, eager)] for seed in (1, 2)]
    for i, actions in enumerate([*WALK[:3], *WALK]):
        if i == 3:  # every window is full
            compiled.model.blocks[0].compile(backend=record, fullgraph=True)
        for session, twin in pairs:
            latents = compiled.denoise(session, actions)
            assert torch.equal(latents, eager.denoise(twin, actions))
    assert len(graphs) == 1


def test_unpatchify_takes_channels_last():
    tokens = torch.arange(2 * 3 * 64).float().view(1, 1, 6, 64)
    latents = unpatchify(tokens, (2, 3))
    assert latents.shape == (1, 16, 1, 4, 6)
    again = patchify(latents).unflatten(-1, (16, 2, 2)).permute(0, 1, 2, 4, 5, 3).flatten(-3)
    assert torch.equal(again, tokens)


@pytest.mark.parametrize("position", [0, 5, 1023, 1024, 100_000])
def test_rotary_depends_on_distance_alone_at_any_position(position):
    """A dot product of two rotated vectors does not change when both move on."""
    q, k = torch.randn(2, 1, 1, 6, 4, 16, dtype=torch.float64).float()

    def score(q_at, k_at):
        turns = [rope_freqs(torch.tensor([at]), grid=(2, 3), head_dim=16) for at in (q_at, k_at)]
        return (apply_rope(q, turns[0]) * apply_rope(k, turns[1])).sum(-1)

    torch.testing.assert_close(score(position + 7, position), score(7, 0), rtol=1e-4, atol=1e-4)
