import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments.config_file import main, read_config_file
from deployments.schema_keys import ConfigError

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "serve_config.yaml"


def change(content, path, value):
    """Set `value` at a path of keys and indices, and create sections on the way."""
    *parents, last = path
    for key in parents:
        content = content.setdefault(key, {}) if isinstance(content, dict) else content[key]
    content[last] = value


@pytest.fixture
def written(tmp_path):
    """Writes the shipped file with one value changed."""

    def write(path, value):
        content = copy.deepcopy(yaml.safe_load(SHIPPED.read_text()))
        change(content, path, value)
        file = tmp_path / "serve_config.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


APP = ("applications", 0)
TRANSPORT, GROUP = (*APP, "deployments", 0), (*APP, "deployments", 1)


def test_the_shipped_file_is_valid():
    file = read_config_file(SHIPPED)
    assert (file.host, file.port, file.route_prefix) == ("127.0.0.1", 8000, "/")
    assert file.args.preset == "pocket"
    assert file.bundles == [{"CPU": 2}]


def text_encoder_file(tmp_path, args, section):
    content = yaml.safe_load(SHIPPED.read_text())
    (application,) = content["applications"]
    application["args"] |= args
    application["deployments"].append({"name": "TextEncoder"} | section)
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_text_encoder_may_scale_from_zero(tmp_path):
    section = {"autoscaling_config": {"min_replicas": 0, "max_replicas": 2}}
    args = {"preset": "v2-14b", "weights": "/weights"}
    file = read_config_file(text_encoder_file(tmp_path, args, section))
    assert file.deployments["TextEncoder"]["autoscaling_config"]["min_replicas"] == 0


def test_the_pocket_world_has_no_text_encoder_to_configure(tmp_path):
    with pytest.raises(ConfigError, match=r"deployments\[2\]\.name: 'TextEncoder' is not a choice"):
        read_config_file(text_encoder_file(tmp_path, {}, {}))


def test_a_text_encoder_on_a_gpu_needs_one(tmp_path):
    args = {"preset": "v2-14b", "weights": "/weights", "text_encoder_device": "cuda"}
    with pytest.raises(ConfigError, match="TextEncoder has no ray_actor_options.num_gpus"):
        read_config_file(text_encoder_file(tmp_path, args, {}))
    read_config_file(text_encoder_file(tmp_path, args, {"ray_actor_options": {"num_gpus": 0.2}}))


@pytest.mark.parametrize(
    "share, other_gpu_bytes, is_valid",
    [(0.8, None, False), (0.5, None, False), (0.8, 2**33, True), (0.8, 0, True), (1, None, True)],
)
def test_a_text_encoder_on_a_ranks_gpu_needs_its_bytes_in_the_plan(
    tmp_path, share, other_gpu_bytes, is_valid
):
    args = {"preset": "v2-14b", "weights": "/weights", "text_encoder_device": "cuda"}
    args["device"] = "cuda"
    if other_gpu_bytes is not None:
        args["other_gpu_bytes"] = other_gpu_bytes
    file = text_encoder_file(tmp_path, args, {"ray_actor_options": {"num_gpus": 0.2}})
    content = yaml.safe_load(file.read_text())
    bundles = [{"CPU": 1, "GPU": share}]
    content["applications"][0]["deployments"][1]["placement_group_bundles"] = bundles
    file.write_text(yaml.safe_dump(content))
    if is_valid:
        read_config_file(file)
        return
    with pytest.raises(ConfigError, match=r"args\.other_gpu_bytes: missing, expected the bytes"):
        read_config_file(file)


@pytest.mark.parametrize(
    "path, nearest",
    [
        (("http_option",), "http_options"),
        (("http_options", "prot"), "port"),
        (("grpc_options", "ports"), "port"),
        (("logging_config", "log_levels"), "log_level"),
        ((*APP, "name_"), "name"),
        ((*APP, "argz"), "args"),
        ((*APP, "args", "threats"), "threads"),
        ((*APP, "args", "limits", "max_socket"), "max_sockets"),
        ((*APP, "runtime_env", "env_var"), "env_vars"),
        ((*TRANSPORT, "max_ongoing_request"), "max_ongoing_requests"),
        ((*GROUP, "num_replica"), "num_replicas"),
        ((*GROUP, "ray_actor_options", "num_cpu"), "num_cpus"),
        ((*GROUP, "ray_actor_options", "runtime_env", "pips"), "pip"),
        ((*GROUP, "autoscaling_config", "min_replica"), "min_replicas"),
        ((*GROUP, "autoscaling_config", "policy", "policy_funktion"), "policy_function"),
        ((*GROUP, "request_router_config", "request_router_clas"), "request_router_class"),
        ((*GROUP, "user_config", "groups"), "group"),
        ((*APP, "args", "group", "max_session"), "max_sessions"),
        ((*TRANSPORT, "user_config", "close"), "closing"),
        ((*GROUP, "logging_config", "log_dir"), "logs_dir"),
    ],
)
def test_an_unknown_key_anywhere_fails_with_the_nearest_one(written, path, nearest):
    with pytest.raises(ConfigError) as raised:
        read_config_file(written(path, {}))
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
    assert str(raised.value) == f"{where}: unknown key, did you mean '{nearest}'?"


