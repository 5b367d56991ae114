"""Gymnasium environments of the worlds of a server. They need the extra `[gym]`.

`gymnasium.make("transport.gym:LingBotWorld-v0", url=...)` makes one, `make_vec` several at once.
"""

import gymnasium

from transport.gym.env import WorldEnv
from transport.gym.vector_env import WorldVectorEnv

ENV_ID = "LingBotWorld-v0"

__all__ = ["ENV_ID", "WorldEnv", "WorldVectorEnv"]

if ENV_ID not in gymnasium.registry:
    gymnasium.register(
        ENV_ID,
        entry_point="transport.gym.env:WorldEnv",
        vector_entry_point="transport.gym.vector_env:WorldVectorEnv",
    )
