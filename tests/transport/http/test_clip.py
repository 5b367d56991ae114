import base64
import io
import threading

import av
import msgspec
import pytest

from tests.transport.fake_world import FakeSnapshot
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost
from transport.wire.messages import WarningMessage


def num_frames(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(response.content)) as file:
        assert file.streams.video[0].average_rate == 60
        return sum(1 for _ in file.decode(video=0))


def error_of(response):
    error = response.json()["error"]
    assert set(error) == {"code", "content", "field"}
    return response.status_code, error["code"], error["field"]


@pytest.mark.parametrize("num, frames", [(1, 1), (3, 9), (4, 13), (7, 25)])
def test_the_first_latent_frame_is_one_frame_and_each_later_one_is_four(server, num, frames):
    response = server.http.post("/v1/clips", data={"actions": f"w-{num}"})
    assert num_frames(response) == frames


def test_actions_are_padded_to_whole_chunks(server, world):
    server.http.post("/v1/clips", data={"actions": "w-2,l-2"})
    assert world.steps == [(["w", "w", "l"], None), (["l", "", ""], None)]
    assert world.live == set()


def test_a_file_a_form_and_json_are_equivalent(server, world, make_png):
    image = make_png(color=(1, 2, 3))
    text = base64.b64encode(image).decode()
    fields = {"actions": "w-3", "prompt": "snow", "seed": "7", "size": "32x16", "format": "mp4"}
    bodies = [
        {"data": fields, "files": {"image": ("a.png", image, "image/png")}},
        {"data": fields | {"image": text}},
        {"json": fields | {"seed": 7, "image": "data:image/png;base64," + text}},
    ]
    for body in bodies:
        assert num_frames(server.http.post("/v1/clips", **body)) == 9
    assert len(world.specs) == 3
    for spec, first_frame in zip(world.specs, world.images, strict=True):
        assert (spec.prompt, spec.seed, spec.width, spec.height) == ("snow", 7, 32, 16)
        assert (first_frame == [1, 2, 3]).all()


def test_a_form_without_its_end_is_refused(server, world, make_png):
    body = b""
    for name, value in (("actions", b"w-1"), ('image"; filename="a.png', make_png())):
        body += f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        body += value + b"\r\n"

    def post(content):
        headers = {"content-type": "multipart/form-data; boundary=X"}
        return server.http.post("/v1/clips", content=content, headers=headers)

    for cut in (body, body[:-20], body[: body.index(b"image")]):
        response = post(cut)
        assert error_of(response) == (400, "malformed", None)
        assert response.json()["error"]["content"].endswith("its end is missing, expected '--X--'")
    assert world.specs == []
    assert num_frames(post(body + b"--X--")) == 1


def test_half_a_surrogate_pair_is_refused(server, world):
    """UTF-7 can encode one, so no form may declare it as its charset."""
    parts = {"actions": "w-3", "prompt": "a +2AA- b"}
    body = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in parts.items()
    )
    response = server.http.post(
        "/v1/clips",
        content=body + "--x--\r\n",
        headers={"content-type": "multipart/form-data; boundary=x; charset=utf-7"},
    )
    assert error_of(response) == (400, "malformed", None)
    assert world.specs == []


@pytest.mark.parametrize("form", ["file", "text", "json"])
def test_an_own_image_without_a_prompt_has_the_empty_one(server, world, make_png, form):
    text = base64.b64encode(make_png()).decode()
    body = {
        "file": {"data": {"actions": "w-1"}, "files": {"image": ("a.png", make_png())}},
        "text": {"data": {"actions": "w-1", "image": text}},
        "json": {"json": {"actions": "w-1", "image": text}},
    }[form]
    num_frames(server.http.post("/v1/clips", **body))
    fields = body.get("json") or body["data"]
    fields["prompt"] = ""  # an explicit one
    num_frames(server.http.post("/v1/clips", **body))
    assert [spec.prompt for spec in world.specs] == ["", ""]


def test_a_clip_of_a_world_without_openings_needs_an_image(world, serve):
    world.info = msgspec.structs.replace(world.info, openings=())
    with serve(world) as server:
        response = server.http.post("/v1/clips", data={"actions": "w-1"})
    assert error_of(response) == (400, "missing_field", "image")


@pytest.mark.parametrize("body", ["data", "json"])
def test_a_long_prompt_is_taken(server, world, body):
    num_frames(server.http.post("/v1/clips", **{body: {"actions": "w-1", "prompt": "雪" * 8000}}))
    assert world.specs[0].prompt == "雪" * 8000


@pytest.mark.parametrize("seed, read", [(7, 7), ("7", 7), (65536.0, 65536), (2**63 - 1,) * 2])
def test_the_seed_of_a_clip_is_in_its_headers(server, world, seed, read):
    response = server.http.post("/v1/clips", json={"actions": "w-1", "seed": seed})
    assert [world.specs[0].seed, int(response.headers["x-seed"])] == [read] * 2


