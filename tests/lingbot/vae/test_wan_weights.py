import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import load_file, save_file

from lingbot.errors import LingbotError, WeightsError
from lingbot.vae.statistics import WAN_MEAN, WAN_STD
from lingbot.vae.wan import load_wan_vae
from lingbot.vae.wan_weights import FileNames, infer_shape, load_weights
from tests.lingbot.vae.toy_wan import make_network, official_tensors

GOLDEN = Path(__file__).parents[2] / "golden" / "vae_wan21"
FOLDER_FILE = "diffusion_pytorch_model.safetensors"


def write_pth(folder, network=None):
    path = folder / "Wan2.1_VAE.pth"
    torch.save(official_tensors(network or make_network()), path)
    return path


def write_folder(folder, network=None, **changes):
    (network or make_network()).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    return folder


def load(path, dtype=torch.float32):
    return load_wan_vae(path, device=torch.device("cpu"), dtype=dtype)


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return AutoencoderKLWan().state_dict()


def test_the_published_layout_is_mapped_as_diffusers_maps_it(published):
    names = FileNames(blocks=4)
    official = [names.to_file(name) for name in published]
    assert len(set(official)) == 194
    assert sum(tensor.numel() for tensor in published.values()) == 126_892_531
    assert FileNames.of(official) == names
    ours = {names.to_diffusers(name): name for name in official}
    assert ours == convert_wan_vae_to_diffusers({name: name for name in official})
    assert ours.keys() == published.keys()


def test_the_golden_file_has_official_names():
    """They are the reference's own, and of one residual block a level."""
    official = torch.load(GOLDEN / "Wan2.1_VAE.pth")
    names = FileNames.of(official)
    assert names.blocks == 3
    mapped = {names.to_diffusers(name) for name in official}
    assert mapped == make_network().state_dict().keys()
    assert {names.to_file(name) for name in mapped} == official.keys()


def test_the_published_shapes_give_the_published_config(published, tmp_path):
    shape = infer_shape(published, FileNames(None), source=tmp_path)
    assert shape == {
        "base_dim": 96,
        "decoder_base_dim": 96,
        "z_dim": 16,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
    }


SHAPES = {
    "narrow": {},
    "deep": {"depth": 2},
    "other levels": {"dim_mult": [1, 2, 2, 3], "base": 6},
    "time first": {"temperal_downsample": [True, True, False]},
    "decoder": {"decoder_base_dim": 6},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_widths_and_depths_come_from_the_shapes(tmp_path, shape):
    network = make_network(**shape)
    loaded = load_weights(write_pth(tmp_path, network)).network
    expected = network.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[k]) for k, tensor in loaded.state_dict().items())


def test_all_kinds_of_files_give_the_same_network(tmp_path):
    single = tmp_path / "Wan2.1_VAE.safetensors"
    save_file(official_tensors(make_network()), single)
    paths = [write_pth(tmp_path), write_folder(tmp_path / "vae"), single]
    latents = torch.randn(1, 16, 2, 2, 3)
    vaes = [load(path) for path in paths]
    first, *others = (vae.decode_video(latents, vae.new_decoder_state()) for vae in vaes)
    assert all(torch.equal(first, other) for other in others)


def test_a_folders_statistics_replace_the_published_ones(tmp_path):
    published = load(write_folder(tmp_path / "plain"))
    changed = load(write_folder(tmp_path / "changed", latents_mean=[0.5] * 16))
    assert torch.equal(published.mean.flatten(), torch.tensor(WAN_MEAN))
    assert torch.equal(published.std.flatten(), torch.tensor(WAN_STD))
    assert (changed.mean == 0.5).all() and torch.equal(changed.std, published.std)


def test_weights_are_cast_without_a_warning(tmp_path, capfd):
    network = make_network().to(torch.float16)
    capfd.readouterr()
    vae = load(write_pth(tmp_path, network), torch.bfloat16)
    assert {p.dtype for p in vae.network.parameters()} == {torch.bfloat16}
    assert capfd.readouterr() == ("", "")


