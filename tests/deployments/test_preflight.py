import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from deployments import preflight
from deployments.config import ServiceConfig, parse_args
from deployments.observability import tracing
from deployments.preflight import (
    check_device,
    check_machine,
    check_memory,
    check_weights,
    free_gpu_memory,
    free_per_rank,
)
from deployments.schema_keys import ConfigError
from lingbot import extra
from lingbot.config import MODEL_1_3B, MODEL_14B, PRESETS
from lingbot.memory_plan import plan_memory
from tests.deployments.shipped_file import FILE, with_args, with_group
from tests.lingbot.checkpoint.folders import TINY, tiny_tensors, write_parts, write_shards

POCKET = PRESETS["pocket"]


@pytest.fixture
def weights(tmp_path):
    """A copy of the pocket world's weights."""
    for path in POCKET.folder.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    return tmp_path


def check(weights, num_ranks=1):
    check_weights(ServiceConfig(weights=str(weights)), num_ranks=num_ranks)


def test_the_shipped_config_fits_this_machine(monkeypatch):
    check_machine(FILE)
    monkeypatch.setattr(preflight, "get_num_cpus", lambda: 1)
    check_machine(with_group())  # the file's comment for one core


def test_whole_weights_pass(weights):
    check(weights)
    check(weights, num_ranks=2)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def edit_heads(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_heads": "four"}))


@pytest.mark.parametrize(
    "name, damage, reason",
    [
        (POCKET.dit_file, Path.unlink, "No such file"),
        (POCKET.vae_file, Path.unlink, "No such file"),
        (POCKET.dit_file, truncate, "not a whole safetensors file"),
        (POCKET.vae_file, lambda path: path.write_text("version https://git-lfs…"), "git-lfs"),
        ("config.json", Path.unlink, "No such file"),
        ("config.json", lambda path: path.write_text("null"), "got `null`"),
        ("config.json", edit_heads, "num_heads"),
    ],
)
def test_a_missing_or_damaged_file_is_named(weights, name, damage, reason):
    damage(weights / name)
    with pytest.raises(ConfigError) as raised:
        check(weights)
    text = str(raised.value)
    assert text.startswith(f"applications[0].args.weights: {weights / name}: ") and reason in text


def test_a_folder_that_is_none_is_named(weights):
    for folder in (weights / "none", weights / "config.json"):
        with pytest.raises(ConfigError, match=f"args.weights: no folder {folder}"):
            check(folder)


@pytest.fixture
def published(tmp_path):
    """A published model of a size of its own, with all parts but a tiny VAE."""
    write_shards(tmp_path / "transformers", tiny_tensors(), stem="model")
    write_parts(tmp_path)
    return tmp_path


def check_published(folder, **changes):
    config = parse_args({"preset": "v2-14b", "weights": str(folder)} | changes)
    check_weights(config, num_ranks=1)


def test_the_file_of_a_dit_is_enough_beside_its_parts_in_another_folder(published, tmp_path):
    save_file(tiny_tensors(), tmp_path / "alone.safetensors")
    check_published(tmp_path / "alone.safetensors", assets=str(published))


@pytest.mark.parametrize("name", ["none", "Wan2.1_VAE.pth"])
def test_assets_that_are_no_folder_are_named(published, name):
    with pytest.raises(ConfigError, match=rf"args\.assets: no folder {published / name}"):
        check_published(published, assets=str(published / name))


@pytest.mark.parametrize(
    "name, reason",
    [
        ("none.pth", "No such file"),
        ("google", "is a folder, expected a file"),
        ("Wan2.1_VAE.pth", "is a vae, not a tiny VAE, expected a file in TAEHV's layout"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "is a text_encoder, not a tiny VAE"),
        ("transformers/model-00001-of-00004.safetensors", "is a dit, not a tiny VAE"),
        ("junk.pth", "not a whole PyTorch file"),
    ],
)
def test_a_tiny_vae_that_is_none_is_named(published, name, reason):
    (published / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ConfigError) as raised:
        check_published(published, vae="tiny", tiny_vae=str(published / name))
    text = str(raised.value)
    assert text.startswith(f"applications[0].args.tiny_vae: {published / name}: "), text
    assert reason in text


@pytest.mark.parametrize("name", ["taew2_1.pth", "taew2_1.pt", "taew2_1.safetensors"])
def test_a_tiny_vae_passes_with_each_ending(published, name):
    tensors = {"decoder.1.weight": torch.zeros(1)}
    save = save_file if name.endswith("safetensors") else torch.save
    save(tensors, published / name)
    check_published(published, vae="tiny", tiny_vae=str(published / name))


def test_a_path_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="args.weights: /aaa.*: File name too long"):
        check("/" + "a" * 300)

    def deny(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", deny)  # as for a folder of another user
    with pytest.raises(ConfigError, match=f"args.weights: {tmp_path}: Permission denied"):
        check(tmp_path)


def test_a_preset_without_weights_needs_a_folder(monkeypatch):
    monkeypatch.setitem(PRESETS, "pocket", replace(POCKET, folder=None))
    with pytest.raises(ConfigError, match="'pocket' needs a folder of weights"):
        check_weights(ServiceConfig(), num_ranks=1)


def test_a_published_preset_needs_the_extra(tmp_path, monkeypatch):
    published = with_args(preset="v1-14b", weights=str(tmp_path))
    with pytest.raises(ConfigError, match=r"args\.weights: .*: no DiT"):
        check_machine(published)
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"args\.preset: published weights need diffusers: pip"):
        check_machine(published)
    check_machine(FILE)  # the pocket world needs none of it


