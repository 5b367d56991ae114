"""The ``args`` section of serve_config.yaml, typed. Parsed once, in ``build``.

``python -m deployments.config serve_config.yaml`` checks a file without starting anything.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from transport.wire.limits import ClientLimits

PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]


class ServiceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is played and how patiently. Replicas, GPUs and queues are Ray's own section."""

    preset: Literal["pocket"] = "pocket"
    weights: str | None = None  # a folder in the preset's layout; None: the weights in the package
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # auto: what the device multiplies fastest
    )
    threads: PositiveInt = 1  # CPU threads of a rank for denoising, and as many for decoding
    camera_cache_bytes: NonNegativeInt = 256 * 2**20  # of a rank, for camera maps; 0: keep none
    queue_timeout_s: PositiveFloat = 60.0  # how long a client waits for a free world
    warm_up_timeout_s: PositiveFloat = 900.0  # and for a world that is still warming up
    step_timeout_s: PositiveFloat = 60.0  # a step that takes longer has hung: its world is lost
    lease_ttl_s: PositiveFloat = 30.0  # a world that nobody asked about for so long is freed
    limits: ClientLimits = ClientLimits()  # what one client may cost


class ConfigError(ValueError):
    """A key that is unknown, or whose value is not what it should be."""


def parse_args(args: dict[str, Any]) -> ServiceConfig:
    """Raises ConfigError with the path of the key that is wrong."""
    try:
        return msgspec.convert(args, ServiceConfig)
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at `$")
        raise ConfigError(f"args{path.rstrip('`')}: {reason}") from exc


class _Deployment(Struct):
    name: Literal["Transport", "WorldGroup"]


class _Application(Struct):
    import_path: str
    args: ServiceConfig = ServiceConfig()
    deployments: list[_Deployment] = []


class _ConfigFile(Struct):
    """What is ours in a config file of Serve; Ray checks the rest of it."""

    applications: list[_Application]


def main(path: Path) -> int:
    try:
        msgspec.yaml.decode(path.read_bytes(), type=_ConfigFile)
    except (OSError, msgspec.DecodeError) as exc:
        print(f"{path}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
