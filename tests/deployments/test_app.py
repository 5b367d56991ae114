from pathlib import Path

import pytest
import yaml
from ray import cloudpickle
from ray.serve import Application

from deployments.app import build
from deployments.config import parse_args
from deployments.router import FewestOngoingRouter
from deployments.schema_keys import ConfigError

ROOT = Path(__file__).parents[2]


def shipped():
    (app,) = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"]
    return app


def test_shipped_config_builds():
    build(shipped()["args"])


def deployments_of(args):
    application = build(args)
    named = {application._bound_deployment.name}
    bound = application._bound_deployment
    for argument in (*bound.init_args, *bound.init_kwargs.values()):
        if isinstance(argument, Application):
            named.add(argument._bound_deployment.name)
    return named


def test_only_published_weights_bind_a_text_encoder():
    pair = {"Transport", "WorldGroup", "ForkStore"}
    assert deployments_of(shipped()["args"]) == pair
    assert deployments_of({"preset": "v2-14b", "weights": "/w"}) == pair | {"TextEncoder"}


def test_only_tokens_bind_a_counter_of_their_usage():
    args = {**shipped()["args"], "access": {"tokens_file": "/etc/tokens.yaml"}}
    assert deployments_of(args) == {"Transport", "WorldGroup", "ForkStore", "TokenUsage"}


def test_a_store_of_no_bytes_is_not_bound():
    args = shipped()["args"] | {"fork_store_bytes": 0}
    assert deployments_of(args) == {"Transport", "WorldGroup"}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"presett": "pocket"}, r"^args\.presett: unknown key, did you mean 'preset'\?"),
        ({"limits": {"max_event_byte": 1}}, r"^args\.limits\.max_event_byte: .*'max_event_bytes'"),
        ({"zzz": 1}, r"^args\.zzz: unknown key, expected one of access, allowed_origins, "),
        ({"lease_ttl_s": 0}, r"^args\.lease_ttl_s: .*> 0"),
        ({"preset": "huge"}, r"^args\.preset: 'huge' is not a choice, expected one of 'pocket'"),
        ({"preset": "v1-14b", "variant": "hf"}, r"^args\.variant: .* of 'diffusers', 'reference'"),
        ({"variant": "reference"}, r"^args\.variant: preset 'pocket' has no variants"),
        ({"sizes": ["208x130"]}, r"^args\.sizes\[0\]: size 208x130 must be a multiple of 16"),
        ({"sizes": "208x128"}, r"^args\.sizes: .*`array | null`, got `str`"),
        ({"window": 2}, r"^args\.window: window 2 must hold the sink \(0\) and one chunk"),
        ({"window": 9, "sink": 7}, r"^args\.sink: window 9 must hold the sink \(7\)"),
        ({"vae": "full"}, r"^args\.vae: preset 'pocket' has no VAE 'full', expected 'tiny'"),
        ({"vae": "big"}, r"^args\.vae: 'big' is not a choice, expected one of 'full', 'tiny'"),
        ({"preset": "v1-14b", "tiny_vae": "x"}, r"^args\.tiny_vae: .* expected it with vae: tiny"),
        ({"tiny_vae": "x"}, r"^args\.tiny_vae: has no effect with preset 'pocket'"),
        ({"assets": "x"}, r"^args\.assets: has no effect with preset 'pocket'"),
        ({"text_encoder_device": "cuda"}, r"^args\.text_encoder_device: has no effect with"),
        ({"other_gpu_bytes": 1}, r"^args\.other_gpu_bytes: has no effect with device: cpu"),
        ({"preset": "v1-14b", "weights": ""}, r"^args\.weights: .*length >= 1"),
        ({"fp8": True}, r"^args\.fp8: needs a GPU, expected false with device: cpu"),
        ({"attention": "flash3"}, r"^args\.attention: 'flash3' needs a GPU, expected 'auto' or"),
        ({"attention": "cudnn"}, r"^args\.attention: 'cudnn' needs a GPU"),
        ({"dtype": "fp32"}, r"^args\.dtype: .*'auto', 'float32', 'bfloat16'"),
        ({"device": 3}, r"^args\.device: 3 is not a choice, expected one of 'cpu', 'cuda'"),
        ({"allowed_origins": ["example.com"]}, r"^args\.allowed_origins\[0\]: .*https\?"),
        ({"allowed_origins": ["https://example.com/"]}, r"^args\.allowed_origins\[0\]: .*https"),
        ({"access": {}}, r"^args\.access: nobody could enter, expected `tokens_file` or `jwt`"),
        ({"access": {"tokens_file": "a.yaml"}}, r"^args\.access\.tokens_file: .*regex '\^/"),
        ({"access": {"token": "/a"}}, r"^args\.access\.token: unknown key, .*'tokens_file'"),
        (
            {"access": {"jwt": {"key_file": "/k", "algorithm": "none"}}},
            r"^args\.access\.jwt\.algorithm: .*'HS256', 'EdDSA'",
        ),
        (
            {"log_format": "xml"},
            r"^args\.log_format: 'xml' is not a choice, expected one of 'text'",
        ),
        ({"otlp_endpoint": "collector:4318"}, r"^args\.otlp_endpoint: .*https\?"),
        ({"operator_token_file": "token"}, r"^args\.operator_token_file: .*regex"),
        ({"singleton_resources": {"transport": 0}}, r"^args\.singleton_resources.*> 0"),
        ({"singleton_resources": {"CPU": 1}}, r"^args\.singleton_resources\.CPU: expected custom"),
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


def test_leases_are_routed_to_the_group_with_the_fewest():
    (group, *_) = build(shipped()["args"])._bound_deployment.init_args[1:]
    config = group._bound_deployment._deployment_config.request_router_config
    assert config.get_request_router_class() is FewestOngoingRouter
