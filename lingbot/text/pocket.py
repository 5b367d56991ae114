"""The pocket world's text encoder: hashed words."""

import hashlib
import re

import numpy as np
import torch
from numpy.typing import NDArray

# The words of the prompts that the pocket world was trained on (`pocket/renderer/prompt.py`).
WORD_LIST = """
a and at bare by clear clouds cloudy dark dawn day deep desert dunes dusk earth firs fog foggy
forest grass grassland green grey grove houses in lake land leafy light low meadow midday mist
moonlight morning night noon open overcast pine plain ponds red rock rocks round sand sky snow
stone streets sun sunny sunset the thick town trees village water weather wide winter yellow
"""
WORDS = frozenset(WORD_LIST.split())
LINK_WORDS = frozenset({"a", "and", "at", "by", "in", "the"})  # known, and without a meaning
EXAMPLES = (  # for a client whose words are unknown
    *("dawn", "noon", "dusk", "night", "sunny", "overcast", "fog"),
    *("snow", "sand", "rock", "forest", "lake"),
)


class HashedWordEncoder:
    """Maps each known word to a fixed random vector, seeded by the word's hash.

    It has no weights; the DiT learns what the words mean. An unknown word has a vector that the DiT
    has never seen, and it would take the place of a known one.
    """

    def __init__(self, *, text_dim: int, text_len: int) -> None:
        self.text_dim = text_dim
        self.text_len = text_len

    def encode(self, prompt: str) -> NDArray[np.float32]:
        """prompt -> context [L, text_dim], of the first `text_len` known words.

        A prompt without known words becomes one row of zeros.
        """
        words = self._known_words(prompt)[: self.text_len]
        if not words:
            return np.zeros((1, self.text_dim), np.float32)
        return np.stack([self._vector(word) for word in words])

    def knows(self, prompt: str) -> bool:
        """Whether the DiT has learned any word of the prompt that has a meaning."""
        return not LINK_WORDS.issuperset(self._known_words(prompt))

    def num_truncated(self, prompt: str) -> int:
        """The known words that `encode` leaves out, because the prompt has too many."""
        return max(0, len(self._known_words(prompt)) - self.text_len)

    def _known_words(self, prompt: str) -> list[str]:
        words = [word for word in re.findall(r"\w+", prompt.lower()) if word in WORDS]
        if len(words) > self.text_len:  # repeated words, mostly "the" and "a", go first
            words = list(dict.fromkeys(words))
        return words

    def _vector(self, word: str) -> NDArray[np.float32]:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=7).digest(), "little")
        generator = torch.Generator().manual_seed(seed)
        vector: NDArray[np.float32] = torch.randn(self.text_dim, generator=generator).numpy()
        return vector
