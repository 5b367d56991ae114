"""A short name of what a world's latents depend on, apart from its own inputs.

Tested in `tests/lingbot/runtime/test_fingerprint.py`.
"""

import hashlib

import msgspec
import torch

from lingbot.config import WorldConfig
from lingbot.dit.model import WorldModel

NUM_VALUES = 16  # of each tensor


@torch.inference_mode()
def fingerprint_of(model: WorldModel, config: WorldConfig) -> str:
    """32 hexadecimal digits of a DiT as it was loaded, before `fuse` and `quantise_blocks`.

    Hashed are the model's shape, the schedule and the positions, and a few values of each tensor as
    bfloat16. All ranks have the same one, and so have engines that compute in another type. The
    VAE is not part of it: another decoder shows the same world.
    """
    figures = (config.chunk, config.schedule, config.rope_scale, config.max_positions, model.config)
    names, values = [], []
    for name, weight in sorted(model.named_parameters()):
        flat = weight.detach().reshape(-1)
        places = torch.linspace(0, len(flat) - 1, NUM_VALUES, dtype=torch.float64).long()
        values.append(flat[places.to(flat.device)].bfloat16())
        names.append((name, tuple(weight.shape)))
    drawn = torch.cat(values).cpu().view(torch.int16).numpy()
    digest = hashlib.sha256(msgspec.json.encode((figures, names)) + drawn.tobytes())
    return digest.hexdigest()[:32]
