"""LingBot-World's causal diffusion transformer: the flow of one chunk of noisy latents.

The arithmetic is that of the public reference (robbyant/lingbot-world); tests/golden pins it.

Shape letters: B batch, F latent frames of the chunk, T tokens of a latent frame that this rank has,
L text tokens, C dim, H heads, D head_dim, N layers, h and w latent rows and columns.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lingbot.config import LATENT_CHANNELS, PATCH, SPATIAL_STRIDE, ModelConfig
from lingbot.dit.conditioner import CameraConditioner, ConditionerMaps
from lingbot.dit.kv_cache import KVCache
from lingbot.dit.layers import (
    RMSNorm,
    affine_layer_norm,
    apply_rope,
    attention,
    gated_residual,
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


class ChunkInputs(NamedTuple):
    """The inputs that all passes of a chunk share; `WorldModel.prepare_chunk` builds them.

    Each rank holds those of its own tokens, apart from the condition, which is whole.
    """

    condition: Tensor  # [B, 20, F, h, w], mask and image latents
    rope: Tensor  # [2, F, T, 1, D/2], or [2, B, F, T, 1, D/2] where rows differ in position
    maps: ConditionerMaps
    text: Sequence[TextKV]  # N
    kv_cache: KVCache
    group: SequenceParallelGroup = SINGLE


class Modulation(NamedTuple):
    """Shift, scale and gate of a block's self-attention and of its FFN, [B, F, 1, C] each."""

    shift: Tensor
    scale: Tensor
    gate: Tensor
    ffn_shift: Tensor
    ffn_scale: Tensor
    ffn_gate: Tensor


class FusedWeights(NamedTuple):
    """The weights of q, k and v one below the other: [3 * C, C], and [3 * C]."""

    weight: Tensor
    bias: Tensor


class SelfAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)
        self.qkv: FusedWeights | nn.Module | None = None

    @torch.no_grad()
    def fuse(self) -> None:
        """Make one product of q, k and v, for inference and in the present type and device.

        The three layers remain, as views of the joint weights.
        """
        layers = (self.q, self.k, self.v)
        self.qkv = FusedWeights(
            torch.cat([layer.weight for layer in layers]),
            torch.cat([layer.bias for layer in layers]),
        )
        for layer, weight, bias in zip(layers, *(t.chunk(3) for t in self.qkv), strict=True):
            layer.weight.data, layer.bias.data = weight, bias

    def replace_fused(self, make: Callable[[Tensor, Tensor], nn.Module]) -> None:
        """Compute q, k and v by `make(weight, bias)` of the fused weights, which are freed."""
        assert isinstance(self.qkv, FusedWeights)
        self.qkv = make(*self.qkv)
        del self.q, self.k, self.v

    def project(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, F, T, C] -> rotated q and k, and v: [B, F, T, H, D] each."""
        if self.qkv is None:
            q, k, v = (linear(layer, x) for layer in (self.q, self.k, self.v))
        elif isinstance(self.qkv, FusedWeights):
            q, k, v = F.linear(x.to(self.qkv.weight.dtype), *self.qkv).chunk(3, dim=-1)
        else:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = (split_heads(t, self.num_heads) for t in (q, k, v))
        return apply_rope(q, rope).to(v.dtype), apply_rope(k, rope).to(v.dtype), v

    def output(self, y: Tensor) -> Tensor:
        """y [B, F, T, H, D] -> [B, F, T, C]."""
        return linear(self.o, merge_heads(y))


class CrossAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def compute_kv(self, context: Tensor) -> TextKV:
        """Embedded context [B, L, C] -> keys and values [B, L, H, D]."""
        k, v = self.norm_k(linear(self.k, context)), linear(self.v, context)
        return TextKV(split_heads(k.to(v.dtype), self.num_heads), split_heads(v, self.num_heads))

    def forward(self, x: Tensor, text: TextKV) -> Tensor:
        """x [B, F, T, C] -> [B, F, T, C]."""
        q = split_heads(self.norm_q(linear(self.q, x)).to(text.k.dtype), self.num_heads)
        y = attention(q.flatten(1, 2), text.k, text.v)
        return linear(self.o, merge_heads(y)).view_as(x)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    return rearrange(x, "... (h d) -> ... h d", h=num_heads)


def merge_heads(x: Tensor) -> Tensor:
    return rearrange(x, "... h d -> ... (h d)")


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

    def modulate_by(self, temb6: Tensor) -> Modulation:
        """temb6 [B, F, 6, C] -> six of [B, F, 1, C], in float32."""
        return Modulation(*(self.modulation.float() + temb6)[:, :, :, None].unbind(2))

    def compile_parts(self, backend: str | Callable[..., Any]) -> None:
        """Compile the parts before and after self-attention, for inference and static shapes.

        Attention itself calls a ready kernel, exchanges tokens between ranks and writes the window
        in place. Without it, neither the window's fill nor the number of the layer is in a graph:
        all blocks, chunks and passes share one compilation of each part.
        """
        compiled = partial(torch.compile, backend=backend, dynamic=False, fullgraph=True)
        self.project, self.finish = compiled(self.project), compiled(self.finish)  # type: ignore[method-assign]

    def project(self, x: Tensor, temb6: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of this block's self-attention, [B, F, T, H, D] each."""
        modulation = self.modulate_by(temb6)
        x = modulate(x, shift=modulation.shift, scale=modulation.scale, eps=self.eps)
        return self.self_attn.project(x, rope)

    def forward(
        self,
        x: Tensor,
        temb6: Tensor,
        *,
        layer: int,
        rope: Tensor,
        maps: tuple[Tensor, Tensor],
        text: TextKV,
        kv_cache: KVCache,
    ) -> Tensor:
        """The stream x [B, F, T, C] after this block, the `layer`th.

        It takes its own part of `ChunkInputs`.
        """
        attended = kv_cache.attend(layer, *self.project(x, temb6, rope))
        return self.finish(x, attended, temb6, maps=maps, text=text)

    def finish(
        self,
        x: Tensor,
        attended: Tensor,
        temb6: Tensor,
        *,
        maps: tuple[Tensor, Tensor],
        text: TextKV,
    ) -> Tensor:
        """The stream after self-attention's result [B, F, T, H, D] has been added, and the rest."""
        modulation = self.modulate_by(temb6)
        x = gated_residual(x, self.self_attn.output(attended), modulation.gate)
        x = self.camera(x, maps)
        x = x + self.cross_attn(affine_layer_norm(self.norm3, x), text)
        hidden = modulate(x, shift=modulation.ffn_shift, scale=modulation.ffn_scale, eps=self.eps)
        return gated_residual(x, mlp(self.ffn, hidden), modulation.ffn_gate)


