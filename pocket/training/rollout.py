"""Rollouts on held-out clips, beside the truth. Tested in `tests/pocket/test_dit.py`."""

import itertools
import math
from functools import cache
from pathlib import Path

import torch
from msgspec import structs
from torch import Tensor

from lingbot.config import POCKET, Size
from lingbot.dit.model import WorldModel
from lingbot.runtime.engine import Engine
from lingbot.runtime.session import SessionSpec
from lingbot.text.pocket import HashedWordEncoder
from pocket.renderer.render import FrameSize
from pocket.training.clips import (
    FIRST_HELD_OUT_SEED,
    NUM_CHUNKS,
    Clip,
    make_clip,
    resize,
    to_video,
)
from pocket.training.latents import load_codec
from pocket.training.run import RunContext, save_grid

FRAME_STRIDE = 8  # between the frames of a grid


@cache
def rollout_clips(num_clips: int, width: int, height: int) -> list[Clip]:
    """Render the first held-out clips whose conditions do not change."""
    size = FrameSize(width=width, height=height)
    clips = (make_clip(FIRST_HELD_OUT_SEED + i, size=size) for i in range(1000))
    unchanging = (clip for clip in clips if len(set(clip.prompts)) == 1)
    return list(itertools.islice(unchanging, num_clips))


def save_rollouts(
    run: RunContext, path: Path, model: WorldModel, clips: list[Clip], *, size: str
) -> list[float]:
    """Play the clips' actions through the engine. Returns the mean PSNR in dB of each chunk.

    Writes a grid with each clip above its rollout.
    """
    config, frame_size = model.config, run.config.sizes[size]
    engine = Engine(
        structs.replace(
            POCKET, sizes=(Size(**frame_size),), rope_scale=run.config.rope_scale(size)
        ),
        model=model,
        vae=load_codec(run.folder, device=next(model.parameters()).device),
    )
    encoder = HashedWordEncoder(text_dim=config.text_dim, text_len=config.text_len)
    rows: list[Tensor] = []
    errors = torch.zeros(NUM_CHUNKS)
    for clip in clips:
        truth = resize(to_video(clip.frames[None]), frame_size)[0]
        first_frame = (truth[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        context = encoder.encode(clip.prompts[0])
        session = engine.open(SessionSpec(first_frame=first_frame, context=context))
        actions = [clip.actions[i : i + 3] for i in range(0, 3 * NUM_CHUNKS, 3)]
        chunks = [torch.from_numpy(engine.step(session, three)) for three in actions]
        generated = to_video(torch.cat(chunks))
        ends = torch.tensor([len(chunk) for chunk in chunks]).cumsum(0).tolist()
        for i, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            errors[i] += (generated[begin:end] - truth[begin:end]).square().mean() / len(clips)
        rows += [truth[::FRAME_STRIDE], generated[::FRAME_STRIDE]]
    save_grid(path, rows)
    return [round(-10 * math.log10(error), 2) for error in errors.tolist()]
