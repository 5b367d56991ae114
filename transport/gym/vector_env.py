"""Several worlds as one Gymnasium vector environment, each over a socket of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from transport.client import DEFAULT_URL
from transport.codecs.payload import Frames
from transport.gym.env import MAX_SEED, Action, Reward, no_reward
from transport.gym.episode import Episode, Options
from transport.gym.event_loop import EventLoop
from transport.gym.facts import action_space, choose_size, fetch_facts, observation_space

Flags = NDArray[np.bool_]
Result = tuple[Frames, dict[str, Any]]


class WorldVectorEnv(VectorEnv[Frames, Action, NDArray[Any]]):
    """Worlds of one server, which generate their chunks at the same time.

    Spaces, options and rewards are those of `WorldEnv`, with one row for each world. Worlds have
    no end, so none is reset by itself: `reset` has the option `reset_mask`.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}

    def __init__(
        self,
        num_envs: int = 1,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        size: tuple[int, int] | None = None,
        options: Options | None = None,
        per_latent_frame: bool = False,
        reward: Reward = no_reward,
    ) -> None:
        """Opens no world yet. Raises as `WorldEnv` does."""
        if num_envs < 1:
            raise ValueError(f"`num_envs`: {num_envs}, expected at least 1")
        facts = fetch_facts(url, token=token)
        size = choose_size(size, facts)
        self.num_envs = num_envs
        self.metadata = self.metadata | {"render_fps": facts.fps}
        self.single_observation_space = observation_space(facts, size=size)
        self.single_action_space = action_space(facts, per_latent_frame=per_latent_frame)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._options = options or {}
        self._reward = reward
        self._num_latent_frames = facts.chunk_latent_frames
        self._episodes = [Episode(url, token, facts, size) for _ in range(num_envs)]
        self._loop = EventLoop()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Options | None = None
    ) -> Result:
        """Begins worlds as `WorldEnv.reset` does.

        `seed`: that of the first world, and one more for each next one; or one for each. In
        `options`, `reset_mask` has a bool for each world; the others go on.
        """
        if isinstance(seed, int):
            super().reset(seed=seed)
            seed = range(seed, seed + self.num_envs)
        seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"`seed`: {len(seeds)} seeds, expected {self.num_envs}")
        options = dict(self._options if options is None else options)
        mask = self._read_mask(options.pop("reset_mask", None))
        options = options or self._options
        drawn = self.np_random.integers(MAX_SEED, size=self.num_envs)
        self._loop.run_all(
            episode.begin(options, seed=int(drawn[index]) if one is None else one)
            for index, (episode, one) in enumerate(zip(self._episodes, seeds, strict=True))
            if mask[index]
        )
        return self._observe()

    def step(
        self, actions: Action
    ) -> tuple[Frames, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Generates one chunk of each world; `actions` has the keys of each."""
        if not self.action_space.contains(actions):
            raise ValueError(f"{actions!r} are not actions, expected bits {self.action_space}")
        self._loop.run_all(
            episode.advance(np.broadcast_to(keys, (self._num_latent_frames, keys.shape[-1])))
            for episode, keys in zip(self._episodes, actions, strict=True)
        )
        frames, infos = self._observe()
        rewards = np.array([self._reward(one) for one in frames], np.float64)
        never = np.zeros(self.num_envs, np.bool_)
        return frames, rewards, never, never.copy(), infos

    def clone_state(self) -> list[bytes]:
        """Each world in one piece; see `WorldEnv.clone_state`."""
        return self._loop.run_all(episode.save() for episode in self._episodes)

    def restore_state(self, states: bytes | Sequence[bytes]) -> Result:
        """The worlds of these states, or all of them that of one; see `WorldEnv.restore_state`."""
        states = [states] * self.num_envs if isinstance(states, bytes) else states
        if len(states) != self.num_envs:
            raise ValueError(f"{len(states)} states, expected {self.num_envs}")
        self._loop.run_all(
            episode.begin({"snapshot": state}, seed=0)
            for episode, state in zip(self._episodes, states, strict=True)
        )
        return self._observe()

    def close_extras(self, **kwargs: Any) -> None:
        """Frees all worlds and sockets."""
        self._loop.close([episode.close() for episode in self._episodes])

    def _observe(self) -> Result:
        infos: dict[str, Any] = {}
        for index, episode in enumerate(self._episodes):
            info = {"world_chunk_index": episode.chunk_index, "seed": episode.seed}
            infos = self._add_info(infos, info, index)
        return np.stack([episode.observation for episode in self._episodes]), infos

    def _read_mask(self, mask: Any) -> Flags:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        mask = np.asarray(mask)
        assert isinstance(mask, np.ndarray)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(f"`reset_mask`: {mask!r}, expected {self.num_envs} bools")
        return mask