def test_a_warning_about_a_clip_is_in_its_headers(server, world):
    world.warnings = [WarningMessage("the prompt is too long", "prompt_truncated", "prompt")]
    response = server.http.post("/v1/clips", json={"actions": "w-1"})
    assert response.headers["x-warning"] == "the prompt is too long"
    assert "x-warning" not in server.http.post("/v1/clips", json={"actions": "w-1"}).headers


def test_another_size_than_the_requested_one_is_a_warning(server, world):
    world.info = msgspec.structs.replace(world.info, sizes=((32, 16),))
    for size, warned in [
        ("16x32", "`size`: 16x32 is not served, the frames are 32x16"),
        ("32x16", None),
    ]:
        response = server.http.post("/v1/clips", json={"actions": "w-1", "size": size})
        assert response.headers.get("x-warning") == warned


def test_a_clip_without_a_size_has_the_shape_of_its_image(make_world, make_png, serve):
    world = make_world((32, 16), (16, 32))
    image = base64.b64encode(make_png(10, 20)).decode()
    with serve(world) as server:
        for fields, size in (({}, (16, 32)), ({"size": "32x16"}, (32, 16))):
            body = {"actions": "w-1", "image": image} | fields
            response = server.http.post("/v1/clips", json=body)
            with av.open(io.BytesIO(response.content)) as video:
                stream = video.streams.video[0]
                assert (stream.width, stream.height) == size
    assert [(spec.width, spec.height) for spec in world.specs] == [(16, 32), (32, 16)]


@pytest.mark.parametrize("body", [{"data": {"seed": "-1"}}, {"json": {"seed": -77}}])
def test_a_negative_seed_is_a_random_one(server, world, body):
    for _ in range(3):
        (form,) = body.values()
        (kind,) = body
        response = server.http.post("/v1/clips", **{kind: form | {"actions": "w-1"}})
        assert int(response.headers["x-seed"]) == world.specs[-1].seed >= 0
    assert len({spec.seed for spec in world.specs}) == 3


def test_everything_but_actions_has_a_default(server, world):
    num_frames(server.http.post("/v1/clips", data={"actions": "w-1", "prompt": ""}))
    (spec,) = world.specs
    assert (spec.prompt, spec.seed) == ("a grey hill", 42)
    assert (world.images[0] == [10, 20, 30]).all()


@pytest.mark.parametrize(
    "body, code, field",
    [
        ({"data": {"prompt": "x"}}, "missing_field", "actions"),
        ({"data": {"actions": "q-1"}}, "invalid_field", "actions[0]"),
        ({"data": {"actions": "w-241"}}, "invalid_field", "actions[0]"),
        ({"data": {"actions": "w-1", "seed": "x"}}, "invalid_field", "seed"),
        ({"data": {"actions": "w-1", "size": "big"}}, "invalid_field", "size"),
        ({"data": {"actions": "w-1", "format": "gif"}}, "invalid_field", "format"),
        ({"data": {"actions": "w-1", "image": "/etc/passwd"}}, "invalid_field", "image"),
        (
            {"data": {"actions": "w-1", "num_inference_steps": "9"}},
            "invalid_field",
            "num_inference_steps",
        ),
        ({"json": {"actions": 5}}, "invalid_field", "actions"),
        ({"json": []}, "malformed", None),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, "malformed", None),
        ({"content": b"[" * 5000, "headers": {"content-type": "application/json"}}, None, None),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, "malformed", None),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "malformed", None),
        ({"content": b""}, "malformed", None),
    ],
)
def test_an_error_names_the_code_and_the_field(server, world, body, code, field):
    response = server.http.post("/v1/clips", **body)
    assert error_of(response) == (400, code or "malformed", field)
    assert world.specs == []


def test_a_body_that_is_announced_as_too_large_is_not_awaited(world, serve):
    headers = {"content-type": "application/json", "content-length": "1" + 30 * "0"}
    with serve(world, max_clip_bytes=2048) as server:
        response = server.http.post("/v1/clips", content=b"{}", headers=headers)
    assert error_of(response) == (413, "too_large", None)


def test_a_body_over_the_limit_is_refused(world, serve):
    with serve(world, max_clip_bytes=2048) as server:
        response = server.http.post("/v1/clips", data={"actions": "w-1", "prompt": "x" * 2048})
    assert error_of(response) == (413, "too_large", None)


@pytest.mark.parametrize(
    "error, status, code",
    [
        (Busy("every place is taken"), 503, "busy"),
        (WorldLost("restarting"), 503, "world_lost"),
        (Refused("no", field="seed"), 400, "refused"),
        (WorldFailed(), 500, "internal"),
        (ZeroDivisionError("secret"), 500, "internal"),
    ],
)
@pytest.mark.parametrize("when", ["on_open", "on_step"])
def test_an_error_of_the_world_has_a_status(server, world, when, error, status, code):
    setattr(world, when, error)
    response = server.http.post("/v1/clips", data={"actions": "w-1"})
    assert error_of(response)[:2] == (status, code)
    assert "secret" not in response.text
    assert world.live == set()


