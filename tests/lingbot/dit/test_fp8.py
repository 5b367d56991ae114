import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lingbot.dit.fp8 import FP8, Float8Linear, check_fp8, quantise, quantise_blocks
from lingbot.dit.precision import cast_weights
from lingbot.errors import LingbotError
from tests.lingbot.toy import WALK, make_engine, make_spec


def emulate(layer, x):
    """The slow twin: the product of the numbers that the 8 bits stand for, in float32."""
    rows, scale = quantise(x)
    y = F.linear(rows.float() * scale, layer.weight.float() * layer.scale.t(), layer.bias.float())
    return y.to(torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_equals_the_product_of_its_rounded_numbers(dtype):
    torch.manual_seed(0)
    plain = nn.Linear(64, 48)
    layer = Float8Linear(plain.weight, plain.bias)
    x = torch.randn(2, 3, 64).to(dtype) * torch.tensor([1e-3, 1.0, 1e3])[:, None].to(dtype)
    y = layer(x)
    assert y.shape == (2, 3, 48) and y.dtype == torch.bfloat16
    torch.testing.assert_close(
        y.flatten(0, 1), emulate(layer, x.flatten(0, 1)), rtol=1e-2, atol=1e-5
    )
    error = (y.float() - plain(x.float())).norm(dim=-1) / plain(x.float()).norm(dim=-1)
    assert error.min() > 1e-3 and error.max() < 6e-2


def test_each_row_uses_the_whole_range_and_zeros_stay_zeros():
    x = torch.tensor([[0.0, 0.0], [3.0, -7.0], [1e-30, 2e-30], [1e30, -5e30]])
    rows, scale = quantise(x)
    assert rows.dtype == FP8 and scale.shape == (4, 1)
    assert rows.float().abs().amax(dim=1).tolist() == [0, 448, 448, 448]
    torch.testing.assert_close(rows.float() * scale, x, rtol=0.07, atol=0)


def test_a_model_is_quantised_but_for_its_prompts_keys_and_values():
    model = quantise_blocks(cast_weights(make_engine().model, torch.bfloat16))
    kinds = {name: type(layer) for name, layer in model.blocks[1].named_modules()}
    linear = {name for name, kind in kinds.items() if kind is nn.Linear}
    assert linear == {"cross_attn.k", "cross_attn.v"}
    assert {name for name, kind in kinds.items() if kind is Float8Linear} == {
        "self_attn.qkv", "self_attn.o", "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2",
        "camera.layer1", "camera.layer2", "camera.scale", "camera.shift",
    }  # fmt: skip


def test_a_quantised_model_generates_nearly_the_same_world():
    exact, quantised = make_engine(), make_engine()
    quantise_blocks(cast_weights(quantised.model, torch.bfloat16))
    quantised.dtype = torch.bfloat16
    sessions = exact.open(make_spec()), quantised.open(make_spec())
    for actions in WALK:
        reference = exact.denoise(sessions[0], actions)
        error = (quantised.denoise(sessions[1], actions) - reference).norm() / reference.norm()
        assert 1e-3 < error < 6e-2


def test_widths_that_the_product_does_not_take_are_refused():
    model = make_engine(ffn_dim=72).model
    with pytest.raises(LingbotError, match="fp8 needs a ffn_dim divisible by 16, not 72"):
        quantise_blocks(model)


@pytest.mark.parametrize(
    "device, capability, dtype, reason",
    [
        ("cpu", None, torch.bfloat16, "fp8 needs a GPU, not cpu"),
        ("cuda", (8, 0), torch.bfloat16, "compute capability 8.9 or higher, not 8.0"),
        ("cuda", (9, 0), torch.float32, "fp8 needs dtype bfloat16, not float32"),
    ],
)
def test_fp8_is_refused_where_it_cannot_run(monkeypatch, device, capability, dtype, reason):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with pytest.raises(LingbotError, match=reason) as caught:
        check_fp8(torch.device(device), dtype)
    assert caught.value.field == "fp8"


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_fp8_is_accepted_from_ada_on(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    check_fp8(torch.device("cuda"), torch.bfloat16)
