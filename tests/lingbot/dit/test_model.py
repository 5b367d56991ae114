import pytest
import torch

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
