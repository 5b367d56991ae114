import socket
from urllib.parse import quote

import pytest

from tests.waiting import TIMEOUT_S
from transport.http.clip_request import FIELDS

FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=cut"


def part(disposition, data=b"x"):
    return b"--cut\r\ncontent-disposition: form-data; %b\r\n\r\n%b\r\n" % (disposition, data)


def parts(*more):
    return b"".join([part(b'name="actions"', b"w-1"), *more, b"--cut--\r\n"])


def refusal(response, status=400):
    assert response.status_code == status, response.text
    return response.json()["error"]


@pytest.fixture
def post(server):
    """Posts a body as this content type."""

    def send(body, kind, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return server.http.post("/v1/clips", content=body, headers={"content-type": kind} | named)

    return send


@pytest.mark.parametrize(
    "name, nearest",
    [("promt", "prompt"), ("Prompt", "prompt"), ("images", "image"), ("action", "actions")],
)
@pytest.mark.parametrize("form", ["json", "form", "parts", "file"])
def test_an_unknown_field_is_named_with_the_nearest(post, world, name, nearest, form):
    raw = name.encode()
    body, kind = {
        "json": (b'{"actions": "w-1", "%b": "x"}' % raw, "application/json"),
        "form": (b"actions=w-1&%b=x" % raw, FORM),
        "parts": (parts(part(b'name="%b"' % raw)), PARTS),
        "file": (parts(part(b'name="%b"; filename="a.png"' % raw)), PARTS),
    }[form]
    error = refusal(post(body, kind))
    assert error["content"].startswith(f"'{name}' is not a field, the nearest is '{nearest}'")
    assert error["field"] == name
    assert world.specs == []


@pytest.mark.parametrize("name", ["file", "fps", "upload", "negative_prompt", "x" * 5000, ""])
def test_an_unknown_field_lists_the_known_ones(post, name):
    error = refusal(post(f"actions=w-1&{name}=x".encode(), FORM))
    assert all(known in error["content"] for known in FIELDS)
    assert len(error["content"]) < 250


def test_an_unknown_field_is_refused_however_deep_and_empty_it_is(post):
    for value in (b"[" * 400 + b"]" * 400, b"null", b'""', b"{}"):
        body = b'{"actions": "w-1", "fps": %b}' % value
        assert refusal(post(body, "application/json"))["field"] == "fps"
    assert refusal(post(b"actions=w-1&fps=", FORM))["field"] == "fps"


@pytest.mark.parametrize(
    "body, kind",
    [
        (parts(part(b'name="image"; filename="a.png"', b"")), PARTS),
        (parts(part(b'name="image"', b"")), PARTS),
        (b"actions=w-1&image=", FORM),
        (b'{"actions": "w-1", "image": ""}', "application/json"),
        (b'{"actions": "w-1", "image": "data:image/png;base64,"}', "application/json"),
    ],
)
def test_an_empty_image_is_refused(post, world, body, kind):
    assert refusal(post(body, kind))["field"] == "image"
    assert world.specs == []


def test_a_browser_without_a_chosen_file_gets_an_opening(post, world):
    """It sends the input all the same: without a name, and without a byte."""
    body = parts(part(b'name="image"; filename=""', b""))
    assert post(body, PARTS).status_code == 200
    assert (world.images[0] == [10, 20, 30]).all()


@pytest.mark.parametrize("name", ["prompt", "seed", "actions"])
def test_a_file_in_place_of_a_text_is_refused(post, name):
    text = part(b'name="%b"; filename="a.txt"' % name.encode())
    body = text + b"--cut--\r\n" if name == "actions" else parts(text)
    error = refusal(post(body, PARTS))
    assert (error["field"], error["content"]) == (name, f"`{name}` is a file, expected text")


@pytest.mark.parametrize("name", [b"actions", b"prompt", b"image"])
@pytest.mark.parametrize("form", ["json", "form", "parts", "file"])
def test_a_repeated_field_is_refused(post, world, name, form):
    rest = b"" if name == b"actions" else b"w-1"
    body, kind = {
        "json": (
            b'{"actions": "%b", "%b": "x", "%b": "w-1"}' % (rest or b"w-1", name, name),
            "application/json",
        ),
        "form": (b"%b=x&%b=w-1&actions=%b" % (name, name, rest or b"w-1"), FORM),
        "parts": (parts(part(b'name="%b"' % name), part(b'name="%b"' % name)), PARTS),
        "file": (
            parts(part(b'name="%b"' % name), part(b'name="%b"; filename="a"' % name)),
            PARTS,
        ),
    }[form]
    error = refusal(post(body, kind))
    assert error["content"] == f"`{name.decode()}` is given more than once, expected one value"
    assert world.specs == []


def test_a_body_of_very_many_texts_is_refused_unparsed(post, world):
    error = refusal(
        post(b"{" + b'"actions": "w-1", ' * 10_000 + b'"format": "mp4"}', "application/json")
    )
    assert error["content"].startswith("the body has too many texts, expected one object")
    assert world.specs == []


def test_query_parameters_are_refused(server, world):
    response = server.http.post("/v1/clips?seed=7", data={"actions": "w-1"})
    assert refusal(response)["content"] == (
        "'seed' is a query parameter, expected all fields in the body"
    )
    assert world.specs == []


@pytest.mark.parametrize(
    "kind, words",
    [
        ("text/plain", "content type is 'text/plain', expected application/json or a form"),
        ("", "content type is '', expected application/json"),
        ("application/json; charset=latin-1", "charset is 'latin-1', expected 'utf-8'"),
        ("application/json; charset=utf-16", "charset is 'utf-16', expected 'utf-8'"),
        (f"{FORM}; charset=shift-jis", "charset is 'shift-jis', expected 'utf-8'"),
        (f"{PARTS}; charset=none-such", "charset is 'none-such', expected 'utf-8'"),
    ],
)
def test_a_type_or_charset_that_is_not_read_is_refused(post, kind, words):
    assert words in refusal(post(b'{"actions": "w-1"}', kind))["content"]


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"'])
def test_utf_8_may_be_named(post, world, charset):
    body = '{"actions": "w-1", "prompt": "né"}'.encode()
    assert post(body, f"Application/JSON; charset={charset}").status_code == 200
    assert world.specs[0].prompt == "né"


@pytest.mark.parametrize("text", ["né", "雪", "né 😀"])
def test_text_of_every_body_is_utf_8(post, world, text):
    raw = text.encode()
    bodies = {
        "application/json": b'{"actions": "w-1", "prompt": "%b"}' % raw,
        FORM: b"actions=w-1&prompt=%b" % raw,  # as curl's -d sends it
        f"{FORM}; charset=utf-8": f"actions=w-1&prompt={quote(text)}".encode(),
        PARTS: parts(part(b'name="prompt"', raw)),
    }
    for kind, body in bodies.items():
        assert post(body, kind).is_success
    assert [spec.prompt for spec in world.specs] == [text] * 4


@pytest.mark.parametrize(
    "body, kind",
    [
        (b"actions=w-1&prompt=n\xe9", FORM),
        (b"actions=w-1&prompt=n%E9", FORM),
        (parts(part(b'name="prompt"', b"n\xe9")), PARTS),
        (parts(part(b'name="prompt"', "雪".encode("shift-jis"))), PARTS),
    ],
)
def test_text_in_another_charset_is_refused(post, world, body, kind):
    error = refusal(post(body, kind))
    assert error["content"] == "`prompt` is in another charset, expected UTF-8"
    assert world.specs == []


def test_a_compressed_body_is_refused(post):
    error = refusal(post(b"\x1f\x8b", "application/json", content_encoding="gzip"))
    assert error["content"] == "the body's content encoding is 'gzip', expected none"


def test_json_takes_integers_as_forms_do(post, world):
    for seed in (b"7", b"7.0", b'"7"'):
        assert post(b'{"actions": "w-1", "seed": %b}' % seed, "application/json").is_success
    assert [spec.seed for spec in world.specs] == [7, 7, 7]
    for seed in (b"7.5", b"true", b'"x"', b"[7]"):
        body = b'{"actions": "w-1", "seed": %b}' % seed
        assert refusal(post(body, "application/json"))["field"] == "seed"


@pytest.mark.parametrize("leave", [False, True])
def test_a_body_that_stops_ends_its_request(world, listen, leave):
    head = b"POST /v1/clips HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\ncontent-length: 99\r\n\r\n"
    with listen(world, init_timeout_s=0.3) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as client:
            client.sendall(head % FORM.encode() + b"actions=w-1")
            if not leave:
                answer = b"".join(iter(lambda: client.recv(65536), b""))
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert b"the body stopped after 11 bytes" in answer
        assert world.specs == []
