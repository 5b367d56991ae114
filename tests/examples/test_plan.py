"""The example on sockets of this process, with a fake world."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from examples import plan
from tests.transport.fake_world import FakeSession
from transport.paths import SOCKET_PATH


@pytest.fixture
def world(make_world, monkeypatch):
    """A world whose contrast is the number of chunks in which it turned left."""
    world = make_world()

    def frames(session):
        num_frames = 9 if session.chunk_index == 1 else 12
        turns = sum("j" in chunk[0] for chunk in session.actions)
        row = np.arange(session.spec.width) % 2 * 20 * turns
        shape = (num_frames, session.spec.height, session.spec.width, 3)
        return np.broadcast_to(row[:, None], shape).astype(np.uint8, order="C")

    monkeypatch.setattr(FakeSession, "_frames", frames)
    return world


def test_the_best_of_eight_sequences_is_walked(world, listen, tmp_path, capsys):
    out = tmp_path / "plan.mp4"
    with listen(world) as port:
        url = f"ws://127.0.0.1:{port}{SOCKET_PATH}"
        plan.main(["--url", url, "--rounds", "2", "--out", str(out)])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in printed] == ["round 1: j j", "round 2: j j"]
    with av.open(io.BytesIO(out.read_bytes())) as file:
        assert sum(1 for _ in file.decode(video=0)) == 12 * 5
    walked = [spec for spec in world.specs if spec.seed == 7]
    assert len(walked) == 1 + 8 * 2  # each future is a session of its own, with the world's seed
    assert world.live == set()


def test_a_goal_is_scored_by_likeness(tmp_path):
    goal = tmp_path / "goal.png"
    dark, bright = (np.full((16, 32, 3), shade, np.uint8) for shade in (10, 200))
    Image.fromarray(bright).save(goal)
    score = plan.likeness(goal, size=(32, 16))
    assert score(bright) == 0 > score(dark) == -190
    assert plan.contrast(dark) == 0


def test_all_sequences_are_as_long_and_of_known_keys():
    assert len(set(plan.SEQUENCES)) == 8
    assert {len(sequence) for sequence in plan.SEQUENCES} == {2}
    assert plan.press("wl").tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
