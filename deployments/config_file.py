"""A whole serve_config.yaml, checked without starting Ray: our `args`, and Ray Serve's own keys.

Ray Serve ignores unknown keys in most of its sections. Here they are errors.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct
from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve._private.constants import (
    DEFAULT_GRACEFUL_SHUTDOWN_TIMEOUT_S,
    DEFAULT_MAX_ONGOING_REQUESTS,
)
from ray.serve.config import AutoscalingConfig, ProxyLocation
from ray.serve.schema import HTTPOptionsSchema, ServeDeploySchema
from ray.util.placement_group import VALID_PLACEMENT_GROUP_STRATEGIES

from deployments.config import (
    MAX_ONGOING,
    ServiceConfig,
    parse_args,
    parse_group_config,
    parse_user_config,
)
from deployments.schema_keys import ConfigError, check_choice, check_keys, suggest

IMPORT_PATH = "deployments.app:build"


class ConfigFile(Struct, frozen=True, kw_only=True):
    """The parts of a valid serve_config.yaml that a start depends on."""

    host: str
    port: int
    has_tls: bool
    route_prefix: str
    args: ServiceConfig
    deployments: dict[str, dict[str, Any]]  # Ray's sections, by name

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The resources of each rank of a replica group."""
        bundles: list[dict[str, float]] = self.deployments["WorldGroup"]["placement_group_bundles"]
        return bundles


def read_config_file(path: Path) -> ConfigFile:
    """Raises ConfigError with the path of the wrong key, or the reason why there is no such file.

    The file describes one application.
    """
    content = _read_yaml(path)
    check_keys(content, ServeDeploySchema, path="")
    schema = _validate(ServeDeploySchema, content, path="")
    _check_http(http := schema.http_options)
    if len(schema.applications) != 1:
        raise ConfigError("applications: expected one application")
    (application,) = content["applications"]
    where = "applications[0]"
    check_choice(application["import_path"], [IMPORT_PATH], path=f"{where}.import_path")
    _check_exposed(schema, path=where)
    _check_runtime_env(application, path=where)
    args = application.get("args") or {}
    try:
        config = parse_args(args)
    except ConfigError as exc:
        raise ConfigError(f"{where}.{exc}") from exc
    deployments = application.get("deployments") or ()
    for index, deployment in enumerate(deployments):
        _check_deployment(deployment, config, path=f"{where}.deployments[{index}]")
        if deployment["name"] in [earlier["name"] for earlier in deployments[:index]]:
            name = f"{where}.deployments[{index}].name"
            raise ConfigError(f"{name}: '{deployment['name']}' is given twice")
    by_name = {deployment["name"]: deployment for deployment in deployments}
    if not by_name.get("WorldGroup", {}).get("placement_group_bundles"):
        raise ConfigError(
            f"{where}.deployments: WorldGroup needs placement_group_bundles, one for each rank"
        )
    _check_limits(config, by_name, path=where)
    _check_text_encoder(config, by_name, path=where)
    (parsed,) = schema.applications
    return ConfigFile(
        host=http.host,
        port=http.port,
        has_tls=http.ssl_certfile is not None,
        route_prefix=parsed.route_prefix or "/",
        args=config,
        deployments=by_name,
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        _check_repeats(yaml.compose(data, yaml.CSafeLoader))
        content = msgspec.yaml.decode(data)
    except OSError as exc:
        raise ConfigError(exc.strerror) from exc
    except ConfigError:
        raise
    except Exception as exc:  # PyYAML raises a dozen kinds, such as KeyError for `!!bool maybe`
        raise ConfigError(f"not YAML, {' '.join(str(exc).split())}") from exc
    if not isinstance(content, dict):
        raise ConfigError("expected a mapping with the key 'applications'")
    return content


def _check_repeats(root: yaml.Node | None) -> None:
    """Raise ConfigError for a key that a mapping has twice. YAML's readers keep the last."""
    visited: set[int] = set()  # an alias is its anchor's node once more
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode) and id(node) not in visited:
            nodes += node.value
        elif isinstance(node, yaml.MappingNode) and id(node) not in visited:
            lines: dict[str, int] = {}
            for key, value in node.value:
                nodes.append(value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    first = lines[key.value]
                    raise ConfigError(
                        f"line {line}: '{key.value}' is given twice, first in line {first}"
                    )
                lines[key.value] = line
        visited.add(id(node))


def _check_http(http: HTTPOptionsSchema) -> None:
    """Raise ConfigError for a port, a time or a certificate that Serve's proxies cannot use."""
    if not 0 < http.port < 2**16:
        raise ConfigError(f"http_options.port: {http.port} is not a port, expected 1 to 65535")
    for name in ("request_timeout_s", "keep_alive_timeout_s"):
        time_s = getattr(http, name)
        if time_s is not None and not 0 < time_s < math.inf:
            raise ConfigError(f"http_options.{name}: {time_s:g}, expected seconds above 0")
    for name in ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs"):
        file = getattr(http, name)
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"http_options.{name}: no file {file}")
    if http.ssl_keyfile is not None and http.ssl_certfile is None:  # Serve would not use TLS
        raise ConfigError("http_options.ssl_certfile: missing, expected one with ssl_keyfile")


