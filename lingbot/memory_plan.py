"""The memory that a world needs on a device, by formula, before anything is loaded. No torch.

Every rank has whole weights, and its share of the heads of each session's window. The formulas
count tensors. A device also holds CUDA's own context and the allocator's gaps, `RESERVED`.
"""

from msgspec import Struct

from lingbot.config import (
    LATENT_CHANNELS,
    PATCH,
    SPATIAL_STRIDE,
    TEMPORAL_STRIDE,
    ModelConfig,
    Preset,
    Size,
    VaeKind,
    WorldConfig,
)
from lingbot.errors import LingbotError
from lingbot.vae.memory import condition_bytes, tiny_decoder_bytes, wan_decoder_bytes

GIB = 2**30
RESERVED = GIB  # on a GPU
FLOAT32 = 4

WAN_PARAMETERS = 126_892_531
WAN_WIDTH = 96  # channels of the Wan VAE at full size; a level has 1, 2, 4 and 4 times as many
CONDITION_CHANNELS = 4 + LATENT_CHANNELS  # mask and image latents
# The activations of its narrowest level, in full size, that an autoencoder holds at once.
# `tests/lingbot/test_memory_plan.py` compares them with the tensors.
WAN_DECODING, WAN_ENCODING = 8, 10
TINY_DECODING, TINY_ENCODING = 3, 3


class SessionMemory(Struct, frozen=True, kw_only=True):
    """Bytes of one open session on a rank that decodes."""

    size: Size
    kv: int  # the window's keys and values, this rank's heads
    text: int  # the prompt's keys and values
    vae: int  # the decoder's state
    condition: int  # the first frame's latents

    @property
    def total(self) -> int:
        return self.kv + self.text + self.vae + self.condition


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """Bytes of a rank that decodes; the others need a little less."""

    weights: int
    vae: int  # weights
    camera_cache: int  # its budget
    camera_map: int  # an entry of the camera cache, at the largest size
    activations: int  # a step, and the decoding of another chunk meanwhile
    reserved: int
    window: int  # latent frames, of these sessions
    sessions: tuple[SessionMemory, ...]  # one of each size
    free: int | None = None  # before anything was loaded; None: unknown
    other_bytes: int = 0  # of the GPU, which other processes take; not in `free`

    @property
    def fixed(self) -> int:
        """Bytes without a session."""
        return self.weights + self.vae + self.camera_cache + self.activations + self.reserved

    @property
    def largest(self) -> SessionMemory:
        return max(self.sessions, key=lambda session: session.total)

    @property
    def for_sessions(self) -> int | None:
        """Bytes that all sessions together may take; None where the free memory is unknown."""
        return None if self.free is None else max(0, self.free - self.fixed)

    def session_bytes(self, size: Size, *, window: int | None = None) -> int:
        """Bytes of a session of this size, with a window of its own or that of the plan.

        `window` is in latent frames. Raises LingbotError for a size that is not served, and for a
        window that no session may have.
        """
        named = {session.size: session for session in self.sessions}
        if size not in named:
            expected = " or ".join(map(str, named))
            raise LingbotError(f"size must be {expected}, not {size}", field="size")
        window = self.window if window is None else window
        if not 1 <= window <= self.window:
            raise LingbotError(f"window must be 1..{self.window}, not {window}", field="window")
        session = named[size]
        return session.total - session.kv // self.window * (self.window - window)

    def num_fitting(self, session: SessionMemory) -> int | None:
        """How many sessions like this one fit at once; None where the free memory is unknown."""
        return None if self.for_sessions is None else self.for_sessions // session.total

    def check(self, *, num_sessions: int = 1) -> None:
        """Raise LingbotError with the sum unless so many sessions of the largest size fit."""
        fitting = self.num_fitting(self.largest)
        if fitting is not None and fitting < num_sessions:
            raise LingbotError(f"{self}: {fitting} fit, expected {num_sessions}", field="window")

    def __str__(self) -> str:
        """The sum in one line."""
        session = self.largest
        parts = {
            "weights": self.weights,
            "VAE": self.vae,
            "camera cache": self.camera_cache,
            "activations": self.activations,
            "reserve": self.reserved,
        }
        fixed = " + ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)
        free = "" if self.free is None else f", and {gib(self.free)} are free"
        if self.other_bytes:
            free += f" beside {gib(self.other_bytes)} of other processes"
        return (
            f"GiB of memory: {fixed} = {gib(self.fixed)}; a session of {session.size} with window "
            f"{self.window} takes K/V {gib(session.kv)} + prompt {gib(session.text)} + VAE "
            f"{gib(session.vae)} + image {gib(session.condition)} = {gib(session.total)}{free}"
        )


def gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f}"


def plan_memory(
    preset: Preset,
    world: WorldConfig,
    *,
    vae: VaeKind,
    itemsize: int,
    camera_cache_bytes: int = 0,
    num_ranks: int = 1,
    is_gpu: bool = False,
    free: int | None = None,
    other_bytes: int = 0,
) -> MemoryPlan:
    """The plan of each of `num_ranks` ranks; `itemsize` is that of the weights' type in bytes.

    Other processes take `other_bytes` of each rank's GPU; they are not in `free`.
    """
    model = preset.model
    return MemoryPlan(
        weights=weight_bytes(model, itemsize=itemsize),
        vae=num_vae_parameters(preset, vae) * itemsize,
        camera_cache=camera_cache_bytes,
        camera_map=camera_map_bytes(
            model, world.largest_size, itemsize=itemsize, num_ranks=num_ranks
        ),
        activations=max(
            activation_bytes(preset, world, size, vae=vae, itemsize=itemsize, num_ranks=num_ranks)
            for size in world.sizes
        ),
        reserved=RESERVED if is_gpu else 0,
        window=world.window,
        sessions=tuple(
            SessionMemory(
                size=size,
                kv=kv_bytes(model, size, itemsize=itemsize, num_ranks=num_ranks) * world.window,
                text=2 * model.num_layers * model.text_len * model.dim * itemsize,
                vae=decoder_state_bytes(preset, size, vae=vae, itemsize=itemsize),
                condition=condition_bytes(
                    width=size.width,
                    height=size.height,
                    latent_frames=preset.condition_frames + world.chunk,
                ),
            )
            for size in world.sizes
        ),
        free=free,
        other_bytes=other_bytes,
    )


def weight_bytes(model: ModelConfig, *, itemsize: int) -> int:
    """The DiT's weights; `precision.stays_float32` names those that are float32 in any type."""
    dim, square = model.dim, model.dim * (model.dim + 1)
    out = LATENT_CHANNELS * PATCH**2
    block = 6 * dim + 2 * (2 * dim) + 2 * dim  # modulation, norms of q and k, norm3
    time = (model.freq_dim + 1) * dim + square + 6 * square
    exact = model.num_layers * block + time + out * (dim + 1) + 2 * dim
    return num_parameters(model) * itemsize + exact * (FLOAT32 - itemsize)


def num_parameters(model: ModelConfig) -> int:
    """Weights of the DiT."""
    dim, square = model.dim, model.dim * (model.dim + 1)  # a square linear layer, with its bias
    attention = 4 * square + 2 * dim
    ffn = 2 * dim * model.ffn_dim + model.ffn_dim + dim
    block = 6 * dim + 2 * attention + 2 * dim + ffn + 4 * square
    patch = (LATENT_CHANNELS + CONDITION_CHANNELS) * PATCH**2
    control = model.control_channels * (SPATIAL_STRIDE * PATCH) ** 2
    inputs = patch + control + model.text_dim + model.freq_dim  # one linear layer each
    out = LATENT_CHANNELS * PATCH**2
    rest = (inputs + 4) * dim + 4 * square + 6 * square + (out * (dim + 1)) + 2 * dim
    return model.num_layers * block + rest


def kv_bytes(model: ModelConfig, size: Size, *, itemsize: int, num_ranks: int = 1) -> int:
    """Keys and values of one latent frame on one rank."""
    width = model.num_heads // num_ranks * model.head_dim
    return 2 * model.num_layers * size.num_tokens * width * itemsize


