from copy import deepcopy

import pytest
import torch

from lingbot.config import SCHEDULE_V2
from lingbot.dit.conditioner import PrecomputedMaps
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.layers import rope_freqs
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from lingbot.errors import LingbotError
from tests.lingbot.toy import SHAPE, WALK, make_engine, make_spec


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


@pytest.mark.parametrize("fused", [False, True])
def test_blocks_are_compiled_once_for_all_chunks_and_sessions(fused):
    """While windows fill, when they are full, and after their keys turn back; as the eager blocks.

    One graph before attention, and two after it: a chunk has one pose, or a pose for each frame.
    """
    engines = [make_engine(max_positions=12, camera_cache_bytes=2**24) for _ in range(2)]
    graphs = []

    def record(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    if fused:
        for engine in engines:
            engine.model.fuse()
    engines[0].model.compile_blocks(record)
    pairs = [[engine.open(make_spec(seed=seed)) for engine in engines] for seed in (1, 2)]
    for i, actions in enumerate([[""] * 3, *WALK, *WALK[:2]]):
        for sessions in pairs:
            # Not the same bits: a compiler gets the rotary embedding in real numbers.
            compiled, eager = (
                engine.denoise(session, actions)
                for engine, session in zip(engines, sessions, strict=True)
            )
            torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)
        assert len(graphs) == (2 if i == 0 else 3)
    assert all(session.window.moved_back for sessions in pairs for session in sessions)


@torch.inference_mode()
def test_a_chunk_reads_no_value_back():
    """On the meta device tensors have no values, so that any wait for a GPU's result fails."""
    meta = torch.device("meta")
    model = make_engine().model.to(meta)
    window = KVWindow.empty(
        SHAPE, window=9, sink=3, chunk=3, tokens=6, device=meta, dtype=torch.float32
    )
    noise, condition = (
        torch.empty(1, 16, 3, 4, 6, device=meta),
        torch.empty(1, 20, 3, 4, 6, device=meta),
    )
    text = model.embed_text(torch.empty(1, 6, 8, device=meta))
    maps = model.compute_frame_maps(torch.empty(1, 1, 6, 48, device=meta))
    window.num_frames = 1023  # the keys turn back
    inputs = prepare_next_chunk(
        model, window, condition=condition, maps=PrecomputedMaps(*maps.unbind(1)), text=text
    )
    latents = sample_chunk(
        model, inputs, noise=noise, renoise=lambda _: noise, steps=build_steps(SCHEDULE_V2)
    )
    assert latents.shape == noise.shape and latents.device == meta
    with pytest.raises(RuntimeError):
        latents.sum().item()


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
