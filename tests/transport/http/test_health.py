from transport.wire.errors import WorldFailed


def test_health_reports_whether_the_world_is_warm(server, world):
    response = server.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    world.running.clear()
    response = server.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "warming")


def test_health_gives_the_reason_why_no_world_will_be_opened(server, world):
    world.failure = WorldFailed("the world failed to start: no folder /no/such")
    response = server.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "failed")
    assert response.json()["reason"] == "the world failed to start: no folder /no/such"
