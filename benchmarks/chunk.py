"""One chunk of any model and size, by part: `python -m benchmarks.chunk --model 14b`.

The weights are random: time does not depend on them. The window is full. *embed* has the patches,
the time embedding and the last layer; *linear* the blocks' products but the conditioner's;
*attention* self- and cross-attention with the window; *conditioner* the camera's maps that are not
stored. Each of these is measured alone, over all blocks, so that no weights are in a cache. *rest*
is the chunk without them: norms, rotary embedding, residuals, launches. The *context pass* is the
last of a chunk's passes, which writes its K/V; its time is part of the others. TFLOP/s stand beside
those of one large matrix product in the same run.

A session is also moved to host memory and back: *suspend* and *resume*, without a decoder's state.

With the camera cache, a key is held, and its maps are stored: *new pose* is the time of computing
one latent frame's. Without it, maps are computed in each pass.

Prints a table, then one JSON line. On a CPU, 8-bit products run for the sake of a dry run.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.printing import print_json, print_table
from benchmarks.random_world import MIB, model_shape, random_model, random_spec
from benchmarks.ulysses import Traffic, watch_exchanges
from benchmarks.work import TFLOP, chunk_flops
from lingbot.config import LATENT_CHANNELS, SCHEDULE_V1, Size, WorldConfig
from lingbot.dit.attention import choose_backend, find_obstacle, use_backend
from lingbot.dit.fp8 import quantise_blocks
from lingbot.dit.layers import attention, linear, mlp
from lingbot.dit.model import Block, ChunkInputs, FusedWeights
from lingbot.parallel.process_group import spawn_ranks
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.engine import Engine
from lingbot.runtime.session import Session
from lingbot.vae.codec import LatentCodec
from lingbot.vae.protocol import VAE
from lingbot.vae.tiny import TinyVAE

GIB = 2**30
MODELS = {
    "14b": {"dim": 5120, "ffn": 13824, "heads": 40, "layers": 40, "text": 512},
    "1.3b": {"dim": 1536, "ffn": 8960, "heads": 12, "layers": 30, "text": 512},
    "tiny": {"dim": 256, "ffn": 768, "heads": 4, "layers": 3, "text": 16},
}
NUM_REPEATS = 5  # of a part; the first one warms up
HELD_KEY = "w"


class Clock:
    """Milliseconds of a call: by events on a GPU, by the wall clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def once(self, call: Callable[[], object]) -> float:
        if not self.on_gpu:
            began = time.perf_counter()
            call()
            return 1000 * (time.perf_counter() - began)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        elapsed_ms: float = start.elapsed_time(end)
        return elapsed_ms

    def median(self, call: Callable[[], object]) -> float:
        times_ms = [self.once(call) for _ in range(NUM_REPEATS)]
        return statistics.median(times_ms[1:])


