"""The text encoder deployment: prompts to contexts, on replicas apart from the worlds.

Ray's own `autoscaling_config` scales it, from zero replicas if the operator wants that.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.config import ServiceConfig
from deployments.context_cache import ContextCache
from deployments.encoded_prompt import EncodedPrompt
from deployments.observability.logs import configure_logging
from lingbot.config import PRESETS
from lingbot.errors import LingbotError
from lingbot.text.tokenizer import clean_prompt

if TYPE_CHECKING:  # imported late: `build` imports this class and stays without torch
    from lingbot.text.protocol import TextEncoder as Encoder

logger = logging.getLogger(__name__)


class TextEncoder:
    """Ray Serve creates one per replica. A plain class; `build` makes it a deployment."""

    def __init__(
        self, config: ServiceConfig, *, load: "Callable[[], Encoder] | None" = None
    ) -> None:
        configure_logging(config.log_format)
        began = time.monotonic()
        self._encoder = (load or partial(load_encoder, config))()
        logger.info("text encoder loaded in %.1f s", time.monotonic() - began)
        self._cache = ContextCache(budget_bytes=config.text_cache_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text-encoder")
        self._running: dict[str, asyncio.Task[EncodedPrompt]] = {}
        self._failure: RuntimeError | None = None

    async def encode(self, prompt: str) -> EncodedPrompt:
        """A prompt's context. One prompt is encoded at a time; the others wait.

        Callers with equal prompts share one encoding, which goes on when a caller leaves.
        """
        text = await asyncio.to_thread(clean_prompt, prompt)  # took up to 0.2 s
        if (cached := self._cache.get(text)) is not None:
            return cached
        if text not in self._running:
            encoding = asyncio.create_task(self._encode(prompt, text))
            encoding.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._running[text] = encoding
        return await asyncio.shield(self._running[text])

    def check_health(self) -> None:
        """Serve calls this now and then, and replaces the replica when it raises.

        A model that failed once may never work again: a GPU's error is often for good.
        """
        if self._failure is not None:
            raise self._failure

    async def _encode(self, prompt: str, text: str) -> EncodedPrompt:
        """Encode a prompt, and store it under the text that it cleans to."""
        loop = asyncio.get_running_loop()
        try:
            encoded = await loop.run_in_executor(self._thread, self._encode_now, prompt)
        except RuntimeError as exc:  # all of torch's; any other error is about the prompt alone
            self._failure = exc
            raise
        finally:
            del self._running[text]
        self._cache.put(text, encoded)
        return encoded

    def _encode_now(self, prompt: str) -> EncodedPrompt:
        return EncodedPrompt(self._encoder.encode(prompt), self._encoder.num_truncated(prompt))


def load_encoder(config: ServiceConfig) -> "Encoder":
    """The umT5 of the checkpoint that a config names. Raises LingbotError with the reason."""
    from lingbot.checkpoint.layout import find_checkpoint
    from lingbot.text.umt5 import load_umt5

    if config.weights is None:
        raise LingbotError(f"preset {config.preset!r} needs a folder of weights", field="weights")
    found = find_checkpoint(
        Path(config.weights), assets=None if config.assets is None else Path(config.assets)
    )
    return load_umt5(
        found.require("text_encoder"),
        tokenizer=found.require("tokenizer"),
        text_len=PRESETS[config.preset].model.text_len,
        text_dim=found.config.text_dim,
        device=config.text_encoder_device,
    )
