"""Linear layers in 8-bit floating point: one scale for each row of the weights and of the input.

The weights are quantised once, the inputs at each call. A rank then reads half the bytes of
bfloat16 weights, and a GPU's tensor cores multiply twice as fast.

Shape letters: N rows of the input, I input width, O output width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lingbot.dit.model import Block, WorldModel
from lingbot.errors import LingbotError

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
CAPABILITY = (8, 9)  # least of a GPU that multiplies these numbers
ALIGNMENT = 16  # torch._scaled_mm takes multiples of it as widths


class Float8Linear(nn.Module):
    """A linear layer whose products run in 8-bit floating point. Its result is bfloat16."""

    weight: Tensor  # [O, I]
    scale: Tensor  # [1, O] float32, by which a row's numbers were divided
    bias: Tensor  # [O] bfloat16

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Quantise weights [O, I] and a bias [O] of any type, on their device."""
        super().__init__()
        quantised, scale = quantise(weight)
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", bias.detach().to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] of any type -> [..., O] bfloat16."""
        rows, scale = quantise(x.flatten(0, -2))
        y = torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
        )
        unfolded: Tensor = y.unflatten(0, x.shape[:-1])
        return unfolded


@torch.no_grad()
def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [N, I] -> its 8-bit numbers [N, I], and the scale [N, 1] that multiplies them back."""
    x = x.float()
    scale = x.abs().amax(dim=1, keepdim=True) / LARGEST
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)  # a row of zeros has any but zero
    return (x / scale).clamp(-LARGEST, LARGEST).to(FP8), scale


def check_fp8(device: torch.device, dtype: torch.dtype) -> None:
    """Raise LingbotError for a device without 8-bit products, or for a model not in bfloat16."""
    if device.type != "cuda":
        raise LingbotError(f"fp8 needs a GPU, not {device.type}", field="fp8")
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        least, found = (".".join(map(str, pair)) for pair in (CAPABILITY, capability))
        raise LingbotError(
            f"fp8 needs a GPU of compute capability {least} or higher, not {found}", field="fp8"
        )
    if dtype != torch.bfloat16:
        name = str(dtype).removeprefix("torch.")
        raise LingbotError(f"fp8 needs dtype bfloat16, not {name}", field="fp8")


def quantise_blocks(model: WorldModel) -> WorldModel:
    """Replace the blocks' linear layers in place, each block's before the next, and fuse q, k, v.

    Cross-attention's keys and values keep their type: they are computed once a prompt, and last
    for all its chunks. Raises LingbotError for widths that the product does not take.
    """
    config = model.config
    for name, width in (("dim", config.dim), ("ffn_dim", config.ffn_dim)):
        if width % ALIGNMENT:
            raise LingbotError(
                f"fp8 needs a {name} divisible by {ALIGNMENT}, not {width}", field="fp8"
            )
    for block in model.fuse().blocks:
        assert isinstance(block, Block)
        block.self_attn.replace_fused(Float8Linear)
        replace_linear(block.self_attn, ("o",))
        replace_linear(block.cross_attn, ("q", "o"))
        replace_linear(block.camera, ("layer1", "layer2", "scale", "shift"))
        replace_linear(block.ffn, ("0", "2"))
    return model


def replace_linear(parent: nn.Module, names: Sequence[str]) -> None:
    """Replace linear layers of a module by quantised ones."""
    for name in names:
        layer = parent.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        parent.register_module(name, Float8Linear(layer.weight, layer.bias))