@pytest.mark.parametrize(
    "path, value, reason",
    [
        (("http_options", "port"), "eight", r"^http_options\.port: .*integer"),
        (("http_options", "port"), 0, r"^http_options\.port: 0 is not a port, expected 1 to 65535"),
        (("http_options", "port"), 70000, r"^http_options\.port: 70000 is not a port"),
        (("http_options", "port"), True, r"^http_options\.port: true, expected a number"),
        (("http_options", "request_timeout_s"), -1, r"request_timeout_s: -1, expected seconds"),
        (("http_options", "keep_alive_timeout_s"), 0, r"keep_alive_timeout_s: 0, expected seconds"),
        (
            ("http_options",),
            {"ssl_keyfile": __file__, "ssl_certfile": "/no"},
            r"^http_options\.ssl_certfile: no file /no",
        ),
        (
            ("http_options", "ssl_keyfile"),
            __file__,
            r"^http_options\.ssl_certfile: missing, expected one with ssl_keyfile",
        ),
        ((*APP, "runtime_env"), {"env_vars": 3}, r"runtime_env\.env_vars: 3 has a wrong"),
        ((*TRANSPORT, "num_replicas"), True, r"deployments\[0\]\.num_replicas: true, expected"),
        ((*GROUP, "num_replicas"), 2, r"deployments\[1\].*num_replicas.*autoscaling_config"),
        ((*APP, "args", "lease_ttl_s"), False, r"args\.lease_ttl_s: false, expected a number"),
        (("proxy_location",), "everynode", r"^proxy_location: .*'HeadOnly' or 'EveryNode'"),
        ((*APP, "import_path"), "deployments.app:biuld", r"import_path: .*'deployments.app:build'"),
        ((*APP, "args", "device"), "gpu", r"^applications\[0\]\.args\.device: .*'cpu', 'cuda'"),
        ((*APP, "args", "lease_ttl_s"), "x", r"^applications\[0\]\.args\.lease_ttl_s: "),
        ((*GROUP, "name"), "WorldGruop", r"deployments\[1\]\.name: .*'Transport', 'WorldGroup'"),
        ((*GROUP, "health_check_period_s"), 0, r"health_check_period_s: .*greater than 0"),
        ((*GROUP, "placement_group_strategy"), "STRICT", r"_strategy: .*'STRICT_PACK'"),
        ((*TRANSPORT, "autoscaling_config", "max_replicas"), 0, r"config\.max_replicas: .*greater"),
        ((*GROUP, "placement_group_bundles"), [], r"WorldGroup needs placement_group_bundles"),
        ((*APP, "deployments"), [], r"^applications\[0\]\.deployments: WorldGroup needs"),
        ((*GROUP, "user_config"), {"limits": {}}, r"\[1\]\.user_config\.limits: unknown key"),
        (
            (*GROUP, "user_config"),
            {"group": {"pace": "fast"}},
            r"\[1\]\.user_config\.group\.pace: 'fast' .*'realtime', 'shared'",
        ),
        ((*GROUP, "user_config"), {}, r"\[1\]\.user_config: .*missing required field `group`"),
        (
            (*APP, "args", "resume_grace_s"),
            900,
            r"of WorldGroup is 300, expected at least args\.resume_grace_s, 900: a downscale",
        ),
        (
            (*GROUP, "max_ongoing_requests"),
            4,
            r"\[1\]\.max_ongoing_requests: 4, expected more than args\.group\.max_waiting, 32,",
        ),
        (
            (*GROUP, "user_config"),
            {"group": {"max_waiting": 899}},
            r"requests: 800, expected more than user_config\.group\.max_waiting, 899,",
        ),
        (
            (*APP, "args", "group"),
            {"max_waiting": 900},
            r"\[1\]: args\.group\.max_waiting: 900, expected less than 900",
        ),
        (
            (*GROUP, "max_ongoing_requests"),
            901,
            r"\[1\]\.max_ongoing_requests: 901, expected at most 900: beside more calls",
        ),
        (("http_options",), None, r"^http_options: None, expected a mapping"),
        ((*APP, "deployments"), [None], r"deployments\[0\]: None, expected a mapping"),
        (("proxy_location",), "Disabled", r"^proxy_location: Disabled, expected 'EveryNode'"),
        ((*APP, "route_prefix"), "worlds", r"route_prefix: 'worlds', expected '/'"),
        ((*APP, "route_prefix"), "/worlds/", r"route_prefix: '/worlds/', expected '/'"),
        ((*APP, "route_prefix"), None, r"route_prefix: None, expected '/'"),
        ((*APP, "port"), 8001, r"^Port 8001 is set in the config for application"),
        ((*APP, "args", "threads"), "Auto", r"threads: 'Auto' is not a choice.* 'auto', int"),
        ((*APP, "args", "image_hosts"), ["a.b\n"], r"image_hosts\[0\]: "),
        ((*TRANSPORT, "max_ongoing_requests"), 150, r"is 150, .*args\.limits\.max_sockets, 150"),
        (
            (*TRANSPORT, "user_config"),
            {"limits": {"max_sockets": 200}},
            r"is 200, .*user_config\.limits\.max_sockets, 200",
        ),
        (
            (*TRANSPORT, "name"),
            "WorldGroup",
            r"deployments\[1\]\.name: 'WorldGroup' is given twice",
        ),
        ((*TRANSPORT, "ray_actor_options", "num_cpus"), "1", r"num_cpus: '1', expected a number"),
        ((*GROUP, "ray_actor_options", "resources"), {"a": "x"}, r"resources\.a: 'x', expected"),
        ((*GROUP, "placement_group_bundles"), [{"CPU": "1e0"}], r"\[0\]\.CPU: '1e0', expected"),
        ((*GROUP, "placement_group_bundles"), [{"CPU": -1}], r"bundles\[0\]\.CPU: -1, expected"),
        ((*GROUP, "placement_group_bundles"), [{"CPU": 0}], r"bundles\[0\]: no resources"),
        (
            (*TRANSPORT, "user_config"),
            {"closing": ""},
            r"\[0\]\.user_config\.closing: .*length >= 1",
        ),
        (
            (*TRANSPORT, "user_config"),
            {"limits": {"max_socket": 3}},
            r"^applications\[0\]\.deployments\[0\]\.user_config\.limits\.max_socket: unknown key",
        ),
        (("applications",), [], r"^applications: expected one application"),
    ],
)
def test_a_wrong_value_fails_with_its_path(written, path, value, reason):
    with pytest.raises(ConfigError, match=reason):
        read_config_file(written(path, value))


