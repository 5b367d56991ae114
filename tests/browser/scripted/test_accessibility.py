"""Names, live region, contrast and motion of the page."""

from importlib import resources

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from benchmarks.chromium import STEP_MS
from tests.browser.driver import texts_of, wait_for_async
from tests.browser.fake_server import chunk, grey
from tests.browser.scripted.contrast import texts_with_contrast
from tests.browser.scripted.world import ScriptedWorld, enter_scripted
from tests.transport.fake_world import png

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("focus")]

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
RUN_AXE = """async () => {
    const { violations } = await axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}"""
PANELS = ("figures", "timeline", "portable", "settings")
PAUSED = {"type": "paused", "reason": "idle"}
ENDED = "the session was open for 600 s, its longest time"
AA = 4.5
SNOW, NIGHT = 255, 0
RUNNING = "document.getAnimations().filter(({ playState }) => playState === 'running').length"


def enter_world_of(page: Page, level: int) -> ScriptedWorld:
    """Play a world that is one shade of grey, which also glows behind the bar."""
    world = enter_scripted(page)
    for _ in range(2):
        world.send(*chunk(grey(12, level), index=world.num_chunks, world_index=world.num_chunks))
        world.num_chunks += 1
    wait_for_async(page, "async (level) => (await lingbot.lastFrame()).data[0] === level", level)
    if level == SNOW:  # as after a long walk through it
        page.add_style_tag(content="#glow { filter: brightness(0) invert(1); transition: none; }")
    return world


def end(page: Page, world: ScriptedWorld) -> None:
    world.send({"type": "error", "content": ENDED, "code": "session_ended"})
    world.close(1000, ENDED)
    page.wait_for_function("lingbot.state === 'ended'")


def pause(page: Page, world: ScriptedWorld) -> None:
    world.send(PAUSED)
    page.wait_for_function("lingbot.state === 'paused'")


def find_faults(page: Page) -> list[str]:
    page.evaluate(AXE)
    faults: list[str] = page.evaluate(RUN_AXE)
    return faults


def test_axe_finds_no_fault_on_the_start_screen(page: Page) -> None:
    page.click("summary")
    assert find_faults(page) == []


@pytest.mark.parametrize("state", ["playing", "paused", "ended", *PANELS])
def test_axe_finds_no_fault_on_the_stage(page: Page, state: str) -> None:
    world = enter_scripted(page)
    if state == "paused":
        pause(page, world)
    elif state == "ended":
        end(page, world)
    elif state in PANELS:
        page.click(f"[popovertarget={state}]")
    assert find_faults(page) == []


def test_the_accessibility_tree_of_a_walk(page: Page) -> None:
    enter_scripted(page)
    page.click("[popovertarget=settings]")
    expect(page.locator("#stage")).to_match_aria_snapshot(
        """
        - main "World":
          - button "Record"
          - button "Rewind"
          - button "World"
          - button /Leave/
          - group:
            - combobox
            - slider /Quality/
            - combobox /Width/
          - application "The world"
          - group "Walk":
            - button "Walk forward (W)"
            - button "Left (A)"
            - button "Back (S)"
            - button "Right (D)"
          - textbox "Describe what the world should become"
          - button "Change"
          - group "Look":
            - button "Look up (I)"
            - button "Look left (J)"
            - button "Look down (K)"
            - button "Look right (L)"
        """,
        timeout=STEP_MS,
    )


def test_the_accessibility_tree_of_the_start_screen(page: Page) -> None:
    expect(page.locator("#start")).to_match_aria_snapshot(
        """
        - main "Walk into a picture":
          - heading "Walk into a picture" [level=1]
          - group "Opening picture":
            - radio "grey hill" [checked]
            - button "Use your own picture"
          - textbox "What is this place?"
          - button "Enter world"
          - button "Open a saved world"
        """,
        timeout=STEP_MS,
    )