def test_a_clip_without_a_free_world_is_told_when_to_come_back(server, world):
    world.on_open = Busy("every place is taken", retry_after_s=40)
    response = server.http.post("/v1/clips", data={"actions": "w-1"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "40")
    world.on_open = Busy("every place is taken")
    assert "retry-after" not in server.http.post("/v1/clips", data={"actions": "w-1"}).headers


@pytest.mark.parametrize("form", ["data", "json"])
def test_an_image_may_be_fetched(world, serve, fetcher, form):
    fetcher.answering.set()
    with serve(world, fetcher) as server:
        fields = {"actions": "w-1", "image": "https://example.com/a.png"}
        num_frames(server.http.post("/v1/clips", **{form: fields}))
    assert fetcher.asked == [("https://example.com/a.png", "image")]
    assert (world.images[0] == [1, 2, 3]).all()


def test_a_url_is_refused_unless_its_host_is_listed(server, world):
    fields = {"actions": "w-1", "image": "https://example.com/a.png"}
    response = server.http.post("/v1/clips", data=fields)
    assert error_of(response) == (400, "invalid_field", "image")
    assert "this server fetches none (`image_hosts` is empty)" in response.text
    assert world.specs == []


def saved_world(world):
    """The snapshot of a world after two chunks."""
    snapshot = FakeSnapshot(
        width=32, height=16, seed=9, prompt="fog", chunk_index=2, actions=[["w"] * 3] * 2
    )
    return msgspec.msgpack.encode(snapshot)


@pytest.mark.parametrize("form", ["file", "text", "json"])
def test_a_clip_goes_on_from_a_saved_world(server, world, form):
    data = saved_world(world)
    text = base64.b64encode(data).decode()
    body = {
        "file": {"data": {"actions": "a-4"}, "files": {"snapshot": ("world.bin", data)}},
        "text": {"data": {"actions": "a-4", "snapshot": text}},
        "json": {"json": {"actions": "a-4", "snapshot": text}},
    }[form]
    response = server.http.post("/v1/clips", **body)
    assert num_frames(response) == 16  # four for each latent frame: it is not the first
    assert response.headers["x-seed"] == "9"
    assert world.steps == [(["a"] * 3, None), (["a", "", ""], None)]
    (spec,) = world.specs
    assert (spec.prompt, spec.seed, spec.realtime) == ("fog", 9, False)
    assert world.live == set()


def test_a_saved_world_may_get_another_prompt(server, world):
    world.info = msgspec.structs.replace(world.info, encodes_prompts=True)
    world.encoding.set()
    text = base64.b64encode(saved_world(world)).decode()
    fields = {"actions": "a-4", "snapshot": text, "prompt": "snow"}
    assert num_frames(server.http.post("/v1/clips", json=fields)) == 16
    assert [prompt for _, prompt in world.steps] == ["snow", None] and world.encoded == ["snow"]


@pytest.mark.parametrize(
    "fields, field, reason",
    [
        ({"seed": 1}, "seed", "a snapshot has its own, expected none"),
        ({"size": "32x16"}, "size", "a snapshot has its own, expected none"),
        ({"num_inference_steps": 2}, "num_inference_steps", "a snapshot has its own"),
        ({"image": "aGk="}, "image", "a snapshot has its own, expected none"),
        ({"snapshot": "?"}, "snapshot", "not valid base64, expected a saved world's base64"),
        ({"snapshot": "aGk="}, "snapshot", "`snapshot`: "),
    ],
)
def test_a_wrong_field_beside_a_snapshot_is_named(server, world, fields, field, reason):
    text = base64.b64encode(saved_world(world)).decode()
    response = server.http.post("/v1/clips", json={"actions": "w-1", "snapshot": text} | fields)
    assert error_of(response)[2] == field
    assert reason in response.json()["error"]["content"] and world.specs == []


def test_a_snapshot_is_given_once(server, world):
    files = {"snapshot": ("world.bin", saved_world(world))}
    for data, reason in (
        ({"actions": "w-1", "snapshot": "aGk="}, "`snapshot` is given more than once"),
        ({"actions": "w-1", "image": "aGk="}, "`image`: a snapshot has its own"),
    ):
        response = server.http.post("/v1/clips", data=data, files=files)
        assert reason in response.json()["error"]["content"]
    response = server.http.post(
        "/v1/clips", data={"actions": "w-1"}, files={"snapshot": ("world.bin", b"")}
    )
    assert error_of(response) == (400, "invalid_field", "snapshot")
    assert world.specs == []


def test_a_snapshot_is_read_beside_the_event_loop(server, world):
    loops, on_wait = [], world._wait

    async def wait(send):
        loops.append(threading.get_ident())
        await on_wait(send)

    world._wait = wait
    files = {"snapshot": ("world.bin", saved_world(world))}
    assert num_frames(server.http.post("/v1/clips", data={"actions": "w-1"}, files=files))
    assert len(world.reading_threads) == 1 and loops[-1] not in world.reading_threads
