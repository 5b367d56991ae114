"""The page in a real Chromium, on the real stack."""

import io
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack
from PIL import Image
from playwright.sync_api import Page, ViewportSize, WebSocket, WebSocketRoute

pytestmark = pytest.mark.browser

SCREENSHOT = Path(__file__).parents[2] / "build" / "page.png"
DESKTOP = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=390, height=844)
SOCKET = "**/v1/realtime_video/generate"


def enter(page: Page) -> None:
    page.click("#enter")
    page.wait_for_function("lingbot.stats?.framesShown > 0 || lingbot.state === 'ended'")
    assert page.evaluate("lingbot.state") == "playing", page.inner_text("#card")


def wait_for_actions(page: Page, keys: list[str]) -> None:
    """Until a whole chunk follows exactly these keys."""
    page.wait_for_function(
        "keys => lingbot.stats.applied.actions.every(held => held.join() === keys.join())",
        arg=keys,
    )


def wait_for_figures(page: Page) -> None:
    """Until the HUD has all of them."""
    page.wait_for_function(
        "[...document.querySelectorAll('[data-figure]')].every(cell => cell.innerText !== '–')"
    )


def listen_to_client(page: Page) -> list[dict[str, Any]]:
    """What the page sends on its sockets, growing as it does."""
    messages: list[dict[str, Any]] = []

    def note(data: str | bytes) -> None:
        assert isinstance(data, bytes)
        messages.append(msgpack.decode(data))

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", note)

    page.on("websocket", listen)
    return messages


def answer_init(page: Page, *messages: dict[str, Any]) -> None:
    """A server that answers with these alone, and never closes."""

    def answer(socket: WebSocketRoute) -> None:
        def reply(data: str | bytes) -> None:
            assert isinstance(data, bytes)
            if msgpack.decode(data)["type"] == "init":
                for message in messages:
                    socket.send(msgpack.encode(message))

        socket.on_message(reply)

    page.route_web_socket(SOCKET, answer)


def raw_batch(width: int, height: int) -> dict[str, Any]:
    """A chunk of one white frame."""
    payload = b"\xff" * (width * height * 3)
    return {
        "type": "frame_batch",
        "chunk_index": 0,
        "content_type": "application/x-raw-rgb",
        "num_frames": 1,
        "frame_batch_index": 0,
        "is_final_frame_batch": True,
        "width": width,
        "height": height,
        "encoding": "raw",
        "payload": payload,
    }


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((width, height)).save(data, "PNG")
    return data.getvalue()


def test_a_world_opens_and_its_picture_moves(page: Page) -> None:
    enter(page)
    page.keyboard.down("w")
    page.evaluate("window.before = lingbot.lastFrame()")
    page.wait_for_function(
        """() => {
            const { data } = lingbot.lastFrame();
            return before.data.filter((value, at) => value !== data[at]).length > data.length / 20;
        }"""
    )
    page.wait_for_function("lingbot.stats.chunkIndex >= 3")
    stats = page.evaluate("lingbot.stats")
    assert stats["framesShown"] + stats["framesQueued"] == stats["framesReceived"]
    assert stats["framesDropped"] == 0


def test_held_keys_reach_the_world_and_light_up(page: Page) -> None:
    enter(page)
    page.keyboard.down("w")
    page.keyboard.down("ArrowRight")
    wait_for_actions(page, ["w", "l"])
    assert page.locator("[aria-pressed=true]").all_inner_texts() == ["W", "L\n→"]
    page.keyboard.up("w")
    wait_for_actions(page, ["l"])
    page.keyboard.up("ArrowRight")
    wait_for_actions(page, [])
    assert page.locator("[aria-pressed=true]").count() == 0


def test_the_pad_walks_by_mouse(page: Page) -> None:
    enter(page)
    page.hover("[data-key=a]")
    page.mouse.down()
    wait_for_actions(page, ["a"])
    page.mouse.move(640, 300)
    assert page.evaluate("lingbot.stats.held") == ["a"], "a slipping finger still holds"
    page.mouse.up()
    wait_for_actions(page, [])


def test_the_figures_are_plausible(page: Page) -> None:
    enter(page)
    page.keyboard.press("d")
    page.wait_for_function("lingbot.stats.chunkIndex >= 6 && lingbot.stats.controlMs !== null")
    stats = page.evaluate("lingbot.stats")
    assert 1 < stats["fps"] < 60
    assert 0 < stats["chunkMs"] < 10_000
    assert 20 < stats["controlMs"] < 10_000
    assert stats["bytesPerSecond"] > 1_000
    assert stats["codec"] == "jpeg"
    wait_for_figures(page)


