"""LingBot-World's causal diffusion transformer: one chunk of noisy latents in, its flow out.

The arithmetic is that of the public reference (robbyant/lingbot-world); tests/golden pins it.

Shape letters: B batch, F latent frames of the chunk, T tokens of a latent frame (where several
ranks share the work, those of this rank), L text tokens, C dim, H heads, D head_dim, N layers,
h and w latent rows and columns.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingbot.config import LATENT_CHANNELS, PATCH, SPATIAL_STRIDE, ModelConfig
from lingbot.dit.conditioner import Camera, CameraConditioner
from lingbot.dit.layers import (
    RMSNorm,
    apply_rope,
    attention,
    layer_norm,
    linear,
    mlp,
    modulate,
    patchify,
    rope_freqs,
    unpatchify,
)
from lingbot.dit.schedule import timestep_embedding
from lingbot.errors import LingbotError
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup

INPUT_CHANNELS = LATENT_CHANNELS + 4 + LATENT_CHANNELS  # noisy latent, mask, image condition


class TextKV(NamedTuple):
    """Cross-attention keys and values of one block; they change only with the prompt."""

    k: Tensor  # [B, L, H, D]
    v: Tensor


class KVCache(Protocol):
    """Where the past is. The caller owns it: the model holds weights and nothing else."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let the chunk's q look at the past and at its own k, v; all [B, F, T, H, D]."""

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep the chunk's k, v without looking at anything."""


class SelfAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def project(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, F, T, C] -> rotated q and k, and v: [B, F, T, H, D]."""
        q, k = self.norm_q(linear(self.q, x)), self.norm_k(linear(self.k, x))
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, linear(self.v, x)))
        return apply_rope(q, rope), apply_rope(k, rope), v

    def output(self, y: Tensor) -> Tensor:
        return linear(self.o, y.flatten(-2))


class CrossAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def compute_kv(self, context: Tensor) -> TextKV:
        k, v = self.norm_k(linear(self.k, context)), linear(self.v, context)
        return TextKV(*(t.unflatten(-1, (self.num_heads, -1)) for t in (k, v)))

    def forward(self, x: Tensor, text: TextKV) -> Tensor:
        q = self.norm_q(linear(self.q, x)).unflatten(-1, (self.num_heads, -1))
        y = attention(q.flatten(1, 2), text.k, text.v)
        return linear(self.o, y.flatten(-2)).view_as(x)


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.camera = CameraConditioner(config.dim)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)

    def modulate_by(self, temb: Tensor) -> tuple[Tensor, ...]:
        """time [B, F, 6, C] -> shift, scale, gate of self-attention, then of the FFN."""
        return (self.modulation.float() + temb)[:, :, :, None].unbind(2)  # 6 x [B, F, 1, C]

    def project(self, x: Tensor, temb: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The q, k and v that this block's self-attention sees."""
        shift, scale = self.modulate_by(temb)[:2]
        return self.self_attn.project(modulate(x, shift=shift, scale=scale, eps=self.eps), rope)

    def forward(
        self,
        x: Tensor,
        *,
        layer: int,
        temb: Tensor,
        rope: Tensor,
        camera: tuple[Tensor, Tensor],
        text: TextKV,
        memory: KVCache,
    ) -> Tensor:
        _, _, gate, ffn_shift, ffn_scale, ffn_gate = self.modulate_by(temb)
        attended = memory.attend(layer, *self.project(x, temb, rope))
        x = x + self.self_attn.output(attended) * gate
        x = self.camera(x, maps=camera)
        x = x + self.cross_attn(affine_layer_norm(self.norm3, x), text)
        hidden = modulate(x, shift=ffn_shift, scale=ffn_scale, eps=self.eps)
        return x + mlp(self.ffn, hidden) * ffn_gate


def affine_layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A norm with weights, in float32."""
    return layer_norm(x, norm.eps) * norm.weight.float() + norm.bias.float()


class Head(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, LATENT_CHANNELS * PATCH**2)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x [B, F, T, C], time [B, F, C] -> [B, F, T, 4 * 16]."""
        shift, scale = (self.modulation.float() + temb[:, :, None])[:, :, :, None].unbind(2)
        return linear(self.head, modulate(x, shift=shift, scale=scale, eps=self.eps))