class Head(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, LATENT_CHANNELS * PATCH**2)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x [B, F, T, C], temb [B, F, C] -> [B, F, T, 4 * 16]."""
        shift, scale = (self.modulation.float() + temb[:, :, None])[:, :, :, None].unbind(2)
        return linear(self.head, modulate(x, shift=shift, scale=scale, eps=self.eps))


class WorldModel(nn.Module):
    """The DiT. `forward` predicts a chunk's flow; `write_cache` writes a clean chunk's K/V."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
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

    def fuse(self) -> Self:
        """Fuse all blocks' q, k and v; `SelfAttention.fuse` has the conditions."""
        for block in self._blocks():
            block.self_attn.fuse()
        return self

    def compile_blocks(self, backend: str | Callable[..., Any] = "inductor") -> Self:
        """Compile all blocks; `Block.compile_parts` has the conditions."""
        # One for each size of a world and number of poses in a chunk, shared by the blocks.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        for block in self._blocks():
            block.compile_parts(backend)
        return self

    def embed_text(self, context: Tensor) -> tuple[TextKV, ...]:
        """A prompt's keys and values for all blocks: context [B, L, text_dim], L <= text_len.

        The context is padded with zeros before its embedding, and attention sees the padding, as
        in the reference's training. Raises LingbotError for a longer context.
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

    def compute_scale_shift(self, layer: int, camera_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """One block's scale and shift for camera tokens [B, F, T, C]: [B, F, T, C] each."""
        return self._blocks()[layer].camera.compute_scale_shift(camera_tokens)

    def compute_frame_maps(self, camera_tokens: Tensor) -> Tensor:
        """All blocks' scale and shift for one latent frame: [B, 1, T, C] -> [N, 2, B, 1, T, C]."""
        maps = camera_tokens.new_empty(self.config.num_layers, 2, *camera_tokens.shape)
        for layer, place in enumerate(maps):
            place[0], place[1] = self.compute_scale_shift(layer, camera_tokens)
        return maps

    def prepare_chunk(
        self,
        *,
        condition: Tensor,
        positions: Tensor,
        maps: ConditionerMaps,
        text: Sequence[TextKV],
        kv_cache: KVCache,
        group: SequenceParallelGroup = SINGLE,
        rope_scale: tuple[float, float] = (1.0, 1.0),
    ) -> ChunkInputs:
        """The inputs that all passes of a chunk share.

        condition [B, 20, F, h, w] (mask and image latents); positions [F] or [B, F] are the latent
        frames' rotary positions. Every rank of `group` is given the same arguments, but
        for `maps` and `kv_cache`, which are those of its own tokens and heads. `rope_angles`
        explains `rope_scale`.
        """
        grid = (condition.shape[3] // PATCH, condition.shape[4] // PATCH)
        head_dim = self.config.head_dim
        rope = rope_freqs(positions, grid=grid, head_dim=head_dim, rope_scale=rope_scale)
        return ChunkInputs(
            condition=condition,
            rope=group.shard(rope),
            maps=maps,
            text=text,
            kv_cache=kv_cache,
            group=group,
        )

    def forward(self, x: Tensor, timestep: Tensor, chunk: ChunkInputs) -> Tensor:
        """The flow of a chunk: x [B, 16, F, h, w] -> [B, 16, F, h, w] float32.

        timestep [B, F] is in 0..1000. Each rank works on its own tokens and returns the full flow.
        """
        temb, temb6 = self._embed_timestep(timestep)
        tokens = self._run(self._blocks(), self._embed(x, chunk), temb6, chunk)
        rows, columns = x.shape[3] // PATCH, x.shape[4] // PATCH
        flow = chunk.group.gather(self.head(tokens, temb), num_tokens=rows * columns)
        return unpatchify(flow, (rows, columns)).float()

    def write_cache(self, x: Tensor, chunk: ChunkInputs) -> None:
        """Write the K/V of a clean chunk x [B, 16, F, h, w], and stop at the last block's."""
        _, temb6 = self._embed_timestep(torch.zeros(x.shape[0], x.shape[2], device=x.device))
        *blocks, last = self._blocks()
        tokens = self._run(blocks, self._embed(x, chunk), temb6, chunk)
        _, k, v = last.project(tokens, temb6, chunk.rope)
        chunk.kv_cache.write(len(blocks), k, v)

    def _embed(self, x: Tensor, chunk: ChunkInputs) -> Tensor:
        """x [B, 16, F, h, w] beside its condition -> tokens [B, F, T, C] float32."""
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        patches = chunk.group.shard(patchify(torch.cat([x, chunk.condition], dim=1)))
        return F.linear(patches.to(weight.dtype), weight.flatten(1), bias).float()

    def _embed_timestep(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """timestep [B, F] -> temb [B, F, C] and temb6 [B, F, 6, C], in float32."""
        frequencies = timestep_embedding(timestep, self.config.freq_dim)
        temb = mlp(self.time_embedding, frequencies).float()
        return temb, mlp(self.time_projection, temb).float().unflatten(-1, (6, -1))

    def _run(
        self, blocks: Sequence[Block], tokens: Tensor, temb6: Tensor, chunk: ChunkInputs
    ) -> Tensor:
        """The stream [B, F, T, C] after `blocks`, the first ones of the model."""
        for layer, block in enumerate(blocks):
            tokens = block(
                tokens,
                temb6,
                layer=layer,
                rope=chunk.rope,
                maps=chunk.maps.scale_shift(layer),
                text=chunk.text[layer],
                kv_cache=chunk.kv_cache,
            )
        return tokens

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]
