import asyncio
import sys
from unittest.mock import Mock

import pytest
from msgspec.structs import replace
from starlette.testclient import TestClient

from deployments.config import ServiceConfig
from deployments.schema_keys import ConfigError
from deployments.transport import Transport, world_info
from lingbot.config import PRESETS
from transport.wire.limits import ClientLimits


def test_only_a_presets_own_openings_are_served(monkeypatch):
    pocket = ServiceConfig()
    assert "pines" in {opening.name for opening in world_info(pocket).openings}
    monkeypatch.setitem(PRESETS, "pocket", replace(PRESETS["pocket"], openings=None))
    assert world_info(pocket).openings == ()


def test_a_world_has_the_sizes_and_the_window_of_the_config():
    info = world_info(ServiceConfig(preset="v2-14b", sizes=("464x832", "832x480"), window=9))
    assert info.preset == "v2-14b"
    assert info.sizes == ((464, 832), (832, 480))
    assert info.max_pixels == 832 * 480
    assert (info.max_window, info.sink, info.chunk_latent_frames) == (9, 6, 3)
    assert info.openings == ()


@pytest.fixture
def switch_interval():
    """A transport changes that of its process."""
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_the_application_follows_the_config(switch_interval):
    config = ServiceConfig(
        allowed_origins=("https://example.com",), image_hosts=("images.example.com",)
    )
    transport = Transport(config, Mock())  # of a group: no world is opened
    with TestClient(transport.__serve_build_asgi_app__()) as http:
        for origin, allowed in (("https://example.com",) * 2, ("https://example.org", None)):
            answer = http.get("/v1/models", headers={"origin": origin})
            assert answer.json()["data"][0]["id"] == "pocket"
            assert answer.headers.get("access-control-allow-origin") == allowed
        fields = {"actions": "w-1", "image": "https://example.com/a.png"}
        answer = http.post("/v1/clips", json=fields)
        assert "does not list, expected one of: images.example.com" in answer.text


def test_a_user_config_replaces_the_limits_of_the_args(caplog):
    transport = Transport(ServiceConfig(limits=ClientLimits(max_sockets=7)), Mock())
    assert transport._limits.max_sockets == 7
    reconfigure(transport, {"limits": {"max_sockets": 3}})
    assert transport._limits == transport._world.limits == ClientLimits(max_sockets=3)
    with pytest.raises(ConfigError, match=r"user_config\.limits\.max_socket: unknown key"):
        reconfigure(transport, {"limits": {"max_socket": 3}})
    assert transport._limits.max_sockets == 3
    assert not caplog.records
    reconfigure(transport, {"limits": {"max_init_bytes": 2048}})
    assert "limits.max_init_bytes: 2048 is too small" in caplog.text
    reconfigure(transport, {})
    assert transport._limits.max_sockets == 7


def test_a_user_config_closes_the_worlds():
    transport = Transport(ServiceConfig(), Mock())
    transport._world = Mock()
    for closing in ("maintenance", None):
        reconfigure(transport, {"closing": closing})
        transport._world.close.assert_called_with(closing)


def reconfigure(transport, user_config):
    """As Serve calls it."""
    asyncio.run(transport.reconfigure(user_config))
