"""The encoder on tiny weights, in both layouts."""

import numpy as np
import pytest
import torch

from lingbot.errors import WeightsError
from lingbot.text.umt5 import encode_ids, load_umt5
from tests.lingbot.tiny_umt5 import write_diffusers, write_original, write_tokenizer

PROMPT = "a forest at dusk, the road &amp; the lake"


def load(folder, weights, *, text_len=512, **options):
    tokenizer = folder / "google/umt5-xxl/tokenizer.json"
    if not tokenizer.exists():
        tokenizer = folder / "tokenizer/tokenizer.json"
    return load_umt5(weights, tokenizer=tokenizer, text_len=text_len, **options)


@pytest.fixture
def encoder(tmp_path):
    return load(tmp_path, write_original(tmp_path))


def test_a_context_has_a_row_for_each_token(encoder):
    context = encoder.encode(PROMPT)
    tokens = encoder._tokenizer.encode(PROMPT)
    assert context.shape == (len(tokens), 32) and context.dtype == np.float32
    assert np.isfinite(context).all() and context.std() > 0.1
    assert encoder.encode("").shape == (1, 32)  # the end token


def test_a_prompt_alone_equals_the_padded_and_masked_one(encoder):
    """The reference pads to `text_len`, masks, and cuts the context at the prompt's length."""
    ids = encoder._tokenizer.encode(PROMPT)
    padded = torch.tensor([ids + [0] * (64 - len(ids))])
    mask = (torch.arange(64) < len(ids)).long()[None]
    with torch.inference_mode():
        states = encoder._model(input_ids=padded, attention_mask=mask).last_hidden_state
    assert torch.allclose(encode_ids(encoder._model, ids), states[0, : len(ids)], atol=1e-5)
    with torch.inference_mode():
        unmasked = encoder._model(input_ids=padded).last_hidden_state
    assert not torch.allclose(states[0, : len(ids)], unmasked[0, : len(ids)], atol=1e-2)


def test_a_long_prompt_is_cut_and_counted(tmp_path):
    encoder = load(tmp_path, write_original(tmp_path), text_len=4)
    assert encoder.num_truncated("a lake at dusk") == 1
    assert np.array_equal(encoder.encode("a lake at dusk"), encoder.encode("a lake at"))
    assert encoder.num_truncated("a lake at") == 0


@pytest.mark.parametrize("shards", [1, 3])
def test_a_diffusers_folder_gives_the_same_contexts(tmp_path, encoder, shards):
    folder = tmp_path / "diffusers"
    other = load(folder, write_diffusers(folder, shards=shards))
    assert np.array_equal(other.encode(PROMPT), encoder.encode(PROMPT))


def test_the_files_type_is_kept_unless_another_is_named(tmp_path, encoder):
    weights = write_original(tmp_path / "half", dtype=torch.bfloat16)
    half = load(tmp_path / "half", weights)
    assert {p.dtype for p in half._model.parameters()} == {torch.bfloat16}
    difference = np.abs(half.encode(PROMPT) - encoder.encode(PROMPT)).max()
    assert 0 < difference < 0.2
    full = load(tmp_path / "half", weights, dtype=torch.float32)
    assert {p.dtype for p in full._model.parameters()} == {torch.float32}


@pytest.mark.parametrize("vocab, rows", [(40, 40), (4096, 4096)])
def test_a_tokenizer_of_another_model_is_refused(tmp_path, vocab, rows):
    weights = write_original(tmp_path, vocab=vocab)
    with pytest.raises(WeightsError, match=rf"has \d+ tokens, but .* has rows for {rows}"):
        load(tmp_path, weights)


def test_an_encoder_of_another_width_than_the_dits_is_refused(tmp_path):
    weights = write_original(tmp_path)
    load(tmp_path, weights, text_dim=32)
    with pytest.raises(WeightsError, match=r"tiny\.pth: contexts are 32 wide, but .* takes 4096"):
        load(tmp_path, weights, text_dim=4096)


def test_a_missing_tokenizer_is_named_before_the_weights_are_read(tmp_path):
    weights = write_original(tmp_path)
    weights.write_bytes(b"junk")
    path = write_tokenizer(tmp_path / "tokenizer/tokenizer.json")
    path.unlink()
    with pytest.raises(WeightsError, match=r"tokenizer\.json: No such file"):
        load_umt5(weights, tokenizer=path, text_len=512)
