import pytest
import torch

from lingbot.dit.layers import RMSNorm
from lingbot.dit.precision import cast_weights, stays_float32
from lingbot.dit.weights import to_checkpoint
from tests.lingbot.toy import WALK, make_engine, make_spec

BFLOAT16 = torch.bfloat16


def test_norms_modulation_time_and_the_last_layer_stay_in_float32():
    model = cast_weights(make_engine().model, BFLOAT16)
    kept = {name for name, weight in model.named_parameters() if weight.dtype == torch.float32}
    norms = [f"{part}.norm_{kind}" for part in ("self_attn", "cross_attn") for kind in "qk"]
    by_block = [*(f"{norm}.weight" for norm in norms), "norm3.weight", "norm3.bias", "modulation"]
    linear = ["time_embedding.0", "time_embedding.2", "time_projection.1", "head.head"]
    assert kept == {
        *(f"blocks.{layer}.{name}" for layer in range(2) for name in by_block),
        *(f"{name}.{part}" for name in linear for part in ("weight", "bias")),
        "head.modulation",
    }
    others = [weight for name, weight in model.named_parameters() if name not in kept]
    assert {weight.dtype for weight in others} == {BFLOAT16}


def test_a_checkpoints_names_give_the_same_choice():
    for name in make_engine().model.state_dict():
        assert stays_float32(name) == stays_float32(to_checkpoint(name))


def test_the_rms_norm_of_bfloat16_is_rounded_once():
    norm, x = RMSNorm(16, 1e-6), torch.randn(2, 3, 16).to(BFLOAT16)
    torch.nn.init.normal_(norm.weight)
    scale = (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert norm(x).dtype == torch.float32
    torch.testing.assert_close(norm(x), x.float() * scale * norm.weight)


@pytest.mark.parametrize("control", ["cam", "act"])
def test_float32_norms_bring_bfloat16_nearer_to_float32(control):
    """The slow twin is float32; casting every weight is what `cast_weights` improves on."""
    exact, mixed, rounded = (make_engine(control=control) for _ in range(3))
    engines = exact, mixed, rounded
    cast_weights(mixed.model, BFLOAT16)
    rounded.model.to(BFLOAT16)
    for engine in (mixed, rounded):
        engine.dtype = BFLOAT16
    sessions = [engine.open(make_spec()) for engine in engines]
    errors = torch.zeros(2)
    for actions in WALK:
        reference, *ours = (
            engine.denoise(session, actions)
            for engine, session in zip(engines, sessions, strict=True)
        )
        errors += torch.tensor([(x - reference).norm() / reference.norm() for x in ours])
    assert 1e-4 < errors[0] < 0.95 * errors[1]
