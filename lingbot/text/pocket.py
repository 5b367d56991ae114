"""Prompts to the context that cross-attention looks at."""

import hashlib
import re

import torch
from torch import Tensor


class PocketTextEncoder:
    """The pocket world's encoder: a word is a fixed random vector, found by hashing it.

    It has no weights to load and knows every word; what the words mean, the DiT has to learn.
    """

    def __init__(self, *, text_dim: int, text_len: int) -> None:
        self.text_dim = text_dim
        self.text_len = text_len

    def encode(self, prompt: str) -> Tensor:
        """prompt -> [L, text_dim] float32, at most ``text_len`` words of it."""
        words = re.findall(r"\w+", prompt.lower())[: self.text_len]
        if not words:
            return torch.zeros(1, self.text_dim)
        return torch.stack([self._vector(word) for word in words])

    def _vector(self, word: str) -> Tensor:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=7).digest(), "little")
        return torch.randn(self.text_dim, generator=torch.Generator().manual_seed(seed))
