"""Private names of Ray that this project uses. A release may move them, and announces nothing.

A new version of Ray is tried here first. Each name is in the table, with what we would lose.
"""

import ast
import importlib
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.serve.handle import DeploymentHandle

from deployments.router import FewestOngoingRouter, SocketRouter

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "deployments", "examples", "lingbot", "pocket", "tests", "transport")

USES = {
    "ray._private.node.Node": "the ports of a node's agents",
    "ray._private.utils.get_num_cpus": "a start that is refused for its CPUs",
    "ray._raylet.persist_port": "the ports of a node's agents",
    "ray.autoscaler._private.fake_multi_node.node_provider.FAKE_HEAD_NODE_ID": "local clusters",
    "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider": "local clusters",
    "ray.experimental.internal_kv._internal_kv_get": "whether Ray adds nodes",
    "ray.serve._private.constants.DEFAULT_GRACEFUL_SHUTDOWN_TIMEOUT_S": "checks of a config",
    "ray.serve._private.constants.DEFAULT_MAX_ONGOING_REQUESTS": "checks of a config",
    "ray.serve.context._get_global_client": "the end of all worlds with a reason",
}


def imports_of(path):
    """The names that a file imports, with their modules. None if it does not mention Ray."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)) if " ray" in text else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_private(name):
    package, *parts = name.split(".")
    return package == "ray" and any(part.startswith("_") for part in parts)


def test_the_table_has_every_private_name_that_is_imported():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    assert {name for path in files for name in imports_of(path) if is_private(name)} == set(USES)


@pytest.mark.parametrize("name", USES)
def test_this_version_of_ray_has_the_name(name):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute), USES[name]


def test_handles_may_be_told_to_call_through_grpc():
    """A caller that was killed is noticed within milliseconds then."""
    assert "_by_reference" in inspect.signature(DeploymentHandle.options).parameters


@pytest.mark.parametrize("kind", [FewestOngoingRouter, SocketRouter])
def test_a_router_knows_the_deployment_whose_replicas_it_notes(kind):
    deployment = SimpleNamespace(app_name="lingbot", name="Transport")
    router = kind(deployment_id=deployment, handle_source=SimpleNamespace(value="REPLICA"))
    assert router._deployment_id is deployment


def test_the_project_asks_for_the_minor_version_that_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [one for one in project["optional-dependencies"]["serve"] if one.startswith("ray")]
    major, minor, _ = version("ray").split(".")
    assert asked == [f"ray[serve]=={major}.{minor}.*"]