def test_spans_need_the_extra(monkeypatch):
    traced = with_args(otlp_endpoint="http://collector:4318")
    check_machine(traced)
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"args\.otlp_endpoint: .* the extra \[tracing\]: pip"):
        check_machine(traced)


@pytest.mark.parametrize("content, reason", [(None, ".*: No such file"), (" \n", ".*: is empty")])
def test_an_operator_s_token_needs_its_file(tmp_path, content, reason):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=rf"args\.operator_token_file: {reason}"):
        check_machine(with_args(operator_token_file=str(file)))
    file.write_text("s3cret")
    check_machine(with_args(operator_token_file=str(file)))


def test_one_of_several_dits_in_a_folder_is_named_by_its_file(tmp_path):
    write_parts(tmp_path)
    for name in ("one.safetensors", "two.safetensors"):
        save_file(tiny_tensors(), tmp_path / name)
    with pytest.raises(ConfigError, match=r"path of one of them: one\.safetensors, two\."):
        check_weights(ServiceConfig(preset="v1-14b", weights=str(tmp_path)), num_ranks=1)
    file = ServiceConfig(preset="v1-14b", weights=str(tmp_path / "two.safetensors"))
    assert check_weights(file, num_ranks=1) == TINY


def test_the_number_of_ranks_divides_the_heads(weights):
    with pytest.raises(ConfigError, match="num_heads 4 must be divisible by the 3 ranks"):
        check_machine(with_group(placement_group_bundles=[{"CPU": 0.1}] * 3))


def test_cuda_needs_a_device_and_a_gpu_in_each_bundle(monkeypatch):
    cuda = with_args(device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"args\.device: this machine has no CUDA device"):
        check_machine(cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"placement_group_bundles\[0\] of WorldGroup: no GPU"):
        check_machine(cuda)
    check_device(
        replace(cuda, deployments={"WorldGroup": {"placement_group_bundles": [{"GPU": 1}]}}),
        num_gpus=2,
    )


@pytest.mark.parametrize(
    "switch, reason",
    [
        # As the ranks see it: `parse_args` refuses these before.
        ({"attention": "cudnn"}, "attention: attention 'cudnn' cannot run here: it needs a GPU"),
        ({"fp8": True}, "fp8: fp8 needs a GPU, not cpu"),
        ({"compile": True}, "compile: compile needs one of g"),
    ],
)
def test_a_switch_that_this_machine_cannot_do_is_refused(tmp_path, monkeypatch, switch, reason):
    monkeypatch.setenv("PATH", str(tmp_path))  # as without a compiler
    with pytest.raises(ConfigError, match=rf"args\.{reason}"):
        check_machine(replace(FILE, args=ServiceConfig(**switch)))


