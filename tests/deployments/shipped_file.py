"""The shipped serve_config.yaml, and versions of it."""

from pathlib import Path

from msgspec.structs import replace

from deployments.config import parse_args
from deployments.config_file import read_config_file

FILE = read_config_file(Path(__file__).parents[2] / "serve_config.yaml")


def with_group(**changes):
    """The file with one bundle of one CPU, and these changes."""
    group = FILE.deployments["WorldGroup"] | {"placement_group_bundles": [{"CPU": 1}]} | changes
    return replace(FILE, deployments=FILE.deployments | {"WorldGroup": group})


def with_args(**changes):
    return replace(FILE, args=parse_args(changes))