def test_blur_releases_the_keys(page: Page) -> None:
    enter(page)
    page.keyboard.down("s")
    wait_for_actions(page, ["s"])
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    assert page.evaluate("lingbot.stats.held") == []
    wait_for_actions(page, [])


def test_a_key_held_all_along_walks_once_it_can(page: Page) -> None:
    """The keyboard repeats: the second keydown and all later ones of a held key say so."""
    sent = listen_to_client(page)
    page.keyboard.down("w")
    enter(page)
    page.keyboard.down("w")
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    wait_for_actions(page, [])
    page.keyboard.down("w")
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    page.keyboard.up("w")
    wait_for_actions(page, [])
    events = [message["payload"] for message in sent if message["type"] == "event"]
    held = [event["transitions"][0]["actions"] for event in events]
    assert held == [["w"], [], ["w"], []], "a repeat that changed nothing was sent"


@pytest.mark.parametrize("num_chunks", [2, 6])  # 6 are more than the page keeps
def test_time_in_a_hidden_tab_is_neither_late_nor_a_controls(page: Page, num_chunks: int) -> None:
    # Playwright keeps every tab visible: what a hidden one sees is played to it.
    page.evaluate(
        """() => {
            const show = window.requestAnimationFrame.bind(window);
            const kept = [];
            let hidden = false;
            window.requestAnimationFrame = (paint) => (hidden ? kept.push(paint) : show(paint));
            Object.defineProperty(document, "hidden", { get: () => hidden });
            window.hide = (value) => {
                hidden = value;
                document.dispatchEvent(new Event("visibilitychange"));
                if (!value) kept.splice(0).forEach(show);
            };
        }"""
    )
    enter(page)
    page.keyboard.down("w")
    page.wait_for_function("lingbot.stats.controlMs !== null")
    page.evaluate("hide(true)")
    before = page.evaluate("lingbot.stats")
    assert before["held"] == []
    page.wait_for_function(
        "until => lingbot.stats.chunkIndex >= until",
        arg=before["chunkIndex"] + num_chunks,
        polling=100,
    )
    during = page.evaluate("lingbot.stats")
    assert during["framesShown"] <= before["framesShown"] + 1, "it was not hidden"
    after = page.evaluate(
        """async (during) => {
            hide(false);
            while (lingbot.stats.framesShown === during.framesShown) {
                await new Promise((resolve) => setTimeout(resolve));
            }
            return lingbot.stats;
        }""",
        during,
    )
    assert after["framesLate"] < before["framesLate"] + 12, "a chunk late"
    assert after["framesDropped"] > 0 or num_chunks == 2
    page.wait_for_function(
        "num => lingbot.stats.framesShown + lingbot.stats.framesDropped >= num",
        arg=during["framesReceived"],
    )
    # The key was released when the page was hidden: that release was not waited for.
    assert page.evaluate("lingbot.stats.controlMs") == before["controlMs"]


def test_words_in_the_prompt_field_change_the_world_and_do_not_walk(page: Page) -> None:
    enter(page)
    page.fill("#live-prompt", "")
    page.keyboard.type("was die")
    assert page.input_value("#live-prompt") == "was die"
    assert page.evaluate("lingbot.stats.held") == []
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement === document.body")
    shown = page.evaluate("lingbot.stats.chunkIndex")
    page.wait_for_function("before => lingbot.stats.chunkIndex > before + 1", arg=shown)
    assert not page.is_visible("#toast"), "the change was refused"
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])


def test_raw_frames_show_too(page: Page) -> None:
    page.click("summary")
    page.select_option("#format", "raw")
    enter(page)
    page.wait_for_function("lingbot.stats.chunkIndex >= 2")
    assert page.evaluate("lingbot.stats.codec") == "raw"
    assert page.evaluate("new Set(lingbot.lastFrame().data).size") > 16


