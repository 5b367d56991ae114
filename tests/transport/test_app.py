import pytest


def test_health_says_whether_the_world_is_warm(server, world):
    response = server.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    world.running.clear()
    response = server.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "warming")


def test_the_world_is_described(server):
    about = server.http.get("/v1/world").json()
    assert (about["preset"], about["sizes"], about["fps"]) == ("fake", [[32, 16]], 60)
    assert (about["chunk_latent_frames"], about["first_chunk_frames"]) == (3, 9)
    assert (about["keys"], about["formats"]) == (
        "wasdijkl",
        ["raw", "jpeg", "webp", "h264", "delta-zstd"],
    )
    assert about["openings"] == [
        {"name": "grey hill", "prompt": "a grey hill", "url": "/v1/openings/grey%20hill"}
    ]


def test_an_opening_is_a_picture_at_the_address_that_was_told(server, world):
    url = server.http.get("/v1/world").json()["openings"][0]["url"]
    response = server.http.get(url)
    assert response.headers["content-type"] == "image/png"
    assert response.content == world.info.openings[0].image


@pytest.mark.parametrize("path", ["/v1/openings/none", "/static/none.js", "/none"])
def test_what_is_not_there_is_not_found(server, path):
    assert server.http.get(path).status_code == 404


def test_the_page_and_its_files_are_served(server):
    page = server.http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert server.http.get("/static/index.html").text == page.text


def test_a_socket_too_many_is_told_to_come_later(world, serve):
    with serve(world, max_sockets=2) as server, server.dial() as first:
        with server.dial(), server.dial() as third:
            error = third.read()
            assert (error["code"], error["content"]) == ("busy", "all 2 sockets are taken")
            assert third.close_of() == (1013, "all 2 sockets are taken")
        with server.dial() as fourth:  # in the place of the second
            fourth.init()
            assert fourth.read()["type"] == "frame_batch"
        first.init()
        assert first.read()["type"] == "frame_batch"
