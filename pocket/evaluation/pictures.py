"""How near to the truth pictures are: through the autoencoder alone, and a chunk ahead."""

from collections.abc import Iterable

import numpy as np
import torch

from lingbot.runtime.engine import Engine
from lingbot.vae.tiny import DecoderState, repeat_first
from pocket.evaluation.figure import Figure, at_least
from pocket.evaluation.looks import gradient_similarity, laplacian_variance, mean_square, psnr
from pocket.evaluation.motion import seen_before
from pocket.evaluation.play import codec_of, held_out, predict_each
from pocket.renderer.render import Renderer
from pocket.training.data import SIZE, first_frame_of, to_video


def measure_autoencoder(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """Held-out clips through the autoencoder alone."""
    errors, gradients = [], []
    for clip in held_out(num_scenes):
        truth = to_video(clip.frames)
        with torch.inference_mode():
            latents = codec_of(engine).encode(repeat_first(truth[None]))
        decoded = torch.from_numpy(engine.vae.decode(latents, DecoderState()))
        errors.append(mean_square(decoded, clip.frames))
        gradients.append(gradient_similarity(decoded, clip.frames))
    yield at_least("autoencoder PSNR", psnr(errors), "dB", 30)
    yield Figure("autoencoder gradient similarity", float(np.mean(gradients)), "")


def measure_chunk(engine: Engine, num_scenes: int) -> Iterable[Figure]:
    """One chunk after a true past, where pixels were seen before."""
    errors, gradients, sharpness = [], [], []
    for clip in held_out(num_scenes):
        renderer = Renderer(clip.scene)
        for number, made in enumerate(predict_each(engine, clip)):
            if number == 0:
                continue
            begin, end = first_frame_of(number), first_frame_of(number + 1)
            truth = clip.frames[begin:end]
            past = [0, *range(max(0, begin - 24), begin, 4), begin - 1]
            seen = np.stack(
                [
                    seen_before(renderer, clip.poses, past, frame, **SIZE)
                    for frame in range(begin, end, 3)
                ]
            )
            square = (made[::3].float() - truth[::3].float()).square().mean(-1) / 255**2
            errors.append(float(square[torch.from_numpy(seen)].mean()))
            gradients.append(gradient_similarity(made, truth))
            sharpness.append(laplacian_variance(made) / laplacian_variance(truth))
    yield at_least("next chunk PSNR, seen before", psnr(errors), "dB", 24)
    yield Figure("next chunk gradient similarity", float(np.mean(gradients)), "")
    yield Figure("next chunk sharpness over the truth's", float(np.median(sharpness)), "")
