import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from transport.gym import ENV_ID, WorldEnv, WorldVectorEnv


@pytest.fixture
def worlds(url):
    worlds = WorldVectorEnv(3, url)
    yield worlds
    worlds.close()


def press_each(press, *actions):
    return np.stack([press(*keys) for keys in actions])


def test_it_equals_single_environments(worlds, url, press):
    frames, infos = worlds.reset(seed=5)
    stepped, rewards, *_ = worlds.step(press_each(press, "w", "a", ""))
    assert infos["seed"].tolist() == [5, 6, 7] and rewards.tolist() == [0.0] * 3
    env = WorldEnv(url)
    for number, keys in enumerate(("w", "a", "")):
        assert np.array_equal(env.reset(seed=5 + number)[0], frames[number])
        assert np.array_equal(env.step(press(*keys))[0], stepped[number])
    env.close()


def test_one_state_serves_all_worlds_or_each_has_its_own(worlds, press):
    worlds.reset(seed=5)
    states = worlds.clone_state()
    same = press_each(press, "w", "w", "w")
    apart, *_ = worlds.step(same)
    worlds.restore_state(states)
    assert np.array_equal(worlds.step(same)[0], apart)
    worlds.restore_state(states[1])
    together, *_ = worlds.step(same)
    assert all(np.array_equal(one, apart[1]) for one in together)
    with pytest.raises(ValueError, match="2 states, expected 3"):
        worlds.restore_state(states[:2])


def test_a_fork_runs_to_different_ends(worlds, url, press):
    env = WorldEnv(url)
    env.reset(seed=1)
    worlds.reset(options={"fork": env.fork()})
    env.close()
    frames, *_ = worlds.step(press_each(press, "w", "a", "a"))
    assert np.array_equal(frames[1], frames[2]) and not np.array_equal(frames[0], frames[1])


def test_a_mask_resets_some(worlds, press):
    worlds.reset(seed=[1, 2, 3])
    before, *_ = worlds.step(press_each(press, "w", "w", "w"))
    frames, infos = worlds.reset(seed=9, options={"reset_mask": np.array([False, True, False])})
    assert infos["world_chunk_index"].tolist() == [2, 1, 2]
    assert infos["seed"].tolist() == [1, 10, 3]
    assert np.array_equal(frames[[0, 2]], before[[0, 2]])
    with pytest.raises(ValueError, match="expected 3 bools"):
        worlds.reset(options={"reset_mask": [True]})


def test_gymnasium_makes_one(url, press):
    worlds = gymnasium.make_vec(
        f"transport.gym:{ENV_ID}", num_envs=2, vectorization_mode="vector_entry_point", url=url
    )
    assert worlds.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    frames, _ = worlds.reset(seed=1)
    assert frames in worlds.observation_space
    assert worlds.step(press_each(press, "w", "s"))[0] in worlds.observation_space
    worlds.close()


def test_wrong_arguments_are_named(url, worlds):
    with pytest.raises(ValueError, match="`num_envs`: 0, expected at least 1"):
        WorldVectorEnv(0, url)
    with pytest.raises(ValueError, match="`seed`: 2 seeds, expected 3"):
        worlds.reset(seed=[1, 2])
