"""The `args` section of serve_config.yaml, typed. `build` parses it once.

`python -m deployments.config serve_config.yaml` checks a file without starting anything.

Tested in `tests/deployments/test_app.py`.
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
    """The model and the limits of time and of clients. Ray's own section has replicas and GPUs."""

    preset: Literal["pocket"] = "pocket"
    weights: str | None = None  # a folder in the preset's layout; None: the packaged weights
    device: Literal["cpu", "cuda"] = "cpu"
    # auto: the type that the device multiplies fastest
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: PositiveInt = 1  # CPU threads of a rank for denoising, and as many for decoding
    camera_cache_bytes: NonNegativeInt = 256 * 2**20  # the camera cache of a rank; 0: no cache
    queue_timeout_s: PositiveFloat = 60.0  # how long a client waits for a free world
    warm_up_timeout_s: PositiveFloat = 900.0  # how long a client or a start waits for warm-up
    step_timeout_s: PositiveFloat = 60.0  # a longer step has hung, and its world is lost
    lease_ttl_s: PositiveFloat = 30.0  # an idle time after which a session ends
    limits: ClientLimits = ClientLimits()  # limits of one client


class ConfigError(ValueError):
    """A key is unknown, or its value is invalid."""


def parse_args(args: dict[str, Any]) -> ServiceConfig:
    """Raises ConfigError with the path of the wrong key."""
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
    """Our part of a Serve config file. Ray checks the rest."""

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