def _check_exposed(schema: ServeDeploySchema, *, path: str) -> None:
    """Raise ConfigError if no proxy would take requests, or none for this route."""
    if schema.proxy_location is ProxyLocation.Disabled:
        raise ConfigError("proxy_location: Disabled, expected 'EveryNode' or 'HeadOnly'")
    (application,) = schema.applications
    prefix = application.route_prefix
    if prefix != "/" and not re.fullmatch(r"(/[^/{}\s]+)+", prefix or ""):
        raise ConfigError(f"{path}.route_prefix: {prefix!r}, expected '/' or a path like '/worlds'")


def _check_limits(
    config: ServiceConfig, deployments: dict[str, dict[str, Any]], *, path: str
) -> None:
    """Raise ConfigError if Ray would hold back sockets, or kill a replica before a session ends."""
    transport = deployments.get("Transport", {})
    limits, source = config.limits, "args"
    if live := parse_user_config(transport.get("user_config") or {}).limits:
        limits, source = live, "user_config"
    max_ongoing = transport.get("max_ongoing_requests", DEFAULT_MAX_ONGOING_REQUESTS)
    if int(max_ongoing) <= limits.max_sockets:
        raise ConfigError(
            f"{path}.deployments: max_ongoing_requests of Transport is {max_ongoing}, expected "
            f"more than {source}.limits.max_sockets, {limits.max_sockets}"
        )
    group = deployments.get("WorldGroup", {})
    drain_s = group.get("graceful_shutdown_timeout_s", DEFAULT_GRACEFUL_SHUTDOWN_TIMEOUT_S)
    if "autoscaling_config" in group and drain_s < config.resume_grace_s:
        raise ConfigError(
            f"{path}.deployments: graceful_shutdown_timeout_s of WorldGroup is {drain_s:g}, "
            f"expected at least args.resume_grace_s, {config.resume_grace_s:g}: a downscale "
            "ends worlds that wait for another socket"
        )


def _check_text_encoder(
    config: ServiceConfig, deployments: dict[str, dict[str, Any]], *, path: str
) -> None:
    """Raise ConfigError for an encoder on a GPU that Ray would hide from it, or without a sum."""
    if config.text_encoder_device != "cuda":
        return
    options = deployments.get("TextEncoder", {}).get("ray_actor_options") or {}
    num_gpus = options.get("num_gpus")
    if not num_gpus:
        raise ConfigError(
            f"{path}.deployments: TextEncoder has no ray_actor_options.num_gpus, expected some "
            "with args.text_encoder_device: cuda"
        )
    bundles = deployments["WorldGroup"]["placement_group_bundles"]
    may_share = any(0 < bundle.get("GPU", 0) <= 1 - num_gpus for bundle in bundles)
    if may_share and config.other_gpu_bytes is None:
        raise ConfigError(
            f"{path}.args.other_gpu_bytes: missing, expected the bytes that TextEncoder takes of a "
            "rank's GPU: they may share one. umT5 and its process take about 12884901888"
        )


def _check_deployment(deployment: dict[str, Any], config: ServiceConfig, *, path: str) -> None:
    """Check what Ray's schema leaves to a later step of the deployment."""
    check_choice(deployment["name"], config.deployments, path=f"{path}.name")
    _check_runtime_env(deployment.get("ray_actor_options") or {}, path=f"{path}.ray_actor_options")
    max_ongoing = deployment.get("max_ongoing_requests", DEFAULT_MAX_ONGOING_REQUESTS)
    if int(max_ongoing) > MAX_ONGOING:
        raise ConfigError(
            f"{path}.max_ongoing_requests: {max_ongoing}, expected at most {MAX_ONGOING}: beside "
            "more calls a replica would not answer Serve's health checks"
        )
    _check_amounts(deployment, path=path)
    if (user_config := deployment.get("user_config")) is not None:
        _check_user_config(deployment["name"], user_config, path=path)
    if autoscaling := deployment.get("autoscaling_config"):
        _validate(AutoscalingConfig, autoscaling, path=f"{path}.autoscaling_config")
    strategy = deployment.get("placement_group_strategy", "PACK")
    strategies = sorted(VALID_PLACEMENT_GROUP_STRATEGIES)
    check_choice(strategy, strategies, path=f"{path}.placement_group_strategy")
    if deployment["name"] == "WorldGroup":
        _check_line(deployment, config, path=path)