def camera_map_bytes(model: ModelConfig, size: Size, *, itemsize: int, num_ranks: int = 1) -> int:
    """An entry of the camera cache: scale and shift of all blocks, for one pose."""
    tokens = -(-size.num_tokens // num_ranks)
    return 2 * model.num_layers * tokens * model.dim * itemsize


def denoising_bytes(
    model: ModelConfig, size: Size, *, chunk: int, itemsize: int, num_ranks: int = 1
) -> int:
    """The most that a pass holds at once: for each token of this rank, the larger of two.

    In self-attention: eight rows in float32, while q and k are normalised and rotated, and two in
    the weights' type; between ranks q, k and v five times over. In the FFN: three rows in float32,
    two in the weights' type, and the hidden layer before and after its activation. Both have the
    block's maps and the camera's tokens beside them.
    """
    dim = model.dim
    attention = dim * (8 * FLOAT32 + 2 * itemsize)
    exchange = dim * (FLOAT32 + 15 * itemsize) if num_ranks > 1 else 0
    ffn = dim * (3 * FLOAT32 + 2 * itemsize) + 2 * model.ffn_dim * itemsize
    tokens = chunk * -(-size.num_tokens // num_ranks)
    return tokens * (max(attention, exchange, ffn) + 3 * dim * itemsize)


def activation_bytes(
    preset: Preset, world: WorldConfig, size: Size, *, vae: VaeKind, itemsize: int, num_ranks: int
) -> int:
    """One thread denoises a chunk or opens a session; another one decodes meanwhile."""
    chunk, model = world.chunk, preset.model
    denoising = denoising_bytes(model, size, chunk=chunk, itemsize=itemsize, num_ranks=num_ranks)
    encoding = encoding_bytes(preset, size, chunk=chunk, itemsize=itemsize)
    decoding = decoding_bytes(preset, size, chunk=chunk, vae=vae, itemsize=itemsize)
    return max(denoising, encoding) + decoding


def num_vae_parameters(preset: Preset, vae: VaeKind) -> int:
    """Weights of the VAE. A tiny one decodes only, if the preset has a full one, too."""
    if vae == "full":
        return WAN_PARAMETERS
    wan = WAN_PARAMETERS if "full" in preset.vaes else 0
    return wan + num_tiny_parameters(preset)


def num_tiny_parameters(preset: Preset) -> int:
    """Weights of a tiny VAE, as `TinyVAE.fuse` leaves them."""
    encoder, decoder = preset.tiny_encoder, preset.tiny_decoder
    count = conv(3, encoder[0], 3) + conv(encoder[3], LATENT_CHANNELS, 3)
    for width, after, stride in zip(encoder, encoder[1:], (2, 2, 1), strict=False):
        count += width * stride * width + 9 * width * after + 3 * memory_block(after)
    count += conv(LATENT_CHANNELS, decoder[0], 3) + conv(decoder[3], 3, 3)
    for width, after, stride in zip(decoder, decoder[1:], (1, 2, 2), strict=False):
        count += 3 * memory_block(width) + 16 * width * stride * after
    return count


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def memory_block(width: int) -> int:
    return conv(2 * width, width, 3) + 2 * conv(width, width, 3)


def decoder_state_bytes(preset: Preset, size: Size, *, vae: VaeKind, itemsize: int) -> int:
    """The state that a session's decoder keeps between two chunks."""
    width, height = size.width, size.height
    if vae == "full":
        return wan_decoder_bytes(width=width, height=height, itemsize=itemsize, base=WAN_WIDTH)
    channels = preset.tiny_decoder
    return tiny_decoder_bytes(width=width, height=height, itemsize=itemsize, channels=channels)


def decoding_bytes(preset: Preset, size: Size, *, chunk: int, vae: VaeKind, itemsize: int) -> int:
    """The activations of a chunk's decoding. The Wan VAE takes one latent frame at a time."""
    frame_bytes = TEMPORAL_STRIDE * size.num_pixels * itemsize  # of one channel
    if vae == "full":
        return WAN_DECODING * WAN_WIDTH * frame_bytes
    return TINY_DECODING * preset.tiny_decoder[3] * chunk * frame_bytes


def encoding_bytes(preset: Preset, size: Size, *, chunk: int, itemsize: int) -> int:
    """The activations of a first frame's encoding, with the state of the Wan VAE's encoder."""
    frame_bytes = TEMPORAL_STRIDE * size.num_pixels * itemsize
    if "full" in preset.vaes:
        return WAN_ENCODING * WAN_WIDTH * frame_bytes
    return TINY_ENCODING * preset.tiny_encoder[0] * 2 * chunk * frame_bytes
