"""The checks of what a session is asked to be. Tested in `tests/lingbot/runtime/test_engine.py`."""

import numpy as np
from numpy.typing import NDArray

from lingbot.config import ModelConfig, Size, WorldConfig, check_window
from lingbot.errors import LingbotError
from lingbot.runtime.session import SessionSpec


def size_of(image: NDArray[np.uint8], config: WorldConfig) -> Size:
    """The size of a session that starts from `image`."""
    sizes = {(size.height, size.width, 3): size for size in config.sizes}
    if image.shape not in sizes or image.dtype != np.uint8:
        expected = " or ".join(map(str, sizes))
        raise LingbotError(
            f"first_frame must be uint8 {expected}, not {image.dtype} {image.shape}",
            field="first_frame",
        )
    return sizes[image.shape]


def check_context(context: NDArray[np.float32], model: ModelConfig) -> None:
    """Raise LingbotError unless a prompt's context fits the model."""
    text_dim, text_len = model.text_dim, model.text_len
    fits = context.ndim == 2 and context.shape[1] == text_dim and len(context) <= text_len
    if not fits or context.dtype != np.float32:
        raise LingbotError(
            f"the prompt's context must be float32 (at most {text_len}, {text_dim}), "
            f"not {context.dtype} {context.shape}",
            field="prompt",
        )


def window_and_sink(spec: SessionSpec, config: WorldConfig) -> tuple[int, int]:
    """Window and sink of a session in latent frames, checked against the config's."""
    window = config.window if spec.window is None else spec.window
    sink = config.sink if spec.sink is None else spec.sink
    if window > config.window:
        raise LingbotError(f"window must be at most {config.window}, not {window}", field="window")
    try:
        check_window(window, sink=sink, chunk=config.chunk)
    except ValueError as exc:
        raise LingbotError(str(exc), field="sink") from exc
    return window, sink


def check_num_steps(num_steps: int | None, config: WorldConfig) -> None:
    """Raise LingbotError for more denoising steps than a session may have."""
    if num_steps is not None and not 1 <= num_steps <= config.max_steps:
        raise LingbotError(
            f"num_steps must be 1..{config.max_steps}, not {num_steps}", field="num_steps"
        )