def _check_line(group: dict[str, Any], config: ServiceConfig, *, path: str) -> None:
    """Raise ConfigError if Ray would hold clients back that wait in the group's own line."""
    limits, source = config.group, "args.group"
    if (user_config := group.get("user_config")) is not None:
        limits, source = parse_group_config(user_config).group, "user_config.group"
    if limits.max_waiting >= MAX_ONGOING:
        raise ConfigError(
            f"{path}: {source}.max_waiting: {limits.max_waiting}, expected less than "
            f"{MAX_ONGOING}, the most clients of a group, with its sessions"
        )
    max_ongoing = group.get("max_ongoing_requests", DEFAULT_MAX_ONGOING_REQUESTS)
    if int(max_ongoing) <= limits.max_waiting:
        raise ConfigError(
            f"{path}.max_ongoing_requests: {max_ongoing}, expected more than {source}.max_waiting, "
            f"{limits.max_waiting}, and the group's sessions"
        )


def _check_amounts(deployment: dict[str, Any], *, path: str) -> None:
    """Raise ConfigError for a resource's amount that is no number, or a bundle of nothing."""
    options = deployment.get("ray_actor_options") or {}
    numbers = {name: options.get(name) for name in ("num_cpus", "num_gpus", "memory")}
    where = f"{path}.ray_actor_options"
    sections = {where: numbers, f"{where}.resources": options.get("resources") or {}}
    for index, bundle in enumerate(deployment.get("placement_group_bundles") or ()):
        where = f"{path}.placement_group_bundles[{index}]"
        sections[where] = bundle
        if not any(bundle.values()):
            raise ConfigError(f"{where}: no resources, expected some, such as {{CPU: 1}}")
    for where, section in sections.items():
        for name, amount in section.items():
            is_number = isinstance(amount, int | float) and 0 <= amount < math.inf
            if amount is not None and not is_number:
                raise ConfigError(f"{where}.{name}: {amount!r}, expected a number, 0 or more")


def _check_user_config(name: str, user_config: dict[str, Any], *, path: str) -> None:
    parsers = {"Transport": parse_user_config, "WorldGroup": parse_group_config}
    if name not in parsers:
        raise ConfigError(f"{path}.user_config: {name} has none")
    try:
        parsers[name](user_config)
    except ConfigError as exc:
        raise ConfigError(f"{path}.{exc}") from exc


def _check_runtime_env(section: dict[str, Any], *, path: str) -> None:
    for key, value in (section.get("runtime_env") or {}).items():
        where = f"{path}.runtime_env.{key}"
        if key not in RuntimeEnv.known_fields:
            known = sorted(RuntimeEnv.known_fields)
            raise ConfigError(f"{where}: unknown key, {suggest(str(key), known)}")
        try:
            RuntimeEnv(**{key: value})
        except TypeError as exc:  # Ray's text is Python's own, and names no key
            raise ConfigError(f"{where}: {value!r} has a wrong type") from exc
        except ValueError as exc:
            raise ConfigError(f"{where}: {' '.join(str(exc).split())}") from exc


def _validate(model: type[BaseModel], value: object, *, path: str) -> Any:
    """The value as `model`. Raises ConfigError for its first error, with the path."""
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        error = exc.errors()[0]
        for part in error["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
        reason = error["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: {reason}".lstrip(".: ")) from exc


def main(argv: Sequence[str]) -> int:
    """The command `python -m deployments.config`."""
    parser = argparse.ArgumentParser(
        "python -m deployments.config", description="Checks a serve_config.yaml; starts nothing."
    )
    parser.add_argument("file", type=Path)
    path = parser.parse_args(argv).file
    try:
        read_config_file(path)
    except ConfigError as exc:
        print(f"{path}: {exc}", file=sys.stderr)
        return 1
    return 0
