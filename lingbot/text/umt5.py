"""The umT5 text encoder that Wan and LingBot-World were trained with.

L tokens of the prompt, D = 4096 for umT5-XXL
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lingbot.errors import WeightsError
from lingbot.text.tokenizer import PromptTokenizer
from lingbot.text.umt5_weights import load_umt5_model

MAX_SPARE_ROWS = 1024  # embeddings are padded to a round number of rows


class UMT5TextEncoder:
    """Encodes prompts by transformers' `UMT5EncoderModel`. One thread at a time may call it."""

    def __init__(self, model: nn.Module, tokenizer: PromptTokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def encode(self, prompt: str) -> NDArray[np.float32]:
        """prompt -> context [L, D]."""
        context: NDArray[np.float32] = encode_ids(
            self._model, self._tokenizer.encode(prompt)
        ).numpy()
        return context

    def num_truncated(self, prompt: str) -> int:
        """The tokens that `encode` leaves out, because the prompt has too many."""
        return self._tokenizer.num_truncated(prompt)


@torch.inference_mode()
def encode_ids(model: nn.Module, ids: list[int]) -> Tensor:
    """The context of token ids, [L, D] on the CPU. It has no padding, so that no mask is needed."""
    device = model.get_parameter("shared.weight").device
    states: Tensor = model(input_ids=torch.tensor([ids], device=device)).last_hidden_state
    return states[0].float().cpu()


def load_umt5(
    weights: Path,
    *,
    tokenizer: Path,
    text_len: int,
    text_dim: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> UMT5TextEncoder:
    """The encoder of an original file or a diffusers folder, and of a `tokenizer.json`.

    `text_dim` is the width of the contexts that the DiT takes; None is any. `dtype` None keeps the
    file's. Raises WeightsError for files that are damaged or do not belong
    together, and LingbotError without the libraries of the extra.
    """
    splitter = PromptTokenizer.load(tokenizer, text_len=text_len)  # small: its errors come first
    model = load_umt5_model(weights, device=torch.device(device), dtype=dtype)
    rows, width = model.get_parameter("shared.weight").shape
    if text_dim not in (None, width):
        raise WeightsError(f"{weights}: contexts are {width} wide, but the DiT takes {text_dim}")
    if not 0 <= rows - splitter.vocab_size < MAX_SPARE_ROWS:
        raise WeightsError(
            f"{tokenizer}: has {splitter.vocab_size} tokens, but {weights} has rows for {rows}"
        )
    return UMT5TextEncoder(model, splitter)