def test_worlds_that_do_not_fit_are_refused_with_the_sum():
    file = replace(FILE, args=parse_args({"preset": "v1-14b", "device": "cuda"}))
    check_memory(file, MODEL_14B, free=79 * 2**30)
    check_memory(file, MODEL_14B, free=None)  # unknown: the ranks look again
    large = replace(file, args=replace(file.args, window=40))
    with pytest.raises(ConfigError) as refused:
        check_memory(large, MODEL_14B, free=79 * 2**30)
    sums = r"args\.window: GiB of memory: weights 34\.89 \+ .* with window 40 takes K/V 47\.61 \+ "
    assert re.match(f"applications.0..{sums}.* 79\\.00 are free: 0 fit", str(refused.value))
    check_memory(large, MODEL_14B, free=139 * 2**30)


def test_one_world_that_fits_is_enough():
    plan = plan_memory(POCKET, POCKET.world, vae="tiny", itemsize=4)
    fixed = plan.fixed + FILE.args.camera_cache_bytes
    check_memory(FILE, POCKET.model, free=fixed + plan.largest.total)
    with pytest.raises(ConfigError, match="0 fit, expected 1"):
        check_memory(FILE, POCKET.model, free=fixed + plan.largest.total - 1)
    half = with_args(dtype="bfloat16", camera_cache_bytes=0)
    check_memory(half, POCKET.model, free=fixed)


def test_ranks_of_all_groups_share_the_memory_of_a_machine(monkeypatch):
    monkeypatch.setattr(preflight, "free_host_memory", lambda: 1200)
    bundles = [{"CPU": 1}] * 3
    assert free_per_rank(FILE) == 1200
    two = {"min_replicas": 2}
    assert free_per_rank(with_group(placement_group_bundles=bundles, autoscaling_config=two)) == 200
    monkeypatch.setattr(preflight, "free_host_memory", lambda: None)
    assert free_per_rank(FILE) is None


@pytest.mark.parametrize(
    "lines, free",
    [
        ("80994, 81559\n", 80994),
        ("70000, 81559\n80994, 81559\n", 80994),
        ("[N/A], [N/A]\n", None),
        ("", None),
    ],
)
def test_the_gpu_with_most_memory_counts(tmp_path, monkeypatch, lines, free):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '%s' '{lines}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = None if free is None else free * 2**20
    assert free_gpu_memory() == free_per_rank(with_args(device="cuda")) == expected


@pytest.mark.parametrize("now", [81000, 70240])
def test_other_processes_count_before_and_after_they_take_their_share(tmp_path, monkeypatch, now):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\necho '{now}, 81000'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    shared = with_args(device="cuda", other_gpu_bytes=10760 * 2**20)
    assert free_per_rank(shared) == 70240 * 2**20


def test_a_text_encoder_on_the_same_gpu_leaves_less_for_worlds(tmp_path, monkeypatch):
    """The figures of `docs/checkpoints.md`: umT5 takes 10.6 GiB."""
    command, others = tmp_path / "nvidia-smi", int(10.6 * 2**30)
    monkeypatch.setenv("PATH", str(tmp_path))
    args = {"preset": "v2-1.3b", "device": "cuda", "camera_cache_bytes": 2**31}
    alone = replace(FILE, args=parse_args(args))
    shared = replace(FILE, args=parse_args(args | {"other_gpu_bytes": others}))
    command.write_text("#!/bin/sh\necho '23859, 24564'\n")
    command.chmod(0o755)
    check_memory(alone, MODEL_1_3B, free=free_per_rank(alone))
    with pytest.raises(ConfigError, match="are free beside 10.60 of other processes: 0 fit"):
        check_memory(shared, MODEL_1_3B, free=free_per_rank(shared))


def test_without_nvidias_command_the_gpus_memory_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_gpu_memory() is None


def test_a_file_of_tokens_that_cannot_be_used_is_named(tmp_path):
    file = tmp_path / "tokens.yaml"
    with pytest.raises(ConfigError, match=rf"args\.access: {file}: No such file"):
        check_machine(with_args(access={"tokens_file": str(file)}))
    file.write_text("[{name: alice, token: short}]")
    with pytest.raises(ConfigError, match=rf"args\.access: {file}: .*\$\[0\]\.token"):
        check_machine(with_args(access={"tokens_file": str(file)}))
