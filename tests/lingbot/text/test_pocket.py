import numpy as np

from lingbot.text.pocket import HashedWordEncoder

encoder = HashedWordEncoder(text_dim=8, text_len=4)


def test_a_word_is_always_the_same_vector():
    snow, again = encoder.encode("Snow, at noon"), encoder.encode("noon snow")
    assert np.array_equal(snow[0], again[1]) and np.array_equal(snow[2], again[0])


def test_long_prompts_are_cut_and_empty_ones_are_zero():
    assert encoder.encode("one two three four five").shape == (4, 8)
    assert np.array_equal(encoder.encode(" ,. "), np.zeros((1, 8)))