def change_pth(**changes):
    """A damage: replace tensors by the results of functions; None removes one."""

    def damage(folder):
        path = folder / "Wan2.1_VAE.pth"
        tensors = torch.load(path)
        for name, change in changes.items():
            if change is None:
                del tensors[name]
            else:
                tensors[name] = change(tensors.get(name))
        torch.save(tensors, path)

    return damage


def write_bytes(content):
    return lambda folder: (folder / "Wan2.1_VAE.pth").write_bytes(content)


PTH_DAMAGE = {
    "missing": (change_pth(**{"decoder.head.2.bias": None}), "no tensor 'decoder.head.2.bias'"),
    "no first": (change_pth(**{"encoder.conv1.weight": None}), "no tensor 'encoder.conv1.weight'"),
    "two missing": (
        change_pth(**{"conv1.bias": None, "conv2.bias": None}),
        "no tensor 'conv1.bias' (and 1 more)",
    ),
    "extra": (change_pth(extra=lambda _: torch.ones(1)), "unknown tensor 'extra'"),
    "misshapen": (
        change_pth(**{"decoder.middle.1.proj.weight": lambda t: t[1:]}),
        "tensor 'decoder.middle.1.proj.weight' is float32 [15, 16, 1, 1], "
        "expected floats [16, 16, 1, 1]",
    ),
    "integers": (change_pth(**{"conv1.bias": lambda t: t.long()}), "'conv1.bias' is int64 [32]"),
    "scalar": (
        change_pth(**{"encoder.conv1.weight": lambda t: t.sum()}),
        "tensor 'encoder.conv1.weight' is [], expected a width first",
    ),
    "a level less": (
        change_pth(**{f"encoder.downsamples.5.resample.1.{k}": None for k in ("weight", "bias")}),
        "encodes 4 pixels and 2 frames as one, expected 8 and 4",
    ),
    "pointer": (write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs pointer"),
    "empty": (write_bytes(b""), "is empty"),
    "junk": (write_bytes(b"junk"), "not a whole PyTorch file"),
    "absent": (lambda folder: (folder / "Wan2.1_VAE.pth").unlink(), "No such file"),
}


def assert_refused(path, source, reason):
    with pytest.raises(WeightsError) as refused:
        load(path)
    assert str(refused.value).startswith(str(source)) and reason in str(refused.value)


@pytest.mark.parametrize("damage, reason", PTH_DAMAGE.values(), ids=PTH_DAMAGE)
def test_a_damaged_file_gives_its_name_and_the_tensor(tmp_path, damage, reason):
    path = write_pth(tmp_path)
    damage(tmp_path)
    assert_refused(path, path, reason)


def drop_a_tensor(folder):
    tensors = load_file(folder / FOLDER_FILE)
    del tensors["decoder.conv_in.bias"]
    save_file(tensors, folder / FOLDER_FILE)


FOLDER_DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json", "No such file"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json", "truncated"),
    "width": (
        lambda f: write_folder(f, base_dim=96),
        "config.json",
        f"base_dim is 96, but {FOLDER_FILE} has 4",
    ),
    "statistics": (
        lambda f: write_folder(f, latents_std=[1.0]),
        "config.json",
        "length >= 16 - at `$.latents_std`",
    ),
    "no weights": (lambda f: (f / FOLDER_FILE).unlink(), FOLDER_FILE, "No such file"),
    "tensor": (drop_a_tensor, FOLDER_FILE, "no tensor 'decoder.conv_in.bias'"),
}


@pytest.mark.parametrize("damage, file, reason", FOLDER_DAMAGE.values(), ids=FOLDER_DAMAGE)
def test_a_damaged_folder_gives_the_file_and_the_reason(tmp_path, damage, file, reason):
    write_folder(tmp_path)
    damage(tmp_path)
    assert_refused(tmp_path, tmp_path / file, reason)


def test_without_diffusers_one_line_names_the_extra(tmp_path, monkeypatch):
    path = write_pth(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(LingbotError, match="^published weights need diffusers: pip install"):
        load(path)
