import numpy as np
import pytest

from lingbot.text.pocket import EXAMPLES, LINK_WORDS, WORDS, HashedWordEncoder

encoder = HashedWordEncoder(text_dim=8, text_len=4)


def test_a_word_is_always_the_same_vector():
    snow, again = encoder.encode("Snow, at noon"), encoder.encode("noon snow")
    assert np.array_equal(snow[0], again[1]) and np.array_equal(snow[2], again[0])


def test_long_prompts_are_cut_and_empty_ones_are_zero():
    assert encoder.encode("fog snow night forest lake").shape == (4, 8)
    assert np.array_equal(encoder.encode(" ,. "), np.zeros((1, 8)))


@pytest.mark.parametrize(
    "prompt",
    [
        "fog, night",
        "An otherworldly cinematic masterpiece: FOG. Then, majestically, NIGHT!",
        "photorealistic, 8k, " * 500 + "fog | night",
        "fog\nДобро пожаловать 夜 night",
    ],
)
def test_unknown_words_take_no_place(prompt):
    assert np.array_equal(encoder.encode(prompt), encoder.encode("fog night"))
    assert encoder.num_truncated(prompt) == 0


def test_a_prompt_of_unknown_words_is_empty():
    assert np.array_equal(encoder.encode("purple elephants"), encoder.encode(""))


@pytest.mark.parametrize(
    "prompt, known",
    [("a castle by the sea", False), ("Schloss", False), ("", False), ("a castle, SNOW", True)],
)
def test_articles_are_no_known_words(prompt, known):
    assert encoder.knows(prompt) == known


def test_the_examples_are_known_words():
    assert set(EXAMPLES) <= WORDS - LINK_WORDS
    assert LINK_WORDS < WORDS


def test_repeated_words_of_a_long_prompt_count_once():
    drowned = "the " * 30 + "fog in the night by the lake"
    assert np.array_equal(encoder.encode(drowned), encoder.encode("the fog in night"))
    assert encoder.num_truncated(drowned) == 2  # by, lake
    # A prompt that fits stays as the DiT was trained on it.
    assert len(encoder.encode("fog fog snow fog")) == 4


@pytest.mark.parametrize("num_words, num_cut", [(0, 0), (4, 0), (5, 1), (40, 36)])
def test_the_words_that_are_cut_are_counted(num_words, num_cut):
    prompt = " ".join(sorted(WORDS)[:num_words])
    assert encoder.num_truncated(prompt) == num_cut