class Parts:
    """The parts of one pass, each as a call of its own, on this rank's share of a chunk."""

    def __init__(self, engine: Engine, session: Session, chunk: ChunkInputs) -> None:
        self.engine, self.chunk, self.session = engine, chunk, session
        config, device = engine.model.config, engine.device
        frames, dtype = engine.config.chunk, engine.dtype
        self.num_tokens = session.size.num_tokens
        local = engine.group.split(self.num_tokens)[engine.group.rank]
        heads = config.num_heads // engine.group.num_ranks
        shape = (1, frames, self.num_tokens, heads, config.head_dim)
        self.x = torch.randn(1, frames, local, config.dim, device=device, dtype=dtype)
        self.weight = torch.randn(config.ffn_dim, config.dim, device=device, dtype=dtype)
        self.qkv = [torch.randn(shape, device=device, dtype=dtype) for _ in range(3)]
        self.noise = torch.randn(1, LATENT_CHANNELS, frames, *session.size.latent, device=device)
        self.timestep = torch.full((1, frames), 500.0, device=device)
        self.blocks = [block for block in engine.model.blocks if isinstance(block, Block)]

    def embed(self) -> None:
        temb, _ = self.engine.model._embed_timestep(self.timestep)
        self.engine.model.head(self.engine.model._embed(self.noise, self.chunk), temb)

    def linear(self) -> None:
        for block in self.blocks:
            fused = block.self_attn.qkv
            if isinstance(fused, FusedWeights):
                F.linear(self.x, *fused)
            elif fused is not None:
                fused(self.x)
            for layer in (block.self_attn.o, block.cross_attn.q, block.cross_attn.o):
                linear(layer, self.x)
            mlp(block.ffn, self.x)

    def attention(self) -> None:
        window = self.session.window.for_chunk(self.engine.config.chunk)
        head_dim = self.engine.model.config.head_dim
        q = self.x.flatten(1, 2).unflatten(-1, (-1, head_dim))
        with use_backend(self.engine.attention):
            for layer, text in enumerate(self.chunk.text):
                window.attend(layer, *self.qkv)
                attention(q, text.k, text.v)

    def conditioner(self) -> None:
        """The maps of one latent frame, all blocks'."""
        for layer in range(len(self.blocks)):
            self.engine.model.compute_scale_shift(layer, self.x[:, :1])

    def denoising_pass(self) -> None:
        with use_backend(self.engine.attention):
            self.engine.model(self.noise, self.timestep, self.chunk)

    def context_pass(self) -> None:
        with use_backend(self.engine.attention):
            self.engine.model.write_cache(self.noise, self.chunk)

    def product(self) -> None:
        """The largest product of a block, in the model's type and never in 8 bits."""
        F.linear(self.x, self.weight)


def random_vae(kind: str, device: torch.device, dtype: torch.dtype) -> VAE | None:
    """A VAE of full width and random weights; None where its library or its module is missing."""
    mean, std = torch.zeros(16, 1, 1, 1, device=device), torch.ones(16, 1, 1, 1, device=device)
    if kind == "full":
        if find_spec("diffusers") is None or find_spec("lingbot.vae.wan") is None:
            return None
        wan: Any = import_module("lingbot.vae.wan")
        network = import_module("diffusers").AutoencoderKLWan().eval().requires_grad_(False)
        vae: VAE = wan.WanVAE(torch.nn.Module.to(network, device=device, dtype=dtype), mean, std)
        return vae
    network = (
        TinyVAE()
        if kind == "tiny"
        else TinyVAE(encoder_channels=(8, 8, 8, 8), decoder_channels=(8, 8, 8, 8))
    )
    network = network.fuse().to(device=device, dtype=dtype).eval().requires_grad_(False)
    return LatentCodec(network, mean, std)


def make_engine(options: argparse.Namespace, group: SequenceParallelGroup) -> Engine:
    """An engine of random weights with the switches of the command line."""
    torch.manual_seed(0)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    model = random_model(options)
    model = quantise_blocks(model) if options.fp8 else model.fuse()
    if options.compile:
        model.compile_blocks()
    head_dim = model.config.head_dim
    backend = choose_backend(
        options.attention,
        lambda name: find_obstacle(name, device=device, dtype=dtype, head_dim=head_dim),
    )
    vae = random_vae("none", device, dtype)
    assert vae is not None
    return Engine(
        WorldConfig(
            name="random",
            sizes=(Size(options.width, options.height),),
            schedule=SCHEDULE_V1,
            chunk=options.chunk,
            window=options.window,
            sink=options.sink,
        ),
        model=model,
        vae=vae,
        camera_cache_bytes=int(options.budget * MIB) if options.camera_cache == "on" else 0,
        group=group,
        attention=backend,
    )


def actions_of(options: argparse.Namespace) -> list[str]:
    return [HELD_KEY] * options.chunk