def test_each_state_is_announced(page: Page) -> None:
    world = ScriptedWorld(page)
    page.click("#enter")
    world.wait_for_init(1)
    page.wait_for_function("texts.announcer?.includes('Opening the world – A moment.')")
    world.send({"type": "queued", "position": 2, "all_taken": True})
    page.wait_for_function(
        "texts.announcer?.at(-1) === 'Every world is taken – You are 2nd in line.'"
    )
    world.open()
    page.wait_for_function("texts.announcer?.at(-1).startsWith('You are in the world. Hold W')")
    pause(page, world)
    page.wait_for_function("texts.announcer?.at(-1).startsWith('Paused')")
    world.send({"type": "ending", "reason": "idle", "in_s": 60})
    page.wait_for_function("texts.announcer?.at(-1).startsWith('This walk ends in 60 s')")
    world.send({"type": "resumed"})
    page.wait_for_function("texts.announcer?.at(-1).startsWith('You are in the world.')")
    world.send({"type": "paced", "speed_percent": 45})
    page.wait_for_function("texts.announcer?.at(-1).startsWith('The world runs at 45 %')")
    end(page, world)
    page.wait_for_function("texts.announcer?.at(-1).startsWith('The walk has ended')")
    assert not [text for text in texts_of(page, "announcer") if "in 59 s" in text]


@pytest.mark.parametrize("level", [SNOW, NIGHT], ids=["snow", "night"])
@pytest.mark.parametrize("viewport", [(1280, 800), (320, 480)], ids=["desktop", "phone"])
def test_texts_are_legible_over_any_picture(
    page: Page, level: int, viewport: tuple[int, int]
) -> None:
    page.set_viewport_size(ViewportSize(width=viewport[0], height=viewport[1]))
    world = enter_world_of(page, level)
    page.evaluate("() => { window.setTimeout = () => 0; }")  # the toast stays
    world.send({"type": "paced", "speed_percent": 45})
    world.send({"type": "ending", "reason": "longest_session", "in_s": 60})
    page.wait_for_selector("#ending")
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(1000)  # the glow comes slowly
    texts = texts_with_contrast(page, ".bar, .deck, #toast, #ending, #first-hint")
    assert {"Change", "W", "Leave"} <= {words for words, _ in texts}
    assert [(words, ratio) for words, ratio in texts if ratio < AA] == []
    pause(page, world)
    texts = texts_with_contrast(page, "#card")
    assert [(words, ratio) for words, ratio in texts if ratio < AA] == []


@pytest.mark.parametrize("viewport", [(1280, 800), (320, 480)], ids=["desktop", "phone"])
def test_the_start_screen_is_legible_over_snow(page: Page, viewport: tuple[int, int]) -> None:
    page.set_viewport_size(ViewportSize(width=viewport[0], height=viewport[1]))
    snow = png(30, 20, (SNOW, SNOW, SNOW))
    page.set_input_files("#upload", {"name": "snow.png", "mimeType": "image/png", "buffer": snow})
    page.wait_for_selector("text=Your picture")
    texts = texts_with_contrast(page, "#start")
    assert {"Walk into a picture", "Your picture", "Enter world"} <= {words for words, _ in texts}
    assert [(words, ratio) for words, ratio in texts if ratio < AA] == []


@pytest.mark.parametrize("panel", PANELS)
def test_panels_are_legible_over_snow(page: Page, panel: str) -> None:
    enter_world_of(page, SNOW)
    page.click(f"[popovertarget={panel}]")
    texts = texts_with_contrast(page, f"#{panel}")
    assert [(words, ratio) for words, ratio in texts if ratio < AA] == []


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_by_itself_where_motion_is_unwanted(page: Page, motion: str) -> None:
    page.emulate_media(reduced_motion="reduce" if motion == "reduce" else "no-preference")
    world = ScriptedWorld(page)
    page.click("#enter")
    world.wait_for_init(1)
    assert page.evaluate(RUNNING) == 0 or motion != "reduce", "the spinner turns"
    world.open()
    page.keyboard.press("r")
    page.wait_for_selector("#record[aria-pressed=true]")
    page.wait_for_timeout(500)
    num_running = page.evaluate(RUNNING)
    assert num_running == 0 if motion == "reduce" else num_running > 0
