"""How many floating-point operations a chunk takes, by formula.

Tested in `tests/benchmarks/test_work.py`.
"""

from collections.abc import Mapping

from lingbot.config import LATENT_CHANNELS, PATCH, SPATIAL_STRIDE, ModelConfig
from lingbot.dit.model import INPUT_CHANNELS

TFLOP = 1e12


def chunk_flops(
    model: ModelConfig,
    *,
    tokens: int,
    window_tokens: int,
    num_steps: int,
    pose_tokens: int,
    cached: bool,
) -> Mapping[str, int]:
    """Operations of a chunk's matrix products, by part: two for each multiplication and addition.

    The chunk has `tokens`, its KV window has `window_tokens`, the chunk's own included. It takes
    `num_steps` passes and one that writes the clean K/V. The conditioner's maps are computed for
    `pose_tokens` that are not stored: once if they are `cached` then, else in each pass. A prompt's
    keys and values are not counted: they last for many chunks.
    """
    C, patch = model.dim, PATCH**2
    control = model.control_channels * SPATIAL_STRIDE**2 * patch

    def product(rows: int, width: int, columns: int) -> int:
        return 2 * rows * width * columns

    qkv = product(tokens, C, 3 * C)
    square = product(tokens, C, C)
    ffn = 2 * product(tokens, C, model.ffn_dim)
    self_attention = 2 * product(tokens, C, window_tokens)
    cross_attention = 2 * product(tokens, C, model.text_len)
    blocks = num_steps * model.num_layers + model.num_layers - 1  # the last pass omits most of one
    map_blocks = model.num_layers if cached else blocks
    return {
        "embed": (num_steps + 1) * product(tokens, INPUT_CHANNELS * patch, C)
        + num_steps * product(tokens, C, LATENT_CHANNELS * patch),
        "linear": blocks * (qkv + 3 * square + ffn) + qkv,  # o, and cross-attention's q and o
        "attention": blocks * (self_attention + cross_attention),
        "conditioner": product(pose_tokens, control, C)
        + (2 + 4 * map_blocks) * product(pose_tokens, C, C),
    }
