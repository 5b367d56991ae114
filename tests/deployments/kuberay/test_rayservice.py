"""The RayService: KubeRay's schema, the shipped config, and figures that fit together."""

import gzip
import json
import os
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from jsonschema import Draft202012Validator

from benchmarks.local_server import ROOT
from deployments.app import build
from deployments.config import parse_args
from deployments.config_file import read_config_file
from deployments.serve import ENVIRONMENT

MANIFEST = ROOT / "deployments/kuberay/rayservice.yaml"
SCHEMA = Path(
    os.environ.get("KUBERAY_SCHEMA", ROOT / "../shared/kuberay/rayservice-v1.schema.json.gz")
)
SHIPPED = msgspec.yaml.decode((ROOT / "serve_config.yaml").read_bytes())
DEPLOYMENT_DIFFERENCES = {
    "Transport": {"ray_actor_options": {"num_cpus": 1, "resources": {"transport": 1}}},
    "WorldGroup": {"placement_group_bundles": [{"CPU": 2, "GPU": 1}]},
}


@pytest.fixture(scope="module")
def service():
    return msgspec.yaml.decode(MANIFEST.read_bytes())


@pytest.fixture
def spec(service):
    return service["spec"]


@pytest.fixture
def config(spec):
    return msgspec.yaml.decode(spec["serveConfigV2"])


@pytest.fixture
def cluster(spec):
    return spec["rayClusterConfig"]


