"""The environment on sockets of this process, with a fake world."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import transport.gym
from tests.waiting import wait_until
from transport.gym import ENV_ID, WorldEnv
from transport.wire.errors import TransportError


@pytest.fixture
def env(url):
    env = WorldEnv(url)
    yield env
    env.close()


def test_it_passes_gymnasiums_checks(url):
    env = gymnasium.make(f"transport.gym:{ENV_ID}", url=url, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


def test_the_same_seed_and_actions_give_the_same_frames(env, press):
    def walk(seed):
        frames = [env.reset(seed=seed)[0]]
        frames += [env.step(press(*keys))[0] for keys in ("w", "wl", "", "s")]
        return np.stack(frames)

    first, other, again = walk(7), walk(8), walk(7)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_step_generates_one_chunk_and_no_chunk_is_ahead(env, world, press):
    env.reset(seed=1)
    env.step(press("w", "l"))
    frames, reward, terminated, truncated, info = env.step(press())
    assert [actions for actions, _ in world.steps] == [[""] * 3, ["wl"] * 3, [""] * 3]
    assert frames.shape == env.observation_space.shape == (12, 16, 32, 3)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info == {"world_chunk_index": 3, "seed": 1}


def test_an_action_may_have_a_row_for_each_latent_frame(url, world, press):
    env = WorldEnv(url, per_latent_frame=True)
    env.reset(seed=1)
    env.step(np.stack([press("w"), press(), press("a", "l")]))
    env.close()
    assert world.steps[-1][0] == ["w", "", "al"]


def test_the_first_frame_stands_still_before_a_short_chunk(env):
    frames, _ = env.reset(seed=3)
    assert np.array_equal(frames[:3], np.repeat(frames[3:4], 3, axis=0))
    assert not np.array_equal(frames[3], frames[4])


def test_a_restored_state_goes_on_as_the_world_did(env, url, press):
    env.reset(seed=5)
    before, _, _, _, _ = env.step(press("w"))
    state = env.clone_state()
    expected = [env.step(press(keys))[0] for keys in "wasd"]
    other = WorldEnv(url)
    for one in (env, other):
        shown, info = one.restore_state(state)
        assert info == {"world_chunk_index": 2, "seed": 5}
        assert np.abs(shown[-1].astype(int) - before[-1]).mean() < 90  # JPEG of noise
        assert (shown == shown[0]).all()
        for keys, frames in zip("wasd", expected, strict=True):
            assert np.array_equal(one.step(press(keys))[0], frames)
    other.close()


def test_a_fork_opens_the_same_world_again(env, url, press):
    env.reset(seed=5)
    token = env.fork()
    expected, *_ = env.step(press("d"))
    other = WorldEnv(url)
    for _ in range(2):
        other.reset(options={"fork": token})
        assert np.array_equal(other.step(press("d"))[0], expected)
    other.close()


def test_a_reset_with_the_same_options_keeps_the_session(env, world):
    env.reset(seed=1)
    env.reset(seed=2)
    assert len(world.specs) == 1 and world.commands[-1][1:] == ("reset", 2, None)
    env.reset(seed=2, options={"prompt": "rain"})
    assert [spec.prompt for spec in world.specs] == ["a grey hill", "rain"]
    env.restore_state(env.clone_state())
    env.reset(seed=2)  # not the first frame of the restored world
    assert len(world.specs) == 4


@pytest.mark.parametrize("kind", ["pixels", "file"])
def test_a_world_may_start_from_an_image(env, world, make_png, kind):
    pixels = np.full((16, 32, 3), 9, np.uint8)
    image = pixels if kind == "pixels" else make_png(32, 16, (9, 9, 9))
    env.reset(options={"image": image, "prompt": "grey"})
    assert (world.images[-1] == 9).all() and world.specs[-1].prompt == "grey"


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"promt": "rain"}, "`options`: 'promt' is unknown, expected image, prompt, snapshot"),
        ({"snapshot": b"x", "prompt": "rain"}, "'snapshot' has its own prompt, expected it alone"),
        ({"snapshot": b"x", "fork": "y"}, "'snapshot' has its own fork, expected it alone"),
    ],
)
def test_a_wrong_option_is_named(env, options, reason):
    with pytest.raises(ValueError, match=reason):
        env.reset(options=options)


def test_a_wrong_state_is_refused_and_leaves_an_environment_that_can_be_reset(env):
    with pytest.raises(TransportError, match="`snapshot`"):
        env.restore_state(b"nothing")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.clone_state()
    env.reset(seed=1)


def test_a_lost_world_ends_the_episode_and_a_reset_opens_another(env, world, press):
    env.reset(seed=1)
    world.on_step = TransportError("a rank has died", code="world_lost", close_code=1012)
    with pytest.raises(TransportError, match="a rank has died"):
        env.step(press("w"))
    world.on_step = None
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(press("w"))
    env.reset(seed=1)
    env.step(press("w"))


def test_a_reward_may_be_given(url, press):
    env = WorldEnv(url, reward=lambda frames: frames.mean())
    env.reset(seed=1)
    frames, reward, *_ = env.step(press("w"))
    env.close()
    assert reward == frames.mean() > 0


def test_an_action_that_is_none_is_refused(env, press):
    env.reset(seed=1)
    with pytest.raises(ValueError, match="is not an action"):
        env.step(np.full(8, 2, np.int8))
    with pytest.raises(ValueError, match="is not an action"):
        env.step(press()[:3])


def test_a_step_needs_a_reset(env, press):
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(press("w"))


def test_a_closed_environment_frees_its_world(env, world):
    env.reset(seed=1)
    env.close()
    env.close()
    wait_until(lambda: world.live == set() and world.detached == set())


def test_the_checks_find_a_world_that_is_not_deterministic(url, world, make_png):
    """The slow twin of the above: frames that change by themselves."""
    world.draws = lambda shape, session: np.random.default_rng().integers(0, 256, shape, np.uint8)
    env = gymnasium.make(f"transport.gym:{ENV_ID}", url=url, render_mode="rgb_array")
    with pytest.raises(AssertionError, match="non-deterministic"):
        check_env(env.unwrapped)
    env.close()
    assert transport.gym.ENV_ID in gymnasium.registry