def test_a_wrong_value_of_autoscaling_fails_with_its_path(tmp_path):
    content = yaml.safe_load(SHIPPED.read_text())
    group = content["applications"][0]["deployments"][1]
    group["autoscaling_config"] = {"min_replicas": "one"}
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"deployments\[1\]\.autoscaling_config\.min_replicas: "):
        read_config_file(tmp_path / "file.yaml")


@pytest.mark.parametrize(
    "data, reason",
    [
        (None, "No such file"),
        (b"a: [1", "line 1, column"),
        (b"a: b: c", "line 1, column"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"", "expected a mapping"),
        (b"- 1", "expected a mapping"),
        (b"a: 2001-99-99", "not YAML, month must be"),
        (b"a: !!bool maybe", "not YAML, 'maybe'"),
        (b"a: {b: 1, c: 2, b: 3}", "line 1: 'b' is given twice, first in line 1"),
        (b"a:\n  - b: 1\n    b: 2\n", "line 3: 'b' is given twice, first in line 2"),
        (b"{}", "applications: Field required"),
    ],
)
def test_a_file_that_is_no_config_gets_one_line(tmp_path, capsys, data, reason):
    path = tmp_path / "serve_config.yaml"
    if data is not None:
        path.write_bytes(data)
    assert main([str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ") and reason in line


def test_anchors_and_merges_are_followed(tmp_path):
    text = SHIPPED.read_text().replace(
        "http_options:\n", "http_options:\n  <<: &port {port: 8005}\n"
    )
    path = tmp_path / "serve_config.yaml"
    path.write_text(text.replace("  port: 8000\n", ""))
    assert read_config_file(path).port == 8005
    path.write_text("applications: &self [*self]\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        read_config_file(path)


def test_the_command_checks_a_file_and_prints_its_usage_without_one(written, tmp_path):
    ray_folder = tmp_path / "ray"

    def check(*arguments):
        command = [sys.executable, "-m", "deployments.config", *arguments]
        environment = os.environ | {"RAY_TMPDIR": str(ray_folder)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert check(SHIPPED).returncode == 0
    assert not ray_folder.exists()  # Ray has not started
    wrong = check(written(("http_options", "prot"), 8001))
    assert wrong.returncode == 1 and wrong.stderr.endswith("did you mean 'port'?\n")
    usage = check()
    assert usage.returncode == 2 and usage.stderr.startswith("usage: python -m deployments.config")
