"""Accuracy of the autoencoder alone, and of one chunk after a true past.

Tested in `tests/pocket/test_evaluate.py`.
"""

from collections.abc import Iterable

import numpy as np
import torch

from lingbot.runtime.engine import Engine
from lingbot.vae.tiny import DecoderState, repeat_first
from pocket.evaluation.generate import codec_of, predict_chunks
from pocket.evaluation.image_metrics import (
    gradient_similarity,
    laplacian_variance,
    mean_squared_error,
    psnr,
)
from pocket.evaluation.metric import Metric, at_least, without_target
from pocket.evaluation.motion import visible_before
from pocket.renderer.render import Renderer
from pocket.training.clips import Clip, first_frame_of, to_video
from pocket.training.config import SIZE


def measure_autoencoder(engine: Engine, clips: Iterable[Clip]) -> Iterable[Metric]:
    """Encode and decode clips."""
    errors, gradients = [], []
    for clip in clips:
        truth = to_video(clip.frames)
        with torch.inference_mode():
            latents = codec_of(engine).encode(repeat_first(truth[None]))
        decoded = torch.from_numpy(engine.vae.decode(latents, DecoderState()))
        errors.append(mean_squared_error(decoded, clip.frames))
        gradients.append(gradient_similarity(decoded, clip.frames))
    yield at_least("autoencoder PSNR", psnr(errors), "dB", 30)
    yield without_target("autoencoder gradient similarity", float(np.mean(gradients)))


def measure_chunk(engine: Engine, clips: Iterable[Clip]) -> Iterable[Metric]:
    """Predict each chunk but the first from its true past.

    The PSNR counts pixels that an earlier frame has shown.
    """
    errors, gradients, sharpness = [], [], []
    for clip in clips:
        renderer = Renderer(clip.scene)
        for number, generated in enumerate(predict_chunks(engine, clip)):
            if number == 0:
                continue
            begin, end = first_frame_of(number), first_frame_of(number + 1)
            truth = clip.frames[begin:end]
            past = [0, *range(max(0, begin - 24), begin, 4), begin - 1]
            visible = np.stack(
                [
                    visible_before(renderer, clip.poses, past, frame, **SIZE)
                    for frame in range(begin, end, 3)
                ]
            )
            square = (generated[::3].float() - truth[::3].float()).square().mean(-1) / 255**2
            errors.append(float(square[torch.from_numpy(visible)].mean()))
            gradients.append(gradient_similarity(generated, truth))
            sharpness.append(laplacian_variance(generated) / laplacian_variance(truth))
    yield at_least("next chunk PSNR, visible before", psnr(errors), "dB", 24)
    yield without_target("next chunk gradient similarity", float(np.mean(gradients)))
    yield without_target("next chunk sharpness over the truth's", float(np.median(sharpness)))
