def test_health_reports_whether_the_world_is_warm(server, world):
    response = server.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    world.running.clear()
    response = server.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "warming")
