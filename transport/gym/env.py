"""A world as a Gymnasium environment: one step is one chunk."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from transport.client import DEFAULT_URL
from transport.codecs.payload import Frame, Frames
from transport.gym.episode import Episode, Options
from transport.gym.event_loop import EventLoop
from transport.gym.facts import action_space, choose_size, fetch_facts, observation_space

MAX_SEED = 2**31  # of those that are drawn

Action = NDArray[np.int8]  # [8], or [latent frames of a chunk, 8]
Reward = Callable[[Frames], float]  # of the frames of a step


def no_reward(_: Frames) -> float:
    """A world has no aim of its own."""
    return 0.0


class WorldEnv(gymnasium.Env[Frames, Action]):
    """One world of a server.

    An observation has the frames of one chunk, uint8 [T, H, W, 3]. An action has one bit for each
    key of "wasdijkl", held for the whole chunk, or with `per_latent_frame` a row of bits for each
    of its latent frames. The same seed, options and actions give the same frames. A world has no
    end, so `terminated` and `truncated` are False.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 16}

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        size: tuple[int, int] | None = None,
        options: Options | None = None,
        per_latent_frame: bool = False,
        reward: Reward = no_reward,
        render_mode: str | None = None,
    ) -> None:
        """`size`: width and height; None: the first that is served.

        `options`: those of a `reset` without any. `reward` gets the frames of each step.
        Raises TransportError for a server that does not answer, ValueError for a bad argument.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"`render_mode`: {render_mode!r}, expected 'rgb_array' or None")
        facts = fetch_facts(url, token=token)
        size = choose_size(size, facts)
        self.metadata = self.metadata | {"render_fps": facts.fps}
        self.observation_space = observation_space(facts, size=size)
        self.action_space = action_space(facts, per_latent_frame=per_latent_frame)
        self.render_mode = render_mode
        self._options = options or {}
        self._reward = reward
        self._num_latent_frames = facts.chunk_latent_frames
        self._episode = Episode(url, token, facts, size)
        self._loop = EventLoop()

    def reset(
        self, *, seed: int | None = None, options: Options | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Begins a new world, or with `options` the one of a `snapshot` or of a `fork`.

        `options`: `image` (a file's bytes, or uint8 [H, W, 3]) and `prompt`, or one of `snapshot`
        and `fork` alone. `seed` is that of the world; None draws one. A new world has its first
        chunk, generated without a key; one that goes on has the frame that it showed last.
        """
        super().reset(seed=seed)
        world_seed = int(self.np_random.integers(MAX_SEED)) if seed is None else seed
        self._loop.run(self._episode.begin(options or self._options, seed=world_seed))
        return self._observe()

    def step(self, action: Action) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        """Generates one chunk with these keys held."""
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not an action, expected bits {self.action_space}")
        rows = np.broadcast_to(action, (self._num_latent_frames, np.shape(action)[-1]))
        self._loop.run(self._episode.advance(rows))
        frames, info = self._observe()
        return frames, float(self._reward(frames)), False, False, info

    def clone_state(self) -> bytes:
        """The world as it is now, in one piece, for `restore_state` of any environment.

        Worlds that are restored from one state agree bit for bit under the same actions. The world
        that was not interrupted differs from them by about as much as an encoded video.
        """
        return self._loop.run(self._episode.save())

    def restore_state(self, state: bytes) -> tuple[Frames, dict[str, Any]]:
        """The world of a state, as `reset` with the option `snapshot`, without drawing a seed."""
        self._loop.run(self._episode.begin({"snapshot": state}, seed=0))
        return self._observe()

    def fork(self) -> str:
        """A token of the world as it is now, for the option `fork`. The server keeps the world."""
        return self._loop.run(self._episode.fork())

    def render(self) -> Frame | None:
        """The newest frame, uint8 [H, W, 3]."""
        frames = self._episode.frames
        return None if self.render_mode is None or frames is None else frames[-1]

    def close(self) -> None:
        """Frees the world and the socket. It may be called twice."""
        self._loop.close([self._episode.close()])

    def _observe(self) -> tuple[Frames, dict[str, Any]]:
        frames = self._episode.observation
        info = {"world_chunk_index": self._episode.chunk_index, "seed": self._episode.seed}
        return frames, info
