"""A server of worlds for the page, whose sockets a test scripts, answers or cuts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace
from playwright.sync_api import Page

from tests.browser.cuttable import make_cuttable
from tests.browser.fake_server import ScriptedServer, chunk, grey, serve_page
from tests.transport.fake_world import FakeWorld

SESSION = {
    "type": "session",
    "session_id": "s1",
    "width": 112,
    "height": 64,
    "fps": 16,
    "chunk_latent_frames": 3,
    "first_chunk_frames": 9,
    "chunk_frames": 12,
    "encoding": "raw",
    "limits": {},
    "seed": 42,
    "world_chunk_index": 0,
    "resume_token": "group.s1.secret",
    "resume_grace_s": 60.0,
}
OUTPUT_FIELDS = {"type", "fps", "extensions", "realtime_cut_over", "realtime_output_format"}
GONE = {"type": "error", "code": "session_gone", "content": "no world waits for this token"}
REFUSED = {
    "type": "error",
    "code": "refused",
    "field": "snapshot.fingerprint",
    "content": "`snapshot.fingerprint`: 'a', expected 'b'",
}
SNAPSHOT = bytes(range(256)) * 4000  # 1 MB


class ScriptedWorld(ScriptedServer):
    """A scripted server with the steps that these tests share."""

    def __init__(self, page: Page) -> None:
        super().__init__(page.context)
        self.page = page
        self.num_chunks = 0

    def wait(self, is_there: Callable[[], bool]) -> None:
        while not is_there():
            self.page.wait_for_timeout(10)

    def wait_for_init(self, num: int) -> dict[str, Any]:
        """The `num`th init of the page, counted from 1."""
        self.wait(lambda: len(self.inits) >= num)
        return self.inits[num - 1]

    def wait_for_event(self, kind: str, num: int = 1) -> dict[str, Any]:
        """The `num`th event of this kind, counted from 1."""

        def events() -> list[dict[str, Any]]:
            return [one for one in self.received if one.get("kind") == kind]

        self.wait(lambda: len(events()) >= num)
        return events()[num - 1]

    def open(self, **changes: Any) -> None:
        """Answer an init, and play one chunk."""
        self.num_chunks = 0
        self.send(SESSION | changes)
        self.play(world_index=changes.get("world_chunk_index", 0))

    def play(self, *, world_index: int, level: int = 90) -> None:
        """Send a chunk and wait until its first frame is shown."""
        self.send(*chunk(grey(12, level), index=self.num_chunks, world_index=world_index))
        self.num_chunks += 1
        self.page.wait_for_function(
            "index => lingbot.stats?.shownChunkIndex === index", arg=world_index
        )

    def answer_save(self, world_index: int, num: int = 1) -> None:
        self.send(
            {
                "type": "snapshot",
                "event_id": self.wait_for_event("save", num)["event_id"],
                "world_chunk_index": world_index,
                "data": SNAPSHOT,
            }
        )


@contextmanager
def serve_worlds() -> Iterator[SimpleNamespace]:
    """The whole transport around a fake world: `.http`, `.world`, and `.cut()` for its sockets."""
    world = FakeWorld(size=(112, 64))
    world.info = replace(world.info, fps=16)
    with serve_page(world) as server, make_cuttable(server.http) as cuttable:
        yield SimpleNamespace(http=cuttable.http, cut=cuttable.cut, world=world)


def enter_scripted(page: Page) -> ScriptedWorld:
    """The page plays the first chunk of a world of a scripted server."""
    world = ScriptedWorld(page)
    page.click("#enter")
    world.wait_for_init(1)
    world.open()
    return world


def keep(page: Page, world: ScriptedWorld, world_index: int = 1) -> None:
    """Let the page keep its world now."""
    page.evaluate("() => { window.keeping = lingbot.keep(); }")
    world.answer_save(world_index)
    page.evaluate("keeping")


def wait_for_moments(page: Page, num: int) -> None:
    page.wait_for_function(
        "num => document.querySelectorAll('#moments img').length >= num", arg=num
    )


def offer(page: Page) -> str:
    page.wait_for_selector("#continue:visible")
    return page.inner_text("#continue")
