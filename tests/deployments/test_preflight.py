import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from deployments import preflight
from deployments.config import ServiceConfig, parse_args
from deployments.config_file import read_config_file
from deployments.observability import tracing
from deployments.preflight import (
    check_device,
    check_machine,
    check_memory,
    check_resources,
    check_strategies,
    check_weights,
    free_gpu_memory,
    free_per_rank,
    num_replicas,
    replica_resources,
)
from deployments.schema_keys import ConfigError
from lingbot import extra
from lingbot.config import MODEL_14B, PRESETS
from lingbot.memory_plan import plan_memory
from tests.lingbot.checkpoint.folders import TINY, tiny_tensors, write_parts, write_shards

FILE = read_config_file(Path(__file__).parents[2] / "serve_config.yaml")
POCKET = PRESETS["pocket"]


def with_group(**changes):
    """The file with one bundle of one CPU, and these changes."""
    group = FILE.deployments["WorldGroup"] | {"placement_group_bundles": [{"CPU": 1}]} | changes
    return replace(FILE, deployments=FILE.deployments | {"WorldGroup": group})


def with_args(**changes):
    return replace(FILE, args=parse_args(changes))


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


@pytest.mark.parametrize(
    "file, reason",
    [
        (with_args(threads=3), r"args\.threads: 3, but there are 2 CPUs"),
        (
            with_group(placement_group_bundles=[{"CPU": 3}]),
            r"need 3 CPU, this machine has 2; .*: placement_group_bundles of WorldGroup 3$",
        ),
        (with_group(placement_group_bundles=[{"CPU": 1.5}] * 2), "need 3 CPU, this machine has 2"),
        (with_group(autoscaling_config={"min_replicas": 3}), "need 3 CPU, this machine has 2; the"),
        (with_group(placement_group_bundles=[{"CPU": 1, "GPU": 1}]), "1 GPU, this machine has 0"),
        (with_group(placement_group_bundles=[{"cpu": 1}]), "no such resource, did you mean 'CPU'"),
        (with_group(placement_group_bundles=[{"TPU": 4}]), "need 4 TPU, no such resource"),
    ],
)
def test_resources_beyond_the_machines_are_refused(file, reason):
    with pytest.raises(ConfigError, match=reason):
        check_resources(file, {"CPU": 2, "GPU": 0})


@pytest.mark.parametrize(
    "bundle, sections, reason",
    [
        # The default: no section, one CPU.
        (2, {}, r"3 CPU, this machine has 2; .* WorldGroup 2 and .*num_cpus \(not set\) of Text"),
        (2, {"TextEncoder": {"ray_actor_options": {"num_cpus": 0.5}}}, "num_cpus of TextEncoder 0"),
        # From zero: the first client needs both at once.
        (2, {"TextEncoder": {"autoscaling_config": {"min_replicas": 0}}}, "need 3 CPU"),
        (1, {}, None),
        (2, {"TextEncoder": {"ray_actor_options": {"num_cpus": 0}}}, None),
        (1, {"Transport": {}}, r"3 CPU, .* ray_actor_options\.num_cpus \(not set\) of Transport 1"),
    ],
)
def test_every_deployment_that_the_config_starts_counts(tmp_path, bundle, sections, reason):
    args = parse_args({"preset": "v2-14b", "weights": str(tmp_path)})
    file = with_group(placement_group_bundles=[{"CPU": bundle}])
    file = replace(file, args=args, deployments=file.deployments | sections)
    with nullcontext() if reason is None else pytest.raises(ConfigError, match=reason):
        check_resources(file, {"CPU": 2, "GPU": 0})


def test_groups_that_start_from_zero_fit_once():
    autoscaling = {"min_replicas": 0, "max_replicas": 8}
    check_resources(with_group(autoscaling_config=autoscaling), {"CPU": 1, "GPU": 0})
    large = with_group(placement_group_bundles=[{"CPU": 2}], autoscaling_config=autoscaling)
    with pytest.raises(ConfigError, match="need 2 CPU, this machine has 1;"):
        check_resources(large, {"CPU": 1, "GPU": 0})


def test_resources_within_the_machines_pass():
    check_resources(with_group(autoscaling_config={"min_replicas": 2}), {"CPU": 2, "GPU": 0})
    check_resources(
        with_group(placement_group_bundles=[{"CPU": 1, "memory": 1e12}]), {"CPU": 2, "GPU": 0}
    )


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
    "lines, free", [("80994\n", 80994), ("70000\n80994\n", 80994), ("[N/A]\n", None), ("", None)]
)
def test_the_gpu_with_most_memory_counts(tmp_path, monkeypatch, lines, free):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '%s' '{lines}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = None if free is None else free * 2**20
    assert free_gpu_memory() == free_per_rank(with_args(device="cuda")) == expected


def test_without_nvidias_command_the_gpus_memory_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_gpu_memory() is None


def test_a_container_counts_the_cpus_that_ray_counts(monkeypatch):
    monkeypatch.setattr(preflight, "get_num_cpus", lambda: 0.5)
    with pytest.raises(
        ConfigError,
        match=r"need 2 CPU, this machine has 0\.5; the bundles of WorldGroup may have less",
    ):
        check_machine(FILE)


@pytest.mark.parametrize(
    "deployment, resources, replicas",
    [
        ({}, {"CPU": 1, "GPU": 0}, 1),
        ({"ray_actor_options": {"num_cpus": 0}, "num_replicas": 4}, {"CPU": 0, "GPU": 0}, 4),
        (
            {"ray_actor_options": {"num_gpus": 1, "resources": {"X": 2}}, "num_replicas": "auto"},
            {"CPU": 1, "GPU": 1, "X": 2},
            1,
        ),
        (
            {
                "placement_group_bundles": [{"CPU": 1, "GPU": 1}, {"GPU": 1}],
                "autoscaling_config": {"min_replicas": 0, "max_replicas": 4},
            },
            {"CPU": 1, "GPU": 2},
            0,
        ),
        ({"autoscaling_config": {"initial_replicas": 3}}, {"CPU": 1, "GPU": 0}, 3),
    ],
)
def test_what_a_deployment_starts_with(deployment, resources, replicas):
    assert replica_resources(deployment) == resources
    assert num_replicas(deployment) == replicas


def test_bundles_that_need_several_machines_are_refused():
    spread = {"placement_group_strategy": "STRICT_SPREAD"}
    check_strategies(with_group(**spread))  # one bundle
    with pytest.raises(ConfigError, match="a machine for each of 2 bundles"):
        check_strategies(with_group(placement_group_bundles=[{"CPU": 1}] * 2, **spread))


def test_a_file_of_tokens_that_cannot_be_used_is_named(tmp_path):
    file = tmp_path / "tokens.yaml"
    with pytest.raises(ConfigError, match=rf"args\.access: {file}: No such file"):
        check_machine(with_args(access={"tokens_file": str(file)}))
    file.write_text("[{name: alice, token: short}]")
    with pytest.raises(ConfigError, match=rf"args\.access: {file}: .*\$\[0\]\.token"):
        check_machine(with_args(access={"tokens_file": str(file)}))
