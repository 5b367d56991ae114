"""What the DiT makes of scenes that it was not trained on, beside the truth."""

import itertools
import math
from functools import cache
from pathlib import Path

import torch
from msgspec import structs
from torch import Tensor

from lingbot.config import POCKET
from lingbot.dit.model import WorldModel
from lingbot.runtime.engine import Engine
from lingbot.runtime.session import SessionSpec
from lingbot.text.pocket import HashedWordEncoder
from pocket.training.data import CHUNKS, FIRST_HELD_OUT_SEED, Clip, make_clip, resize, to_video
from pocket.training.latents import SIZES, load_codec
from pocket.training.run import save_sheet

NUM_CLIPS = 6
SHOWN_EVERY = 8  # frames of a sheet


@cache
def held_out_clips() -> list[Clip]:
    """Walks under conditions that stay: the clips of the first seeds that are so."""
    clips = (make_clip(FIRST_HELD_OUT_SEED + i) for i in range(1000))
    steady = (clip for clip in clips if len(set(clip.prompts)) == 1)
    return list(itertools.islice(steady, NUM_CLIPS))


def save_rollouts(
    path: Path, model: WorldModel, clips: list[Clip], *, folder: Path, size: str
) -> list[float]:
    """Play the clips' actions through the engine; give the mean PSNR in dB of each chunk.

    The sheet has the truth above and the rollout below it.
    """
    config = model.config
    width, height = SIZES[size]
    engine = Engine(
        structs.replace(
            POCKET,
            width=width,
            height=height,
            rope_scale=(POCKET.height / height, POCKET.width / width),
        ),
        model=model,
        vae=load_codec(folder, device=next(model.parameters()).device),
    )
    encoder = HashedWordEncoder(text_dim=config.text_dim, text_len=config.text_len)
    rows: list[Tensor] = []
    errors = torch.zeros(CHUNKS)
    for clip in clips:
        truth = resize(to_video(clip.frames[None]), (height, width))[0]
        first_frame = (truth[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        context = encoder.encode(clip.prompts[0])
        session = engine.open(SessionSpec(first_frame=first_frame, context=context))
        actions = [clip.actions[i : i + 3] for i in range(0, 3 * CHUNKS, 3)]
        chunks = [torch.from_numpy(engine.step(session, three)) for three in actions]
        made = to_video(torch.cat(chunks))
        ends = torch.tensor([len(chunk) for chunk in chunks]).cumsum(0).tolist()
        for i, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            errors[i] += (made[begin:end] - truth[begin:end]).square().mean() / len(clips)
        rows += [truth[::SHOWN_EVERY], made[::SHOWN_EVERY]]
    save_sheet(path, rows)
    return [round(-10 * math.log10(error), 2) for error in errors.tolist()]
