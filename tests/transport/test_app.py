import pytest


@pytest.mark.parametrize("path", ["/v1/openings/none", "/static/none.js", "/none"])
def test_a_missing_path_is_not_found(server, path):
    assert server.http.get(path).status_code == 404


def test_the_page_and_its_files_are_served(server):
    page = server.http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert server.http.get("/static/index.html").text == page.text


def test_a_socket_over_the_limit_is_closed_as_busy(world, serve):
    with serve(world, max_sockets=2) as server, server.dial() as first:
        with server.dial(), server.dial() as third:
            error = third.read()
            assert (error["code"], error["content"]) == ("busy", "all 2 sockets are taken")
            assert third.close_of() == (1013, "all 2 sockets are taken")
        with server.dial() as fourth:  # takes the place of the second
            fourth.init()
            assert fourth.read()["type"] == "frame_batch"
        first.init()
        assert first.read()["type"] == "frame_batch"