def test_an_upload_opens_a_world_and_a_file_that_is_no_picture_is_named(page: Page) -> None:
    page.set_input_files("#upload", {"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
    page.wait_for_selector("#start-notice:visible")
    assert "a.png" in page.inner_text("#start-notice")
    page.set_input_files(
        "#upload", {"name": "b.png", "mimeType": "image/png", "buffer": png(3000, 2000)}
    )
    page.wait_for_selector("text=Your picture")
    assert not page.is_visible("#start-notice")
    sent = listen_to_client(page)
    enter(page)
    assert sent[0]["prompt"] == "A world to walk in"
    with Image.open(io.BytesIO(sent[0]["first_frame"])) as picture:
        assert picture.size == (1280, 853)


def test_an_emptied_prompt_is_the_chosen_pictures_own(page: Page) -> None:
    sent = listen_to_client(page)
    page.locator("#openings .card").nth(1).click()
    theirs = page.input_value("#prompt")
    page.fill("#prompt", "")
    assert page.get_attribute("#prompt", "placeholder") == theirs, "nobody can see it"
    enter(page)
    assert sent[0]["prompt"] == theirs == page.input_value("#live-prompt")


def test_leaving_frees_the_world_for_the_next_walk(page: Page) -> None:
    for _ in range(3):
        enter(page)
        page.keyboard.press("Escape")
        page.wait_for_function("lingbot.state === 'start'")
        assert page.is_visible("#enter")


def test_a_walk_that_is_over_is_shown_to_its_last_frame(page: Page) -> None:
    def limit(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def forward(data: str | bytes) -> None:
            assert isinstance(data, bytes)
            message = msgpack.decode(data)
            # Two chunks want no ack, and one sent to a socket that is closed is a complaint.
            if message["type"] == "init":
                server.send(msgpack.encode(message | {"max_chunks": 2}))

        socket.on_message(forward)

    page.route_web_socket(SOCKET, limit)
    page.click("#enter")
    page.wait_for_function("lingbot.state === 'ended'")
    assert page.inner_text("#card-title") == "The walk is over"
    stats = page.evaluate("lingbot.stats")
    assert stats["framesShown"] == stats["framesReceived"] > 0
    page.click("#back")
    assert page.is_visible("#enter")


@pytest.mark.parametrize(
    ("code", "reason", "title"),
    [
        (1013, "every slot is taken", "Every world is taken"),
        (1012, "the rank died", "The world is restarting"),
        (1011, "", "Something broke in the server"),
    ],
)
def test_the_end_is_explained_and_one_may_walk_again(
    page: Page, code: int, reason: str, title: str
) -> None:
    ended: list[int] = []

    def end(socket: WebSocketRoute) -> None:
        if ended:
            socket.connect_to_server()
        else:
            socket.on_message(lambda data: socket.close(code=code, reason=reason))
        ended.append(code)

    page.route_web_socket(SOCKET, end)
    page.click("#enter")
    page.wait_for_function("lingbot.state === 'ended'")
    assert page.inner_text("#card-title") == title
    assert page.inner_text("#card-said").lower() == reason
    page.click("#again")
    page.wait_for_function("lingbot.state === 'playing'")


@pytest.mark.parametrize(
    ("code", "title"),
    [
        ("busy", "Every world is taken"),
        ("world_lost", "The world is restarting"),
        ("internal", "Something broke in the server"),
        ("too_large", "That was too large"),
        ("timeout", "The server gave up waiting"),
        ("invalid_field", "The server refused this world"),
    ],
)
def test_a_refusal_is_explained_before_any_close(page: Page, code: str, title: str) -> None:
    answer_init(page, {"type": "error", "code": code, "content": "so it is"})
    page.click("#enter")
    page.wait_for_function("lingbot.state === 'ended'")
    assert page.inner_text("#card-title") == title
    assert page.inner_text("#card-said") == "So it is"


@pytest.mark.parametrize(("width", "height"), [(112, 64), (832, 480), (64, 112)])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_frame_of_any_size_keeps_its_shape(
    page: Page, viewport: ViewportSize, width: int, height: int
) -> None:
    page.set_viewport_size(viewport)
    answer_init(page, raw_batch(width, height))
    enter(page)
    world, view = page.locator("#world").bounding_box(), page.locator(".view").bounding_box()
    assert world is not None and view is not None
    assert world["width"] / world["height"] == pytest.approx(width / height, rel=0.01)
    spare = [view[side] - world[side] for side in ("width", "height")]
    assert min(spare) == pytest.approx(0, abs=1), "neither as large as fits nor within"


def test_nothing_is_cut_off_on_a_phone(page: Page) -> None:
    page.set_viewport_size(PHONE)
    for screen in ("start", "playing"):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), screen
        if screen == "start":
            enter(page)
    for key in "wasdijkl":
        box = page.locator(f"[data-key={key}]").bounding_box()
        assert box is not None
        right, bottom = box["x"] + box["width"], box["y"] + box["height"]
        assert box["x"] >= 0 and right <= PHONE["width"] and bottom <= PHONE["height"]
        assert min(box["width"], box["height"]) >= 44, "too small for a thumb"


def test_a_picture_of_the_page_is_kept(page: Page) -> None:
    enter(page)
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    walking_since = page.evaluate("lingbot.stats.chunkIndex")
    # Past the first chunks, which come faster than they are shown: the figures are steady.
    page.wait_for_function("since => lingbot.stats.chunkIndex >= since + 6", arg=walking_since)
    wait_for_figures(page)
    SCREENSHOT.parent.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOT)
    with Image.open(SCREENSHOT) as image:
        assert image.size == (DESKTOP["width"], DESKTOP["height"])