@torch.inference_mode()
def measure(group: SequenceParallelGroup, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one rank."""
    engine = make_engine(options, group)
    traffic = watch_exchanges() if group.num_ranks > 1 else Traffic()
    session = engine.open(random_spec(engine.config))
    clock = Clock(engine.device)
    for _ in range(-(-options.window // options.chunk) + 1):  # fill the window; compile
        engine.denoise(session, actions_of(options))
    traffic.collectives_s = 0.0
    chunk_ms = [
        clock.once(lambda: engine.denoise(session, actions_of(options)))
        for _ in range(options.chunks)
    ]
    collectives_ms = 1000 * traffic.collectives_s / options.chunks
    peak = torch.cuda.max_memory_allocated() if engine.device.type == "cuda" else None
    with engine.chunk_inputs(session, actions_of(options)) as inputs:
        parts = Parts(engine, session, inputs)
        ms = {
            name: clock.median(getattr(parts, name))
            for name in (
                "embed", "linear", "attention", "conditioner", "denoising_pass", "context_pass",
                "product",
            )
        }  # fmt: skip
    return {
        "attention_backend": engine.attention,
        "chunk_ms": statistics.median(chunk_ms),
        "chunk_ms_each": [round(each, 2) for each in chunk_ms],
        "collectives_ms": collectives_ms,
        "pass_ms": ms,
        "tokens": parts.x.shape[1] * parts.x.shape[2],
        "weights_bytes": sum(t.nbytes for t in weights_of(engine)),
        "window_bytes": session.window.k_NBFTHD.nbytes + session.window.v_NBFTHD.nbytes,
        "camera_bytes": engine.camera_cache.stats.stored_bytes,
        "peak_bytes": peak or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "suspension": measure_suspension(engine, session, clock),
        "vae_ms": measure_vae(options, engine.device, engine.dtype, clock),
    }


def weights_of(engine: Engine) -> list[Tensor]:
    """The model's tensors; q, k and v are views of fused weights, counted once."""
    return [*engine.model.parameters(), *engine.model.buffers()]


def measure_vae(
    options: argparse.Namespace, device: torch.device, dtype: torch.dtype, clock: Clock
) -> float | None:
    """Milliseconds of decoding one later chunk; None without a VAE."""
    if options.vae == "none":
        return None
    vae = random_vae(options.vae, device, dtype)
    if vae is None:
        print("vae full: left out, it needs diffusers and lingbot.vae.wan")
        return None
    shape = (1, LATENT_CHANNELS, options.chunk, options.height // 8, options.width // 8)
    latents, state = torch.randn(shape, device=device), vae.new_decoder_state()
    return clock.median(lambda: vae.decode(latents, state))


def measure_suspension(engine: Engine, session: Session, clock: Clock) -> dict[str, float]:
    """A whole session to host memory and back. The first time allocates the host memory."""
    engine.suspend_frees_memory = True  # on a CPU, a dry run: from host memory to host memory
    suspend = partial(engine.suspend, session, max_bytes=2**50)
    out_ms, back_ms, moved = [], [], 0
    for _ in range(NUM_REPEATS):
        out_ms.append(clock.once(suspend))
        moved = session.suspension.num_bytes if session.suspension else 0
        back_ms.append(clock.once(partial(engine.resume, session)))
    return {
        "session_gib": shown(moved / GIB),
        "first_suspend_ms": shown(out_ms[0]),
        "suspend_ms": shown(statistics.median(out_ms[1:])),
        "resume_ms": shown(statistics.median(back_ms[1:])),
    }


def summarise(figures: dict[str, Any], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The table: milliseconds, share, TFLOP and TFLOP/s of each part of a chunk."""
    num_steps, ms = len(SCHEDULE_V1.indices), figures["pass_ms"]
    passes = num_steps + 1
    cached = options.camera_cache == "on"
    flops = chunk_flops(
        model_shape(options),
        tokens=figures["tokens"],
        window_tokens=options.window * options.width * options.height // 256,
        num_steps=num_steps,
        pose_tokens=0 if cached else figures["tokens"],
        cached=cached,
    )
    blocks = passes - 1 / options.layers  # the last pass stops at the last block's K/V
    part_ms = {
        "embed": passes * ms["embed"],
        "linear": blocks * ms["linear"],
        "attention": blocks * ms["attention"],
        "conditioner": 0.0 if cached else blocks * options.chunk * ms["conditioner"],
        "collectives": figures["collectives_ms"],
    }
    total = figures["chunk_ms"]
    part_ms |= {"rest": total - sum(part_ms.values()), "chunk": total}
    rows = {}
    for name, milliseconds in part_ms.items():
        work = sum(flops.values()) if name == "chunk" else flops.get(name, 0)
        rows[name] = {
            "ms": round(milliseconds, 2),
            "percent": round(100 * milliseconds / total, 1),
            "tflop": shown(work / TFLOP),
            "tflops": shown(work / TFLOP / (milliseconds / 1000)) if work and milliseconds else "",
        }
    return rows


def describe(figures: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The figures that are no part of the chunk's time."""
    ms, num_frames = figures["pass_ms"], 4 * options.chunk
    product = 2 * figures["tokens"] * options.dim * options.ffn / TFLOP
    decode_ms = figures["vae_ms"]
    return {
        "chunk_ms": shown(figures["chunk_ms"]),
        "frames_per_s": shown(1000 * num_frames / figures["chunk_ms"]),
        "denoising_pass_ms": shown(ms["denoising_pass"]),
        "context_pass_ms": shown(ms["context_pass"]),
        "new_pose_ms": shown(ms["conditioner"]),
        "vae_decode_ms": None if decode_ms is None else shown(decode_ms),
        "matmul_tflops": shown(product / (ms["product"] / 1000)),
        "weights_gib": shown(figures["weights_bytes"] / GIB),
        "window_gib": shown(figures["window_bytes"] / GIB),
        "camera_cache_gib": shown(figures["camera_bytes"] / GIB),
        **figures["suspension"],
        "peak_gib": shown(figures["peak_bytes"] / GIB),
        "attention_backend": figures["attention_backend"],
    }


def shown(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--model", choices=list(MODELS), default="14b" if on_gpu else "tiny")
    for name in ("dim", "ffn", "heads", "layers", "text"):
        parser.add_argument(f"--{name}", type=int, help="instead of the model's")
    sizes = {
        "width": 832,
        "height": 480,
        "window": 9,
        "sink": 6,
        "chunk": 3,
        "chunks": 5,
        "ranks": 1,
    }
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--attention", choices=["auto", "flash4", "flash3", "cudnn", "sdpa"], default="auto"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--camera-cache", choices=["on", "off"], default="on")
    parser.add_argument("--budget", type=float, default=4096.0, help="camera cache in MiB")
    parser.add_argument("--vae", choices=["full", "tiny", "none"], default="none")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="bfloat16" if on_gpu else "float32"
    )
    options = parser.parse_args()
    for name, value in MODELS[options.model].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    options = read_options()
    if options.ranks > 1:
        if options.device != "cpu":
            raise SystemExit("--ranks needs --device cpu: a GPU has one rank")
        figures = spawn_ranks(options.ranks, measure, options)
    else:
        figures = measure(SINGLE, options)
    rows, facts = summarise(figures, options), describe(figures, options)
    size = f"{options.width}x{options.height}, window {options.window}, sink {options.sink}"
    print_table(f"{options.model} at {size}: a chunk of {options.chunk} latent frames", rows)
    print()
    for name, value in facts.items():
        print(f"{name:24}{value!s:>14}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = {"accelerator": gpu, "torch": torch.__version__}
    print_json("chunk", {**machine, "options": vars(options), **facts, "parts": rows})


if __name__ == "__main__":
    main()
