"""Weights, and the step that turns three actions into twelve frames."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.camera import check_action, control_map, default_intrinsics
from lingbot.config import LATENT_CHANNELS, WorldConfig, check_window
from lingbot.errors import LingbotError
from lingbot.frame_codec import FrameCodec
from lingbot.kv_cache import KVWindow
from lingbot.model import TextKV, WorldModel
from lingbot.sampler import sample_chunk
from lingbot.schedule import build_steps
from lingbot.session import Session, SessionSpec
from lingbot.text import PocketTextEncoder

logger = logging.getLogger(__name__)


class Engine:
    """Holds weights and nothing about any user. Not thread-safe: one call at a time."""

    def __init__(
        self,
        config: WorldConfig,
        *,
        model: WorldModel,
        codec: FrameCodec,
        text_encoder: PocketTextEncoder,
    ) -> None:
        self.config = config
        self.model = model
        self.codec = codec
        self.text_encoder = text_encoder
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    @torch.inference_mode()
    def open(self, spec: SessionSpec) -> Session:
        """A world that has not moved yet.

        Raises LingbotError, with the field, for a picture of another size than the config's, for
        too many steps, or for a window that is larger than the config's or holds no chunk.
        """
        config = self.config
        expected = (config.height, config.width, 3)
        if spec.first_frame.shape != expected or spec.first_frame.dtype != np.uint8:
            got = f"{spec.first_frame.dtype} {spec.first_frame.shape}"
            raise LingbotError(f"first_frame must be uint8 {expected}, not {got}", field="size")
        if spec.num_steps is not None and not 1 <= spec.num_steps <= config.max_steps:
            raise LingbotError(
                f"num_inference_steps must be 1..{config.max_steps}, not {spec.num_steps}",
                field="num_inference_steps",
            )
        window, sink = self._memory_of(spec)
        rows, columns = config.grid
        return Session(
            window=KVWindow.empty(
                self.model.config,
                window=window,
                sink=sink,
                chunk=config.chunk,
                tokens=rows * columns,
                device=self.device,
                dtype=self.dtype,
            ),
            text=self._embed_prompt(spec.prompt),
            condition=self.codec.encode_image(spec.first_frame, chunk=config.chunk),
            steps=build_steps(config.schedule, num_steps=spec.num_steps),
            noise=torch.Generator().manual_seed(spec.seed),
        )

    @torch.inference_mode()
    def step(
        self, session: Session, actions: Sequence[str], *, prompt: str | None = None
    ) -> NDArray[np.uint8]:
        """The session's next chunk: frames uint8 [T, H, W, 3], 9 in the first and 12 in each later.

        ``actions`` holds the keys of each latent frame; ``prompt`` replaces the prompt from here
        on. Raises LingbotError for actions that are no keys or not ``chunk`` of them, and leaves
        the session as it was; any other error leaves the session unusable.
        """
        config = self.config
        if session.broken:
            raise LingbotError("an earlier step of this session failed: open another")
        if len(actions) != config.chunk:
            raise LingbotError(
                f"a step takes {config.chunk} actions, not {len(actions)}", field="actions"
            )
        for action in actions:
            check_action(action)
        try:
            if prompt is not None:
                session.text = self._embed_prompt(prompt)
            latents = self._denoise(session, actions)
            frames = self.codec.decode(latents, session.decoder)
        except BaseException:
            session.broken = True
            raise
        session.next_chunk += 1
        return frames

    def close(self, session: Session) -> None:
        """Free the window, the prompt's K/V and the decoder's state now, whoever holds them."""
        session.broken = True
        session.window = session.window.emptied()
        session.text = ()
        session.decoder.memory.clear()

    def warm_up(self) -> None:
        """Run every shape once: a world from its first chunk until its window has gone round."""
        grey = np.full((self.config.height, self.config.width, 3), 128, np.uint8)
        session = self.open(SessionSpec(first_frame=grey, prompt="warm up"))
        resting = [""] * self.config.chunk
        for _ in range(-(-self.config.window // self.config.chunk) + 1):
            self.step(session, resting)
        self.close(session)

    def _memory_of(self, spec: SessionSpec) -> tuple[int, int]:
        """Window and sink of a session, checked against the config's."""
        config = self.config
        window = config.window if spec.window is None else spec.window
        sink = config.sink if spec.sink is None else spec.sink
        if window > config.window:
            raise LingbotError(
                f"realtime_causal_kv_cache_num_frames must be at most {config.window}, "
                f"not {window}",
                field="realtime_causal_kv_cache_num_frames",
            )
        try:
            check_window(window, sink=sink, chunk=config.chunk)
        except ValueError as exc:
            raise LingbotError(str(exc), field="realtime_causal_sink_size") from exc
        return window, sink

    def _embed_prompt(self, prompt: str) -> tuple[TextKV, ...]:
        context = self.text_encoder.encode(prompt)[None].to(device=self.device, dtype=self.dtype)
        return self.model.embed_text(context)

    def _denoise(self, session: Session, actions: Sequence[str]) -> Tensor:
        """The clean latents of the next chunk, [1, 16, F, h, w]."""
        config = self.config
        shape = (1, LATENT_CHANNELS, config.chunk, *config.latent_size)

        def draw(_: int = 0) -> Tensor:
            return torch.randn(shape, generator=session.noise).to(self.device)

        size = {"width": config.width, "height": config.height}
        control = control_map(
            self.model.config.control,
            session.trajectory.extend(actions),
            actions,
            default_intrinsics(**size),
            **size,
        )
        return sample_chunk(
            self.model,
            noise=draw(),
            renoise=draw,
            condition=session.condition.of_chunk(session.next_chunk),
            camera=self.model.compute_camera_maps(control[None].to(self.device)),
            text=session.text,
            window=session.window,
            steps=session.steps,
        )
