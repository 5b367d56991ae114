import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lingbot.errors import WeightsError
from lingbot.vae.codec import LatentCodec, latents_by_name, load_tiny_vae
from lingbot.vae.statistics import WAN_MEAN, WAN_STD
from lingbot.vae.tiny import DecoderState, TinyVAE

CPU = torch.device("cpu")


@pytest.fixture
def codec():
    torch.manual_seed(0)
    network = TinyVAE(encoder_channels=(4, 4, 4, 4), decoder_channels=(4, 4, 4, 4)).eval()
    mean, std = torch.randn(16, 1, 1, 1), 1 + torch.rand(16, 1, 1, 1)
    return LatentCodec(network, mean, std)


@torch.inference_mode()
def test_latents_are_normalised_and_decoding_undoes_it(codec):
    video = torch.rand(1, 12, 3, 16, 24)
    latents = codec.encode(video)
    raw = codec.network.encode(video).transpose(1, 2)
    torch.testing.assert_close(latents * codec.std + codec.mean, raw)
    frames = codec.decode(latents, codec.new_decoder_state())
    expected = codec.network.decode(raw.transpose(1, 2), codec.new_decoder_state())[0]
    assert frames.shape == (9, 16, 24, 3) and frames.dtype == np.uint8
    pixels = (255 * expected).permute(0, 2, 3, 1).numpy()
    assert np.abs(frames - pixels).max() <= 0.51


@torch.inference_mode()
def test_an_image_conditions_the_first_chunk_by_its_mask_and_all_chunks_by_its_latents(codec):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    condition = codec.encode_image(image, chunk=3)
    first, later = condition.chunks
    assert condition.of_chunk(0) is first
    assert condition.of_chunk(1) is condition.of_chunk(9) is later
    for part in condition.chunks:
        assert part.shape == (1, 20, 3, 2, 3)
    assert (first[:, :4, 0] == 1).all() and not first[:, :4, 1:].any()
    assert not later[:, :4].any()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    latents = torch.cat([first, later], dim=2)[:, 4:]
    assert torch.equal(latents, codec.encode_condition(pixels, chunk=3))


def tiny_tensors(dtype=torch.float32):
    torch.manual_seed(0)
    network = TinyVAE(encoder_channels=(4, 6, 8, 10), decoder_channels=(12, 10, 8, 6))
    return {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}


def write_tiny(folder, name="taew2_1.safetensors", tensors=None):
    path = folder / name
    tensors = tiny_tensors() if tensors is None else tensors
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    return path


def load_tiny(path, **options):
    return load_tiny_vae(path, device=CPU, dtype=torch.float32, **options)


@torch.inference_mode()
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "name, latents",
    [
        ("taew2_1", None),
        ("lighttaew2_1", None),
        ("lighttaew2_1", "model"),
        ("taew2_1", "vae"),
    ],
)
def test_a_tiny_vae_takes_the_latents_it_was_trained_on(tmp_path, name, latents, suffix):
    """By value, because frames of wrongly scaled latents look nearly right."""
    takes_model = latents == "model" or (latents is None and name == "taew2_1")
    codec = load_tiny(write_tiny(tmp_path, f"{name}.{suffix}"), latents=latents)
    network = TinyVAE.from_state_dict(tiny_tensors()).eval()
    z = torch.randn(1, 16, 3, 2, 3)
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (WAN_MEAN, WAN_STD))
    options = {True: z, False: z * std + mean}
    decoded = {
        model: network.decode(taken.transpose(1, 2), DecoderState(), clamp=False)
        for model, taken in options.items()
    }
    shown = codec.decode_video(z, codec.new_decoder_state())
    torch.testing.assert_close(shown, decoded[takes_model], rtol=1e-4, atol=1e-5)
    assert (shown - decoded[not takes_model]).norm() > 1e-3 * shown.norm()
    video = torch.rand(1, 8, 3, 16, 24)
    raw = network.encode(video).transpose(1, 2)
    torch.testing.assert_close(codec.encode(video), raw if takes_model else (raw - mean) / std)


@pytest.mark.parametrize(
    "path, latents",
    [
        ("taew2_1.pth", "model"),
        ("taew2_1.safetensors", "model"),
        ("lighttaew2_1.pth", "vae"),
        ("LightTAEw2_1.safetensors", "vae"),
        ("lighttae/taew2_1.pth", "model"),
    ],
)
def test_the_files_name_tells_the_latents(tmp_path, path, latents):
    assert latents_by_name(tmp_path / path) == latents


@torch.inference_mode()
def test_float16_weights_are_cast(tmp_path):
    """The published TAEHV is in float16."""
    codec = load_tiny(write_tiny(tmp_path, tensors=tiny_tensors(torch.float16)))
    assert {p.dtype for p in codec.network.parameters()} == {torch.float32}
    assert codec.decode(torch.randn(1, 16, 1, 2, 3), codec.new_decoder_state()).any()


TINY_DAMAGE = {
    "missing": (lambda t: t.pop("decoder.22.bias"), "no tensor 'decoder.22.bias'"),
    "no width": (lambda t: t.pop("decoder.8.weight"), "no tensor 'decoder.8.weight'"),
    "extra": (lambda t: t.update(extra=torch.ones(1)), "unknown tensor 'extra'"),
    "statistics": (
        lambda t: t.update(latents_mean=torch.ones(16)),
        "unknown tensor 'latents_mean'",
    ),
    "misshapen": (
        lambda t: t.update({"encoder.17.bias": torch.ones(15)}),
        "tensor 'encoder.17.bias' is float32 [15], expected floats [16]",
    ),
    "scalar": (
        lambda t: t.update({"encoder.0.weight": torch.tensor(1.0)}),
        "tensor 'encoder.0.weight' is [], expected a width first",
    ),
}


@pytest.mark.parametrize("damage, reason", TINY_DAMAGE.values(), ids=TINY_DAMAGE)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_damaged_tiny_vae_gives_the_file_and_the_tensor(tmp_path, damage, reason, suffix):
    tensors = tiny_tensors()
    damage(tensors)
    path = write_tiny(tmp_path, f"taew2_1.{suffix}", tensors)
    with pytest.raises(WeightsError) as refused:
        load_tiny(path)
    assert str(refused.value) == f"{path}: {reason}"


def test_the_pocket_worlds_file_holds_its_statistics(tmp_path):
    tensors = tiny_tensors() | {"latents_mean": torch.ones(16), "latents_std": 2 * torch.ones(16)}
    path = write_tiny(tmp_path, "tiny_vae.safetensors", tensors)
    codec = LatentCodec.load(path, device=CPU, dtype=torch.float32)
    assert (codec.mean == 1).all() and (codec.std == 2).all()
    with pytest.raises(WeightsError, match="no tensor 'latents_mean'"):
        LatentCodec.load(write_tiny(tmp_path), device=CPU, dtype=torch.float32)
