from pathlib import Path

import pytest
import yaml
from ray import cloudpickle

from deployments.app import build
from deployments.config import ConfigError, main, parse_args

ROOT = Path(__file__).parents[2]


def shipped():
    (app,) = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"]
    return app


def test_shipped_config_builds():
    build(shipped()["args"])


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"presett": "pocket"}, "^args: .*unknown field `presett`"),
        ({"limits": {"max_event_byte": 1}}, r"^args\.limits: .*unknown field `max_event_byte`"),
        ({"threads": 0}, r"^args\.threads: .*>= 1"),
        ({"preset": "huge"}, r"^args\.preset: .*'huge'"),
        ({"device": 3}, r"^args\.device: .*got `int`"),
    ],
)
def test_a_wrong_key_fails_with_its_path(change, reason):
    with pytest.raises(ConfigError, match=reason):
        build({**shipped()["args"], **change})


def test_config_survives_the_trip_to_a_replica():
    config = parse_args(shipped()["args"])
    assert cloudpickle.loads(cloudpickle.dumps(config)) == config


@pytest.mark.parametrize(
    "right, wrong, reason",
    [
        ("threads:", "threats:", "unknown field `threats` - at `$.applications[0].args`"),
        ("name: WorldGroup", "name: WorldGruop", "'WorldGruop' - at `$.applications[0].deploym"),
    ],
)
def test_a_file_is_checked_without_starting_anything(tmp_path, capsys, right, wrong, reason):
    assert main(ROOT / "serve_config.yaml") == 0
    path = tmp_path / "serve_config.yaml"
    path.write_text((ROOT / "serve_config.yaml").read_text().replace(right, wrong))
    assert main(path) == 1
    assert reason in capsys.readouterr().err
