"""The page in Chromium, Firefox and WebKitGTK: what a visitor does, in each of them."""

from types import SimpleNamespace

import pytest

from tests.browser.engines.engine import Engine

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("engines"), pytest.mark.timeout(900)]


def enter(engine: Engine) -> None:
    engine.click("#enter")
    engine.wait_for("() => lingbot.stats?.framesShown > 0")


def wait_for_frames(engine: Engine, num_frames: int) -> None:
    shown = engine.evaluate("() => lingbot.stats.framesShown")
    engine.wait_for("until => lingbot.stats.framesShown >= until", shown + num_frames)


def test_a_held_key_walks_until_it_is_released(engine: Engine, server: SimpleNamespace) -> None:
    enter(engine)
    engine.hold("w")
    applied = "keys => lingbot.stats.applied.actions.every((held) => held.join() === keys)"
    engine.wait_for(applied, "w")
    num_steps = len(server.world.steps)
    wait_for_frames(engine, 24)
    assert len(server.world.steps) > num_steps
    engine.release("w")
    engine.wait_for(applied, "")
