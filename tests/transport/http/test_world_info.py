import msgspec

from transport.wire.world import SessionMemory, WorldMemory


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


def test_the_memory_of_a_world_is_described_once_it_is_known(server, world):
    assert server.http.get("/v1/world").json()["memory"] is None
    session = SessionMemory(
        width=32, height=16, kv_bytes=5, prompt_bytes=6, vae_bytes=7, image_bytes=8, num_fitting=9
    )
    world.plan = WorldMemory(
        weight_bytes=1,
        vae_bytes=2,
        camera_cache_bytes=3,
        activation_bytes=4,
        reserved_bytes=0,
        free_bytes=None,
        sessions=(session,),
    )
    memory = server.http.get("/v1/world").json()["memory"]
    assert (memory["weight_bytes"], memory["free_bytes"]) == (1, None)
    assert memory["sessions"] == [msgspec.to_builtins(session)]


def test_an_opening_is_an_image_at_the_url_of_its_description(server, world):
    url = server.http.get("/v1/world").json()["openings"][0]["url"]
    response = server.http.get(url)
    assert response.headers["content-type"] == "image/png"
    assert response.content == world.info.openings[0].image


def test_an_unknown_opening_gets_the_known_ones(server):
    response = server.http.get("/v1/openings/grey")
    assert response.status_code == 404
    assert response.text == "'grey' is not an opening, expected one of: grey%20hill\n"
