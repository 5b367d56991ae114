import torch

from lingbot.text.pocket import PocketTextEncoder

encoder = PocketTextEncoder(text_dim=8, text_len=4)


def test_a_word_is_always_the_same_vector():
    snow, again = encoder.encode("Snow, at noon"), encoder.encode("noon snow")
    assert torch.equal(snow[0], again[1]) and torch.equal(snow[2], again[0])


def test_long_prompts_are_cut_and_empty_ones_are_zero():
    assert encoder.encode("one two three four five").shape == (4, 8)
    assert torch.equal(encoder.encode(" ,. "), torch.zeros(1, 8))
