"""Training of the pocket world's autoencoder on rendered clips."""

import logging
import math
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lingbot.vae.tiny import DecoderState, MemoryBlock, TimeGrow, TimePool, TinyVAE, repeat_first
from pocket.training.data import Footage, mirror_frames, resize, shard_paths, to_video
from pocket.training.roughness import roughness
from pocket.training.run import (
    SAVE_EVERY,
    Machine,
    Optimizers,
    OutOfTime,
    check_finite,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    save_sheet,
    save_tensors,
)
from pocket.training.whiten import whiten

ENCODER_CHANNELS = (32, 48, 64, 64)  # wide where pictures are: in play it sees but one
DECODER_CHANNELS = (96, 64, 32, 16)
PEAK_RATES = {"vae": 7e-4, "decoder": 2e-4}
DECAY = 0.6  # share of the run: large steps make the colours waver
BATCHES = ((6, 9), (6, 9), (3, 17))  # clips and their frames, drawn anew at each step
CROP = (64, 112)  # rows and columns: a quarter of a picture, or a whole one at about half its size
FROZEN = 0.1  # share of the clips in which nothing moves
SMALL = 0.25  # share of the batches that show whole pictures at that size: the DiT learns it first
NOISE = 0.1  # at most, of the latents' deviation: the decoder forgives the DiT's small errors
SHARPNESS = 3.0  # weight of the error of neighbouring pixels' differences
FLICKER = 2.0  # weight of the error of what changes from frame to frame
COLOUR = 1.0  # weight of the error of neighbourhoods' colours, which the others hardly feel
ROUGHNESS = 30.0  # weight of the error of neighbourhoods' roughness, in the decoder's training
LEAST_ROUGHNESS = 0.003  # less than a grey level
NEIGHBOURHOOD = 8  # pixels, each way
WHITENED_AT = (0.15, 0.4)  # of the run: noise then hides no latent more than another
RESTRAINT = 1e-4  # weight of the latents' squares
LATENT_GAIN = 2.0  # of the colours in the latents, which a soft clamp bounds at 3
LOG_EVERY = 20

logger = logging.getLogger(__name__)

_roughness = partial(roughness, neighbourhood=NEIGHBOURHOOD, least=LEAST_ROUGHNESS)


def train_vae(folder: Path, machine: Machine, *, num_steps: int, seed: int) -> None:
    """Train on folder/bank, and write folder/vae.safetensors."""
    torch.manual_seed(seed)
    vae = TinyVAE(encoder_channels=ENCODER_CHANNELS, decoder_channels=DECODER_CHANNELS)
    initialise(vae)
    hidden = [*list(vae.encoder)[1:-1], *list(vae.decoder)[2:-1]]
    _train(vae, hidden, folder, machine, name="vae", num_steps=num_steps, seed=seed)
    save_tensors(folder / "vae.safetensors", vae.state_dict())


def train_decoder(folder: Path, machine: Machine, *, num_steps: int, seed: int) -> None:
    """Train the decoder of folder/whitened.safetensors on, and write folder/tiny_vae.safetensors.

    The encoder, and so all latents, stay as they are. The roughness's error stands against blur:
    where a latent does not say just where an edge is, the decoder is to draw one all the same.
    """
    tensors = load_file(folder / "whitened.safetensors")
    statistics = {name: tensors.pop(name) for name in ("latents_mean", "latents_std")}
    vae = TinyVAE.from_state_dict(tensors)
    vae.encoder.requires_grad_(False)
    hidden = list(vae.decoder)[2:-1]
    _train(vae, hidden, folder, machine, name="decoder", num_steps=num_steps, seed=seed)
    save_tensors(folder / "tiny_vae.safetensors", {**vae.state_dict(), **statistics})


