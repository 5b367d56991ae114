"""The pocket world's text encoder: hashed words."""

import hashlib
import re

import numpy as np
import torch
from numpy.typing import NDArray


class HashedWordEncoder:
    """Maps each word to a fixed random vector, seeded by the word's hash.

    It has no weights and no vocabulary; the DiT learns what the words mean.
    """

    def __init__(self, *, text_dim: int, text_len: int) -> None:
        self.text_dim = text_dim
        self.text_len = text_len

    def encode(self, prompt: str) -> NDArray[np.float32]:
        """prompt -> context [L, text_dim], of the first `text_len` words.

        A prompt without words becomes one row of zeros.
        """
        words = re.findall(r"\w+", prompt.lower())[: self.text_len]
        if not words:
            return np.zeros((1, self.text_dim), np.float32)
        return np.stack([self._vector(word) for word in words])

    def _vector(self, word: str) -> NDArray[np.float32]:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=7).digest(), "little")
        generator = torch.Generator().manual_seed(seed)
        vector: NDArray[np.float32] = torch.randn(self.text_dim, generator=generator).numpy()
        return vector
