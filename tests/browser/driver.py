"""Steps and observations that the tests of the page share."""

import base64
from typing import Any

import numpy as np
from msgspec import msgpack
from playwright.sync_api import Page, WebSocket

from transport.codecs.payload import Frames

# `texts` has, by id, what each element has shown since the page was loaded: some texts stand for a
# second, and a busy machine polls less often.
NOTE_TEXTS = """
window.texts = {};
new MutationObserver((changes) => {
    for (const element of new Set(changes.map(({ target }) => target))) {
        const { id, textContent } = element;
        if (id && textContent && element.checkVisibility()) (texts[id] ??= []).push(textContent);
    }
}).observe(document, { childList: true, subtree: true });
"""


def texts_of(page: Page, element: str) -> list[str]:
    """The texts that the element of this id has shown since the page was loaded."""
    texts: list[str] = page.evaluate("id => texts[id] ?? []", element)
    return texts


def wait_for_text(page: Page, element: str, text: str) -> None:
    """Wait until the element of this id has shown a text that contains this one."""
    page.wait_for_function(
        "([id, text]) => texts[id]?.some((one) => one.includes(text))", arg=[element, text]
    )


def wait_for_async(page: Page, predicate: str, arg: Any = None) -> None:
    """Wait until an async function of the page resolves to a true value.

    `wait_for_function` awaits its predicate once only: a promise is a true value.
    """
    page.evaluate(
        f"""async (arg) => {{
            const predicate = {predicate};
            while (!(await predicate(arg))) await new Promise(requestAnimationFrame);
        }}""",
        arg,
    )


def choose_format(page: Page, name: str) -> None:
    """Choose the frames' format on the start screen."""
    page.click("summary")
    page.select_option("#format", name)


def fake_visibility(page: Page) -> None:
    """Define `hide(value)` in the page. Playwright keeps every tab visible, so this fakes it."""
    page.evaluate(
        """() => {
            let hidden = false;
            Object.defineProperty(document, "hidden", { get: () => hidden });
            window.hide = (value) => {
                hidden = value;
                document.dispatchEvent(new Event("visibilitychange"));
            };
        }"""
    )


def wait_for_actions(page: Page, keys: list[str]) -> None:
    """Wait for a chunk in which every latent frame follows exactly these keys."""
    page.wait_for_function(
        "keys => lingbot.stats.applied.actions.every(held => held.join() === keys.join())",
        arg=keys,
    )


def listen_to_client(page: Page) -> list[dict[str, Any]]:
    """The messages that the page sends on its sockets. The list grows as it sends them."""
    messages: list[dict[str, Any]] = []

    def note(data: str | bytes) -> None:
        assert isinstance(data, bytes)
        messages.append(msgpack.decode(data))

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", note)

    page.on("websocket", listen)
    return messages


def payloads_of(messages: list[dict[str, Any]], kind: str) -> list[Any]:
    """The payloads of the events of one kind. A page that plays for 10 s saves its world, too."""
    return [message["payload"] for message in messages if message.get("kind") == kind]


def actions_of(messages: list[dict[str, Any]]) -> list[list[str]]:
    """The sets of held keys that the page has sent."""
    events = payloads_of(messages, "camera_actions")
    return [event["transitions"][0]["actions"] for event in events]


def shown_frame(page: Page) -> tuple[tuple[int, int], Frames]:
    """(chunk index, frame index in it) and the pixels [H, W, 3] of the frame on the canvas."""
    frame = page.evaluate(
        """async () => {
            const { data, ...frame } = await lingbot.lastFrame();
            const blob = new Blob([data]);
            const url = await new Promise((resolve) => {
                const reader = new FileReader();
                reader.onload = () => resolve(reader.result);
                reader.readAsDataURL(blob);
            });
            return { ...frame, data: url.split(",")[1] };
        }"""
    )
    rgba = np.frombuffer(base64.b64decode(frame["data"]), np.uint8)
    pixels = rgba.reshape(frame["height"], frame["width"], 4)[:, :, :3]
    return (frame["chunkIndex"], frame["frameIndex"]), pixels


def read_card(page: Page) -> dict[str, str]:
    """The texts of the card after the end of a session, read before it can change."""
    card: dict[str, str] = page.wait_for_function(
        """() => lingbot.state === "ended" && Object.fromEntries(
            ["title", "text", "detail", "retry"].map(
                (part) => [part, document.getElementById(`card-${part}`).innerText],
            ),
        )"""
    ).json_value()
    return card


def is_quiet(page: Page) -> bool:
    """True without a notice, but for one of the world's speed, which a busy machine causes."""
    text = page.inner_text("#toast")
    return not text or "of its speed" in text or "its full speed" in text


def play_until(page: Page, chunk_index: int) -> None:
    page.wait_for_function(
        "index => window.lingbot?.stats?.shownChunkIndex >= index && lingbot.state === 'playing'",
        arg=chunk_index,
    )
