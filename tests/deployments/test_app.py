from pathlib import Path

import pytest
import yaml
from ray import cloudpickle

from deployments.app import build
from deployments.config import parse_args
from deployments.schema_keys import ConfigError

ROOT = Path(__file__).parents[2]


def shipped():
    (app,) = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"]
    return app


def test_shipped_config_builds():
    build(shipped()["args"])


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"presett": "pocket"}, r"^args\.presett: unknown key, did you mean 'preset'\?"),
        ({"limits": {"max_event_byte": 1}}, r"^args\.limits\.max_event_byte: .*'max_event_bytes'"),
        ({"zzz": 1}, r"^args\.zzz: unknown key, expected one of attention, camera_"),
        ({"lease_ttl_s": 0}, r"^args\.lease_ttl_s: .*> 0"),
        ({"preset": "huge"}, r"^args\.preset: 'huge' is not a choice, expected one of 'pocket'"),
        ({"dtype": "fp32"}, r"^args\.dtype: .*'auto', 'float32', 'bfloat16'"),
        ({"device": 3}, r"^args\.device: 3 is not a choice, expected one of 'cpu', 'cuda'"),
        ({"cors_origins": ["example.com"]}, r"^args\.cors_origins\[0\]: .*https\?"),
        ({"cors_origins": ["https://example.com/"]}, r"^args\.cors_origins\[0\]: .*https\?"),
        ({"image_hosts": ["https://example.com"]}, r"^args\.image_hosts\[0\]: .*regex"),
        ({"image_hosts": ["a.org", "10.0.0.1"]}, r"^args\.image_hosts\[1\]: .*regex"),
        ({"image_hosts": ["example.com:8443"]}, r"^args\.image_hosts\[0\]: .*regex"),
        ({"image_hosts": ["*.example.com"]}, r"^args\.image_hosts\[0\]: .*regex"),
    ],
)
def test_a_wrong_key_fails_with_its_path(change, reason):
    with pytest.raises(ConfigError, match=reason):
        build({**shipped()["args"], **change})


def test_config_survives_the_trip_to_a_replica():
    config = parse_args(shipped()["args"])
    assert cloudpickle.loads(cloudpickle.dumps(config)) == config
