import subprocess
import sys

import pytest


def test_health_says_whether_the_world_is_warm(server, world):
    response = server.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    world.hold.clear()
    response = server.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "warming")


def test_the_world_is_described(server):
    about = server.http.get("/v1/world").json()
    assert (about["preset"], about["sizes"], about["fps"]) == ("fake", [[32, 16]], 60)
    assert (about["chunk_latent_frames"], about["first_chunk_frames"]) == (3, 9)
    assert (about["keys"], about["formats"]) == ("wasdijkl", ["raw", "jpeg"])
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


@pytest.mark.parametrize(
    "module, banned",
    [
        ("transport.app", {"ray", "torch", "lingbot"}),
        ("transport.client", {"ray", "torch", "lingbot"}),
        ("transport.protocol", {"ray", "torch", "numpy", "starlette", "anyio", "asyncio"}),
        ("transport.world", {"ray", "torch", "numpy", "starlette", "anyio", "asyncio"}),
    ],
)
def test_an_import_stays_inside_the_room(module, banned):
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {banned!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []
