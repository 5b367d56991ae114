import pytest

from transport.wire.errors import WorldFailed

READY = pytest.mark.parametrize("path", ["/readyz", "/health"])


@READY
def test_readiness_follows_the_world(server, world, path):
    response = server.http.get(path)
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    world.running.clear()
    response = server.http.get(path)
    assert (response.status_code, response.json()["status"]) == (503, "warming")


@READY
def test_readiness_gives_the_reason_why_no_world_will_be_opened(server, world, path):
    world.failure = WorldFailed("the world failed to start: no folder /no/such")
    response = server.http.get(path)
    assert (response.status_code, response.json()["status"]) == (503, "failed")
    assert response.json()["reason"] == "the world failed to start: no folder /no/such"


def test_the_process_is_healthy_without_a_world(server, world):
    world.failure = WorldFailed("the world failed to start: no folder /no/such")
    response = server.http.get("/healthz")
    assert (response.status_code, response.text) == (200, "ok\n")