def _train(
    vae: TinyVAE,
    hidden: list[nn.Module],
    folder: Path,
    machine: Machine,
    *,
    name: str,
    num_steps: int,
    seed: int,
) -> None:
    """To `num_steps`; `hidden` are the layers that are trained, but the first and the last."""
    device, path = machine.device, folder / f"{name}.ckpt"
    vae.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers, first = Optimizers(vae, hidden), 0
    whitenings = [int(share * num_steps) for share in WHITENED_AT]
    if checkpoint := load_checkpoint(path):
        vae.load_state_dict(checkpoint["model"])
        optimizers.load(checkpoint["optimizers"])
        first = checkpoint["step"]
    torch.manual_seed(seed + first)
    random = torch.Generator().manual_seed(seed + first)
    footage = Footage(folder / "bank", device)
    begin = saved = time.monotonic()
    for step in range(first, num_steps):
        if name == "vae" and step in whitenings:
            whiten(vae, shard_paths(folder / "bank"))
            optimizers = Optimizers(vae, hidden)
        video = _draw(footage.shards, random, machine.batch_factor)
        decoded, loss, error = _losses(vae, video, machine)
        if name == "decoder":
            loss = loss + ROUGHNESS * F.l1_loss(_roughness(decoded), _roughness(video))
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        rate = learning_rate(step, num_steps=num_steps, peak=PEAK_RATES[name], decay=DECAY)
        optimizers.step(rate)
        if step % LOG_EVERY == 0:
            quality, spent = -10 * math.log10(error.item()), time.monotonic() - begin
            logger.info("%s %d loss %.4f %.2f dB %.1f s", name, step, loss.item(), quality, spent)
            footage.look_again()
        stop, last = machine.out_of_time, step + 1 == num_steps
        if stop or last or time.monotonic() > saved + SAVE_EVERY:
            check_finite(name, step, error.item())
            state = {"model": vae.state_dict(), "optimizers": optimizers.state(), "step": step + 1}
            save_checkpoint(path, state)
            _save_pair(vae, video, path.with_suffix(".png"))
            saved = time.monotonic()
        if stop:
            raise OutOfTime
    vae.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def initialise(vae: TinyVAE) -> None:
    """Begin as a pyramid of pictures: colours averaged down to the latents and smoothed up again.

    The first three channels of every layer carry them; the others begin at random, keep the
    signal's size, and learn what the pyramid lacks. Without it a thousand steps go into colours.
    """
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d):
            gain = 1.0 if layer.kernel_size == (1, 1) else math.sqrt(2)
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for block in vae.modules():
        if isinstance(block, MemoryBlock):  # begins by passing its input on
            last = block.conv[-1]
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)
    first, *encoder, latent = (layer for layer in vae.encoder if _convolves(layer))
    into, *decoder, picture = (layer for layer in vae.decoder if _convolves(layer))
    with torch.no_grad():
        for layer in (first, *encoder, *decoder, picture):
            _pass_colours(layer)
        _pass_colours(latent, gain=LATENT_GAIN, offset=-0.5 * LATENT_GAIN)
        _pass_colours(into, gain=1 / LATENT_GAIN, offset=0.5)


def _convolves(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | TimePool | TimeGrow)


def _pass_colours(layer: nn.Module, *, gain: float = 1.0, offset: float = 0.0) -> None:
    """Let a layer's first three channels pass on, smoothed where it is one after a new size."""
    conv = layer if isinstance(layer, nn.Conv2d) else layer.conv
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight
    if weight.shape[2] == 1:
        kernel = torch.ones(1, 1)
    elif conv.bias is None:  # in this layout, those that follow a new size
        line = torch.tensor([0.0, 0.5, 0.5] if conv.stride == (2, 2) else [0.25, 0.5, 0.25])
        kernel = torch.outer(line, line)
    else:
        kernel = torch.zeros(3, 3)
        kernel[1, 1] = 1
    pooled = isinstance(layer, TimePool)
    width = weight.shape[0] if pooled else weight.shape[1]  # of one frame, in TimePool and TimeGrow
    for colour in range(3):
        outputs = slice(colour, None, width) if isinstance(layer, TimeGrow) else colour
        inputs = slice(colour, None, width) if pooled else colour
        weight[outputs] = 0
        weight[outputs, inputs] = gain * kernel / (weight.shape[1] // width if pooled else 1)
        if conv.bias is not None:
            conv.bias[colour] = offset


def _draw(shards: list[Tensor], generator: torch.Generator, batch_factor: int) -> Tensor:
    """A batch of short clips that begin anywhere, half of them mirrored: [B, F, 3, *CROP]."""

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    num_clips, num_frames = BATCHES[draw(len(BATCHES))]
    small = draw(1000) < 1000 * SMALL
    batch = []
    for _ in range(num_clips * batch_factor):
        shard = shards[draw(len(shards))]
        start = draw(shard.shape[1] - num_frames + 1)
        frames = shard[draw(len(shard)), start : start + num_frames]
        if not small:
            top, left = (
                draw(size - crop + 1) for size, crop in zip(frames.shape[1:3], CROP, strict=True)
            )
            frames = frames[:, top : top + CROP[0], left : left + CROP[1]]
        if draw(1000) < 1000 * FROZEN:
            frames = frames[:1].expand_as(frames)
        batch.append(mirror_frames(frames) if draw(2) else frames)
    video = to_video(torch.stack(batch))
    return resize(video, CROP) if small else video


def _losses(vae: TinyVAE, video: Tensor, machine: Machine) -> tuple[Tensor, Tensor, Tensor]:
    """What is decoded, its loss, and its mean squared error alone."""
    with machine.autocast():
        latents = vae.encode(repeat_first(video)).float()
        # Not always as much: it also limits what a latent can say.
        level = NOISE * torch.rand(len(latents), 1, 1, 1, 1, device=video.device)
        noisy = latents + level * latents.detach().std() * torch.randn_like(latents)
        decoded = vae.decode(noisy, DecoderState(), clamp=False).float()
    error = decoded - video
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    square = error.square().mean()
    loss = error.abs().mean() + 2 * square + SHARPNESS * edges
    loss = loss + FLICKER * error.diff(dim=1).abs().mean()
    colours = F.avg_pool2d(error.flatten(0, 1), NEIGHBOURHOOD).abs().mean()
    loss = loss + COLOUR * colours + RESTRAINT * latents.square().mean()
    return decoded, loss, F.mse_loss(decoded.detach().clamp(0, 1), video)


@torch.inference_mode()
def _save_pair(vae: TinyVAE, video: Tensor, path: Path) -> None:
    decoded = vae.decode(vae.encode(repeat_first(video[:4])), DecoderState())
    save_sheet(path, [clip.cpu() for pair in zip(video[:4], decoded, strict=True) for clip in pair])
