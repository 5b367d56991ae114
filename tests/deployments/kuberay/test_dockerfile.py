"""The Dockerfile names files, modules and extras that exist. No test builds it."""

import re
import shlex
import tomllib
from importlib.util import find_spec

import pytest

from benchmarks.local_server import ROOT

DOCKERFILE = ROOT / "deployments/kuberay/Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ALLOWED = {"FROM", "ARG", "RUN", "ENV", "WORKDIR", "COPY", "USER", "CMD"}


@pytest.fixture(scope="module")
def instructions():
    """Pairs of an instruction and its arguments, comments removed and lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments(instructions, name):
    return [rest for instruction, rest in instructions if instruction == name]


def ignored(path):
    """True if .dockerignore keeps a path of the root out of the build."""
    *patterns, _ = (ROOT / ".dockerignore").read_text().split("*\n", 1)[1].splitlines()
    return f"!{path}" not in patterns


def test_each_instruction_is_known_and_the_first_names_a_python_that_we_support(instructions):
    assert {name for name, _ in instructions} == ALLOWED
    name, image = instructions[0]
    assert name == "FROM"
    python = re.fullmatch(r"python:(\d+)\.(\d+)-slim-\w+", image)
    wanted = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"])
    assert tuple(map(int, python.groups())) >= tuple(map(int, wanted.groups()))


def test_copied_files_exist_and_are_not_ignored(instructions):
    copied = [path for rest in arguments(instructions, "COPY") for path in rest.split()[:-1]]
    assert {"pyproject.toml", "lingbot", "transport", "deployments"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
        assert not ignored(path), path
    for needed in (PROJECT["readme"], *PROJECT["license-files"]):
        assert needed in copied


def test_extras_and_modules_exist(instructions):
    commands = [*arguments(instructions, "RUN"), *arguments(instructions, "CMD")]
    text = "\n".join(commands).replace('", "', " ")
    (extra,) = re.findall(r'pip install --no-cache-dir "\.\[(\w+)\]"', text)
    assert extra in PROJECT["optional-dependencies"]
    modules = re.findall(r"python -m (\S+)", text)
    assert set(modules) == {"deployments.config", "deployments.serve"}
    for module in modules:
        assert find_spec(module), module


def test_torch_is_of_the_versions_that_the_project_wants(instructions):
    (torch,) = (each for each in PROJECT["optional-dependencies"]["serve"] if "torch" in each)
    assert any(f'"{torch}"' in rest for rest in arguments(instructions, "RUN"))


def test_device_selects_the_build_of_torch_and_the_compiler(instructions):
    assert arguments(instructions, "ARG") == ["DEVICE=cpu"]
    text = "\n".join(arguments(instructions, "RUN"))
    assert re.search(r'\[ "\$DEVICE" = cpu \]; then index=\S+/whl/cpu;', text)
    assert re.search(r'\[ "\$DEVICE" = cuda \]; then apt-get install \S+ \S+ gcc', text)


def test_user_is_not_root_and_is_the_manifests(instructions):
    (user,) = arguments(instructions, "USER")
    manifest = (ROOT / "deployments/kuberay/rayservice.yaml").read_text()
    assert f"runAsUser: {user}," in manifest
    assert any(f"--uid {user} " in rest for rest in arguments(instructions, "RUN"))
    assert [name for name, _ in instructions][-2:] == ["USER", "CMD"]


def test_shell_commands_have_balanced_quotes(instructions):
    for rest in arguments(instructions, "RUN"):
        assert shlex.split(rest)