class WorldModel(nn.Module):
    """The DiT. ``forward`` predicts a chunk's flow; ``remember`` writes a clean chunk's K/V."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.rope_scale = (
            1.0,
            1.0,
        )  # of rows and columns of tokens; training on small pictures sets it
        dim, patch = config.dim, (1, PATCH, PATCH)
        control = config.control_channels * SPATIAL_STRIDE**2 * PATCH**2
        self.patch_embedding = nn.Conv3d(INPUT_CHANNELS, dim, patch, patch)
        self.camera_embedding = nn.Linear(control, dim)
        self.camera_layer1, self.camera_layer2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)

    def embed_text(self, context: Tensor) -> tuple[TextKV, ...]:
        """A prompt's keys and values for all blocks: context [B, L, text_dim], L <= text_len.

        Padded with zeros before the embedding, and the padding is attended to: so was the
        reference trained.
        """
        missing = self.config.text_len - context.shape[1]
        if missing < 0:
            raise LingbotError(
                f"a prompt has at most {self.config.text_len} tokens", field="prompt"
            )
        tokens = mlp(self.text_embedding, F.pad(context, (0, 0, 0, missing)))
        return tuple(block.cross_attn.compute_kv(tokens) for block in self._blocks())

    def embed_camera(self, control: Tensor, *, group: SequenceParallelGroup = SINGLE) -> Tensor:
        """Folded control maps [B, 384 or 448, F, h, w] -> camera tokens [B, F, T, C]."""
        tokens = linear(self.camera_embedding, group.shard(patchify(control)))
        return tokens + linear(self.camera_layer2, F.silu(linear(self.camera_layer1, tokens)))

    def compute_scale_shift(self, layer: int, camera: Tensor) -> tuple[Tensor, Tensor]:
        """What camera tokens [B, F, T, C] do to a block's stream: [B, F, T, C] each."""
        return self._blocks()[layer].camera.compute_scale_shift(camera)

    def compute_frame_maps(self, camera: Tensor) -> Tensor:
        """Scale and shift of all blocks for one frame's tokens [B, 1, T, C]: [N, 2, B, 1, T, C]."""
        maps = camera.new_empty(self.config.num_layers, 2, *camera.shape)
        for layer, place in enumerate(maps):
            place[0], place[1] = self.compute_scale_shift(layer, camera)
        return maps

    def forward(
        self,
        x: Tensor,
        *,
        condition: Tensor,
        timestep: Tensor,
        positions: Tensor,
        camera: Camera,
        text: Sequence[TextKV],
        memory: KVCache,
        group: SequenceParallelGroup = SINGLE,
    ) -> Tensor:
        """The flow of a chunk: x [B, 16, F, h, w] -> [B, 16, F, h, w] float32.

        condition [B, 20, F, h, w] (mask and image), timestep [B, F] in 0..1000, positions [F] or
        [B, F] the latent frames' places in the world. Every one of ``ranks`` is given all of these,
        works on its tokens and returns the whole flow; ``camera`` and ``memory`` are of its tokens.
        """
        tokens, temb, temb6, rope = self._embed(x, condition, timestep, positions, group)
        tokens = self._through(self._blocks(), tokens, temb6, rope, camera, text, memory)
        rows, columns = x.shape[3] // PATCH, x.shape[4] // PATCH
        flow = group.gather(self.head(tokens, temb), num_tokens=rows * columns)
        return unpatchify(flow, (rows, columns)).float()

    def write_cache(
        self,
        x: Tensor,
        *,
        condition: Tensor,
        positions: Tensor,
        camera: Camera,
        text: Sequence[TextKV],
        memory: KVCache,
        group: SequenceParallelGroup = SINGLE,
    ) -> None:
        """Write a clean chunk's keys and values to ``memory``, and stop at the last block's."""
        timestep = torch.zeros(x.shape[0], x.shape[2], device=x.device)
        tokens, _, temb6, rope = self._embed(x, condition, timestep, positions, group)
        *blocks, last = self._blocks()
        tokens = self._through(blocks, tokens, temb6, rope, camera, text, memory)
        _, k, v = last.project(tokens, temb6, rope)
        memory.write(len(blocks), k, v)

    def _through(
        self,
        blocks: Sequence[Block],
        tokens: Tensor,
        temb: Tensor,
        rope: Tensor,
        camera: Camera,
        text: Sequence[TextKV],
        memory: KVCache,
    ) -> Tensor:
        """The stream [B, F, T, C] after the first blocks."""
        for layer, block in enumerate(blocks):
            tokens = block(
                tokens,
                layer=layer,
                temb=temb,
                rope=rope,
                camera=camera.scale_shift(layer),
                text=text[layer],
                memory=memory,
            )
        return tokens

    def _embed(
        self,
        x: Tensor,
        condition: Tensor,
        timestep: Tensor,
        positions: Tensor,
        group: SequenceParallelGroup,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B, F, T, C], time [B, F, C] and [B, F, 6, C], rotary turn of the tokens."""
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        patches = group.shard(patchify(torch.cat([x, condition], dim=1))).to(weight.dtype)
        tokens = F.linear(patches, weight.flatten(1), bias).float()
        frequencies = timestep_embedding(timestep, self.config.freq_dim)
        temb = mlp(self.time_embedding, frequencies).float()
        temb6 = mlp(self.time_projection, temb).float().unflatten(-1, (6, -1))
        grid = (x.shape[3] // PATCH, x.shape[4] // PATCH)
        head_dim = self.config.head_dim
        rope = rope_freqs(positions, grid=grid, head_dim=head_dim, rope_scale=self.rope_scale)
        return tokens, temb, temb6, group.shard(rope)

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]
