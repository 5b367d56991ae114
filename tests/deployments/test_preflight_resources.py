"""What the deployments of a config need, against what this machine has."""

from contextlib import nullcontext

import pytest
from msgspec.structs import replace

from deployments import preflight
from deployments.config import parse_args
from deployments.preflight import (
    check_machine,
    check_resources,
    check_strategies,
    num_replicas,
    replica_resources,
)
from deployments.schema_keys import ConfigError
from tests.deployments.shipped_file import FILE, with_args, with_group


@pytest.mark.parametrize(
    "file, reason",
    [
        (with_args(threads=3), r"args\.threads: 3, but there are 2 CPUs"),
        (
            with_args(singleton_resources={"transport": 0.01}),
            r"need 0\.01 transport, no such resource, .*args\.singleton_resources 0\.01$",
        ),
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