@pytest.fixture
def workers(cluster):
    return {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def pods(cluster):
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def closed(schema):
    """The schema with each object closed, so that an unknown key is an error as in Kubernetes."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    free = schema.keys() & {"additionalProperties", "x-kubernetes-preserve-unknown-fields"}
    if "properties" in schema and schema.get("type") == "object" and not free:
        schema["additionalProperties"] = False
    return schema


@pytest.fixture(scope="module")
def validator():
    if not SCHEMA.exists():
        pytest.skip(f"no schema of RayService at {SCHEMA}; KUBERAY_SCHEMA names its file")
    schema = closed(json.loads(gzip.decompress(SCHEMA.read_bytes())))
    # Kubernetes checks these itself; the schema leaves them open.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return Draft202012Validator(schema)


def test_manifest_is_a_valid_rayservice(validator, service):
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(service)]
    assert not errors
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rayClusterConfig", "autoscalerOptions", "version"), "v3"),
        (("rayClusterConfig", "authOptions", "mode"), "secret"),
        (("rayClusterDeletionDelaySeconds",), -1),
        (("rayClusterConfig", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("rayClusterConfig", "rayStartParams"), {}),
        (("rayClusterConfig", "workerGroupSpecs", 1, "template", "spec", "container"), []),
    ],
)
def test_schema_refuses_a_wrong_value_and_an_unknown_key(validator, service, path, value):
    changed = msgspec.json.decode(msgspec.json.encode(service))
    *parents, last = ("spec", *path)
    target = changed
    for key in parents:
        target = target[key]
    target[last] = value
    assert not validator.is_valid(changed)


def test_embedded_config_is_the_shipped_one_but_for_named_keys(config):
    expected = msgspec.json.decode(msgspec.json.encode(SHIPPED))
    expected["http_options"]["host"] = "0.0.0.0"
    (application,) = expected["applications"]
    application["args"]["device"] = "cuda"
    application["args"]["singleton_resources"] = {"transport": 0.01}
    application["args"]["limits"]["max_session_s"] = 3600
    for deployment in application["deployments"]:
        deployment |= DEPLOYMENT_DIFFERENCES[deployment["name"]]
    assert config == expected


def test_embedded_config_passes_our_own_check(config, tmp_path):
    path = tmp_path / "serve_config.yaml"
    path.write_bytes(msgspec.yaml.encode(config))
    read_config_file(path)


def test_no_session_is_cut_by_a_drain_an_upgrade_or_a_pod(spec, config, workers):
    (application,) = config["applications"]
    args = parse_args(application["args"])
    graceful = {d["name"]: d["graceful_shutdown_timeout_s"] for d in application["deployments"]}
    assert args.resume_grace_s < graceful["WorldGroup"] < graceful["Transport"]
    assert args.limits.max_session_s < spec["rayClusterDeletionDelaySeconds"]
    for group in workers.values():
        grace_s = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert graceful["Transport"] < grace_s


def test_each_container_has_the_documented_environment_and_no_token(cluster):
    expected = {name: value for name, value in ENVIRONMENT.items() if name != "RAY_AUTH_MODE"}
    for pod in pods(cluster):
        (container,) = pod["containers"]
        assert {each["name"]: each["value"] for each in container["env"]} == expected
    assert cluster["authOptions"] == {"mode": "token", "secretName": "lingbot-ray-token"}


def test_each_pod_has_shared_memory_and_fixed_resources_and_is_not_root(cluster):
    for pod in pods(cluster):
        (container,) = pod["containers"]
        (mount,) = (m for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm")
        (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
        assert volume["emptyDir"]["medium"] == "Memory"
        assert container["resources"]["requests"]["memory"]
        memory = {container["resources"][key]["memory"] for key in ("requests", "limits")}
        assert len(memory) == 1  # shared memory counts: the kernel must not kill for it later
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["restartPolicy"] == "Never"  # autoscaler v2 needs it


def bound_once(config):
    """The deployments of one replica, with all that the config may switch on."""
    access = {"tokens_file": "/etc/tokens.yaml"}
    transport = build(config["applications"][0]["args"] | {"access": access})._bound_deployment
    bound = (transport.init_kwargs[name] for name in ("fork_store", "token_usage"))
    return [application._bound_deployment for application in bound]


def test_replicas_go_where_they_belong(config, cluster, workers):
    deployments = {d["name"]: d for d in config["applications"][0]["deployments"]}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    # A shell unpacks the parameter.
    (text,) = shlex.split(workers["transports"]["rayStartParams"]["resources"])
    offered = json.loads(text)
    wanted = deployments["Transport"]["ray_actor_options"]
    assert wanted["resources"].keys() == offered.keys()
    singletons = [deployment.ray_actor_options for deployment in bound_once(config)]
    assert [one["resources"].keys() for one in singletons] == [offered.keys()] * 2
    (container,) = workers["transports"]["template"]["spec"]["containers"]
    num_transports = int(container["resources"]["limits"]["cpu"]) // wanted["num_cpus"]
    for name, amount in offered.items():
        used = sum(one["resources"][name] for one in singletons)
        assert num_transports * wanted["resources"][name] + used <= amount
    (bundle,) = deployments["WorldGroup"]["placement_group_bundles"]
    (container,) = workers["worlds"]["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert bundle["GPU"] == int(limits["nvidia.com/gpu"])
    assert bundle["CPU"] <= int(limits["cpu"])
    (container,) = workers["transports"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


def test_a_text_encoder_goes_where_the_weights_are(spec, workers, tmp_path):
    """Its section is a comment, because the pocket world has none."""
    text = re.sub(r"# (- name: TextEncoder\n +)# ", r"\1", spec["serveConfigV2"])
    file = tmp_path / "serve_config.yaml"
    published = r"\1preset: v2-14b\n\1weights: /weights/v2"
    file.write_text(re.sub("( +)preset: pocket", published, text))
    deployments = read_config_file(file).deployments
    options = deployments["TextEncoder"]["ray_actor_options"]
    for group in workers.values():
        (offered,) = shlex.split(group["rayStartParams"]["resources"])
        (container,) = group["template"]["spec"]["containers"]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        is_offered = options["resources"].items() <= json.loads(offered).items()
        assert is_offered == ("/weights" in mounts)
    (bundle,) = deployments["WorldGroup"]["placement_group_bundles"]
    (container,) = workers["worlds"]["template"]["spec"]["containers"]
    assert bundle["CPU"] + options["num_cpus"] <= int(container["resources"]["limits"]["cpu"])


def test_pods_suffice_for_the_replicas_that_serve_may_start(config, workers):
    deployments = {d["name"]: d for d in config["applications"][0]["deployments"]}
    for group, deployment, per_pod in (("transports", "Transport", 4), ("worlds", "WorldGroup", 1)):
        wanted = deployments[deployment]
        most = wanted.get("autoscaling_config", {}).get("max_replicas", wanted.get("num_replicas"))
        assert workers[group]["maxReplicas"] * per_pod >= most


def test_probes_ask_ports_that_the_pods_open(config, workers):
    port = config["http_options"]["port"]
    for group in workers.values():
        (container,) = group["template"]["spec"]["containers"]
        assert port in [each["containerPort"] for each in container["ports"]]
    (container,) = workers["transports"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": port}


def test_ray_is_the_installed_version(cluster):
    assert cluster["rayVersion"] == version("ray")
