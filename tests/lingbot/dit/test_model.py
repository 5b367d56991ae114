from copy import deepcopy

import pytest
import torch

from lingbot.dit.layers import rope_freqs
from lingbot.errors import LingbotError
from tests.lingbot.toy import WALK, make_engine, make_spec


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
    """In one graph, also for another session; the eager block gives the same latents."""
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
            # Not the same bits: a compiler gets the rotary embedding in real numbers.
            expected = eager.denoise(twin, actions)
            torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


@pytest.mark.parametrize("control", ["cam", "act"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_products_of_q_k_and_v_equal_the_three_layers(control, dtype):
    model = make_engine(control=control).model.to(dtype)
    fused = deepcopy(model).fuse()
    x = torch.randn(1, 3, 6, 48)
    rope = rope_freqs(torch.arange(3), grid=(2, 3), head_dim=12)
    with torch.inference_mode():
        for plain, ours in zip(model.blocks, fused.blocks, strict=True):
            expected = plain.self_attn.project(x, rope)
            for one, other in zip(ours.self_attn.project(x, rope), expected, strict=True):
                assert one.dtype == dtype and one.shape == (1, 3, 6, 4, 12)
                torch.testing.assert_close(one, other)


@torch.inference_mode()
def test_a_fused_model_generates_the_latents_of_the_plain_one():
    plain, fused = make_engine(), make_engine()
    fused.model.fuse()
    sessions = plain.open(make_spec()), fused.open(make_spec())
    for actions in WALK:
        slow, fast = plain.denoise(sessions[0], actions), fused.denoise(sessions[1], actions)
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_fused_layers_keep_their_names_and_share_memory_with_the_joint_weights():
    model = make_engine().model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = model.fuse().state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    attention = model.blocks[1].self_attn
    x, rope = torch.randn(1, 1, 6, 48), rope_freqs(torch.arange(1), grid=(2, 3), head_dim=12)
    _, _, v = attention.project(x, rope)
    attention.v.weight.zero_()
    attention.v.bias.fill_(3)
    _, _, changed = attention.project(x, rope)
    assert v.std() > 0 and torch.equal(changed, torch.full_like(v, 3))
