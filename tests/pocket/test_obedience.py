"""The evaluation against players whose verdict is known: the renderer itself, and a still."""

import pytest
import torch

pytest.importorskip("cv2")

from pocket.evaluation import obedience
from pocket.evaluation.obedience import measure_keys, measure_rest, measure_turns
from pocket.evaluation.play import steady_walk
from pocket.renderer.render import Renderer


class RemembersWalks(Renderer):
    """The measures and what plays in their stead ask for the same walks."""

    def __init__(self, scene):
        super().__init__(scene)
        self.shown = {}

    def render(self, poses, **size):
        walk = poses.tobytes()
        if walk not in self.shown:
            self.shown[walk] = super().render(poses, **size)
        return self.shown[walk]


@pytest.fixture(scope="module")
def renderer(town):
    return RemembersWalks(town)


@pytest.fixture
def scene(renderer, monkeypatch):
    """The only one there is."""
    monkeypatch.setattr(obedience, "held_out_scenes", lambda _: [renderer.scene])
    monkeypatch.setattr(obedience, "Renderer", lambda _: renderer)
    return renderer.scene


@pytest.fixture
def renderer_plays(scene, monkeypatch):
    def play(_engine, _first, _prompt, actions):
        _, poses = steady_walk(scene, actions[-1], num_chunks=len(actions) // 3)
        return obedience.Renderer(scene).render(poses, **obedience.SIZE)

    monkeypatch.setattr(obedience, "play", play)


@pytest.fixture
def still_plays(scene, monkeypatch):
    def play(_engine, first, _prompt, actions):
        return first[None].expand(4 * len(actions) - 3, -1, -1, -1)

    monkeypatch.setattr(obedience, "play", play)


def test_the_renderer_obeys(renderer_plays):
    figures = {figure.name: figure for figure in measure_keys(None, 1)}
    assert figures["chunks that obey their key"].value >= 0.9
    assert all(f"chunks that obey {key}" in figures for key in "wasdijkl")
    told, *errors = measure_turns(None, 1)
    assert told.value > 0.8
    for figure in errors:
        assert figure.value < 0.1, figure
    rest, everywhere = measure_rest(None, 1)
    assert rest.met and max(rest.value, everywhere.value) < 0.01


def test_what_moves_as_it_should_obeys_however_faint(renderer_plays, monkeypatch):
    play = obedience.play

    def faint_play(*told):
        frames = play(*told).float()
        return (frames.mean() + (frames - frames.mean()) / 4).byte()

    monkeypatch.setattr(obedience, "play", faint_play)
    *_, obeys = measure_keys(None, 1)
    assert obeys.value >= 0.9


def test_a_still_does_not(still_plays):
    *_, obeys = measure_keys(None, 1)
    assert obeys.met is False and obeys.value == 0
    _, yaw, _, pitch, _ = measure_turns(None, 1)
    assert (yaw.value, pitch.value) == pytest.approx((6, 4), abs=0.1)
    assert yaw.met is False


def test_what_slides_is_not_at_rest(scene, monkeypatch):
    def play(_engine, first, _prompt, actions):
        return torch.stack([first.roll(i, dims=1) for i in range(4 * len(actions) - 3)])

    monkeypatch.setattr(obedience, "play", play)
    rest, _ = measure_rest(None, 1)
    assert rest.met is False and rest.value == pytest.approx(1, rel=0.3)
